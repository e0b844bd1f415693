"""Experiments made of many runs: grids, searches, the paper's tables and reports.

Imports analysis, runs and everything above them; draws nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    [
        "alphas",
        "cluster",
        "factorial",
        "grid",
        "paper",
        "report",
        "studies",
        "tune",
    ],
)

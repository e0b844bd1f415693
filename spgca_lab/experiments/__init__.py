"""Experiments made of many runs: grids, searches for α, the paper's tables and reports.

Imports analysis, runs and the packages above them; draws nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ["alpha_choice", "alpha_search", "cluster", "factorial", "grid", "paper", "report"]
)

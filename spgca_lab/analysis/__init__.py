"""Numbers about runs and networks: attention scores, attributions, gradients and statistics.

Imports runs and everything above it; draws nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    [
        "scores",
        "attribution",
        "gradients",
        "grounding",
        "loss_terms",
        "statistics",
    ],
)

"""Runs and networks turned into numbers: attention scores, attributions, gradients and statistics.

May import runs and everything before it in the order of packages; draws nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ["attribution", "gradients", "grounding", "scores", "statistics"]
)

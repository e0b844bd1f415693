"""The method: feature taps, attentions (Eq. 2, 4, 7, 9), penalties (Eq. 3, 5, 8, 10), baselines and their registry.

May import backbones and data, for taps, annotations and the crops of DELTA; importing it imports no data set.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ["ablate", "attention", "base", "baselines", "delta", "penalties", "registry", "taps"]
)

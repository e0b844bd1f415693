"""The method: taps, attention (Eq. 2, 4, 7, 9), penalties (Eq. 3, 5, 8, 10), baselines and their registry.

Imports backbones and data, and nothing that trains, stores or draws.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    [
        "ablate",
        "attention",
        "base",
        "baselines",
        "delta",
        "distances",
        "fx",
        "peak",
        "penalties",
        "registry",
        "remedy",
        "taps",
    ],
)

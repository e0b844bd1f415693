"""Run folders: training with a record, resume, locks, background processes, and reading runs back.

Imports training and everything above it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    [
        "background",
        "checkpoint",
        "fit",
        "follow",
        "inputs",
        "interrupts",
        "load",
        "lock",
        "memory",
        "store",
        "worker",
    ],
)

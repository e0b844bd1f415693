"""From a recipe to a trained network: batches, objective, stages and the loop over them.

Imports regularizers, backbones and data; touches no run folder.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    [
        "batches",
        "compiled",
        "diagnose",
        "evaluate",
        "events",
        "folding",
        "footprint",
        "global_batch",
        "memory",
        "objective",
        "passes",
        "processes",
        "recipe",
        "seeding",
        "speed",
        "stage",
        "staging",
    ],
)

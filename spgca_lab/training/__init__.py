"""From a recipe to a trained network: batches, objective, stages, and the loop over them, which yields events.

Imports regularizers, backbones and data; reads and writes no run folder.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    [
        "batches",
        "diagnose",
        "evaluate",
        "events",
        "loop",
        "networks",
        "objective",
        "optimisers",
        "recipe",
        "schedules",
        "seeding",
        "speed",
        "stage",
    ],
)

"""Source models by name: their weights, their four taps (Table 3), their preprocessing."""

# timm, torchvision, safetensors and pandas are imported by the functions that need them: together they take longer
# to import than PyTorch, and a recipe or an attention needs none of them.
from spgca_lab.backbones.base import Backbone, Preprocess
from spgca_lab.backbones.download import BackboneUnavailable
from spgca_lab.backbones.registry import list_backbones, load_backbone, table3
from spgca_lab.backbones.shapes import BackboneError

__all__ = [
    "Backbone",
    "BackboneError",
    "BackboneUnavailable",
    "Preprocess",
    "list_backbones",
    "load_backbone",
    "table3",
]

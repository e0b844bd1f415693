"""Source models S: their weights, their taps (Table 3), their preprocessing and their heads.

Imports `data`, where the embedded weights are, and nothing that trains.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from spgca_lab.backbones.base import Backbone as Backbone
    from spgca_lab.backbones.base import Preprocess as Preprocess
    from spgca_lab.backbones.download import BackboneUnavailable as BackboneUnavailable
    from spgca_lab.backbones.registry import backbone_code as backbone_code
    from spgca_lab.backbones.registry import list_backbones as list_backbones
    from spgca_lab.backbones.registry import load_backbone as load_backbone
    from spgca_lab.backbones.registry import table3 as table3
    from spgca_lab.backbones.tap import BackboneError as BackboneError
    from spgca_lab.backbones.tap import Tap as Tap
    from spgca_lab.backbones.tap import tokens_to_map as tokens_to_map

# An attention imports a tap from here, and needs neither data sets nor timm, torchvision and pandas.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    ["base", "calls", "download", "lite0", "mini", "registry", "resnet", "tap", "timm_models"],
    {
        "base": ["Backbone", "Preprocess"],
        "download": ["BackboneUnavailable"],
        "registry": ["backbone_code", "list_backbones", "load_backbone", "table3"],
        "tap": ["BackboneError", "Tap", "tokens_to_map"],
    },
)

"""What speaks for a network's answer: attributions of S and T as plain arrays, beside attention."""

from spgca_lab.analysis.attribution.explain import Attribution
from spgca_lab.analysis.attribution.maps import AttributionError, attention_maps, rank_agreement, stretch
from spgca_lab.analysis.attribution.methods import (
    channel_ablation,
    channel_maps,
    grad_cam,
    integrated_gradients,
    occlusion,
)

__all__ = [
    "Attribution",
    "AttributionError",
    "attention_maps",
    "channel_ablation",
    "channel_maps",
    "grad_cam",
    "integrated_gradients",
    "occlusion",
    "rank_agreement",
    "stretch",
]

"""Figures from numbers: arrays and tables become a Matplotlib figure, without pyplot and without models.

May import analysis and everything before it in the order of packages.
"""

from spgca_lab.plots.attention import attention_overlay, channel_weights, share_bars, weights_vs_optimum
from spgca_lab.plots.images import feature_maps, map_triplet, picture_grid
from spgca_lab.plots.results import factorial_gains, interval_dots, results_dots, sweep_heatmap
from spgca_lab.plots.style import LabFigure, PlotError, layer_colours, method_colour, method_label, to_png
from spgca_lab.plots.training import bar_terms, entropy_curves, training_curves

__all__ = [
    "LabFigure",
    "PlotError",
    "attention_overlay",
    "bar_terms",
    "channel_weights",
    "entropy_curves",
    "factorial_gains",
    "feature_maps",
    "interval_dots",
    "layer_colours",
    "map_triplet",
    "method_colour",
    "method_label",
    "picture_grid",
    "results_dots",
    "share_bars",
    "sweep_heatmap",
    "to_png",
    "training_curves",
    "weights_vs_optimum",
]

"""Figures: arrays in, a matplotlib `Figure` out. No pyplot, no state, no computing of models."""

from spgca_lab.plots.attention import attention_overlay, gradcam_beside
from spgca_lab.plots.channels import channel_weights, share_bars, weights_vs_optimum
from spgca_lab.plots.intervals import factorial_gains, interval_dots
from spgca_lab.plots.pictures import feature_maps, map_triplet, picture_grid
from spgca_lab.plots.results import gain_plot, results_dots, sweep_plot
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
    "gain_plot",
    "gradcam_beside",
    "interval_dots",
    "layer_colours",
    "map_triplet",
    "method_colour",
    "method_label",
    "picture_grid",
    "results_dots",
    "share_bars",
    "sweep_plot",
    "to_png",
    "training_curves",
    "weights_vs_optimum",
]

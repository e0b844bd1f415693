"""Spatial attention over pictures: heatmaps of AST and SPA in units of the uniform weight; Grad-CAM."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from spgca_lab._checks import Array
from spgca_lab.plots.pictures import outline
from spgca_lab.plots.style import (
    MAGNITUDE,
    LabFigure,
    PlotError,
    as_array,
    as_pictures,
    colour_bar,
    grid,
    heading,
    layer_names,
    tidy,
)

__all__ = [
    "attention_overlay",
    "gradcam_beside",
    "heatmap_limits",
    "overlay",
    "relative_maps",
]

Weights = Mapping[str, Any]


def relative_maps(weights: Array, size: tuple[int, int] | None = None) -> np.ndarray:
    """Spatial weights as maps of "times uniform": weight × HW, 1 where the attention is even.

    Args:
        weights: `[n, h·w]` or `[h·w]`.
        size: (h, w); None takes a square.

    Returns:
        `[n, h, w]`.

    Raises:
        PlotError: when the number of weights does not fit the size.

    Example:
        >>> relative_maps(np.full(4, 0.25)).tolist()
        [[[1.0, 1.0], [1.0, 1.0]]]
    """
    flat = np.atleast_2d(as_array(weights).astype(float))
    side = round(flat.shape[-1] ** 0.5)
    h, w = size or (side, side)
    if flat.ndim != 2 or h * w != flat.shape[1]:
        raise PlotError(
            f"{flat.shape[-1]} weights are no {h} × {w} map: give the layer's size as sizes={{tap: (h, w)}}"
        )
    return flat.reshape(-1, h, w) * (h * w)


def heatmap_limits(maps: np.ndarray) -> tuple[float, float]:
    """Colour limits around 1, at least ±10 %: noise around an even attention must not look like structure.

    Example:
        >>> heatmap_limits(np.array([0.99, 1.01]))
        (0.9, 1.1)
    """
    return min(0.9, float(maps.min())), max(1.1, float(maps.max()))


def overlay(
    picture: np.ndarray, heat: np.ndarray, limits: tuple[float, float], opacity: float, cmap: str = MAGNITUDE
) -> np.ndarray:
    """Blend a heatmap over the picture in grey, cell by cell without smoothing.

    Args:
        picture: uint8 `[h, w, 3]`.
        heat: `[rows, columns]`, stretched over the whole picture.
        limits: values of the colour map's ends.
        opacity: 0 (picture only) to 1 (heatmap only).
        cmap: matplotlib's name of the colour map.

    Returns:
        uint8 `[h, w, 3]`.

    Example:
        >>> overlay(np.zeros((4, 4, 3), np.uint8), np.eye(2), (0, 1), 1.0).shape
        (4, 4, 3)
    """
    high, wide = picture.shape[:2]
    rows = np.arange(high) * heat.shape[0] // high
    columns = np.arange(wide) * heat.shape[1] // wide
    colours = colormaps[cmap](Normalize(*limits, clip=True)(heat))[..., :3][rows][:, columns] * 255
    grey = (picture @ np.array([0.299, 0.587, 0.114]))[..., None]
    return np.rint((1 - opacity) * grey + opacity * colours).astype(np.uint8)


def attention_overlay(
    images: Any,
    weights: Weights,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    masks: Any = None,
    *,
    opacity: float = 0.65,
    row_titles: Sequence[str] | None = None,
    one_scale: bool = False,
    title: str = "",
) -> LabFigure:
    """Spatial attention over pictures: one row a picture, one column a layer, in units of the uniform weight.

    Args:
        images: one picture `[3, h, w]` or several `[n, 3, h, w]`, uint8, cropped as the network saw them.
        weights: `{tap: [n, h·w]}` or `{tap: [h·w]}`, softmax weights of AST or SPA.
        sizes: `{tap: (h, w)}`; None takes square maps.
        masks: bool `[n, h, w]`: the object's outline.
        opacity: of the heatmap, 0–1.
        row_titles: one a picture.
        one_scale: one colour scale for all layers (True), or one a layer.
        title: of the figure.

    Returns:
        the figure.

    Raises:
        PlotError: when numbers of pictures, weights, masks or titles differ, or a layer has another size.

    Example:
        >>> figure = attention_overlay(np.zeros((3, 8, 8), np.uint8), {"a": np.full(4, 0.25)})
        >>> figure.axes[1].get_title()
        'layer 1 · 2 × 2'
    """
    pictures = as_pictures(images)
    if not 0 <= opacity <= 1:
        raise PlotError(f"opacity must be from 0 to 1, got {opacity!r}")
    maps = {tap: relative_maps(w, (sizes or {}).get(tap)) for tap, w in weights.items()}
    counts = {tap: len(m) for tap, m in maps.items()}
    if not maps or any(n != len(pictures) for n in counts.values()):
        raise PlotError(f"{len(pictures)} pictures need as many rows of weights, got {counts or 'no layers'}")
    for name, given in (("masks", masks), ("row_titles", row_titles)):
        if given is not None and len(_rows(given)) != len(pictures):
            raise PlotError(f"{len(pictures)} pictures need as many {name}, got {len(_rows(given))}")
    figure, axes = grid(
        len(pictures),
        1 + len(maps),
        cell=1.75,
        margins=(0.1, 0.1, 0.46 if title else 0.22, 0.5),
        gaps=(0.1, 0.24 if row_titles is not None else 0.1),
    )
    everything = np.concatenate([m.ravel() for m in maps.values()])
    for row, picture in enumerate(pictures):
        axes[row, 0].imshow(picture)
        tidy(axes[row, 0], title=row_titles[row] if row_titles is not None else "", picture=True)
        mask = as_array(_rows(masks)[row]) if masks is not None else None
        for column, field in enumerate(maps.values(), start=1):
            spot = axes[row, column]
            limits = heatmap_limits(everything if one_scale else field)
            spot.imshow(overlay(picture, field[row], limits, opacity))
            name = f"layer {column} · {field.shape[1]} × {field.shape[2]}"
            tidy(spot, title=name if row == 0 else "", picture=True)
            if mask is not None:
                outline(spot, mask)
            if row == len(pictures) - 1:
                colour_bar(
                    figure,
                    ScalarMappable(Normalize(*limits), MAGNITUDE),
                    spot,
                    "weight, × uniform",
                    below=True,
                )
    heading(figure, title)
    return figure


def gradcam_beside(
    image: Any,
    cam: Array,
    weights: Weights,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    mask: Any = None,
    *,
    opacity: float = 0.65,
    titles: Sequence[str] | None = None,
) -> LabFigure:
    """The picture, the target's Grad-CAM (where its answer comes from), the attention (where SPA acts).

    Args:
        image: uint8 `[3, h, w]`.
        cam: Grad-CAM `[rows, columns]`, at least 0.
        weights: `{tap: [h·w]}` of AST or SPA.
        sizes: `{tap: (h, w)}`; None takes square maps.
        mask: bool `[h, w]`: the object's outline.
        opacity: of the heatmaps, 0–1.
        titles: lines under the panels' names, one a panel (picture, Grad-CAM, layers), e.g. scores.

    Returns:
        the figure.

    Raises:
        PlotError: when a shape or the number of titles does not fit.

    Example:
        >>> figure = gradcam_beside(np.zeros((3, 8, 8), np.uint8), np.eye(2), {"a": np.full(4, 0.25)})
        >>> figure.axes[1].get_title()
        'Grad-CAM'
    """
    picture = as_pictures(image)[0]
    heat = as_array(cam).astype(float)
    if heat.ndim != 2 or not heat.size or heat.min() < 0:
        raise PlotError(f"a Grad-CAM is [rows, columns] and at least 0, got {list(heat.shape)}")
    maps = {tap: relative_maps(w, (sizes or {}).get(tap)) for tap, w in weights.items()}
    names = ["picture", "Grad-CAM", *layer_names(maps)]
    if titles is not None and len(titles) != len(names):
        raise PlotError(f"{len(names)} panels need as many titles, got {len(titles)}")
    top = 0.48 if titles is not None else 0.28
    figure, axes = grid(1, len(names), cell=1.75, margins=(0.1, 0.1, top, 0.5))
    axes[0, 0].imshow(picture)
    peak = max(float(heat.max()), 1e-12)
    axes[0, 1].imshow(overlay(picture, heat / peak, (0, 1), opacity, "magma"))
    colour_bar(figure, ScalarMappable(Normalize(0, 1), "magma"), axes[0, 1], "of its maximum", below=True)
    for spot, field in zip(axes[0, 2:], maps.values(), strict=True):
        limits = heatmap_limits(field)
        spot.imshow(overlay(picture, field[0], limits, opacity))
        colour_bar(
            figure, ScalarMappable(Normalize(*limits), MAGNITUDE), spot, "weight, × uniform", below=True
        )
    for i, spot in enumerate(axes[0]):
        tidy(spot, title=names[i] + (f"\n{titles[i]}" if titles is not None else ""), picture=True)
        if mask is not None:
            outline(spot, as_array(mask))
    return figure


def _rows(values: Any) -> Any:
    return values[None] if getattr(values, "ndim", 0) == 2 else values

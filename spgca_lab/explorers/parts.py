"""The core widgets that explorers are made of; every control says on hovering what it is in the paper's terms."""

import base64
import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

__all__ = [
    "PIXELS",
    "ExplorerError",
    "Picture",
    "alert",
    "button",
    "choice",
    "fixed_html",
    "need_index",
    "need_one_of",
    "need_share",
    "offer",
    "paragraph",
    "picker",
    "row",
    "slider",
    "step_controls",
    "table_html",
    "text",
]

PIXELS = 100  # of an inch of a figure
WIDTH = 900
STYLE = {"description_width": "initial"}
LINES = "line-height:1.35;padding-top:0.2em"
# JupyterLab's own colours where there are some, so that words stay readable in its dark theme.
RED = "var(--jp-error-color1, #b00020)"
GREY = "var(--jp-ui-font-color2, #555555)"


class ExplorerError(ValueError):
    """A value that an explorer cannot show; the message says which ones it can."""


class Picture(widgets.HTML):
    """A PNG of fixed size with a text for those who cannot see it.

    `widgets.Image` has no alternative text; an `<img>` with its size in it has, and moves nothing on the page.

    Args:
        height: in inches of a figure 9 inches wide.

    Example:
        >>> picture = Picture(2)
        >>> picture.show(b"...", alt="a <dog>")
        >>> "a &lt;dog&gt;" in picture.value
        True
    """

    def __init__(self, height: float):
        self.png, self.alt = b"", ""
        self.pixels = round(height * PIXELS)
        super().__init__(layout=widgets.Layout(max_width="100%"))
        self.add_class("spgca-picture")

    def show(self, png: bytes, alt: str) -> None:
        """Show another picture."""
        if (png, alt) == (self.png, self.alt):
            return
        self.png, self.alt = png, alt
        # With its size (and so its shape) in it nothing moves; decoded at once, the old one gives way in one frame.
        self.value = (
            f'<img alt="{html.escape(alt)}" width="{WIDTH}" height="{self.pixels}" decoding="sync" '
            'style="display:block;max-width:100%;height:auto;background:white;border-radius:4px" '
            f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        )


def slider(
    description: str,
    most: int,
    *,
    tip: str,
    least: int = 0,
    width: str = "250px",
    live: bool = False,
) -> widgets.IntSlider:
    """A slider over whole numbers.

    Args:
        description: its name.
        most: its last value.
        tip: what it means, with symbol and equation.
        least: its first value.
        width: on the page.
        live: act while it moves, for what needs no computing; else when it is let go. Either way the page holds
            back moves until the last one was answered, so none pile up.
    """
    return widgets.IntSlider(
        value=least,
        min=least,
        max=max(most, least),
        description=description,
        tooltip=tip,
        continuous_update=live,
        layout=widgets.Layout(width=width),
        style=STYLE,
    )


def choice(
    description: str, options: Sequence[Any], *, tip: str, width: str = "200px", live: bool = False
) -> widgets.SelectionSlider:
    """A slider over values that are not evenly spaced: pairs (name, value) or plain values."""
    return widgets.SelectionSlider(
        options=list(options),
        description=description,
        tooltip=tip,
        continuous_update=live,
        layout=widgets.Layout(width=width),
        style=STYLE,
    )


def _named(description: str, tip: str) -> dict[str, Any]:
    # On a dropdown or a text field that has a name, ipywidgets shows no tooltip: the name itself must carry it.
    name = f'<span title="{html.escape(tip)}">{html.escape(description)}</span>'
    return {"description": name, "description_allow_html": True, "tooltip": tip}


def picker(
    description: str, options: Sequence[Any], *, tip: str, width: str = "220px", none: str = "none"
) -> widgets.Dropdown:
    """A dropdown; without any option it shows `none`, and where there is no choice it is disabled."""
    return widgets.Dropdown(
        options=list(options) if options else [(none, None)],
        **_named(description, tip),
        disabled=len(options) < 2,
        layout=widgets.Layout(width=width),
        style=STYLE,
    )


def text(description: str, placeholder: str, *, tip: str, width: str = "330px") -> widgets.Text:
    """A line to type in, which acts on Enter or when it is left."""
    return widgets.Text(
        **_named(description, tip),
        placeholder=placeholder,
        continuous_update=False,
        layout=widgets.Layout(width=width),
        style=STYLE,
    )


def button(description: str, *, tip: str, icon: str = "", width: str = "auto") -> widgets.Button:
    """A button."""
    return widgets.Button(
        description=description, tooltip=tip, icon=icon, layout=widgets.Layout(width=width, margin="2px")
    )


def opacity_control() -> widgets.FloatSlider:
    """A slider that acts while it moves: a picture of another opacity needs no computing."""
    return widgets.FloatSlider(
        min=0,
        max=1,
        step=0.05,
        description="opacity",
        tooltip="Opacity of the heatmaps: 0 shows the picture alone, 1 the heatmap alone",
        readout_format=".2f",
        layout=widgets.Layout(width="230px"),
        style=STYLE,
    )


def step_controls(steps: Sequence[int]) -> tuple[widgets.SelectionSlider, widgets.Play]:
    """A slider over the training steps that have a snapshot, and a button that walks along it."""
    step = choice(
        "step",
        steps,
        tip="Training step (optimiser steps since the start) whose snapshot of the attention is shown",
        width="280px",
        live=True,
    )
    play = widgets.Play(
        min=0,
        max=len(steps) - 1,
        interval=700,
        show_repeat=False,
        tooltip="Play the training from snapshot to snapshot",
    )
    play.layout.width = "120px"
    widgets.link((play, "value"), (step, "index"))
    return step, play


def offer(control: Any, options: Sequence[Any], value: Any = None) -> None:
    """Let a dropdown or a slider over values offer others; where there is no choice a dropdown is disabled.

    Args:
        control: from `picker` or `choice`.
        options: plain values, or pairs (name, value).
        value: what to choose of them, None to leave it.

    Example:
        >>> control = picker("r", [4, 8], tip="r")
        >>> offer(control, [4])
        >>> control.disabled
        True
    """
    # Setting options anew, even the same ones, moves the control to the first.
    if tuple(control.options) != tuple(options):
        control.options = tuple(options)
    if value is not None and control.value != value:
        control.value = value
    if isinstance(control, widgets.Dropdown):
        control.disabled = len(options) < 2


def row(*controls: widgets.Widget) -> widgets.HBox:
    """Controls side by side; they wrap where the page is narrow."""
    return widgets.HBox(
        controls, layout=widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="0 1.2em")
    )


def fixed_html(height: str) -> widgets.HTML:
    """Words of a fixed height: what is below them never jumps."""
    return widgets.HTML(layout=widgets.Layout(height=height, max_width=f"{WIDTH}px", overflow="auto"))


def paragraph(words: str, *, strong: bool = False) -> str:
    """Plain words as HTML, escaped.

    Example:
        >>> "&lt;b&gt;" in paragraph("<b>")
        True
    """
    weight = "600" if strong else "normal"
    return f'<div style="{LINES};font-weight:{weight}">{html.escape(words)}</div>'


def alert(error: Exception | str) -> str:
    """What went wrong, as HTML; the error's own words are escaped.

    Example:
        >>> "&lt;b&gt;" in alert(ValueError("<b>"))
        True
    """
    words = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    if isinstance(error, ExplorerError):
        words = str(error)
    return f'<div role="alert" style="{LINES};color:{RED}">Cannot show this. {html.escape(words)}</div>'


def table_html(head: Sequence[str], rows: Sequence[Sequence[Any]], *, left: int = 0) -> str:
    """A small table; every cell is escaped.

    Args:
        head: names of the columns.
        rows: their cells.
        left: how many columns from the left hold words, not numbers.

    Example:
        >>> "&lt;b&gt;" in table_html(["<b>"], [[1]])
        True
    """

    def line(cells: Sequence[Any], tag: str) -> str:
        parts = []
        for i, cell in enumerate(cells):
            style = f"padding:0 0.5em;text-align:{'left' if i < left else 'right'};white-space:nowrap;color:inherit"
            parts.append(f'<{tag} style="{style}">{html.escape(str(cell))}</{tag}>')
        return "<tr>" + "".join(parts) + "</tr>"

    body = "".join(line(cells, "td") for cells in rows)
    return f'<table style="line-height:1.35;font-size:90%;background:none">{line(head, "th")}{body}</table>'


def need_index(name: str, value: Any, count: int, *, first: int = 0) -> None:
    """Check a number that counts pictures, layers or channels.

    Raises:
        ExplorerError: quoting the value and its range.

    Example:
        >>> need_index("picture", 2, 3)
    """
    if isinstance(value, bool) or not isinstance(value, int) or not first <= value < first + count:
        raise ExplorerError(
            f"{name} must be a whole number from {first} to {first + count - 1}, got {value!r}"
        )


def need_one_of(name: str, value: Any, known: Sequence[Any], why: str = "") -> None:
    """Check a value against those there are.

    Raises:
        ExplorerError: quoting the value and listing the others.

    Example:
        >>> need_one_of("scale", "afa", ["afa", "literal"])
    """
    if value not in known or isinstance(value, bool):
        raise ExplorerError(f"{name} must be one of {list(known)}, got {value!r}{why}")


def need_share(name: str, value: Any) -> None:
    """Check a number from 0 to 1.

    Raises:
        ExplorerError: when it is none.

    Example:
        >>> need_share("opacity", 0.5)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ExplorerError(f"{name} must be from 0 to 1, got {value!r}")

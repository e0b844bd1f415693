"""The core widgets that explorers are made of, and the checks of the values that they set."""

import base64
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets

NOTHING = (("none", None),)
PIXELS = 100  # per inch of a figure
WIDTH = 900
LINES = "line-height:1.35;padding-top:0.2em"
LINE = "1px solid var(--jp-border-color1, #bdbdbd)"
MOST_COLUMNS = 10
# JupyterLab's own colour keeps the text readable in its dark theme.
RED = "var(--jp-error-color1, #b00020)"


class ExplorerError(ValueError):
    """A value that an explorer cannot show; the message lists the allowed ones."""


class FigureImage(widgets.HTML):
    """A PNG of a figure, `height` inches by 9, with an alternative text, which `widgets.Image` lacks."""

    def __init__(self, height: float):
        self.png, self.alt = b"", ""
        self.pixels = round(height * PIXELS)
        super().__init__(layout=widgets.Layout(max_width="100%"))
        self.add_class("spgca-picture")

    def show(self, png: bytes, alt: str) -> None:
        """Show another PNG."""
        if (png, alt) == (self.png, self.alt):
            return
        self.png, self.alt = png, alt
        # The size keeps the page still; synchronous decoding replaces the old image within one frame.
        self.value = (
            f'<img alt="{html.escape(alt)}" width="{WIDTH}" height="{self.pixels}" decoding="sync" '
            'style="display:block;max-width:100%;height:auto;background:white;border-radius:4px" '
            f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        )


def slider(
    description: str, most: int, *, tip: str, least: int = 0, width: str = "250px", live: bool = False
) -> widgets.IntSlider:
    """Return a slider over whole numbers; a `live` one acts during a drag, the others on release."""
    return widgets.IntSlider(
        value=least,
        min=least,
        max=max(most, least),
        continuous_update=live,
        **_look(description, tip, width),
    )


def dropdown(description: str, options: Sequence[Any], *, tip: str, width: str = "220px") -> widgets.Dropdown:
    """Return a dropdown, which is disabled where there is no choice."""
    return widgets.Dropdown(
        options=tuple(options) or NOTHING,
        disabled=len(options) < 2,
        **_look(description, tip, width) | _name_with_tip(description, tip),
    )


def text_field(description: str, placeholder: str, *, tip: str, width: str = "330px") -> widgets.Text:
    """Return a text field, which acts on Enter or when it loses the focus."""
    return widgets.Text(
        placeholder=placeholder,
        continuous_update=False,
        **_look(description, tip, width) | _name_with_tip(description, tip),
    )


def button(description: str, clicked: Callable[[], Any], *, tip: str, icon: str = "") -> widgets.Button:
    """Return a button that calls a function."""
    layout = widgets.Layout(width="auto", margin="2px")
    made = widgets.Button(description=description, tooltip=tip, icon=icon, layout=layout)
    made.on_click(lambda _: clicked())
    return made


def player(step: widgets.SelectionSlider) -> widgets.Play:
    """Return a button that moves a slider from snapshot to snapshot."""
    tip = "Play the training from snapshot to snapshot"
    play = widgets.Play(min=0, max=len(step.options) - 1, interval=700, show_repeat=False, tooltip=tip)
    play.layout.width = "120px"
    widgets.link((play, "value"), (step, "index"))
    step.observe(lambda change: setattr(play, "max", len(change["new"]) - 1), "options")
    return play


@dataclass(frozen=True)
class Control:
    """One value of a state: what it may be, and the widget that sets it, an explorer's `<name>_<kind>`.

    Args:
        name: of the value.
        values: values to offer: a `range`, a list of values or of pairs (text, value), None for a number from 0 to 1,
            or the placeholder of a text field.
        kind: `"slider"`, `"choice"` (a dropdown) or `"text"`.
        label: beside the widget; the name where empty.
        live: act during a drag, not only on release.
        allowed: accepted values, if others than those offered; an empty text if they are checked elsewhere.
        off: True where the value has no effect.
        why: end of the error for another value.
        default: value, or function that returns it, in place of an empty value or of one that no longer fits.
        optional: leave the widget out where it offers no choice.
    """

    name: str
    values: Any = None
    kind: str = "slider"
    label: str = ""
    live: bool = True
    allowed: Any = None
    off: bool = False
    why: str = ""
    default: Any = None
    optional: bool = False

    @property
    def single(self) -> bool:
        """True for a list without a choice."""
        return isinstance(self.values, list | tuple) and len(self.values) < 2

    def widget(self, tip: str, pixels: int) -> Any:
        """Return the widget."""
        label, values, width = self.label or self.name, self.values, f"{pixels}px"
        if self.kind != "slider":
            return (dropdown if self.kind == "choice" else text_field)(label, values, tip=tip, width=width)
        if isinstance(values, range):
            return slider(label, values.stop - 1, least=values.start, tip=tip, width=width, live=self.live)
        look = _look(label, tip, width)
        if values is None:
            return widgets.FloatSlider(min=0, max=1, step=0.05, readout_format=".2f", **look)
        return widgets.SelectionSlider(options=values, continuous_update=self.live, **look)

    def update(self, widget: Any) -> None:
        """Give the values to the widget, which is disabled where there is no choice."""
        widget.disabled = self.off or self.single
        if isinstance(self.values, range):
            widget.max = max(self.values.stop - 1, widget.min)
        # Setting equal options again would move the widget to the first one.
        elif hasattr(widget, "options") and widget.options != (new := tuple(self.values) or NOTHING):
            widget.options = new

    def allows(self, value: Any) -> bool:
        """Return True if a value is allowed."""
        try:
            self.check(value)
        except ExplorerError:
            return False
        return True

    def check(self, value: Any) -> None:
        """Raise `ExplorerError` unless a value is allowed."""
        known = self.values if self.allowed is None else self.allowed
        if isinstance(known, range):
            check_index(self.name, value, len(known), first=known.start)
        elif isinstance(known, list | tuple):
            values = [v[1] if isinstance(v, tuple) and isinstance(v[0], str) else v for v in known]
            if value not in values or isinstance(value, bool):
                raise ExplorerError(f"{self.name} must be one of {values}, got {value!r}{self.why}")
        elif known is None and (isinstance(value, bool | str) or not 0 <= value <= 1):
            raise ExplorerError(f"{self.name} must be from 0 to 1, got {value!r}")


TIPS = {
    "opacity": "Opacity of the heatmaps: 0 shows the image alone, 1 the heatmap alone",
    "step": "Training step (optimiser steps since the start) whose snapshot of the attention is shown",
}


def row(*controls: widgets.Widget) -> widgets.HBox:
    """Put controls side by side; they wrap on a narrow page."""
    layout = widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="0 1.2em")
    return widgets.HBox(controls, layout=layout)


def fixed_html(height: str) -> widgets.HTML:
    """Return text of a fixed height, so that whatever is below it never jumps."""
    return widgets.HTML(layout=widgets.Layout(height=height, max_width=f"{WIDTH}px", overflow="auto"))


def paragraph_html(text: str, *, strong: bool = False) -> str:
    """Return plain text as HTML, escaped."""
    weight = "600" if strong else "normal"
    return f'<div style="{LINES};font-weight:{weight}">{html.escape(text)}</div>'


def alert_html(error: Exception | str) -> str:
    """Return an error as HTML, escaped."""
    plain = isinstance(error, str | ExplorerError)
    text = str(error) if plain else f"{type(error).__name__}: {error}"
    return f'<div role="alert" style="{LINES};color:{RED}">Cannot show this. {html.escape(text)}</div>'


def table_html(
    head: Sequence[str], rows: Sequence[Sequence[Any]], *, left: int = 0, strong: Sequence[str] = ()
) -> str:
    """Return a table as HTML, every cell escaped.

    The first `left` columns hold text, a row of one cell is a heading, and rows whose name is in `strong` are bold. A
    table of more columns than fit wraps its cells.
    """
    wrap = "normal" if len(head) > MOST_COLUMNS else "nowrap"

    def line(cells: Sequence[Any], tag: str) -> str:
        weight = 600 if cells[0] in strong else "inherit"
        look = f"padding:0 0.5em;vertical-align:top;color:inherit;font-weight:{weight}"
        if len(cells) == 1 < len(head):
            text = f"{look};padding-top:0.6em;text-align:left;font-style:italic;border-bottom:{LINE}"
            return (
                f'<tr><{tag} colspan="{len(head)}" style="{text}">{html.escape(str(cells[0]))}</{tag}></tr>'
            )
        looks = [f"{look};text-align:left", f"{look};text-align:right;white-space:{wrap}"]
        parts = [
            f'<{tag} style="{looks[i >= left]}">{html.escape(str(cell))}</{tag}>'
            for i, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(parts)}</tr>"

    style = "line-height:1.3;font-size:90%;background:none;border-collapse:collapse"
    return f'<table style="{style}">{line(head, "th")}{"".join(line(cells, "td") for cells in rows)}</table>'


def check_index(name: str, value: Any, count: int, *, first: int = 0) -> None:
    """Raise `ExplorerError` unless `value` is one of `count` whole numbers from `first` on."""
    if isinstance(value, bool) or not isinstance(value, int) or not first <= value < first + count:
        allowed = f"a whole number from {first} to {first + count - 1}"
        raise ExplorerError(f"{name} must be {allowed}, got {value!r}")


def _look(description: str, tip: str, width: str) -> dict[str, Any]:
    style, layout = {"description_width": "initial"}, widgets.Layout(width=width)
    return {"description": description, "tooltip": tip, "layout": layout, "style": style}


def _name_with_tip(description: str, tip: str) -> dict[str, Any]:
    # ipywidgets shows no tooltip on a dropdown or a text field that has a name, so the name carries it.
    name = f'<span title="{html.escape(tip)}">{html.escape(description)}</span>'
    return {"description": name, "description_allow_html": True}

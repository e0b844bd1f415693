"""What every explorer is: a state of plain values, functions that draw it, and a view that binds the two."""

import dataclasses
import html
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Generic, Self, TypeVar

import ipywidgets as widgets

from spgca_lab.plots.style import LabFigure, to_png

__all__ = [
    "Explorer",
    "ExplorerError",
    "State",
    "alert",
    "fixed_html",
    "need_index",
    "row",
    "slider",
    "table_html",
]

DPI = 100
KEPT = 128
TEXT = "line-height:1.35;padding-top:0.2em"


class ExplorerError(ValueError):
    """A value that an explorer cannot show; the message says which ones it can."""


@dataclasses.dataclass(frozen=True)
class State:
    """Values that an explorer shows: plain, comparable, and the same after a trip through a dict.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Pick(State):
        ...     picture: int = 0
        >>> Pick.from_dict(Pick(3).to_dict())
        Pick(picture=3)
    """

    def to_dict(self) -> dict[str, Any]:
        """All values, as JSON can hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A state from a mapping.

        Raises:
            ExplorerError: naming a value that this explorer does not have.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ExplorerError(f"{cls.__name__} has no {unknown[0]!r}; its values are {', '.join(known)}")
        return cls(**values)


S = TypeVar("S", bound=State)


class Explorer(widgets.VBox, Generic[S]):
    """A view of core widgets on a state: sliders change the state, the state makes a picture and words.

    A subclass gives `controls()`, `check(state)`, `figure(state)` and `status(state)`, and sets what these
    need before it calls this constructor. The picture has one height whatever it shows; pictures are kept
    by state, so going back costs nothing. What goes wrong while drawing is said in the status line, and the
    last picture stays. Where no widget can be shown (on a page of GitHub's, say), the picture itself is.

    Args:
        state: what to show first.
        height: of the picture, in inches of a figure 9 inches wide.

    Raises:
        ExplorerError: when the first state cannot be shown.
    """

    details_height: ClassVar[str] = "0px"

    def __init__(self, state: S, height: float):
        super().__init__()
        self.check(state)
        self._state = state
        self._bound: dict[str, tuple[widgets.Widget, str]] = {}
        self._quiet = False
        self._png: Callable[[S], bytes] = lru_cache(maxsize=KEPT)(self._render)
        layout = widgets.Layout(
            height=f"{round(height * DPI)}px",
            width=f"{9 * DPI}px",
            max_width="100%",
            object_fit="contain",
            object_position="left top",
        )
        self.image = widgets.Image(format="png", layout=layout)
        self.status_line = fixed_html("3em")
        self.details = fixed_html(self.details_height)
        self.children = [*self.controls(), self.status_line, self.image, self.details]
        self.add_class("spgca-explorer")
        self._follow()
        self.refresh()

    @property
    def state(self) -> S:
        """What is shown."""
        return self._state

    def show(self, **values: Any) -> None:
        """Show other values; the controls follow.

        Raises:
            ExplorerError: naming the value and what it could be; then nothing changes.

        Example:
            >>> explorer.show(layer=2)   # doctest: +SKIP
        """
        changed = self.settle(type(self._state).from_dict(self._state.to_dict() | values), set(values))
        self.check(changed)
        self._state = changed
        self._follow()
        self.refresh()

    def bind(self, control: widgets.Widget, name: str, trait: str = "value") -> widgets.Widget:
        """Let a control's trait set the state's value `name`, and follow it."""
        self._bound[name] = (control, trait)
        control.observe(lambda change: self._moved(name, change["new"]), trait)
        return control

    def sync(self) -> None:
        """Bring the controls to the state; extend it where a control's range depends on the state."""
        for name, (control, trait) in self._bound.items():
            value = getattr(self._state, name)
            if getattr(control, trait) != value:
                setattr(control, trait, value)

    def settle(self, state: S, given: set[str]) -> S:
        """Adjust what was not `given` and no longer fits what was (a channel that the new layer lacks)."""
        return state

    def controls(self) -> Sequence[widgets.Widget]:
        """Rows of widgets above the picture, tied to the state with `bind`."""
        return []

    def check(self, state: S) -> None:
        """Raise `ExplorerError` for a state that cannot be shown."""

    def figure(self, state: S | None = None) -> LabFigure:
        """The picture of a state (None: the present one), as a figure to keep or to save."""
        raise NotImplementedError

    def status(self, state: S) -> str:
        """One line of plain text: the values shown and what they give."""
        raise NotImplementedError

    def details_html(self, state: S) -> str:
        """Numbers below the picture, as HTML; empty by default."""
        return ""

    def refresh(self) -> None:
        """Show the present state: from memory if it was shown before."""
        try:
            png, words, details = (
                self._png(self._state),
                self.status(self._state),
                self.details_html(self._state),
            )
        except Exception as error:  # anything a reader's own model or picture may raise belongs in the view
            self.fail(error)
            return
        self.status_line.value = f'<div style="{TEXT}">{html.escape(words)}</div>'
        self.details.value = details
        self.image.value = png

    def fail(self, error: Exception) -> None:
        """Say in the status line what went wrong; the last picture stays."""
        self.status_line.value = alert(error)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._state})"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(**options)
        bundle["text/plain"] = repr(self)
        if self.image.value:
            bundle["image/png"] = to_png(self.figure(), colours=256)
        return bundle

    def _follow(self) -> None:
        self._quiet = True
        try:
            self.sync()
        finally:
            self._quiet = False

    def _moved(self, name: str, value: Any) -> None:
        if self._quiet or getattr(self._state, name) == value:
            return
        try:
            self.show(**{name: value})
        except ExplorerError as error:
            self.fail(error)

    def _render(self, state: S) -> bytes:
        return to_png(self.figure(state), dpi=DPI)


def alert(error: Exception) -> str:
    """What went wrong, as HTML; the error's own words are escaped.

    Example:
        >>> "&lt;b&gt;" in alert(ValueError("<b>"))
        True
    """
    text = html.escape(f"{type(error).__name__}: {error}")
    return f'<div role="alert" style="{TEXT};color:#b00020">Cannot show this. {text}</div>'


def fixed_html(height: str) -> widgets.HTML:
    """Words of a fixed height: what is below them never jumps."""
    return widgets.HTML(layout=widgets.Layout(height=height, max_width=f"{9 * DPI}px", overflow="auto"))


def table_html(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A small table; every cell is escaped.

    Example:
        >>> "&lt;b&gt;" in table_html(["<b>"], [[1]])
        True
    """

    def line(cells: Sequence[Any], tag: str) -> str:
        style = 'style="padding:0 0.7em;text-align:right;white-space:nowrap"'
        return "<tr>" + "".join(f"<{tag} {style}>{html.escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<table style="line-height:1.35;font-size:90%">{line(head, "th")}{body}</table>'


def slider(description: str, most: int, *, least: int = 0, width: str = "250px") -> widgets.IntSlider:
    """A slider over whole numbers that acts when it is let go."""
    return widgets.IntSlider(
        value=least,
        min=least,
        max=max(most, least),
        description=description,
        continuous_update=False,
        layout=widgets.Layout(width=width),
        style={"description_width": "initial"},
    )


def row(*controls: widgets.Widget) -> widgets.HBox:
    """Controls side by side; they wrap where the page is narrow."""
    return widgets.HBox(
        controls, layout=widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="0 1.2em")
    )


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

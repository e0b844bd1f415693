"""What every explorer is: a state of plain values, functions that draw it, and a view that binds the two."""

import base64
import dataclasses
import hashlib
import html
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import ipywidgets as widgets

from spgca_lab.explorers.code import changed_fields, explorer_call
from spgca_lab.explorers.lifetime import adopt
from spgca_lab.explorers.parts import (
    PIXELS,
    ExplorerError,
    Picture,
    alert,
    button,
    fixed_html,
    paragraph,
    row,
)
from spgca_lab.plots.style import LabFigure, packed, to_png, to_svg

__all__ = ["Explorer", "ExplorerError", "State"]

KEPT = 48


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
        # JSON knows lists only; states hold tuples, so that they can be compared and kept by.
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


S = TypeVar("S", bound=State)


class Explorer(widgets.VBox, Generic[S]):
    """A view of core widgets on a state: controls change the state, the state makes a picture and words.

    A subclass gives `controls()`, `check(state)`, `figure(state)`, `status(state)` and `caption(state)`, and sets
    what these need before it calls this constructor. The picture has one height whatever it shows; pictures are
    kept by state, so going back costs nothing. What goes wrong is said under the controls, and the last picture
    stays. Where no widget can be shown (on a page of GitHub's, say), the picture itself is. When a cell runs
    again, the explorer that it made before is closed.

    Args:
        state: what to show first, and again after a reset.
        height: of the picture, in inches of a figure 9 inches wide.
        given: the arguments of the subclass, for "copy as code".

    Raises:
        ExplorerError: when the first state cannot be shown.
    """

    about: ClassVar[str] = "Explorer"
    details_height: ClassVar[str] = "0px"
    status_height: ClassVar[str] = "3em"

    def __init__(self, state: S, height: float, given: Mapping[str, Any] | None = None):
        super().__init__()
        self.check(state)
        self._state = self._first = state
        self._given = dict(given or {})
        self._bound: dict[str, tuple[widgets.Widget, str]] = {}
        self._quiet = False
        self._drawn = lru_cache(maxsize=KEPT)(self._render)
        self.image = Picture(height)
        self.status_line = fixed_html(self.status_height)
        self.caption_line = fixed_html("3em")
        self.details = fixed_html(self.details_height)
        self.children = [
            *self.controls(),
            self.status_line,
            self.image,
            self.caption_line,
            self.details,
            *self._actions(),
        ]
        self.add_class("spgca-explorer")
        adopt(self)
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

    def reset(self) -> None:
        """Back to what was shown first."""
        self._state = self._first
        self._follow()
        self.refresh()

    def bind(self, control: widgets.Widget, name: str, trait: str = "value") -> Any:
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
        """One line of plain text above the picture: the values shown, sizes, where they come from."""
        raise NotImplementedError

    def caption(self, state: S) -> str:
        """One line of plain words under the picture: what is seen now. It is the picture's alternative text, too."""
        return ""

    def details_html(self, state: S) -> str:
        """Numbers below the picture, as HTML; empty by default."""
        return ""

    def code(self, state: S) -> str:
        """A cell that shows again what is shown now, or trains what it is about."""
        return explorer_call(type(self).__name__, self._given, changed_fields(state, self._first))

    def save_figure(self, folder: str | Path = "figures") -> list[Path]:
        """Write the present picture as PNG (twice the screen's resolution) and as SVG.

        Args:
            folder: made if it does not exist.

        Returns:
            the two files; equal states have equal names.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(repr(self._state).encode()).hexdigest()[:8]
        figure, stem = self.figure(), f"{type(self).__name__}-{digest}"
        files = [target / f"{stem}.png", target / f"{stem}.svg"]
        files[0].write_bytes(to_png(figure, dpi=2 * PIXELS))
        files[1].write_bytes(to_svg(figure))
        return files

    def refresh(self) -> None:
        """Show the present state: from memory if it was shown before."""
        try:
            png, caption = self._drawn(self._state), self.caption(self._state)
            words, details = self.status(self._state), self.details_html(self._state)
        except Exception as error:  # anything a reader's own model or picture may raise belongs in the view
            self.fail(error)
            return
        self.image.show(png, f"{self.about}: {caption}")
        self.caption_line.value = paragraph(caption, strong=True)
        self.status_line.value = paragraph(words)
        self.details.value = details
        if self.code_text.layout.display != "none":
            self.code_text.value = self.code(self._state)
        self.saved_line.value = ""

    def forget_drawn(self) -> None:
        """Draw anew what is shown next: something other than the state has changed (a run goes on, new files)."""
        self._drawn.cache_clear()

    def fail(self, error: Exception) -> None:
        """Say under the controls what went wrong; the last picture stays."""
        self.status_line.value = alert(error)

    def close(self) -> None:
        """Take the explorer off the page and let go of what it holds."""
        for widget in [*_descendants(self), self]:
            # A layout and a style are models of their own, which ipywidgets keeps like any other.
            for part in ("layout", "style"):
                if widget.has_trait(part):
                    getattr(widget, part).close()
            if widget is not self:
                widget.close()
        super().close()
        # The husk may stay in Out[…]; networks, maps and pictures must not stay with it.
        self.children = []
        for name in [n for n in vars(self) if n not in _HUSK]:
            del self.__dict__[name]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.__dict__.get('_state', 'closed')})"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        if "image" not in self.__dict__:
            return {"text/plain": repr(self)}
        bundle = super()._repr_mimebundle_(**options)
        bundle["text/plain"] = repr(self)
        if self.image.png:
            bundle["image/png"] = packed(self.image.png)
        return bundle

    def _actions(self) -> list[widgets.Widget]:
        self.reset_button = button("Reset", tip="Back to what was shown first", icon="undo")
        self.code_button = button(
            "Copy as code", tip="Show the Python that reproduces what is seen", icon="code"
        )
        self.save_button = button("Save figure", tip="Write this picture as PNG and SVG", icon="download")
        self.saved_line = widgets.HTML()
        self.code_text = widgets.Textarea(
            rows=5,
            tooltip="Click into it, select all (Ctrl+A, ⌘A) and copy",
            layout=widgets.Layout(width="min(900px, 100%)", display="none"),
        )
        self.reset_button.on_click(lambda _: self.reset())
        self.code_button.on_click(lambda _: self._toggle_code())
        self.save_button.on_click(lambda _: self._save())
        buttons = row(self.reset_button, self.code_button, self.save_button, self.saved_line)
        return [buttons, self.code_text]

    def _toggle_code(self) -> None:
        shown = self.code_text.layout.display != "none"
        self.code_text.value = "" if shown else self.code(self._state)
        self.code_text.rows = max(5, self.code_text.value.count("\n") + 2)
        self.code_text.layout.display = "none" if shown else ""

    def _save(self) -> None:
        try:
            files = self.save_figure()
        except OSError as error:
            self.saved_line.value = alert(error)
            return
        links = []
        for file, kind in zip(files, ("image/png", "image/svg+xml"), strict=True):
            data = base64.b64encode(file.read_bytes()).decode()
            name = html.escape(file.name)
            links.append(
                f'<a download="{name}" href="data:{kind};base64,{data}">{file.suffix[1:].upper()}</a>'
            )
        where = html.escape(str(files[0].with_suffix("")))
        self.saved_line.value = f"Saved {where} as PNG and SVG; download {' · '.join(links)}"

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
        except Exception as error:  # a reader's folder or model may fail in its own way
            self.fail(error)

    def _render(self, state: S) -> bytes:
        return to_png(self.figure(state), dpi=PIXELS)


# What ipywidgets and traitlets themselves keep in an object.
_HUSK = set(vars(widgets.VBox())) | {"comm", "keys"}


def _descendants(widget: widgets.Widget) -> list[widgets.Widget]:
    """What a widget is made of, also what it keeps without showing it (a step slider where there is one step)."""
    found: list[widgets.Widget] = []
    ahead = [widget]
    while ahead:
        one = ahead.pop()
        for part in [*getattr(one, "children", ()), *vars(one).values()]:
            if isinstance(part, widgets.DOMWidget) and part is not widget and part not in found:
                found.append(part)
                ahead.append(part)
    return found

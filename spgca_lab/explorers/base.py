"""The base class of all explorers: a state of plain values, functions that draw it, and a view that binds both."""

import asyncio
import base64
import dataclasses
import hashlib
import html
import inspect
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import ipywidgets as widgets

from spgca_lab.explorers import controls as ui
from spgca_lab.explorers.as_code import changed_fields, explorer_call
from spgca_lab.explorers.controls import Control, ExplorerError
from spgca_lab.plots.style import LabFigure, packed, to_png, to_svg

CACHED_IMAGES = 48
# By notebook cell: the message that ran it last, and the explorers that it made.
_cells: dict[str, tuple[str, list["weakref.ref[Any]"]]] = {}


@dataclasses.dataclass(frozen=True)
class State:
    """Values that an explorer shows: plain, comparable, and equal after a round trip through JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return all values by name, in types that JSON supports."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the state that a mapping describes, or raise `ExplorerError` for an unknown name."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ExplorerError(f"{cls.__name__} has no {unknown[0]!r}; its values are {', '.join(known)}")
        # JSON has lists only; states hold tuples, which can be compared and hashed.
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


S = TypeVar("S", bound=State)


class Ticker:
    """A timer that calls a method of an object on the kernel's event loop, and does not keep the object alive.

    Without a running loop (a plain script) nothing is called. Only the kernel's thread may touch widgets.
    """

    def __init__(self, owner: Any, method: str, seconds: float):
        self._owner, self.method, self.seconds = weakref.ref(owner), method, seconds
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """True while further calls are scheduled."""
        return self._task is not None and not self._task.done()

    def start(self) -> bool:
        """Start the timer where there is an event loop, and return True if it runs."""
        if not self.running:
            with suppress(RuntimeError):
                loop = asyncio.get_running_loop()  # first: a coroutine that never runs would warn
                self._task = loop.create_task(self._run())
        return self.running

    def stop(self) -> None:
        """Cancel all further calls."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self.seconds)
            owner = self._owner()
            if owner is None:
                return
            getattr(owner, self.method)()
            del owner


class Explorer(widgets.VBox, Generic[S]):
    """A view of core widgets on a state: controls change the state, the state gives a figure and sentences.

    A subclass defines `ranges(state)`, `table`, `tips`, `figure(state)`, `status(state)` and `caption(state)`, and sets
    what these need before it calls this constructor. The table has one mapping per row of the page, from the name of a
    control to its width in pixels, or from that of an attribute to 0; `tips` are the tooltips by name. All figures have
    one height and are cached by state. Errors appear under the controls while the last figure stays. A page without
    widgets (GitHub's, for example) shows the figure itself. When a notebook cell runs again, the explorers of its
    previous run are closed.

    Args:
        state: state to show first, and after a reset; `ExplorerError` if it cannot be shown.
        height: height of the figure in inches, at a width of 9 inches.
    """

    about: ClassVar[str] = "Explorer"
    tips: ClassVar[dict[str, str]] = {}
    table: ClassVar[Sequence[Mapping[str, int]]] = ()
    details_height: ClassVar[str] = "0px"
    status_height: ClassVar[str] = "3em"

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments that a subclass is made with, for "copy as code"."""
        explorer = super().__new__(cls, *args, **kwargs)
        explorer._given = {}
        with suppress(TypeError):  # the constructor raises it again
            bound = inspect.signature(cls.__init__).bind(explorer, *args, **kwargs)
            explorer._given = dict(list(bound.arguments.items())[1:])
        return explorer

    def __init__(self, state: S, height: float):
        super().__init__()
        state = self.adjust(state, set(changed_fields(state, type(state)())))
        self.check(state)
        self._state = self._first = state
        self._bound: dict[str, widgets.Widget] = {}
        self._updating = False
        self._drawn = lru_cache(maxsize=CACHED_IMAGES)(self._render)
        self.image = ui.FigureImage(height)
        self.status_line = ui.fixed_html(self.status_height)
        self.caption_line = ui.fixed_html("3em")
        self.details = ui.fixed_html(self.details_height)
        below = [self.status_line, self.image, self.caption_line, self.details]
        self.children = [*self.controls(), *below, *self._actions()]
        self.add_class("spgca-explorer")
        _close_previous(self)
        self._move(state)

    @property
    def state(self) -> S:
        """The state that is shown."""
        return self._state

    def show(self, **values: Any) -> None:
        """Show other values, e.g. `explorer.show(layer=2)`; `ExplorerError` for an impossible one changes nothing."""
        changed = self.adjust(type(self._state).from_dict(self._state.to_dict() | values), set(values))
        self.check(changed)
        self._move(changed)

    def reset(self) -> None:
        """Show the first state again."""
        self._move(self._first)

    def bind(self, control: widgets.Widget, name: str) -> Any:
        """Tie a control to the state's value `name`, in both directions."""
        self._bound[name] = control
        control.observe(lambda change: self.set_value(name, change["new"]), "value")
        return control

    def set_value(self, name: str, value: Any) -> None:
        """Set one value on behalf of a control; an error is shown, not raised."""
        if self._updating or getattr(self._state, name) == value:
            return
        try:
            self.show(**{name: value})
        except Exception as error:  # a reader's folder or model may fail in its own way
            self.show_error(error)

    def update_controls(self) -> None:
        """Set the controls to the state, within the ranges that it has."""
        for control in self.ranges(self._state):
            if control.name in self._bound:
                control.update(self._bound[control.name])
        for name, widget in self._bound.items():
            if widget.value != (value := self.shown(name)):
                widget.value = value

    def shown(self, name: str) -> Any:
        """Return the value at which a control stands."""
        return getattr(self._state, name)

    def adjust(self, state: S, given: set[str]) -> S:
        """Return the state with defaults for empty values, and for those not in `given` that do not fit the others."""
        seen: set[str] = set()
        while True:
            for control in self.ranges(state):
                name, value = control.name, getattr(state, control.name)
                if name not in seen and (value in (None, "") or not control.allows(value)):
                    if control.default is not None and (value in (None, "") or name not in given):
                        chosen = control.default() if callable(control.default) else control.default
                        changes: dict[str, Any] = {name: chosen}
                        state = dataclasses.replace(state, **changes)
                        seen.add(name)
                        break  # the ranges of the others may have changed
                    if not control.allows(value):
                        return state
                seen.add(name)
            else:
                return state

    def controls(self) -> Sequence[widgets.Widget]:
        """Return the rows of widgets above the figure."""
        made: dict[str, Any] = {}
        for control in self.ranges(self._state):
            width = next((line[control.name] for line in self.table if control.name in line), 0)
            if width and not (control.optional and control.single):
                widget = self.bind(control.widget((ui.TIPS | self.tips)[control.name], width), control.name)
                made[control.name] = widget
                setattr(self, f"{control.name}_{control.kind}", widget)
        if "step" in made:
            self.play = ui.player(made["step"])
        rows = [[made.get(name) or getattr(self, name, None) for name in line] for line in self.table]
        return [row[0] if len(row) == 1 else ui.row(*filter(None, row)) for row in rows]

    def ranges(self, state: S) -> Iterator[Control]:
        """Yield the values that can be shown; those of the later controls may depend on the earlier ones."""
        yield from ()

    def check(self, state: S) -> None:
        """Raise `ExplorerError` for a state that cannot be shown."""
        for control in self.ranges(state):
            control.check(getattr(state, control.name))

    def figure(self, state: S | None = None) -> LabFigure:
        """Draw a state (None: the present one) as a figure to keep or to save."""
        raise NotImplementedError

    def status(self, state: S) -> str:
        """Return the line of plain text above the figure: values shown, sizes, origin of the data."""
        raise NotImplementedError

    def caption(self, state: S) -> str:
        """Return a sentence on what the figure shows; it is also the alternative text."""
        return ""

    def details_html(self, state: S) -> str:
        """Return numbers to stand below the figure, as HTML."""
        return ""

    def code(self, state: S) -> str:
        """Return the source of a cell that shows a state again, or trains what it is about."""
        return explorer_call(type(self).__name__, self._given, changed_fields(state, self._first))

    def save_figure(self, folder: str | Path = "figures") -> list[Path]:
        """Write the present figure as PNG (twice the screen's resolution) and SVG; equal states have equal names."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(repr(self._state).encode()).hexdigest()[:8]
        figure, stem = self.figure(), f"{type(self).__name__}-{digest}"
        files = [target / f"{stem}.png", target / f"{stem}.svg"]
        files[0].write_bytes(to_png(figure, dpi=2 * ui.PIXELS))
        files[1].write_bytes(to_svg(figure))
        return files

    def refresh(self) -> None:
        """Show the present state, from the cache where it was shown before."""
        try:
            png, caption = self._drawn(self._state), self.caption(self._state)
            status, details = self.status(self._state), self.details_html(self._state)
        except Exception as error:  # a reader's own model or file may raise anything
            self.show_error(error)
            return
        self.image.show(png, f"{self.about}: {caption}")
        self.caption_line.value = ui.paragraph_html(caption, strong=True)
        self.status_line.value = ui.paragraph_html(status)
        self.details.value = details
        if self.code_text.layout.display != "none":
            self.code_text.value = self.code(self._state)
        self.saved_line.value = ""

    def clear_drawn(self) -> None:
        """Empty the cache of figures after something other than the state has changed, such as a run's files."""
        self._drawn.cache_clear()

    def show_error(self, error: Exception) -> None:
        """Show an error under the controls; the last figure stays."""
        self.status_line.value = ui.alert_html(error)

    def close(self) -> None:
        """Remove the explorer from the page and release its memory; trainings continue."""
        if ticker := self.__dict__.get("ticker"):  # absent on a second call
            ticker.stop()
        for widget in [*_descendants(self), self]:
            # ipywidgets keeps layouts and styles as models of their own.
            for part in ("layout", "style"):
                if widget.has_trait(part):
                    getattr(widget, part).close()
            if widget is not self:
                widget.close()
        super().close()
        # Out[…] may keep this object; networks, maps and images must not stay with it.
        self.children = []
        for name in [n for n in vars(self) if n not in _WIDGET_ATTRIBUTES]:
            del self.__dict__[name]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.__dict__.get('_state', 'closed')})"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        if "image" not in self.__dict__:
            return {"text/plain": repr(self)}
        bundle = super()._repr_mimebundle_(**options) | {"text/plain": repr(self)}
        if self.image.png:
            bundle["image/png"] = packed(self.image.png)
        return bundle

    def _actions(self) -> list[widgets.Widget]:
        self.reset_button = ui.button("Reset", self.reset, tip="Back to what was shown first", icon="undo")
        tip = "Show the Python that reproduces this view"
        self.code_button = ui.button("Copy as code", self._toggle_code, tip=tip, icon="code")
        tip = "Write this figure as PNG and SVG"
        self.save_button = ui.button("Save figure", self._save, tip=tip, icon="download")
        self.saved_line = widgets.HTML()
        layout = widgets.Layout(width="min(900px, 100%)", display="none")
        tip = "Click into it, select all (Ctrl+A, ⌘A) and copy"
        self.code_text = widgets.Textarea(rows=5, tooltip=tip, layout=layout)
        buttons = ui.row(self.reset_button, self.code_button, self.save_button, self.saved_line)
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
            self.saved_line.value = ui.alert_html(error)
            return
        links = []
        for file, kind in zip(files, ("png", "svg+xml"), strict=True):
            name, data = html.escape(file.name), base64.b64encode(file.read_bytes()).decode()
            label = file.suffix[1:].upper()
            links.append(f'<a download="{name}" href="data:image/{kind};base64,{data}">{label}</a>')
        where = html.escape(str(files[0].with_suffix("")))
        self.saved_line.value = f"Saved {where} as PNG and SVG; download {' · '.join(links)}"

    def _move(self, state: S) -> None:
        self._state, self._updating = state, True
        try:
            self.update_controls()
        finally:
            self._updating = False
        self.refresh()

    def _render(self, state: S) -> bytes:
        return to_png(self.figure(state), dpi=ui.PIXELS)


# ipywidgets and traitlets keep these in every widget.
_WIDGET_ATTRIBUTES = set(vars(widgets.VBox())) | {"comm", "keys"}


def _descendants(widget: widgets.Widget) -> list[widgets.Widget]:
    """Return the parts of a widget, including those that it holds without showing them."""
    found = [widget]
    for one in found:  # grows
        parts = [*getattr(one, "children", ()), *vars(one).values()]
        found += [part for part in parts if isinstance(part, widgets.DOMWidget) and part not in found]
    return found[1:]


def _close_previous(explorer: Explorer[Any]) -> None:
    """Close the explorers that earlier runs of the present notebook cell made.

    ipywidgets keeps every widget with all that it refers to, so twenty runs of a cell would hold twenty networks.
    """
    cell, message = _running_cell()
    if cell is None:
        return
    last_message, made = _cells.get(cell, ("", []))
    if last_message != message:
        for earlier in filter(None, [reference() for reference in made]):
            earlier.close()
        made = []
    _cells[cell] = (message, [*made, weakref.ref(explorer)])


def _running_cell() -> tuple[str | None, str]:
    with suppress(ImportError, AttributeError):  # outside a kernel
        from IPython import get_ipython

        parent = get_ipython().kernel.get_parent("shell")
        return parent.get("metadata", {}).get("cellId"), str(parent.get("header", {}).get("msg_id", ""))
    return None, ""

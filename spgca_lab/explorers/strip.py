"""PictureStrip: small pictures to click on, over the embedded ones, a folder of one's own, or uploaded files."""

import base64
import io
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image

from spgca_lab.explorers.parts import row, text
from spgca_lab.explorers.pictures import Pictures

__all__ = ["EMBEDDED", "UPLOADED", "OwnPictures", "PictureStrip"]

EMBEDDED, UPLOADED = "", "uploaded"
SHOWN = 11
SIDE = 64
_numbers = itertools.count()


class PictureStrip(widgets.VBox):
    """A row of pictures as buttons, and where they come from.

    Core widgets only: a button cannot hold a picture, but a style sheet can give it one as its background. The row
    shows as many as fit, around the chosen one.

    Args:
        chosen: called with the number of a picture that was clicked.
        placed: called with what pictures to take: `""` for the embedded ones, `"uploaded"`, or a folder.
        own: offer a folder and an upload.

    Example:
        >>> import torch
        >>> strip = PictureStrip(chosen=print, placed=print)
        >>> strip.show(Pictures(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ["a", "b"]), 0, "")
        >>> strip.thumbs[1].click()
        1
    """

    def __init__(self, chosen: Callable[[int], None], placed: Callable[[str], None], *, own: bool = True):
        self._chosen, self._placed = chosen, placed
        self._name = f"spgca-strip-{next(_numbers)}"
        self._first, self._quiet = -1, False
        self._pictures: Pictures | None = None
        self.uploads: tuple[dict, ...] = ()
        self.look = widgets.HTML(layout=widgets.Layout(display="none"))
        self.mark = widgets.HTML(layout=widgets.Layout(display="none"))
        self.thumbs = [self._thumb(i) for i in range(SHOWN)]
        self.place = text(
            "folder",
            "your own pictures: a folder; empty: the embedded ones",
            tip="Where the pictures x of Eq. 1 come from: the path of a folder, or empty for the embedded pictures",
            width="420px",
        )
        self.upload = widgets.FileUpload(
            accept="image/*",
            multiple=True,
            description="Upload pictures",
            tooltip="Pictures x from your own disk; they stay in memory",
            layout=widgets.Layout(width="auto"),
        )
        self.place.observe(self._typed, "value")
        self.upload.observe(self._uploaded, "value")
        thumbs = widgets.HBox(self.thumbs, layout=widgets.Layout(height=f"{SIDE + 12}px", overflow="hidden"))
        super().__init__([thumbs, *([row(self.place, self.upload)] if own else []), self.look, self.mark])

    def show(self, pictures: Pictures, chosen: int, place: str) -> None:
        """Show these pictures around the chosen one.

        Args:
            pictures: all there are.
            chosen: which is framed.
            place: where they come from, as `placed` gets it.
        """
        self._quiet = True
        try:
            self.place.value = "" if place == UPLOADED else place
        finally:
            self._quiet = False
        first = min(max(0, chosen - SHOWN // 2), max(0, len(pictures) - SHOWN))
        if self._pictures is pictures and self._first <= chosen < self._first + SHOWN:
            first = self._first
        if self._pictures is not pictures or first != self._first:
            self._pictures, self._first = pictures, first
            self._fill(pictures, first)
        frame = "outline:3px solid #D55E00;outline-offset:-3px;opacity:1"
        style = f".{self._name}-{chosen - first}.jupyter-button{{{frame}}}"
        self.mark.value = f"<style>{style}</style>"

    def _fill(self, pictures: Pictures, first: int) -> None:
        rules = []
        for i, thumb in enumerate(self.thumbs):
            there = first + i < len(pictures)
            thumb.layout.visibility = "visible" if there else "hidden"
            thumb.tooltip = "no further picture"
            if not there:
                continue
            name = pictures.names[first + i]
            thumb.tooltip = f"picture {first + i}: {name}"
            image = _thumbnail(pictures, first + i)
            rules.append(f".{self._name}-{i}.jupyter-button{{background:url({image}) center/cover}}")
        self.look.value = f"<style>{''.join(rules)}</style>"

    def _thumb(self, place: int) -> widgets.Button:
        side = f"{SIDE}px"
        thumb = widgets.Button(layout=widgets.Layout(width=side, height=side, margin="3px", padding="0"))
        thumb.add_class(f"{self._name}-{place}")
        thumb.on_click(lambda _: self._chosen(self._first + place))
        return thumb

    def _typed(self, change: dict) -> None:
        if not self._quiet:
            self._placed(change["new"].strip())

    def _uploaded(self, change: dict) -> None:
        if change["new"]:
            self.uploads = tuple(change["new"])
            self._placed(UPLOADED)


class OwnPictures:
    """What an explorer with a strip does when its reader names a folder or uploads files.

    An explorer that mixes this in has a state with `place` and `picture`, and a `strip` made with
    `placed=self.place_chosen`; it drops in `forget_pictures` what it keeps of pictures by their place.
    """

    uploads: Sequence[dict] = ()

    def forget_pictures(self) -> None:
        """Drop what is kept of the uploaded pictures: others come by the same name."""
        raise NotImplementedError

    def place_chosen(self: Any, place: str) -> None:
        """Show the first picture of another place; what is wrong with it is said, and nothing changes."""
        if place == UPLOADED:
            self.uploads = self.strip.uploads
            self.forget_pictures()
            self.forget_drawn()
        try:
            self.show(place=place, picture=0)
        except Exception as error:  # whatever is wrong with a reader's files
            self.fail(error)


def _thumbnail(pictures: Pictures, number: int) -> str:
    picture = Image.fromarray(np.ascontiguousarray(pictures.images[number].permute(1, 2, 0).numpy()))
    buffer = io.BytesIO()
    picture.resize((SIDE, SIDE)).save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"

"""What the tests of all explorers share: pictures, what a view shows, and promises that every explorer keeps."""

import io
import json
from datetime import UTC, datetime

import ipywidgets as widgets
import torch
from PIL import Image

import spgca_lab as lab
from spgca_lab.explorers import Explorer

# Words of the field: a tooltip must name what its control is in the paper.
INPUTS = (
    widgets.IntSlider,
    widgets.FloatSlider,
    widgets.SelectionSlider,
    widgets.Dropdown,
    widgets.Text,
    widgets.Button,
    widgets.FileUpload,
    widgets.Play,
    widgets.Checkbox,
    widgets.ToggleButtons,
    widgets.BoundedIntText,
    widgets.SelectMultiple,
    widgets.Textarea,
)


def pictures(count=3, size=32, **more):
    """An ImageSet of noise whose class names need escaping."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    names = [f"<class {i}>" for i in range(count)]
    return lab.ImageSet(images, torch.arange(count), names, size, **more)


def masked():
    """The same pictures with a square object in the first two."""
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[:2, 8:24, 8:24] = True
    return pictures(masks=masks)


def upload(name: str, content: bytes) -> dict:
    """A file as the browser hands it over."""
    kind = {"name": name, "type": "image/png", "size": len(content)}
    return kind | {"content": memoryview(content), "last_modified": datetime.fromtimestamp(0, tz=UTC)}


def words(explorer: Explorer) -> str:
    """The line under the controls, as HTML."""
    return explorer.status_line.value


def said(explorer: Explorer) -> str:
    """The sentence under the picture, as HTML."""
    return explorer.caption_line.value


def size(explorer: Explorer) -> tuple[int, int]:
    """Width and height of the picture shown, in pixels."""
    return Image.open(io.BytesIO(explorer.image.png)).size


def every_widget(widget) -> list:
    """A widget and all below it."""
    found = [widget]
    for child in getattr(widget, "children", ()):
        found += every_widget(child)
    return found


def keeps_the_promises(explorer: Explorer, **other) -> None:
    """Core widgets, tooltips, alternative text, a state that survives JSON, reset, and code that reproduces.

    Args:
        explorer: as it was made.
        **other: values to move to.
    """
    for widget in every_widget(explorer):
        assert {widget._model_module, widget._view_module} == {"@jupyter-widgets/controls"}, widget
        if isinstance(widget, INPUTS):
            assert widget.tooltip, f"no tooltip: {widget}"
    first, png, measure = explorer.state, explorer.image.png, size(explorer)
    explorer.show(**other)
    assert explorer.state != first
    assert size(explorer) == measure
    assert f'width="{measure[0]}" height="{measure[1]}"' in explorer.image.value
    assert explorer.image.alt.startswith(explorer.about)
    assert len(explorer.image.alt) > len(explorer.about) + 20
    state = type(first).from_dict(json.loads(json.dumps(explorer.state.to_dict())))
    assert state == explorer.state
    moved = explorer.image.png
    assert (moved != png) or not other
    explorer.code_button.click()
    scope: dict = {}
    exec(explorer.code_text.value, scope)
    assert scope["explorer"].state == explorer.state
    assert scope["explorer"].image.png == moved
    explorer.code_button.click()
    assert explorer.code_text.layout.display == "none"
    explorer.reset_button.click()
    assert (explorer.state, explorer.image.png) == (first, png)

"""Copy as code: write the Python that reproduces what an explorer shows."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spgca_lab.backbones import Backbone, list_backbones
from spgca_lab.runs.store import Run, RunStore
from spgca_lab.training.recipe import Recipe


def value_source(value: Any, name: str) -> str:
    """Return Python that makes a value again, or `name` for an object of the reader's own."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, Path):
        return repr(str(value))
    if isinstance(value, RunStore | Run):
        return f"lab.{type(value).__name__}({str(value.path)!r})"
    if isinstance(value, Recipe):
        return recipe_source(value)
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith("spgca_lab.explorers"):
        shown = changed_fields(value, type(value)())  # type: ignore[call-arg, misc]  # states have defaults
        return f"lab.explorers.{type(value).__name__}({_arguments(shown)})"
    if isinstance(value, Backbone) and value.name in list_backbones():
        weights = "" if value.weights == "pretrained" else f", weights={value.weights!r}"
        return f"lab.load_backbone({value.name!r}{weights})"
    if isinstance(value, list | tuple):
        inner = ", ".join(value_source(v, f"{name}[{i}]") for i, v in enumerate(value))
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return name


def recipe_source(recipe: Recipe) -> str:
    """Return the call that makes a recipe, with the fields that are not defaults."""
    plain = Recipe(method=recipe.method, backbone=recipe.backbone)
    shown = {"method": recipe.method} | changed_fields(recipe, plain)
    if recipe.backbone != Recipe.__dataclass_fields__["backbone"].default:
        shown["backbone"] = recipe.backbone
    names = [field.name for field in dataclasses.fields(Recipe)]
    return f"lab.Recipe({_arguments({n: shown[n] for n in names if n in shown and n != 'method_code'})})"


def changed_fields(state: Any, first: Any) -> dict[str, Any]:
    """Return the fields in which one dataclass object differs from another, with the values of the first."""
    values = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in values.items() if value != getattr(first, name)}


def explorer_call(name: str, given: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """Return the source of a cell that makes the explorer `name` with the given arguments and shows the changes."""
    written = {key: value_source(value, key) for key, value in given.items() if value is not None}
    own = [key for key, source in written.items() if source == key]
    lines = ["import spgca_lab as lab", ""]
    if own:
        lines.append(f"# {', '.join(own)}: the objects of your own that this explorer was made with")
    arguments = ", ".join(f"{key}={source}" for key, source in written.items())
    lines.append(f"explorer = lab.explorers.{name}({arguments})")
    if changes:
        lines.append(f"explorer.show({_arguments(changes)})")
    return "\n".join([*lines, "explorer"])


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())

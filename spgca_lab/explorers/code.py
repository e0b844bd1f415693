"""Copy as code: the call that shows again what an explorer shows now."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spgca_lab.backbones import Backbone, list_backbones
from spgca_lab.runs.store import Run, RunStore
from spgca_lab.training.recipe import Recipe

__all__ = ["changed_fields", "explorer_call", "spell", "spell_recipe"]


def spell(value: Any, name: str) -> str:
    """Python that makes a value again, or the name that the reader's own object goes by.

    Example:
        >>> spell("mini", "backbone"), spell(RunStore("runs"), "store"), spell(object(), "target")
        ("'mini'", "lab.RunStore('runs')", 'target')
    """
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, Path):
        return repr(str(value))
    if isinstance(value, RunStore):
        return f"lab.RunStore({str(value.path)!r})"
    if isinstance(value, Run):
        return f"lab.Run({str(value.path)!r})"
    if isinstance(value, Recipe):
        return spell_recipe(value)
    if (
        dataclasses.is_dataclass(value)
        and not isinstance(value, type)
        and type(value).__module__.startswith("spgca_lab.explorers")
    ):
        shown = changed_fields(value, type(value)())
        return f"lab.explorers.{type(value).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"
    if isinstance(value, Backbone) and value.name in list_backbones():
        weights = "" if value.weights == "pretrained" else f", weights={value.weights!r}"
        return f"lab.load_backbone({value.name!r}{weights})"
    if isinstance(value, list | tuple):
        inner = ", ".join(spell(v, f"{name}[{i}]") for i, v in enumerate(value))
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return name


def spell_recipe(recipe: Recipe) -> str:
    """The call that makes a recipe, with the fields that are not the defaults.

    Example:
        >>> spell_recipe(Recipe(method="gca", alpha=1.0, r=8))
        "lab.Recipe(method='gca', alpha=1.0, r=8)"
    """
    plain = Recipe(method=recipe.method, backbone=recipe.backbone)
    shown = []
    for field in dataclasses.fields(Recipe):
        value = getattr(recipe, field.name)
        asked = field.name in ("method",) or value != getattr(plain, field.name)
        if field.name == "backbone":
            asked = value != Recipe.__dataclass_fields__["backbone"].default
        if asked and field.name != "method_code":
            shown.append(f"{field.name}={value!r}")
    return f"lab.Recipe({', '.join(shown)})"


def changed_fields(state: Any, first: Any) -> dict[str, Any]:
    """What of a state differs from how the explorer began.

    Example:
        >>> from spgca_lab.explorers.attention import AttentionState
        >>> changed_fields(AttentionState(picture=2), AttentionState())
        {'picture': 2}
    """
    return {
        field.name: getattr(state, field.name)
        for field in dataclasses.fields(state)
        if getattr(state, field.name) != getattr(first, field.name)
    }


def explorer_call(name: str, given: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """A cell that builds an explorer and brings it to a state.

    Args:
        name: of the class.
        given: arguments it was made with; those that are the reader's own objects go by their names.
        changes: values to show.

    Example:
        >>> print(explorer_call("FeatureMapExplorer", {"backbone": "mini"}, {"layer": 2}))
        import spgca_lab as lab
        <BLANKLINE>
        explorer = lab.explorers.FeatureMapExplorer(backbone='mini')
        explorer.show(layer=2)
        explorer
    """
    written = {key: spell(value, key) for key, value in given.items() if value is not None}
    own = [key for key, word in written.items() if word == key]
    lines = ["import spgca_lab as lab", ""]
    if own:
        lines.append(f"# {', '.join(own)}: the objects of your own that this explorer was made with")
    lines.append(f"explorer = lab.explorers.{name}({', '.join(f'{k}={w}' for k, w in written.items())})")
    if changes:
        lines.append(f"explorer.show({', '.join(f'{k}={v!r}' for k, v in changes.items())})")
    return "\n".join([*lines, "explorer"])

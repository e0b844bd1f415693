"""Settings: what runs must share to be compared, and names for it that tell one from the other."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spgca_lab.training.recipe import Recipe

__all__ = ["LOOKS", "distinct_names", "setting_fields"]

# How often one looks, and who chose α, changes no number of a run.
LOOKS = frozenset({"evaluations", "snapshots", "probe", "alpha_from"})


def setting_fields(recipe: Recipe, varied: Iterable[str]) -> dict[str, Any]:
    """All that a recipe says but for what is `varied` within a setting, and for what changes no number.

    Example:
        >>> "alpha" in setting_fields(Recipe(), {"alpha"}), setting_fields(Recipe(), ())["backbone"]
        (False, 'mini')
    """
    left_out = LOOKS | set(varied)
    return {name: value for name, value in recipe.to_dict().items() if name not in left_out}


def distinct_names(settings: Mapping[Any, Mapping[str, Any]]) -> dict[Any, str]:
    """Names by key: source, target, pictures a class and steps, and what else tells two of one name apart.

    Args:
        settings: fields by key, from `setting_fields`.

    Example:
        >>> near = setting_fields(Recipe(per_class=2, iterations=150), ())
        >>> list(distinct_names({0: near, 1: near | {"lr": 0.1}}).values())
        ['mini → stickers near, 2 a class, 150 steps, lr 0.01', 'mini → stickers near, 2 a class, 150 steps, lr 0.1']
    """
    short = {key: _short(fields) for key, fields in settings.items()}
    names = {}
    for key, fields in settings.items():
        alike = [settings[other] for other in short if short[other] == short[key]]
        differ = [
            f"{name} {_plain(value)}"
            for name, value in fields.items()
            if any(other[name] != value for other in alike)
        ]
        names[key] = ", ".join([short[key], *differ])
    return names


def _short(fields: Mapping[str, Any]) -> str:
    data = str(fields["dataset"])
    where = f"stickers {fields['preset']}" if data == "stickers" else Path(data).name or data
    random = " (random weights)" if fields["weights"] == "random" else ""
    few = f", {fields['per_class']} a class" if fields["per_class"] is not None else ""
    held = fields.get("validation")
    measured = f", measured on {held:.0%} held out" if held else ""
    return f"{fields['backbone']}{random} → {where}{few}, {fields['iterations']} steps{measured}"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "/".join(map(_plain, value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)

"""Options of the command line that make up a recipe, shared by every command that trains."""

import argparse
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import spgca_lab as lab
from spgca_lab.cli.parse import numbers

__all__ = ["add_recipe_options", "given_fields", "recipe_of"]

_HELP = {
    "method": "spgca, afa, l2, l2_fe, l2_sp, delta, lwf, uniform, ast, act, spa, gca; 'gca->spa'; 'my_file.py:MyClass'",
    "backbone": "source by name (see: spgca-lab backbones)",
    "dataset": "stickers, a published set (see: spgca-lab data list), or a folder of pictures",
    "preset": "near, mid or far (stickers)",
    "per_class": "training pictures a class",
    "test_per_class": "test pictures a class",
    "image_size": "input size in pixels",
    "clutter": "distractors a sticker picture",
    "data_seed": "seed of generated or chosen pictures",
    "weights": "pretrained or random",
    "alpha": "weight of the penalty; two numbers for two stages, joined by a comma",
    "beta": "weight of the head's decay",
    "r": "reduction rate of GCA",
    "scale": "literal, afa or relative",
    "attention": "learned, frozen or uniform",
    "attend_through_target": "let the gradient reach T through SPA's input",
    "target_bn": "train or eval",
    "iterations": "steps over all stages",
    "batch_size": "pictures a step, or auto: as many as memory holds, 64 at most",
    "lr": "learning rate at the start",
    "momentum": "of SGD",
    "milestones": "fractions of the iterations at which lr falls to a tenth, joined by commas",
    "evaluations": "how often the test accuracy is taken",
    "snapshots": "how often attention is kept",
    "probe": "test pictures whose attention is kept",
    "seed": "of head, attention, batches and crops",
    "validation": "share of the training pictures that is held out and measured on in place of the test pictures",
    "engine": "auto, fast or plain: how steps are computed",
    "alpha_from": "how α was chosen, in words",
}


def add_recipe_options(
    parser: argparse.ArgumentParser, leave_out: Iterable[str] = (), *, base: bool = True
) -> None:
    """Add `--recipe`, `--paper` and an option for every field of a recipe.

    Args:
        parser: of a command.
        leave_out: fields that the command fills in itself.
        base: whether the reader chooses what the options change.
    """
    if base:
        _add_base(parser)
    for field in dataclasses.fields(lab.Recipe):
        if field.name == "method_code" or field.name in leave_out:
            continue
        flag = "--" + field.name.replace("_", "-")
        if field.name == "attend_through_target":
            parser.add_argument(flag, action="store_true", default=None, help=_HELP[field.name])
        else:
            parser.add_argument(flag, type=_TYPES.get(field.name, str), help=_HELP[field.name])


def _add_base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", type=Path, help="recipe file (JSON); other options change its fields")
    parser.add_argument(
        "--paper",
        action="store_true",
        help="begin with the paper's recipe (Sec. 4.2) in place of the quick default",
    )


def given_fields(options: argparse.Namespace) -> dict[str, Any]:
    """Fields of a recipe that the command line names."""
    return {
        f.name: getattr(options, f.name)
        for f in dataclasses.fields(lab.Recipe)
        if getattr(options, f.name, None) is not None
    }


def recipe_of(options: argparse.Namespace) -> lab.Recipe:
    """The recipe that a command line asks for.

    Raises:
        RecipeError: as `Recipe`, or when both a file and the paper's recipe are asked for.
    """
    given = given_fields(options)
    if options.paper and options.recipe:
        raise lab.RecipeError(
            f"--paper and --recipe {options.recipe} both give a whole recipe: use one of them"
        )
    if options.paper:
        return lab.Recipe.paper(**given)
    base = (
        lab.Recipe.from_json(options.recipe.read_text(encoding="utf-8")) if options.recipe else lab.Recipe()
    )
    # Another method or scale brings its own default α, unless one was asked for.
    if {"method", "scale", "backbone"} & set(given):
        given = {"alpha": None, "scale": None if "backbone" in given else base.scale} | given
    return base.replace(**given)


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _alpha(text: str) -> float | tuple[float, ...]:
    values = numbers(text)
    return values[0] if len(values) == 1 else values


_TYPES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(
        (
            "per_class",
            "test_per_class",
            "image_size",
            "clutter",
            "data_seed",
            "r",
            "iterations",
        ),
        int,
    ),
    **dict.fromkeys(("evaluations", "snapshots", "probe", "seed"), int),
    **dict.fromkeys(("beta", "lr", "momentum", "validation"), float),
    "batch_size": _batch_size,
    "alpha": _alpha,
    "milestones": numbers,
}

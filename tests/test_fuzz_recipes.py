"""Generated recipes: 2,000 that are valid keep themselves through JSON, and 1,500 with one bad field say which."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest

import spgca_lab as lab
from spgca_lab._checks import quote
from spgca_lab.regularizers.registry import METHODS
from spgca_lab.training.recipe import CHOICES, Recipe, RecipeError

COUNT = 2000
TEXTS = ("cub200", "a folder/of mine", "Zürich €", "../x", "$x$ <b>", "'\"\\")


def drawn(r: random.Random) -> dict[str, object]:
    """Fields of a valid recipe; every field is given in about every second one."""
    stages = r.choice(
        [list(METHODS), [f"{a}->{b}" for a in ("spa", "gca", "ast", "l2") for b in ("act", "gca", "lwf")]]
    )
    method = r.choice(stages)
    count = len(lab.Recipe(method=method).stages().stages)
    number = lambda: r.choice([0, 0.0, 1, 0.1, 1e-9, 3.7e8, r.random(), float(f"{r.random():.3g}")])  # noqa: E731
    milestones = tuple(sorted(r.uniform(0.01, 0.99) for _ in range(r.randrange(4))))
    fields: dict[str, object] = {
        "method": method,
        "backbone": r.choice(["mini", "lite0", "resnet50", "resnet101", *TEXTS]),
        "dataset": r.choice(["stickers", Path("a") / "b", *TEXTS]),
        "preset": r.choice(["near", "mid", "far", "cross"]),
        "per_class": r.choice([None, 1, 7, 10**6]),
        "test_per_class": r.choice([None, 1, 7]),
        "image_size": r.choice([None, 16, 64, 224]),
        "clutter": r.choice([None, 0, 3]),
        "data_seed": r.randrange(2**31),
        "alpha": r.choice(
            [None, number(), tuple(number() for _ in range(count)), [number() for _ in range(count)]]
        ),
        "beta": number(),
        "r": r.randrange(1, 65),
        "scale": r.choice([None, *CHOICES["scale"]]),
        "attend_through_target": r.random() < 0.5,
        "iterations": r.randrange(count, 10_000),
        "batch_size": r.choice([2, 32, 64, r.randrange(2, 999)]),
        "lr": r.choice([1e-9, 0.01, 1, r.random() + 1e-6]),
        "momentum": r.choice([0, 0.9, r.random() * 0.999]),
        "milestones": r.choice([milestones, list(milestones), (1 / 3, 5 / 6)]),
        "evaluations": r.randrange(1, 30),
        "snapshots": r.randrange(30),
        "probe": r.randrange(1, 30),
        "seed": r.randrange(2**40),
        "validation": r.choice([0, 0.0, 0.25, 0.999]),
        "alpha_from": r.choice([None, "", "of 5 values, on held-out pictures"]),
        **{name: r.choice(allowed) for name, allowed in CHOICES.items() if name != "scale"},
    }
    kept = {name: value for name, value in fields.items() if r.random() < 0.6}
    return kept | {"method": method, "iterations": fields["iterations"], "alpha": fields["alpha"]}


@pytest.fixture(scope="module")
def recipes() -> list[Recipe]:
    r = random.Random(0)
    return [Recipe(**drawn(r)) for _ in range(COUNT)]


def test_a_recipe_is_itself_after_json(recipes):
    for recipe in recipes:
        again = Recipe.from_json(recipe.to_json())
        assert again == recipe
        assert again.hash() == recipe.hash()
        assert dataclasses.asdict(again) == dataclasses.asdict(recipe)
        assert Recipe.from_dict(recipe.to_dict()) == recipe
        assert recipe.replace() == recipe
        assert json.loads(recipe.to_json()) == recipe.to_dict()


def test_the_hash_depends_on_what_is_said_and_not_on_how(recipes):
    r = random.Random(1)
    for recipe in recipes:
        fields = list(recipe.to_dict().items())
        r.shuffle(fields)
        assert Recipe.from_json(json.dumps(dict(fields), indent=r.choice([None, 3]))).hash() == recipe.hash()
        assert recipe.replace(alpha_from="said otherwise").hash() == recipe.hash()
        # A float that is whole, and a number of the stage's that is said for all of them.
        assert recipe.replace(beta=recipe.beta, lr=float(recipe.lr)).hash() == recipe.hash()
        assert recipe.replace(alpha=recipe.alphas).hash() == recipe.hash()


def test_recipes_of_one_hash_are_equal_and_any_change_shows(recipes):
    by_hash: dict[str, Recipe] = {}
    for recipe in recipes:
        assert by_hash.setdefault(recipe.hash(), recipe) == recipe
    assert len(by_hash) > 0.99 * COUNT
    changes = {
        "seed": 1,
        "r": 1,
        "iterations": 1,
        "evaluations": 1,
        "snapshots": 1,
        "probe": 1,
        "batch_size": 1,
    }
    for recipe in recipes[::5]:
        for name, step in changes.items():
            assert recipe.replace(**{name: getattr(recipe, name) + step}).hash() != recipe.hash(), name
        for name, allowed in CHOICES.items():
            other = next(value for value in allowed if value != getattr(recipe, name))
            assert recipe.replace(**{name: other}).hash() != recipe.hash(), name
        assert recipe.replace(beta=recipe.beta + 1).hash() != recipe.hash()
        assert recipe.replace(alpha=(9.25,) * len(recipe.alphas)).hash() != recipe.hash()


def test_shipped_runs_keep_their_names():
    folders = [
        file.parent for top in ("runs", "comparison") for file in (lab.data_dir() / top).glob("*/recipe.json")
    ]
    assert len(folders) > 50
    for folder in folders:
        assert folder.name.endswith(lab.Run(folder).recipe.hash())


LONG = "x" * 50_000
COUNTS = (
    "per_class",
    "test_per_class",
    "image_size",
    "clutter",
    "data_seed",
    "r",
    "iterations",
    "batch_size",
)
COUNTS += ("evaluations", "snapshots", "probe", "seed")
PER_STAGE = ("alpha", "lr", "backbone_lr", "weight_decay", "warmup")
NUMBERS = (*PER_STAGE, "beta", "momentum", "validation")
NAMES = ("method", "backbone", "dataset", "preset")
NONSENSE = (
    float("nan"), float("inf"), -float("inf"), -1, -0.5, True, False, "", "many", "0.1", LONG, b"x", [], [1], [[1.0]],
    {}, {"a": 1}, (), (1, 2, 3), object(), np.float32(1.5), np.int64(3), np.array([1.0]), 10**5000, -(10**400), 1j,
    None, "\ud800", "\x00", "  ", int, len,
)  # fmt: skip
# What a field takes of these all the same.
FINE = {
    **dict.fromkeys(COUNTS, lambda v: type(v) is int and v >= 0),
    **dict.fromkeys(NUMBERS, lambda v: False),
    "per_class": lambda v: v is None or (type(v) is int and v > 0),
    "test_per_class": lambda v: v is None or (type(v) is int and v > 0),
    "image_size": lambda v: v is None,
    "clutter": lambda v: v is None or (type(v) is int and v >= 0),
    # A list with one value for the one stage of a method.
    **dict.fromkeys(PER_STAGE, lambda v: v == [1]),
    "alpha": lambda v: v is None or v == [1],
}


def corruptions():
    for name in COUNTS + NUMBERS:
        for value in NONSENSE:
            if not FINE[name](value):
                yield name, value
    for name in NAMES:
        for value in (None, 3, 0.5, True, [], {}, b"x", "", "  ", object(), float("nan"), (), int):
            if not (name == "dataset" and value is not None and not isinstance(value, str)):
                yield name, value
    for name in CHOICES:
        for value in NONSENSE:
            if not (name == "scale" and value is None):
                yield name, value
    for value in (
        *NONSENSE,
        (0.5, 0.2),
        (0,),
        (1,),
        (-0.1, 0.5),
        ("a",),
        (float("nan"),),
        [None],
        {0.5},
        "0.5",
    ):
        if value not in ((), []) if isinstance(value, tuple | list) else True:
            yield "milestones", value
    for value in (0, 1, "yes", None, 0.5, [], LONG):
        yield "attend_through_target", value
    for value in (3, b"x", [], True):
        yield "alpha_from", value
    for value in (
        "spa->",
        "->",
        "spa->spa->nothing",
        "spq",
        "no/file.py:Class",
        "spa:gca",
        "file.py:",
        ":",
        LONG,
    ):
        yield "method", value
    for value in ("0123456789ab", 3, [], LONG):
        yield "method_code", value


CORRUPT = list(corruptions())


def test_there_are_enough_of_them():
    assert len(CORRUPT) > 700


@pytest.mark.parametrize("base", [{}, {"method": "spa", "backbone": "resnet101", "iterations": 5}])
def test_a_bad_field_is_named_and_quoted(base):
    for name, value in CORRUPT:
        with pytest.raises(RecipeError) as caught:
            Recipe(**base | {name: value})
        message = str(caught.value)
        assert name in message, (name, value, message)
        assert len(message) < 2000, (name, len(message))
        assert _quoted(value, message), (name, value, message)
        trace = caught.traceback[-1]
        assert "spgca_lab" in str(trace.path), (name, value, trace.path)


def _quoted(value: object, message: str) -> bool:
    parts = [part.strip() for part in value.split("->")] if isinstance(value, str) else []
    values = [value, *value] if isinstance(value, tuple | list) else [value]
    return any(quote(each) in message for each in values) or any(part in message for part in parts)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", "null", "NaN", '"spa"', "[" * 100_000, '{"a":' * 50_000, '{"method": "spa"',
        '{"method": NaN}', '{"lr": Infinity}', '{"seed": ' + "9" * 5000 + "}", '{"lr": 1e999}', "\ufeff{}", "\x00",
        '{"color": 1}', '{"format": 9, "method": "spa"}', '{"alpha": [1, 2, 3]}', '{"alpha": {"spa": 1}}',
        '{"method": {"name": "spa"}}', '{"batch_size": "32"}', '{"milestones": 0.5}', '{"seed": -1}', '{"seed": true}',
    ],
)  # fmt: skip
def test_json_that_is_no_recipe_is_refused_in_one_sentence(text):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_json(text)
    assert len(str(caught.value)) < 2000


def test_a_recipe_of_a_newer_version_says_so():
    with pytest.raises(RecipeError, match="a recipe has no field 'colour'.*newer version"):
        Recipe.from_json('{"method": "spa", "colour": "red"}')


def test_random_damage_to_a_recipes_file_is_a_recipe_or_an_error(recipes):
    r = random.Random(2)
    refused = 0
    for recipe in recipes[:600]:
        body = list(recipe.to_json())
        for _ in range(r.randrange(1, 5)):
            place = r.randrange(len(body))
            body[place] = r.choice(
                ["", "0", "-", '"', "}", ",", "null", "\x07", chr(r.randrange(0x20, 0x3000))]
            )
        try:
            found = Recipe.from_json("".join(body))
        except RecipeError:
            refused += 1
        else:
            assert Recipe.from_json(found.to_json()) == found
    assert refused > 300

"""Recipes: what is refused, what is filled in, and that nothing changes on the way through JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spgca_lab.regularizers.registry import METHODS, MethodError, resolve_method
from spgca_lab.training.recipe import Recipe, RecipeError

recipes = st.builds(
    Recipe,
    method=st.sampled_from([*METHODS, "gca->spa", "spa->gca->spa"]),
    backbone=st.sampled_from(["mini", "lite0", "resnet101"]),
    preset=st.sampled_from(["near", "mid", "far", "cross"]),
    per_class=st.none() | st.integers(1, 30),
    image_size=st.none() | st.integers(16, 512),
    alpha=st.none() | st.floats(0, 100, allow_subnormal=False),
    beta=st.floats(0, 1),
    r=st.integers(1, 64),
    scale=st.none() | st.sampled_from(["literal", "afa", "relative"]),
    attention=st.sampled_from(["learned", "frozen", "uniform"]),
    attend_through_target=st.booleans(),
    iterations=st.integers(3, 9000),
    milestones=st.lists(st.floats(0.01, 0.99), max_size=3).map(sorted).map(tuple),
    seed=st.integers(0, 2**31),
    validation=st.just(0.0) | st.floats(0.01, 0.99),
    alpha_from=st.none() | st.text(max_size=20),
)


@given(recipes)
def test_a_recipe_survives_json_and_keeps_its_hash(recipe):
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.hash() == recipe.hash()


@given(recipes, recipes)
def test_hashes_are_equal_exactly_when_recipes_are(one, other):
    assert (one.hash() == other.hash()) == (one == other)


def test_the_hash_of_a_recipe_does_not_drift():
    """Shipped runs are found by hash: a changed field or default must show here."""
    assert Recipe(method="spgca", seed=1).hash() == "27c3b2223a8b"


def test_fields_that_came_later_change_the_hash_only_when_they_are_used():
    recipe = Recipe(method="spgca", seed=1)
    old = {k: v for k, v in recipe.to_dict().items() if k not in ("validation", "alpha_from", "probe")}
    assert Recipe.from_dict(old).hash() == recipe.hash()
    assert recipe.replace(validation=0.2).hash() != recipe.hash()
    assert recipe.replace(probe=48).hash() != recipe.hash()


def test_how_alpha_was_chosen_is_kept_and_names_no_other_run():
    recipe = Recipe(method="spgca", seed=1)
    told = recipe.replace(alpha_from="the best of three")
    assert Recipe.from_json(told.to_json()).alpha_from == "the best of three"
    assert (told, told.hash(), hash(told)) == (recipe, recipe.hash(), hash(recipe))


def test_the_papers_recipe_is_that_of_section_4_2():
    recipe = Recipe.paper(dataset="caltech256_60", method="spgca")
    assert (recipe.backbone, recipe.weights, recipe.image_size) == ("resnet101", "pretrained", None)
    assert (recipe.iterations, recipe.batch_size, recipe.lr, recipe.momentum) == (9000, 64, 0.01, 0.9)
    assert [round(m * recipe.iterations) for m in recipe.milestones] == [3000, 7500]
    assert (recipe.r, recipe.beta, recipe.scale, recipe.attention) == (4, 0.01, "afa", "learned")
    assert recipe.iterations / recipe.evaluations == 500
    assert Recipe.paper(dataset="mit_indoor67").backbone == "resnet50_places365"
    assert Recipe.paper(dataset="mit_indoor67", backbone="resnet50", r=8).r == 8


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("method", "spcga", "did you mean 'spgca'"),
        ("method", 7, "got 7"),
        ("validation", 1.0, "validation must be at least 0 and below 1, got 1.0"),
        ("validation", -0.2, "got -0.2"),
        ("alpha_from", 3, "got 3"),
        ("alpha", -1.0, "got -1.0"),
        ("alpha", float("nan"), "got nan"),
        ("alpha", "three", "got 'three'"),
        ("alpha", (1.0, 2.0, 3.0), "one per stage (2)"),
        ("r", 0, "r must be an integer of at least 1, got 0"),
        ("r", 2.5, "got 2.5"),
        ("r", True, "got True"),
        ("scale", "paper", "'literal', 'afa', 'relative', got 'paper'"),
        ("attention", "off", "got 'off'"),
        ("target_bn", "frozen", "got 'frozen'"),
        ("weights", "imagenet", "got 'imagenet'"),
        ("iterations", 1, "at least one per stage (2), got 1"),
        ("batch_size", 1, "at least 2, got 1"),
        ("lr", 0, "nothing would train"),
        ("momentum", 1.0, "below 1, got 1.0"),
        ("milestones", (0.5, 1.5), "between 0 and 1"),
        ("milestones", 0.5, "got 0.5"),
        ("image_size", 8, "at least 16, got 8"),
        ("attend_through_target", "no", "got 'no'"),
        ("backbone", "", "non-empty"),
    ],
)
def test_a_bad_value_is_quoted(field, value, says):
    with pytest.raises(RecipeError, match=".") as caught:
        Recipe(**{field: value})
    assert says in str(caught.value)
    assert field in str(caught.value)


def test_unknown_fields_are_named():
    with pytest.raises(RecipeError, match="no field 'alhpa'"):
        Recipe().replace(alhpa=1.0)
    with pytest.raises(RecipeError, match="invalid JSON"):
        Recipe.from_json("{")
    with pytest.raises(RecipeError, match="got list"):
        Recipe.from_json("[]")


def test_defaults_follow_method_and_backbone():
    assert Recipe(method="l2_sp").alpha == 0.1
    assert Recipe(method="spgca").alpha == 3.0
    assert Recipe(method="spgca").scale == "relative"
    paper = Recipe(method="spgca", backbone="resnet101")
    assert (paper.scale, paper.alpha) == ("afa", 0.1)
    assert Recipe(method="l2_sp", backbone="resnet101").alpha == 0.1
    assert Recipe(method="spgca", alpha=(1, 2)).alphas == (1.0, 2.0)
    assert Recipe(method="spgca", alpha=[2, 2]).alpha == 2.0


def test_the_papers_schedule_is_the_default_one_scaled():
    recipe = Recipe(iterations=9000)
    assert [round(m * recipe.iterations) for m in recipe.milestones] == [3000, 7500]


def test_stages_join_in_any_order():
    assert [s.name for s in resolve_method("gca->spa").stages] == ["gca", "spa"]
    assert [s.name for s in resolve_method("spgca").stages] == ["spa", "gca"]
    assert [s.name for s in resolve_method("afa").stages] == ["ast", "act"]
    with pytest.raises(MethodError, match="unknown method 'gac'"):
        resolve_method("spa->gac")


def test_a_file_without_the_class_says_what_it_has(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("class Other: pass\n")
    with pytest.raises(RecipeError, match="no class 'Mine', it has Other"):
        Recipe(method=f"{file}:Mine")
    with pytest.raises(RecipeError, match="must subclass"):
        Recipe(method=f"{file}:Other")
    with pytest.raises(RecipeError, match="there is no file"):
        Recipe(method=f"{tmp_path / 'none.py'}:Mine")
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    with pytest.raises(RecipeError, match="ZeroDivisionError"):
        Recipe(method=f"{broken}:Mine")


def test_a_changed_class_makes_another_recipe(tmp_path):
    file = tmp_path / "mine.py"
    code = "from spgca_lab import Attention\nclass Mine(Attention):\n    pass\n"
    file.write_text(code)
    before = Recipe(method=f"{file}:Mine")
    file.write_text(code + "# changed\n")
    after = Recipe(method=f"{file}:Mine")
    assert before.hash() != after.hash()
    with pytest.raises(RecipeError, match="has changed since"):
        Recipe.from_json(before.to_json())


def test_the_json_text_lists_every_field():
    assert set(json.loads(Recipe().to_json())) == set(Recipe.__dataclass_fields__)

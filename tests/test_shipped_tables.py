"""The shipped tables: every row belongs to a recipe that the committed scripts make, and none is missing or doubled."""

import importlib.util
import math

import pandas as pd
import pytest

import spgca_lab as lab
from spgca_lab.analysis.grounding import truth
from spgca_lab.experiments.factorial import best_alphas, factorial


def script(root, name):
    spec = importlib.util.spec_from_file_location(name, root / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make_factorial(request):
    return script(request.config.rootpath / "data", "make_factorial")


def test_every_row_of_the_factorial_is_a_run_of_the_script(make_factorial):
    table = factorial()
    for row in table.to_dict("records"):
        recipe = make_factorial.recipe_of(row, None)
        assert recipe.hash() == row["recipe"], row
        assert recipe.validation == (0.2 if row["role"] == "validation" else 0.0)
        assert recipe.seed == recipe.data_seed


def test_the_factorial_has_every_validation_run_and_whole_seeds(make_factorial):
    table = factorial()
    alphas = best_alphas(table)
    known = {make_factorial.name(row) for row in table.to_dict("records")}
    assert {make_factorial.name(job) for job in make_factorial.jobs("validation", {})} <= known
    test = table[table["role"] == "test"]
    seeds = set(test["seed"])
    wanted = {make_factorial.name(job) for job in make_factorial.jobs("test", alphas) if job["seed"] in seeds}
    assert wanted == {make_factorial.name(row) for row in test.to_dict("records")}


def test_accuracies_are_shares_of_the_test_pictures(make_factorial):
    table = factorial().dropna(subset="top1")
    right = table["top1"] / 100 * table["test_pictures"]
    assert (right - right.round()).abs().max() < 0.01
    assert table["top1"].between(0, 100).all()


def test_every_row_of_the_truth_is_a_run_of_the_script(request):
    make_truth = script(request.config.rootpath / "data", "make_truth")
    table = truth()
    jobs = {tuple(job[k] for k in make_truth.KEY): job for job in make_truth.jobs()}
    assert set(table[make_truth.KEY].itertuples(index=False, name=None)) == set(jobs)
    for key, rows in table.groupby(make_truth.KEY):
        job = jobs[key]
        fields = {"method": job["run"], "data_seed": job["seed"]}
        recipe = lab.Recipe(**make_truth.BASE | fields | {k: job[k] for k in ("preset", "alpha", "seed")})
        assert set(rows["recipe"]) == {recipe.hash()}
        # Four layers of the attention at five steps, four controls of four layers, and Integrated Gradients.
        assert len(rows) == 1 if "diverged" in set(rows["kind"]) else 4 * 5 + 4 * 4 + 1


def test_the_remedies_were_run_with_every_seed(request):
    remedies = script(request.config.rootpath / "benchmarks", "remedies")
    table = pd.read_csv(remedies.TABLE)
    wanted = {tuple(job.values()) for job in remedies.jobs()}
    found = list(table[list(remedies.FIELDS[:4])].itertuples(index=False, name=None))
    assert sorted(found) == sorted(wanted)
    assert table["entropy_max"].unique() == pytest.approx([math.log(496)], abs=1e-4)

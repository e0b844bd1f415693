"""Runs gathered into settings that may be compared, and the runs that ship for it."""

import html
import importlib.util
import re

import numpy as np
import pandas as pd
import pytest

import spgca_lab as lab
from spgca_lab.explorers import ExplorerError
from spgca_lab.explorers.comparison import MethodComparison
from spgca_lab.explorers.comparison_table import VARIED, comparison_settings
from spgca_lab.explorers.run_table import RunTable
from tests.comparison_runs import NEAR, SMALL, write


def settings_of(source):
    return comparison_settings(RunTable(source, VARIED))


def test_without_its_defaults_a_method_stands_with_most_seeds(tmp_path):
    rng = np.random.default_rng(0)
    for alpha, seeds in ((0.1, 1), (30.0, 2)):
        for seed in range(seeds):
            write(tmp_path, lab.Recipe(method="spgca", alpha=alpha, seed=seed, **SMALL), 0.5, rng)
    compare = MethodComparison(tmp_path)
    assert compare.settings[NEAR].variants["spgca"].detail == "α 30"
    assert "SPA→GCA with α 30 (most seeds; 1 others not shown)" in compare.status(compare.state)


def test_settings_are_told_apart_by_what_differs(tmp_path):
    rng = np.random.default_rng(0)
    for changes in ({}, {"lr": 0.1}, {"seed": 1}, {"evaluations": 3, "seed": 2}, {"preset": "far"}):
        write(tmp_path, lab.Recipe(**SMALL | {"method": "l2"} | changes), 0.5, rng)
    settings = settings_of(tmp_path)
    far = NEAR.replace("near", "far")
    assert list(settings) == [f"{NEAR}, lr 0.01", f"{NEAR}, lr 0.1", far]
    assert settings[f"{NEAR}, lr 0.01"].seeds == [0, 1, 2]


def test_how_often_one_looks_changes_no_number(tmp_path):
    tiny = SMALL | {"weights": "random", "iterations": 4, "method": "afa"}
    runs = [lab.Recipe(**tiny), lab.Recipe(**tiny | {"evaluations": 4, "snapshots": 4})]
    for recipe in runs:
        for _ in lab.fit(recipe, store=tmp_path, device="cpu"):
            pass
    one, other = (lab.RunStore(tmp_path)[recipe] for recipe in runs)
    assert one.result["cross_entropy"] == other.result["cross_entropy"]
    assert one.predictions.equals(other.predictions)
    (setting,) = settings_of(tmp_path).values()
    assert setting.again == 1


def test_runs_on_held_out_pictures_stand_apart_and_who_chose_alpha_does_not_matter(tmp_path):
    rng = np.random.default_rng(0)
    for changes in (
        {"method": "l2"},
        {"method": "afa", "alpha_from": "best of three"},
        {"method": "afa", "validation": 0.2},
    ):
        write(tmp_path, lab.Recipe(**SMALL | changes), 0.5, rng)
    settings = settings_of(tmp_path)
    assert set(settings) == {NEAR, f"{NEAR}, measured on 20% held out"}
    assert set(settings[NEAR].variants) == {"l2", "afa"}
    assert lab.explorers.RunExplorer(tmp_path, alphas=[3.0]) is not None


def test_a_folder_of_stores_is_one_comparison(tmp_path):
    rng = np.random.default_rng(0)
    for name, method in (("first", "l2"), ("second", "afa")):
        write(tmp_path / name, lab.Recipe(method=method, **SMALL), 0.5, rng)
    (setting,) = settings_of(tmp_path).values()
    assert set(setting.variants) == {"l2", "afa"}


def test_a_run_whose_class_is_gone_hides_no_other(tmp_path):
    rng, own = np.random.default_rng(0), tmp_path / "mine.py"
    own.write_text("import spgca_lab as lab\nclass Mine(lab.Penalty):\n    pass\n", encoding="utf-8")
    write(tmp_path / "runs", lab.Recipe(method=f"{own}:Mine", **SMALL), 0.5, rng)
    write(tmp_path / "runs", lab.Recipe(method="l2", **SMALL), 0.5, rng)
    assert set(MethodComparison(tmp_path / "runs").settings[NEAR].variants) == {"l2", f"{own}:Mine"}
    own.unlink()
    compare = MethodComparison(tmp_path / "runs")
    assert set(compare.settings[NEAR].variants) == {"l2"}
    assert "1 folders left out: " in compare.status(compare.state)
    assert html.escape("there is no file") in compare.status_line.value


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("no/such/folder", "there is no folder 'no/such/folder'"),
        (".", "no run in '.': train some with lab.fit"),
        (7, "store must be a RunStore, a folder, or several stores or runs, got 7"),
        ([], "no run in what was given"),
    ],
)
def test_a_store_that_holds_no_run_is_refused(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExplorerError, match=re.escape(message)):
        MethodComparison(given)


def test_a_store_in_which_nothing_has_finished_is_refused(tmp_path):
    recipe = lab.Recipe(method="l2", **SMALL)
    folder = lab.RunStore(tmp_path).folder(recipe)
    folder.mkdir()
    (folder / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    with pytest.raises(ExplorerError, match="has finished: a comparison needs last iterates"):
        MethodComparison(tmp_path)


@pytest.fixture(scope="module")
def maker(repo):
    spec = importlib.util.spec_from_file_location("make_comparison", repo / "data" / "make_comparison.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_makes_every_recipe_of_the_benchmark_without_photographs(maker, tmp_path):
    jobs = [lab.Recipe(**fields) for fields, _, _ in maker.jobs(tmp_path, tmp_path)]
    table = pd.read_csv(maker.results().CSV)
    stickers = table[table.experiment.str.startswith("mini-")]
    assert {recipe.hash() for recipe in jobs} == set(stickers.recipe)
    assert len(jobs) == 108


def test_the_script_keeps_four_files_of_a_run_that_is_there(maker, tmp_path):
    fields, runs, kept = maker.jobs(tmp_path / "runs", tmp_path / "kept")[0]
    recipe = lab.Recipe(**fields)
    folder = write(runs, recipe.replace(image_size=64), 0.5, np.random.default_rng(0))
    folder = folder.rename(lab.RunStore(runs).folder(recipe))
    (folder / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    (folder / "weights.safetensors").write_bytes(b"large")
    assert "finished" in maker.make((fields, runs, kept))
    (found,) = kept.iterdir()
    assert sorted(f.name for f in found.iterdir()) == sorted(maker.KEPT)
    assert (found / "predictions.csv").read_bytes() == (folder / "predictions.csv").read_bytes()


def test_what_ships_has_the_benchmarks_accuracies(repo):
    store = repo / "data" / "comparison"
    measured = pd.read_csv(repo / "benchmarks" / "results.csv").set_index("recipe").top1
    shipped = lab.RunStore(store).table().set_index("hash")
    assert len(shipped) == 108
    assert shipped.top1.to_numpy(dtype=float) == pytest.approx(measured[shipped.index].to_numpy(), abs=1e-4)
    assert {"l2", "spgca"} <= set(MethodComparison(store).settings[NEAR.replace("1 a", "2 a")].variants)

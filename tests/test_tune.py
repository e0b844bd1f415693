"""tune: α from held-out images, by a search that continues after an interruption."""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image

import spgca_lab as lab
from spgca_lab import cli
from spgca_lab.experiments import alpha_search as module
from spgca_lab.experiments.alpha_choice import TuneError, alpha_ranges, plan_search
from spgca_lab.experiments.alpha_search import tune
from spgca_lab.runs.inputs import load_data

REPO = Path(__file__).resolve().parents[1]
PATIENCE = 120
GRID = [0.01, 0.1, 1.0]
pytestmark = pytest.mark.usefixtures("one_thread")


def draw(folder, split, count, seed):
    """Noisy pictures of three classes, each with a colour."""
    noise = np.random.RandomState(seed)
    for label in range(3):
        (folder / split / f"c{label}").mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture = noise.randint(0, 256, (40, 40, 3))
            picture[..., label] = 128 + picture[..., label] // 4
            Image.fromarray(picture.astype(np.uint8)).save(folder / split / f"c{label}" / f"{i}.png")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    draw(folder, "train", 8, seed=0)
    draw(folder, "test", 2, seed=1)
    return folder


def fields(pictures, **changes):
    return {
        "method": "l2_sp", "backbone": "mini", "dataset": str(pictures), "weights": "random", "image_size": 32,
        "iterations": 8, "batch_size": 6, "evaluations": 2, "snapshots": 0, "lr": 0.05, "seed": 7, "alpha": 5.0,
    } | changes  # fmt: skip


def tiny(pictures, **changes):
    return lab.Recipe(**fields(pictures, **changes))


def tuned(recipe, store, **options):
    return tune(recipe, store, **{"device": "cpu", "validation": 0.25, "log": lambda line: None} | options)


@pytest.fixture(scope="module")
def searched(pictures, tmp_path_factory):
    """A store in which a grid was searched, and what came of it."""
    store, lines = tmp_path_factory.mktemp("searched"), []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = tuned(tiny(pictures), store, alphas=GRID, seeds=(0, 1), log=lines.append)
    finally:
        torch.set_num_threads(before)
    return store, found, lines


def recorded(store, study):
    return optuna.load_study(study_name=study, storage=f"sqlite:///{store}/tune.db").get_trials()


class Curves:
    """In place of `fit`: trials whose accuracies are given by α, with cross-entropies; no network is trained."""

    def __init__(self, curves, nats=None):
        self.curves, self.nats = curves, nats or {}
        self.begun, self.closed = [], []

    def __call__(self, recipe, store, device):
        self.begun.append(recipe.alpha)
        top1 = self.curves(recipe.alpha) if callable(self.curves) else self.curves[recipe.alpha]
        for k, value in enumerate(top1):
            step = round((k + 1) * recipe.iterations / recipe.evaluations)
            try:
                yield lab.Evaluation(step, "spa", value, 1.0)
            except GeneratorExit:
                self.closed.append(recipe.alpha)
                raise
        ended = {"top1": top1[-1], "cross_entropy": self.nats.get(recipe.alpha, 1.0)}
        yield lab.Done(ended, store.folder(recipe))


def test_a_grid_takes_the_best_on_the_held_out_pictures(pictures, searched):
    store, found, _ = searched
    runs = lab.RunStore(store)
    assert len(runs) == 6
    scores = {}
    for alpha in GRID:
        top1, nats = [], []
        for seed in (0, 1):
            (run,) = runs.find(alpha=alpha, seed=seed)
            assert (run.recipe.validation, run.recipe.evaluations, run.recipe.alpha_from) == (0.25, 4, None)
            assert len(run.predictions) == 6, "two of each class's eight"
            top1.append(100 * (run.predictions.label == run.predictions.predicted).mean())
            nats.append(run.evaluations.cross_entropy.iloc[-1])
        scores[alpha] = (-np.mean(top1), np.mean(nats))
    assert len(set(scores.values())) == 3, "the values can be told apart"
    best = min(scores, key=scores.get)
    assert found.alpha == best
    assert found.top1 == pytest.approx(-scores[best][0])
    assert found.trials.alpha.tolist() == GRID
    assert found.trials.top1.tolist() == pytest.approx([-scores[alpha][0] for alpha in GRID])
    assert found.trials.cross_entropy.tolist() == pytest.approx([scores[alpha][1] for alpha in GRID])
    wanted = tiny(pictures).replace(alpha=best, alpha_from=found.recipe.alpha_from)
    assert found.recipe == wanted, "seed and evaluations are again those that were asked for"
    told = found.recipe.alpha_from
    assert "\n" not in told
    assert told.startswith("best of 0.01: ")
    assert "on 25% of the training pictures, held out; seeds 0, 1" in told
    assert f"study {found.study}" in told


def test_the_test_pictures_play_no_part(pictures, searched, tmp_path):
    recipe = tiny(pictures, validation=0.25)
    left, held = load_data(recipe, 32)
    assert {path.parents[1].name for part in (left, held) for path in part.paths} == {"train"}
    assert not set(left.paths) & set(held.paths)
    other = tmp_path / "pictures"
    draw(other, "train", 8, seed=0)
    draw(other, "test", 3, seed=99)
    again = tuned(tiny(other), tmp_path / "runs", alphas=GRID[:2])
    first = [lab.RunStore(searched[0]).find(alpha=alpha, seed=0)[0] for alpha in GRID[:2]]
    assert again.trials.top1.tolist() == [run.result["top1"] for run in first]
    assert again.trials.cross_entropy.tolist() == [run.result["cross_entropy"] for run in first]


def test_the_same_call_trains_nothing_again_and_another_study_is_answered_from_the_store(
    pictures, searched, monkeypatch
):
    store, found, lines = searched
    assert lines[0] == f"study {found.study}: 0 of 3 trials finished"
    assert [line.split(":")[0] for line in lines[1:]] == [f"trial {n} of 3" for n in (1, 2, 3)]
    again = tuned(tiny(pictures, seed=3, alpha=0.5), store, alphas=GRID, seeds=(0, 1))
    pd.testing.assert_frame_equal(again.trials, found.trials)
    events = []

    def spied(recipe, store, **others):
        for event in lab.fit(recipe, store, **others):
            events.append(type(event))
            yield event

    monkeypatch.setattr(module, "fit", spied)
    other = tuned(tiny(pictures), store, alphas=GRID[::-1], seeds=(1,))
    assert other.study != found.study
    assert other.trials.alpha.tolist() == GRID[::-1]
    assert events == [lab.Done] * 3


CHILD = """
import os, signal, sys
import torch
import spgca_lab as lab
from spgca_lab.experiments import alpha_search
torch.set_num_threads(1)

def killed(recipe, store, **others):
    for event in lab.fit(recipe, store, **others):
        yield event
        if recipe.alpha == 0.1 and isinstance(event, lab.Step) and event.step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

alpha_search.fit = killed
alpha_search.tune(lab.Recipe(**eval(sys.argv[1])), sys.argv[2], alphas=[0.01, 0.1, 1.0], device="cpu", validation=0.25)
"""


def test_a_killed_search_continues_with_the_same_alpha_from_its_checkpoint(
    pictures, searched, tmp_path, monkeypatch
):
    command = [sys.executable, "-c", CHILD, repr(fields(pictures)), str(tmp_path)]
    child = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=PATIENCE)
    assert child.returncode == -signal.SIGKILL, child.stderr
    steps = {}

    def spied(recipe, store, **others):
        for event in lab.fit(recipe, store, **others):
            if isinstance(event, lab.Step):
                steps.setdefault(recipe.alpha, []).append(event.step)
            yield event

    monkeypatch.setattr(module, "fit", spied)
    found = tuned(tiny(pictures), tmp_path, alphas=GRID)
    assert steps == {0.1: [5, 6, 7, 8], 1.0: [*range(1, 9)]}, "from the checkpoint at half of the steps"
    assert sorted(found.trials.alpha) == GRID
    assert found.trials.state.tolist() == ["complete"] * 3
    states = [(t.params["alpha"], t.state.name) for t in recorded(tmp_path, found.study)]
    assert sorted(states) == [(0.01, "COMPLETE"), (0.1, "COMPLETE"), (0.1, "FAIL"), (1.0, "COMPLETE")]
    for row in found.trials.itertuples():
        whole = lab.RunStore(searched[0]).find(alpha=row.alpha, seed=0)[0]
        assert (row.top1, row.cross_entropy) == (whole.result["top1"], whole.result["cross_entropy"])


def test_a_search_belongs_to_one_process_at_a_time(pictures, tmp_path):
    (tmp_path / "tuned").mkdir()
    with (
        FileLock(tmp_path / "tuned" / "mine.lock"),
        pytest.raises(TuneError, match="another process searches study 'mine': wait for it"),
    ):
        tuned(tiny(pictures), tmp_path, study="mine", alphas=[1.0])


def test_what_is_hopeless_is_pruned_and_leaves_a_checkpoint(pictures, tmp_path, monkeypatch):
    curves = {
        1.0: [10, 20, 40, 60], 2.0: [12, 22, 42, 62], 3.0: [14, 24, 44, 64], 4.0: [16, 26, 46, 66],
        5.0: [5, 30, 50, 70],  # poor at first only, which is too early to judge
        6.0: [20, 30, 50, 10],  # poor in the end only, when there is nothing left to save
        7.0: [5, 10, 90, 90],
    }  # fmt: skip
    fake = Curves(curves)

    def fit(recipe, store, device):
        if recipe.alpha != 7.0:
            yield from fake(recipe, store, device)
            return
        told = iter(curves[7.0])
        with closing(lab.fit(recipe, store, device=device)) as events:
            for event in events:
                yield replace(event, top1=next(told)) if isinstance(event, lab.Evaluation) else event

    monkeypatch.setattr(module, "fit", fit)
    lines = []
    found = tuned(tiny(pictures), tmp_path, alphas=curves, log=lines.append)
    assert found.trials.state.tolist() == ["complete"] * 6 + ["pruned"]
    assert (found.alpha, found.top1) == (5.0, 70)
    assert lines[-1] == "trial 7 of 7: α = 7: pruned at 10.00 %"
    assert "7: pruned on 25%" in found.recipe.alpha_from
    (run,) = lab.RunStore(tmp_path)
    assert (run.recipe.alpha, run.status) == (7.0, "interrupted")
    assert len(run.steps) == 4
    steps = [
        event.step for event in lab.fit(run.recipe, tmp_path, device="cpu") if isinstance(event, lab.Step)
    ]
    assert steps == [5, 6, 7, 8]


def test_seeds_are_averaged_and_every_evaluation_has_a_number_of_its_own(pictures, tmp_path, monkeypatch):
    def fit(recipe, store, device):
        top1 = [recipe.seed + alpha for alpha in (1.0, 2.0, 3.0, recipe.alpha)]
        return Curves({recipe.alpha: top1})(recipe, store, device)

    monkeypatch.setattr(module, "fit", fit)
    found = tuned(tiny(pictures), tmp_path, alphas=[4.0, 8.0], seeds=(10, 20))
    assert found.trials.top1.tolist() == [19.0, 23.0]
    values = recorded(tmp_path, found.study)[0].intermediate_values
    assert values == {2: 11, 4: 12, 6: 13, 8: 14, 10: 17.5, 12: 18, 14: 18.5, 16: 19}


def test_of_equal_accuracies_the_lower_cross_entropy_wins(pictures, tmp_path, monkeypatch):
    same = {alpha: [1, 2, 3, 50] for alpha in (1.0, 2.0, 3.0)}
    monkeypatch.setattr(module, "fit", Curves(same, {1.0: 0.7, 2.0: 0.5, 3.0: float("nan")}))
    found = tuned(tiny(pictures), tmp_path, alphas=same)
    assert found.alpha == 2.0
    assert "best of 1: 50.0 %, 2: 50.0 %, 3: 50.0 %" in found.recipe.alpha_from


def test_a_range_is_covered_first_then_followed_and_goes_on_as_if_never_interrupted(
    pictures, tmp_path, monkeypatch
):
    def peak(alpha):
        return [0, 0, 0, 100 - 50 * abs(np.log10(alpha / 0.02))]

    monkeypatch.setattr(module, "fit", Curves(peak))
    recipe = tiny(pictures, method="spa", scale="afa")
    whole = tuned(recipe, tmp_path / "whole", trials=12)
    tuned(recipe, tmp_path / "parts", trials=3)
    parts = tuned(recipe, tmp_path / "parts", trials=12)
    assert parts.study == whole.study, "how many are tried is not part of the search"
    pd.testing.assert_frame_equal(parts.trials, whole.trials)
    values = np.array(whole.trials.alpha.tolist())
    assert len(values) == 12
    assert np.all((values >= 0.005) & (values <= 0.1))
    assert [f"{value:.3g}" for value in values] == [f"{value:g}" for value in values]
    places = np.log(values[:8] / 0.005) / np.log(20)
    assert places == pytest.approx([1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8, 1 / 16], abs=2e-3)
    near = np.abs(np.log10(values / 0.02))
    assert np.mean(near[8:]) < np.mean(near[:8]), "the sampler comes closer to the peak"
    fewer = tuned(recipe, tmp_path / "parts", trials=5)
    assert len(fewer.trials) == 12, "what was tried counts"


def test_each_stage_has_its_own_alpha(pictures, tmp_path, monkeypatch):
    def fit(recipe, store, device):
        return Curves({recipe.alpha: [0, 0, 0, recipe.alphas[0] - recipe.alphas[1]]})(recipe, store, device)

    monkeypatch.setattr(module, "fit", fit)
    grid = tuned(tiny(pictures, method="spgca"), tmp_path, alphas=[1, 3], per_stage=True)
    assert grid.trials.alpha.tolist() == [(1, 1), (1, 3), (3, 1), (3, 3)]
    assert grid.alpha == grid.recipe.alpha == (3.0, 1.0)
    mixed = tuned(tiny(pictures, method="l2_fe->l2_sp->spa"), tmp_path, trials=4, per_stage=True)
    head, start, attention = zip(*mixed.trials.alpha, strict=True)
    assert set(head) == {0.0}
    assert all(0.001 <= alpha <= 1 for alpha in start)
    assert all(0.1 <= alpha <= 30 for alpha in attention)


def test_a_diverging_alpha_is_recorded_and_the_search_goes_on(pictures, searched, tmp_path):
    found = tuned(tiny(pictures), searched[0], alphas=[1e30, 0.1])
    failed, other = found.trials.itertuples()
    assert (failed.state, other.state, found.alpha) == ("failed", "complete", 0.1)
    assert failed.failure.startswith("TrainingError: the loss is ")
    assert "1e+30: failed" in found.recipe.alpha_from
    with pytest.raises(TuneError, match=r"failed with every value of α: 1e\+30: Train.*the loss is"):
        tuned(tiny(pictures), searched[0], alphas=[1e30], study="x")


def test_a_recipe_that_does_not_fit_the_data_uses_up_no_trial(pictures, tmp_path):
    for _ in range(2):
        with pytest.raises(lab.TrainingError, match="batch_size is 100, but .* only 18 training images"):
            tuned(tiny(pictures, batch_size=100), tmp_path, alphas=GRID, study="unfit")
    assert not [t for t in recorded(tmp_path, "unfit") if "failure" in t.user_attrs]


def test_an_interrupted_search_closes_its_run_and_goes_on_with_the_same_alpha(
    pictures, tmp_path, monkeypatch
):
    fake = Curves(lambda alpha: [1, 2, 3, 4])

    def interrupted(recipe, store, device):
        with closing(fake(recipe, store, device)) as events:
            for event in events:
                if recipe.alpha == 0.1 and fake.begun.count(0.1) == 1:
                    os.kill(os.getpid(), signal.SIGINT)
                yield event

    monkeypatch.setattr(module, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuned(tiny(pictures), tmp_path, alphas=GRID)
    assert fake.closed == [0.1]
    found = tuned(tiny(pictures), tmp_path, alphas=GRID)
    assert fake.begun == [0.01, 0.1, 1.0, 0.1], "what was interrupted is queued again"
    assert sorted(found.trials.alpha) == GRID


def test_a_study_of_another_search_is_refused_naming_what_differs(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fit", Curves(lambda alpha: [1, 2, 3, 4]))
    recipe = tiny(pictures)
    tuned(recipe, tmp_path, study="mine", alphas=[1.0])
    for changed, options, told in (
        (recipe.replace(lr=0.1), {}, "lr 0.05 there, 0.1 here"),
        (recipe, {"validation": 0.5}, "validation 0.25 there, 0.5 here"),
        (recipe, {"seeds": (0, 1)}, r"seeds \[0\] there, \[0, 1\] here"),
        (recipe, {"alphas": [1.0, 2.0]}, r"alphas \[\[1.0\]\] there, \[\[1.0\], \[2.0\]\] here"),
    ):
        with pytest.raises(TuneError, match=f"'mine' in .*tune.db' was made for something else: .*{told}"):
            tuned(changed, tmp_path, **{"study": "mine", "alphas": [1.0]} | options)
    tuned(recipe.replace(alpha=2.0, seed=5, alpha_from="x"), tmp_path, study="mine", alphas=[1.0])
    for name in ("recipe", "../up", ""):
        with pytest.raises(TuneError, match=f"got {name!r}"):
            tuned(recipe, tmp_path, study=name)
    (tmp_path / "tune.db").write_text("no database, " * 100)
    with pytest.raises(TuneError, match="tune.db' cannot be used as the database of a search"):
        tuned(recipe, tmp_path)


@pytest.mark.parametrize(
    ("changes", "options", "told"),
    [
        ({"method": "l2_fe"}, {}, "l2_fe has no α to choose"),
        ({}, {"per_stage": True}, "per_stage needs two stages with an α each, l2_sp has one"),
        ({"method": "l2_sp->spa"}, {}, "different units"),
        ({}, {"alphas": [1], "low": 0.1}, "either alphas or low and high"),
        ({}, {"alphas": []}, "at least one"),
        ({}, {"alphas": [-1.0]}, r"at least 0.*got \[-1.0\]"),
        ({}, {"low": 2, "high": 1}, "0 < low < high, got 2 and 1"),
        ({}, {"trials": 0}, "trials must be an integer of at least 1, got 0"),
        ({}, {"validation": 0}, "validation must be above 0 and below 1, got 0"),
        ({}, {"seeds": (1, 1)}, r"each once, got \[1, 1\]"),
    ],
)
def test_searches_that_cannot_be_are_refused(pictures, changes, options, told):
    with pytest.raises(TuneError, match=told):
        plan_search(tiny(pictures, **changes), **options)


def test_ranges_follow_the_scale_and_the_unit_of_the_penalty():
    assert alpha_ranges(lab.Recipe(method="spa")) == [(0.1, 30)]
    assert alpha_ranges(lab.Recipe(method="afa", scale="literal")) == [(0.005, 0.1)] * 2
    assert alpha_ranges(lab.Recipe(method="l2", scale="afa"))[0] == pytest.approx((1e-6, 1e-3))
    assert alpha_ranges(lab.Recipe(method="lwf->gca")) == [(0.01, 10), (0.1, 30)]


def test_command_line_writes_the_recipe_to_go_on_with(pictures, searched, tmp_path, capsys):
    store, found, _ = searched
    given = tmp_path / "given.json"
    given.write_text(tiny(pictures).to_json())
    words = [
        "tune",
        "--recipe",
        str(given),
        "--alphas",
        "0.01,0.1,1",
        "--seeds",
        "0,1",
        "--validation",
        "0.25",
    ]
    words += ["--store", str(store), "--device", "cpu", "--threads", "1"]
    assert cli.main([*words, "--study", "by-hand"]) in (None, 0)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "study by-hand: 0 of 3 trials finished"
    assert [line.split(":")[0] for line in said[1:4]] == [f"trial {n} of 3" for n in (1, 2, 3)]
    assert said[4].split() == ["α", "validation", "top-1", "state"]
    assert [line.split()[0] for line in said[5:8]] == ["0.01", "0.1", "1"]
    assert said[8].startswith(f"α = {found.alpha:g}: best of 0.01: ")
    file = store / "tuned" / "by-hand.json"
    assert said[9] == f"go on with: spgca-lab fit --recipe {file} --store {store}"
    recipe = lab.Recipe.from_json(file.read_text())
    assert recipe == found.recipe.replace(alpha_from=recipe.alpha_from)
    assert (recipe.validation, recipe.alpha) == (0, found.alpha)
    assert "study by-hand" in recipe.alpha_from
    assert lab.RunStore(store).table().validation.gt(0).all(), "a tuned recipe is not taken for a run"

    assert cli.main([*words, "--output", str(tmp_path / "out" / "r.json")]) == 0
    assert json.loads((tmp_path / "out" / "r.json").read_text())["alpha"] == found.alpha
    assert f"study {found.study}: 3 of 3" in capsys.readouterr().out.splitlines()[0]
    assert cli.main([*words, "--method", "l2_fe"]) == 2
    assert "l2_fe has no α to choose" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*words[:-1], "1", "--alpha", "3"])
    assert "--alpha" in capsys.readouterr().err

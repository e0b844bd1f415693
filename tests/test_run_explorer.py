"""RunExplorer: a grid of α × r × order × method × seed over a store, and the runs that it starts."""

import asyncio
import json
import re
import time

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle
from scipy import stats

import spgca_lab as lab
from spgca_lab.explorers import ExplorerError, train_missing
from spgca_lab.explorers.method_orders import method_of, order_family, stage_orders, uses_reduction
from spgca_lab.explorers.run_grid import RunGrids
from spgca_lab.explorers.run_table import RunTable, setting_names
from spgca_lab.explorers.runs import RunExplorer, RunState
from spgca_lab.plots.panels.runs import RunsView, Tile, run_panel, window
from spgca_lab.runs.lock import RunLock
from tests.explorers import keeps_the_promises, said, size, words
from tests.tiny_runs import GRID, KEPT, SMALL, train

LONGER = SMALL | {"iterations": 8}


def recipe(**fields):
    """A tiny recipe of the grid's setting."""
    return lab.Recipe(**(SMALL | {"method": "spgca", "alpha": 3.0, "r": 4} | fields))


def write(store, made, top1=None, *, upto=None, failure=None):
    """A run folder without probe, snapshots and weights, as the trimmed ones are."""
    folder = store.folder(made)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(made.to_json(), encoding="utf-8")
    random, last = np.random.default_rng(made.seed), upto or made.iterations
    step = np.arange(1, last + 1)
    names = [stage.name for stage in made.stages().stages]
    stage = [names[(i - 1) * len(names) // made.iterations] for i in step]
    losses = {"step": step, "stage": stage, "cross_entropy": random.random(last) + 1}
    if upto is None or upto > 0:
        pd.DataFrame(losses).to_csv(folder / "steps.csv", index=False)
        at = step[1::2]
        scores = {"step": at, "stage": stage[1::2], "top1": 50 + 10 * random.random(len(at))}
        pd.DataFrame(scores).to_csv(folder / "evaluations.csv", index=False)
    if upto:
        lines = [{"journal": "x"}, *({"event": "step", "seconds": 0.1 * i, "step": int(i)} for i in step)]
        (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if failure:
        (folder / "failure.json").write_text(json.dumps({"error": failure}))
    if top1 is not None:
        (folder / "result.json").write_text(json.dumps({"top1": top1, "seconds": 10.0 + made.seed}))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def store(trained, tmp_path):
    """The trained runs of seed 0, trimmed ones of other seeds, the other order, and methods without r."""
    import shutil

    path = tmp_path / "store"
    shutil.copytree(trained.path, path)
    made = lab.RunStore(path)
    for seed, top1 in ((1, 60.0), (2, 63.0)):
        write(made, recipe(seed=seed), top1)
        write(made, recipe(seed=seed, method="gca->spa", alpha=1.0), top1 + 1)
        write(made, recipe(seed=seed, method="uniform"), top1 - 1)
    write(made, recipe(seed=1, alpha=1.0), 58.0)
    return made


@pytest.fixture
def explorer(store):
    return RunExplorer(store)


def texts(explorer):
    return [t.get_text().replace("\n", " ") for t in explorer.figure().texts]


def curve(explorer, colour, width):
    """The chosen cell's lines: cross-entropy, then top-1."""
    lines = [a for a in explorer.figure().get_children() if hasattr(a, "get_xdata")]
    return [a for a in lines if a.get_color() == colour and a.get_linewidth() == width]


# --- the runs as a grid


def test_shipped_runs_as_a_grid_agree_with_pandas():
    store = lab.RunStore(lab.data_dir() / "runs")
    data, table = RunGrids([store]), store.table()
    assert next(iter(data.settings().values())) == "mini → stickers near, 5 a class, 200 steps"
    spgca = table[table["method"] == "spgca"]
    made = data.grid(next(iter(data.settings())), "spgca")
    assert list(made.alphas) == sorted(spgca["alpha"].unique())
    assert list(made.rates) == sorted(spgca["r"].unique())
    for (alpha, r), cell in made.cells.items():
        rows = spgca[(spgca["alpha"] == alpha) & (spgca["r"] == r)].sort_values("seed")
        assert cell.top1.tolist() == rows["top1"].tolist()
        assert list(cell.seeds) == rows["seed"].tolist()
    assert data.typical_seconds(next(iter(data.settings())), "spgca") == pytest.approx(
        spgca["seconds"].median()
    )


def test_means_and_intervals_agree_with_scipy(explorer, store):
    values = [
        e.result["top1"]
        for e in sorted(store.find(method="spgca", alpha=3.0, r=4), key=lambda r: r.recipe.seed)
    ]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert f"{np.mean(values):.1f} ± {(high - low) / 2:.1f} % over 3 seeds" in said(explorer)
    assert f"{np.mean(values):.1f} ± {(high - low) / 2:.1f}" in texts(explorer)
    pair = store.find(method="spgca", alpha=1.0, r=4)
    two = [run.result["top1"] for run in pair]
    half = stats.t.ppf(0.975, 1) * np.std(two, ddof=1) / np.sqrt(2)
    assert f"{np.mean(two):.1f} ± {half:.1f}" in texts(explorer)


def test_bands_of_three_runs_are_t_intervals_and_of_two_reach_from_run_to_run(explorer, store):
    tables = [r.evaluations["top1"] for r in store.find(method="spgca", alpha=3.0, r=4)]
    values = np.stack(tables)
    band = explorer.data.bands(explorer.cell())[1]
    half = stats.t.ppf(0.975, 2) * values.std(axis=0, ddof=1) / np.sqrt(3)
    assert band.n == 3
    assert band.mean == pytest.approx(values.mean(axis=0))
    assert band.high - band.mean == pytest.approx(half)
    drawn = curve(explorer, "#D55E00", 1.4)
    assert drawn[1].get_ydata() == pytest.approx(values.mean(axis=0))
    assert "95 % t interval" in texts(explorer)
    explorer.alpha_slider.value = 1.0
    values = np.stack([r.evaluations["top1"] for r in store.find(method="spgca", alpha=1.0, r=4)])
    band = explorer.data.bands(explorer.cell())[1]
    assert (band.low.tolist(), band.high.tolist()) == (
        values.min(axis=0).tolist(),
        values.max(axis=0).tolist(),
    )
    assert "from run to run" in texts(explorer)


def test_cross_entropy_is_smoothed_within_a_stage_and_averaged_over_seeds(explorer, store):
    from spgca_lab.plots.training import smooth

    losses = [r.steps["cross_entropy"].to_numpy() for r in store.find(method="spgca", alpha=3.0, r=4)]
    expected = np.mean([np.concatenate([smooth(x[:2]), smooth(x[2:])]) for x in losses], axis=0)
    assert curve(explorer, "#D55E00", 1.4)[0].get_ydata() == pytest.approx(expected)
    assert "SPA → GCA" in texts(explorer)


def test_one_seed_alone_has_neither_band_nor_interval(explorer, store):
    explorer.seed_choice.value = 2
    assert explorer.state.seed == 2
    assert "with seed 2 alone, so there is no interval" in said(explorer)
    assert "one seed: no band" in texts(explorer)
    run = store[recipe(seed=2)]
    assert curve(explorer, "#D55E00", 1.4)[1].get_ydata().tolist() == run.evaluations["top1"].tolist()
    assert explorer.data.bands(explorer.cell())[1].low is None
    assert texts(explorer).count("63.0") == 1


def test_the_grid_is_compared_on_equal_seeds_only(explorer):
    # α = 1 has seeds 0 and 1, the chosen α = 3 has three.
    assert "no other cell here has the same seeds" in said(explorer)
    explorer.seed_choice.value = 1
    assert "the 2 cells of this seed span 2.0 points" in said(explorer)


@pytest.mark.parametrize(
    ("name", "both", "kin", "known"),
    [
        ("spgca", ("spa->gca", "gca->spa"), "spgca", True),
        ("gca->spa", ("gca->spa", "spa->gca"), "spgca", True),
        ("act->ast", ("act->ast", "ast->act"), "afa", False),
        ("uniform->spa", ("uniform->spa", "spa->uniform"), "spa->uniform", False),
        ("l2", (), "l2", False),
        ("gca", (), "gca", True),
        ("afa->gca", (), "afa->gca", True),
    ],
)
def test_orders_of_two_stages(name, both, kin, known):
    assert stage_orders(name) == both
    assert order_family(name) == kin
    assert uses_reduction(name) is known
    assert method_of("spa -> gca") == "spgca"


def test_runs_of_other_settings_are_not_mixed(store):
    write(store, lab.Recipe(**(LONGER | {"method": "spgca", "alpha": 3.0, "seed": 1})), 99.0)
    write(store, recipe(seed=7, evaluations=1, snapshots=0), 61.0)
    explorer = RunExplorer(store)
    names = setting_names(RunTable(store).frame)
    assert list(names.values()) == [
        "mini (random weights) → stickers near, 1 a class, 4 steps",
        "mini (random weights) → stickers near, 1 a class, 8 steps",
    ]
    assert "over 4 seeds" in said(explorer)  # how often one looks is no setting
    explorer.setting_choice.value = list(names)[1]
    assert explorer.cell().top1.tolist() == [99.0]
    assert list(explorer.alpha_slider.options) == [("3", 3.0)]
    assert explorer.method_choice.disabled
    write(store, lab.Recipe(**(LONGER | {"method": "spgca", "alpha": 3.0, "lr": 0.5})), 1.0)
    explorer.poll()
    assert sorted(name for _, name in enumerate(explorer.data.settings().values()))[1:] == [
        "mini (random weights) → stickers near, 1 a class, 8 steps, lr 0.01",
        "mini (random weights) → stickers near, 1 a class, 8 steps, lr 0.5",
    ]


def test_one_run_of_each_place_even_where_two_stores_or_names_have_it(store, tmp_path):
    other = lab.RunStore(tmp_path / "other")
    write(other, recipe(seed=1), 11.0)
    write(other, recipe(seed=5, method="spa->gca"), 64.0)
    write(other, recipe(seed=1, alpha=3.0, r=8), 55.0)
    write(store, recipe(seed=1, r=8), upto=0)
    data = RunGrids([store, other])
    made = data.grid(next(iter(data.settings())), "spgca")
    assert made.cells[3.0, 4].seeds == (0, 1, 2, 5)
    assert made.cells[3.0, 4].top1[1] == 60.0
    assert made.cells[3.0, 8].rows[-1].top1 == 55.0  # the finished one, not the one begun


# --- what there is not


def test_a_cell_that_was_never_trained_says_so(store):
    explorer = RunExplorer(store, alphas=[30.0], rates=[16])
    explorer.alpha_slider.value = 30.0
    explorer.r_slider.value = 16
    assert said(explorer).count("SPA→GCA at α = 30, r = 16 was never trained: press Train these") == 1
    assert "SPA→GCA at α = 30, r = 16 was never trained: press Train these" in texts(explorer)
    assert texts(explorer).count("not trained") == 3 * 3 - len(GRID)
    assert [r.seed for r in explorer.missing()] == [0, 1, 2]
    assert {(r.alpha, r.r) for r in explorer.missing()} == {(30.0, 16)}
    assert explorer.training.message.value.startswith("3 runs, about ")
    assert not explorer.training.train_button.disabled


def test_runs_under_way_failed_and_left_are_told_apart(store):
    write(store, recipe(alpha=10.0), upto=2)
    write(store, recipe(alpha=10.0, r=8), failure="TrainingError: the <loss> is nan")
    (write(store, recipe(alpha=0.3), upto=3) / "checkpoint.safetensors").write_bytes(b"")
    write(store, recipe(alpha=0.3, r=8), upto=0)
    folder = write(store, recipe(seed=9), upto=2)
    with RunLock.take(store.folder(recipe(alpha=10.0)), "session"), RunLock.take(folder, "session") as lease:
        lease.set_state("paused")
        explorer = RunExplorer(store)
        assert {"running", "50 %", "failed", "interrupted", "75 %", "not started"} <= set(texts(explorer))
        assert any(t.endswith("3 seeds + paused") for t in texts(explorer))
        assert "paused 50 %" in explorer.details.value
        explorer.show(alpha=10.0)
        assert "(seed 0) is running, 50 % of its steps done" in said(explorer)
        dashed = curve(explorer, "#333333", 1.2)
        run = store[recipe(alpha=10.0)]
        assert dashed[1].get_ydata().tolist() == run.evaluations["top1"].tolist()
        assert "no snapshot yet: running 50 %" in texts(explorer)
        assert [r.seed for r in explorer.missing()] == [1, 2, 9]
    explorer.show(r=8)
    assert "failed: TrainingError: the &lt;loss&gt; is nan; Train these starts it again" in said(explorer)
    assert [r.seed for r in explorer.missing()] == [0, 1, 2, 9]
    explorer.show(alpha=0.3)
    assert "(seed 0) has not started; Train these starts it" in said(explorer)
    explorer.show(r=4)
    assert "is interrupted at 75 % of its steps; Train these resumes it" in said(explorer)


def test_attention_comes_from_the_lowest_seed_that_kept_it(explorer, store, trained):
    shots = {(s.stage, s.step): s.weights for s in trained[recipe()].snapshots()}
    explorer.show(layer=2, picture=1)
    film = dict(explorer.film(explorer.state))
    assert list(film) == [0, 2]
    weights = shots["spa", 0]["layer2.1.conv3"][1]
    assert film[0].ravel() == pytest.approx(weights * weights.size)
    view = explorer.view(explorer.state)
    assert view.channel[0].weights["layer1.1.conv3"] == pytest.approx(shots["gca", 4]["layer1.1.conv3"][1])
    assert "attention of seed 0" in words(explorer)
    explorer.step_slider.value = 2
    assert {"SPA at step 2", "GCA at step 2"} <= set(texts(explorer))
    explorer.seed_choice.value = 1
    assert explorer.view(explorer.state) is None
    assert "shipped without its snapshots: SPA→GCA at α = 3, r = 4, seed 1" in texts(explorer)
    assert "image x" in texts(explorer)
    assert "tables only" in explorer.details.value


def test_the_order_turns_the_stages_around(explorer):
    assert explorer.order_choice.options == (("SPA → GCA", "spa->gca"), ("GCA → SPA", "gca->spa"))
    explorer.alpha_slider.value = 1.0
    explorer.order_choice.value = "gca->spa"
    assert (explorer.state.method, explorer.grid().method) == ("spgca", "gca->spa")
    assert explorer.cell().top1.tolist() == [61.0, 64.0]
    assert "GCA→SPA at α = 1, r = 4" in texts(explorer)
    assert {r.method for r in explorer.missing()} == {"gca->spa"}
    assert [r.seed for r in explorer.missing()] == [0]
    explorer.reset()
    explorer.show(method="gca->spa", alpha=1.0)
    assert (explorer.state.method, explorer.state.order) == ("spgca", "gca->spa")


def test_methods_of_one_stage_or_without_r(explorer):
    explorer.show(r=8)
    explorer.method_choice.value = "uniform"
    assert explorer.order_choice.disabled
    assert explorer.r_slider.disabled
    assert explorer.state.order == ""
    assert explorer.grid().rates == (0,)
    assert "uniform has no attention" in texts(explorer)
    assert "no r in this method" in texts(explorer)
    assert said(explorer).count("uniform at α = 3 reaches 60.5 ± ") == 1
    assert explorer.missing()[0] == recipe(method="uniform", seed=0)
    explorer.method_choice.value = "spgca"
    assert explorer.state.r == 8
    assert not explorer.r_slider.disabled


def test_methods_that_no_run_has_can_be_offered(store):
    explorer = RunExplorer(store, methods=["lwf", "act->ast"], alphas=[30.0], seeds=[5])
    assert [m for _, m in explorer.method_choice.options] == ["afa", "lwf", "spa", "spgca", "uniform"]
    explorer.method_choice.value = "lwf"
    assert explorer.grid().alphas == (1.0,)  # its own default: α of outputs is on another scale
    assert [(r.method, r.alpha, r.seed) for r in explorer.missing()] == [
        ("lwf", 1.0, s) for s in (0, 1, 2, 5)
    ]
    with pytest.raises(ValueError, match="unknown method 'spgcaa'; did you mean"):
        RunExplorer(store, methods=["spgcaa"])
    with pytest.raises(ValueError, match="alpha must be a finite number of at least 0, got -1"):
        RunExplorer(store, alphas=[-1])


def test_alpha_by_stage_is_a_row_of_its_own(store):
    write(store, recipe(alpha=(1.0, 10.0)), 70.0)
    explorer = RunExplorer(store)
    assert [name for name, _ in explorer.alpha_slider.options] == ["1", "1, then 10", "3"]
    explorer.alpha_slider.value = (1.0, 10.0)
    assert "SPA→GCA at α = 1, then 10, r = 4 reaches 70.0 %" in said(explorer)
    again = RunState.from_dict(json.loads(json.dumps(explorer.state.to_dict())))
    assert RunExplorer(store, state=again).state == explorer.state


# --- the view


def test_it_keeps_the_promises_of_every_explorer(store, monkeypatch):
    monkeypatch.setattr(lab.explorers, "RunExplorer", RunExplorer, raising=False)
    explorer = RunExplorer(store, alphas=[30.0], seeds=[4])
    keeps_the_promises(explorer, alpha=1.0, layer=1, picture=2, step=0, opacity=0.3)
    explorer = RunExplorer(store, state=RunState(alpha=1.0, order="gca->spa"))
    keeps_the_promises(explorer, r=8, seed=1)


def test_code_names_the_recipe_of_the_cell_and_how_to_train_it(explorer, monkeypatch):
    monkeypatch.setattr(lab.explorers, "RunExplorer", RunExplorer, raising=False)
    explorer.show(alpha=1.0, r=8)
    code, scope = explorer.code(explorer.state), {}
    exec(code, scope)
    assert scope["recipe"] == recipe(alpha=1.0, r=8)
    line = next(line for line in code.splitlines() if "launch_all" in line)
    assert "for seed in [0, 1, 2]" in line
    assert repr(str(explorer.target.path)) in line


def test_the_picture_keeps_its_size_whatever_is_shown(store):
    explorer = RunExplorer(store, alphas=[30.0, 40.0, 50.0, 60.0, 70.0, 80.0], rates=[16, 32, 64, 128])
    sizes = {size(explorer)}
    for values in ({"alpha": 80.0, "r": 128}, {"method": "uniform"}, {"method": "spa"}, {"seed": 1}):
        explorer.show(**values)
        sizes.add(size(explorer))
    assert sizes == {(900, 560)}
    explorer.show(method="spgca", alpha=80.0, r=128)
    assert "shown: 7 of 8 α, 5 of 6 r" in texts(explorer)
    assert window(8, 7, 7) == range(1, 8)


def test_colours_span_five_points_at_least(explorer, store):
    low, high = explorer.data.limits(explorer.state.setting, "spgca")
    runs = [*store.find(method="spgca"), *store.find(method="gca->spa")]
    values = [run.result["top1"] for run in runs]
    assert (low, high) == (min(values), max(values))
    data = RunGrids([lab.RunStore(lab.data_dir() / "runs")])
    low, high = data.limits(next(iter(data.settings())), "spgca")
    assert high - low == pytest.approx(5)
    assert data.limits(next(iter(data.settings())), "lwf") is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"alpha": 2.0},
            "alpha must be one of [1.0, 3.0], got 2.0: the runs have no other; others can be offered",
        ),
        ({"r": 5}, "r must be one of [4, 8], got 5"),
        ({"seed": 9}, "seed must be one of ['all', 0, 1, 2], got 9"),
        ({"method": "delta"}, "method must be one of ['spa', 'spgca', 'uniform'], got 'delta'"),
        ({"method": "nonsense"}, "method must be one of ['spa', 'spgca', 'uniform'], got 'nonsense'"),
        ({"order": "act->ast"}, "order must be one of ['spa->gca', 'gca->spa'], got 'act->ast'"),
        ({"setting": "near"}, "4 steps"),
        ({"step": 3}, "step must be one of [0, 2, 4], got 3"),
        ({"layer": 5}, "layer must be a whole number from 1 to 4, got 5"),
        ({"picture": 99}, "picture must be a whole number from 0 to"),
        ({"opacity": 65}, "opacity must be from 0 to 1, got 65"),
    ],
)
def test_what_does_not_exist_is_refused_and_nothing_changes(explorer, values, message):
    before = explorer.state, explorer.image.png
    with pytest.raises(ExplorerError, match=re.escape(message)):
        explorer.show(**values)
    assert (explorer.state, explorer.image.png) == before
    with pytest.raises(ExplorerError, match=re.escape(message)):
        RunExplorer(explorer.store, state=RunState(**values))


def test_stores_without_a_run_or_with_a_broken_one(store, tmp_path):
    with pytest.raises(ExplorerError, match="no run in '.*empty'"):
        RunExplorer(tmp_path / "empty")
    folder = write(store, recipe(seed=3), 1.0)
    (folder / "recipe.json").write_text('{"colour": "red"}')
    explorer = RunExplorer(store)
    assert "1 not readable: the recipe in" in words(explorer)
    assert "3 seeds" in " ".join(texts(explorer))


def test_a_store_without_pictures_says_so(tmp_path):
    store = lab.RunStore(tmp_path)
    write(store, recipe(), 50.0)
    explorer = RunExplorer(store)
    assert any("no image" in t for t in texts(explorer))
    assert explorer.picture_slider.max == 0


def test_film_strips_are_thinned_to_eight_with_the_present_one():
    from spgca_lab.plots.panels.runs import _frames

    film = [(10 * i, np.ones((2, 2))) for i in range(20)]
    steps = [step for step, _ in _frames(film, 50)]
    assert len(steps) == 8
    assert {0, 50, 190} <= set(steps)


def test_the_panel_draws_tiles_as_they_are():
    tiles = {
        (0, 0): Tile(("50.0", "1 seed"), 50.0, n=1),
        (1, 0): Tile(("running", "40 %"), done=0.4, status="running"),
    }
    view = RunsView("SPA", "#CC79A7", ["1", "3"], ["4"], tiles, (1, 0), limits=(48.0, 53.0))
    figure = run_panel(view)
    boxes = figure.findobj(Rectangle)
    bars = [box.get_width() for box in boxes if box.get_height() == pytest.approx(0.05)]
    assert bars[1] / bars[0] == pytest.approx(0.4)
    shown = [t.get_text() for t in figure.texts]
    assert {"50.0", "running", "40 %", "r = 4", "final test top-1, %, 1 seed each"} <= set(shown)


# --- training and watching


class Waiting:
    """A queue that never begins."""

    def __init__(self, recipes, store):
        self.recipes, self.done, self.stopped = recipes, False, 0
        self.handles = [lab.RunHandle(write(store, r, upto=0)) for r in recipes]

    def stop(self, wait=True):
        self.stopped += 1
        self.done = True


@pytest.fixture
def queues(monkeypatch):
    started = []

    def launch_all(recipes, store, workers):
        assert workers == 1
        started.append(Waiting(list(recipes), store))
        return started[-1]

    monkeypatch.setattr(train_missing, "launch_all", launch_all)
    monkeypatch.setattr(train_missing, "_queues", {})
    return started


def test_train_these_starts_what_the_cell_or_the_grid_lacks(explorer, store, queues):
    assert explorer.training.train_button.disabled
    assert explorer.training.message.value == "nothing is missing"
    explorer.training.scope.value = "grid"
    (missing,) = [len(explorer.missing(True))]
    assert missing == 1 + 3 + 2  # α = 1: seed 2 at r = 4, all at r = 8; α = 3: two at r = 8
    assert explorer.training.message.value.startswith("6 runs, about ")
    explorer.show(alpha=1.0)
    explorer.training.scope.value = "cell"
    explorer.training.train_button.click()
    assert [(r.alpha, r.r, r.seed) for r in queues[0].recipes] == [(1.0, 4, 2)]
    assert explorer.training.message.value.startswith("training: 0 of 1 runs done, into ")
    assert explorer.training.train_button.disabled
    assert "waiting" in explorer.details.value
    state = explorer.state
    write(store, queues[0].recipes[0], 77.0)
    queues[0].done = True
    explorer.poll()
    assert explorer.state == state
    assert explorer.cell().top1[-1] == 77.0
    assert "over 3 seeds" in said(explorer)
    assert explorer.training.message.value == "nothing is missing"


def test_a_second_explorer_of_the_folder_can_stop_what_the_first_started(explorer, store, queues):
    explorer.show(alpha=1.0)
    explorer.training.train_button.click()
    explorer.close()
    again = RunExplorer(store)
    assert again.training.active
    again.training.stop_button.click()
    assert queues[0].stopped == 1
    again.poll()
    assert again.training.stop_button.disabled
    assert not again.training.train_button.disabled or again.state.alpha != 1.0


def test_shipped_and_read_only_stores_are_not_written(monkeypatch, tmp_path, store, queues):
    monkeypatch.chdir(tmp_path)
    shipped = RunExplorer(lab.data_dir() / "runs", seeds=[99])
    shipped.training.train_button.click()
    assert {h.path.parent for h in queues[0].handles} == {tmp_path / "runs"}
    assert "into &#x27;runs&#x27;" in shipped.training.message.value
    assert "and 'runs'" in words(shipped).replace("&#x27;", "'")
    (made,) = queues[0].recipes
    write(lab.RunStore("runs"), made, 12.0)
    shipped.poll()
    shipped.seed_choice.value = 99
    assert "reaches 12.0 % with seed 99 alone" in said(shipped)
    monkeypatch.setattr(train_missing.os, "access", lambda path, mode: path != store.path)
    assert train_missing.writable_store(store).path.name == "runs"
    assert RunExplorer(store).target.path.name == "runs"


def test_polling_reads_only_unfinished_runs_again(explorer, store, monkeypatch):
    unfinished = write(store, recipe(seed=5), upto=2)
    explorer.poll()
    read = []
    whole = RunTable._row
    monkeypatch.setattr(RunTable, "_row", lambda self, run: (read.append(run.path), whole(self, run))[1])
    drawn = explorer.image.png
    explorer.poll()
    assert read == [unfinished]
    assert explorer.image.png == drawn
    write(store, recipe(seed=5), 55.0)
    explorer.poll()
    assert read == [unfinished] * 2
    explorer.poll()
    assert read == [unfinished] * 2
    assert explorer.cell().seeds == (0, 1, 2, 5)


def test_the_clock_runs_while_something_trains_and_stops_with_it(store):
    folder = write(store, recipe(seed=5), upto=2)

    async def watch():
        with RunLock.take(folder, "session"):
            explorer = RunExplorer(store)
            explorer.ticker.seconds = 0.01
            assert explorer.ticker.running
            (folder / "result.json").write_text(json.dumps({"top1": 55.0, "seconds": 1.0}))
        for _ in range(200):
            await asyncio.sleep(0.02)
            if not explorer.ticker.running:
                break
        return explorer

    explorer = asyncio.run(watch())
    assert not explorer.ticker.running
    assert explorer.cell().seeds == (0, 1, 2, 5)
    idle = RunExplorer(store)
    assert not idle.ticker.running


def test_a_run_that_is_deleted_leaves_a_view_that_works(store):
    import shutil

    folder = write(store, recipe(alpha=10.0), 50.0)
    explorer = RunExplorer(store)
    explorer.show(alpha=10.0)
    shutil.rmtree(folder)
    explorer.poll()
    assert explorer.state.alpha in (1.0, 3.0)
    assert "reaches" in said(explorer)
    shutil.rmtree(store.path)
    explorer.poll()
    assert "there is no run left in" in words(explorer)


def test_what_cannot_be_started_is_said(explorer, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no <space> left")

    monkeypatch.setattr(train_missing, "launch_all", refuse)
    explorer.show(alpha=1.0)
    explorer.training.train_button.click()
    assert "OSError: no &lt;space&gt; left" in words(explorer)
    explorer.show(layer=1)
    assert "layer 1" in words(explorer)


def test_a_missing_run_is_really_trained_in_the_background(store):
    explorer = RunExplorer(store)
    explorer.show(alpha=1.0, seed=2)
    explorer.training.train_button.click()
    until = time.monotonic() + 120
    seen = set()
    while explorer.training.active and time.monotonic() < until:
        time.sleep(0.05)
        explorer.poll()
        seen |= {row.status for row in explorer.cell().rows}
    explorer.poll()
    assert "running" in seen
    run = store[recipe(alpha=1.0, seed=2)]
    assert run.status == "finished"
    assert f"reaches {run.result['top1']:.1f} % with seed 2 alone" in said(explorer)
    assert explorer.view(explorer.state) is not None
    assert KEPT == (3.0, 4)

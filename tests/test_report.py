"""Reports: numbers against scipy, what is missing or not comparable is said, and figures show what the frame has."""

import argparse
import io
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.lines import Line2D
from PIL import Image
from scipy import stats

import spgca_lab as lab
from spgca_lab import paper
from spgca_lab.cli import report as command
from spgca_lab.grids import expand
from spgca_lab.lease import Lease
from spgca_lab.plots import PlotError, to_png
from spgca_lab.plots.report import convergence_curves, report_dots
from spgca_lab.report import ReportError, published_difference, report
from spgca_lab.report.curves import convergence, mean_curves, steps_to
from spgca_lab.statistics import StatisticsError

TITLES = {
    "cub200": "CUB-200-2011",
    "mit_indoor67": "MIT Indoor 67",
    "caltech256_60": "Caltech 256-60",
    "caltech256_30": "Caltech 256-30",
}
FIELDS = {"spa->gca": {"method": "spgca"}}
SEEDS = (0, 1, 2, 3, 4)
RNG = np.random.default_rng(7)


def recipe_of(dataset, column, seed, **changes):
    """The paper's recipe for a cell."""
    fields = (
        {"method": "gca", "r": int(column)} if column.isdigit() else FIELDS.get(column, {"method": column})
    )
    return lab.Recipe.paper(**{"dataset": dataset, "seed": seed} | fields | changes)


def write_run(store, recipe, top1, curve=None, **result):
    """A finished run with the numbers of pictures that Table 1 has."""
    folder = lab.RunStore(store).folder(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    sizes = paper.table(1).set_index("dataset")
    counts = {}
    if (title := TITLES.get(recipe.dataset)) in sizes.index:
        row = sizes.loc[title]
        counts = {
            "train_pictures": int(row["train_samples"]),
            "test_pictures": int(row["test_samples"]),
            "classes": int(row["classes"]),
        }
    told = {"top1": top1, "cross_entropy": 1.0, "image_size": recipe.image_size or 224, "seconds": 1.0}
    (folder / "result.json").write_text(json.dumps(told | counts | result), encoding="utf-8")
    if curve is not None:
        pd.DataFrame(curve, columns=["step", "top1"]).assign(stage="x", cross_entropy=1.0).to_csv(
            folder / "evaluations.csv", index=False
        )
    return folder


def write_plan(store, table, cells, seeds=SEEDS, baseline="l2", model="ResNet-101"):
    """A plan as `spgca-lab grid` leaves it; cells are (data set, column, recipes by seed)."""
    told = [
        {
            "dataset": dataset,
            "title": TITLES.get(dataset, dataset.rsplit("/", 1)[-1]),
            "model": model,
            "column": column,
            "alpha": recipes[seeds[0]].to_dict()["alpha"],
            "alpha_from": recipes[seeds[0]].alpha_from,
            "recipes": [recipes[seed].hash() for seed in seeds],
        }
        for dataset, column, recipes in cells
    ]
    (store / "grids").mkdir(parents=True, exist_ok=True)
    plan = {"table": table, "baseline": baseline, "seeds": list(seeds), "cells": told}
    (store / "grids" / f"{table}.json").write_text(json.dumps(plan), encoding="utf-8")


def fill(store, table, values, dataset="cub200", seeds=SEEDS, baseline="l2", result=None, **changes):
    """A planned table with these accuracies: {column: {seed: top1}}; seeds without one are not run."""
    cells = []
    for column, by_seed in values.items():
        recipes = {seed: recipe_of(dataset, column, seed, **changes) for seed in seeds}
        cells.append((dataset, column, recipes))
        for seed, top1 in by_seed.items():
            write_run(store, recipes[seed], top1, **(result or {}))
    write_plan(store, table, cells, seeds, baseline)
    return cells


def near(mean, sd=0.15, seeds=SEEDS):
    return {seed: float(RNG.normal(mean, sd)) for seed in seeds}


def row_of(found, column, dataset="CUB-200-2011"):
    rows = found.frame[(found.frame["dataset"] == dataset) & (found.frame["column"] == column)]
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Table 4 on CUB-200-2011 with five seeds of all columns: the store, and the accuracies."""
    store = tmp_path_factory.mktemp("four")
    means = {
        "l2": 78.2,
        "l2_fe": 62.0,
        "l2_sp": 79.7,
        "delta": 80.0,
        "afa": 80.2,
        "spgca": 80.4,
        "uniform": 78.25,
    }
    values = {column: near(mean) for column, mean in means.items()}
    fill(store, "table4", values)
    return store, values


@pytest.mark.parametrize("level", [0.95, 0.9])
def test_means_intervals_and_paired_differences_are_scipys(four, level):
    store, values = four
    found = report("table4", store, level=level)
    for column, by_seed in values.items():
        row, x = row_of(found, column), np.array(list(by_seed.values()))
        low, high = stats.t.interval(level, len(x) - 1, x.mean(), stats.sem(x))
        assert (row["n"], row["seeds"]) == (5, "0 1 2 3 4")
        assert row["mean"] == pytest.approx(x.mean())
        assert row["sd"] == pytest.approx(x.std(ddof=1))
        assert (row["mean"] - row["half"], row["mean"] + row["half"]) == pytest.approx((low, high))
        if column == "l2":
            assert math.isnan(row["diff"])
            assert row["diff_n"] == 0
            continue
        base = np.array([values["l2"][seed] for seed in by_seed])
        interval = stats.ttest_rel(x, base).confidence_interval(level)
        assert row["diff"] == pytest.approx((x - base).mean())
        assert row["diff"] - row["diff_half"] == pytest.approx(interval.low)
        assert row["diff"] + row["diff_half"] == pytest.approx(interval.high)
        assert row["diff_n"] == 5


def test_the_published_cell_stands_beside_with_welchs_interval_of_its_difference(four):
    found = report("table4", four[0])
    row = row_of(found, "spgca")
    assert (row["published_mean"], row["published_sd"]) == (80.62, 0.08)
    assert row["published_diff"] == pytest.approx(80.62 - 78.40)
    s, t = 0.08**2 / 5, 0.10**2 / 5
    freedom = (s + t) ** 2 / (s**2 / 4 + t**2 / 4)
    assert row["published_diff_half"] == pytest.approx(stats.t.ppf(0.975, freedom) * math.sqrt(s + t))
    control = row_of(found, "uniform")
    assert math.isnan(control["published_mean"])
    assert math.isnan(control["published_diff"])
    assert len(found.frame) == 5 * 6 + 1


@pytest.mark.parametrize(("a", "b"), [((80.62, 0.08), (80.30, 0.03)), ((86.06, 0.21), (86.06, 0.04))])
def test_welchs_interval_excludes_zero_exactly_when_scipys_test_rejects(a, b):
    for level in (0.5, 0.9, 0.95, 0.99, 0.9999):
        p = stats.ttest_ind_from_stats(*a, 5, *b, 5, equal_var=False).pvalue
        assert published_difference(a, b, level=level).excludes() == (p < 1 - level)


def test_difference_is_over_shared_seeds_only(tmp_path):
    values = {"l2": {0: 70.0, 1: 72.0, 2: 71.0, 3: 90.0}, "afa": {1: 73.0, 2: 71.5, 4: 10.0}}
    fill(tmp_path, "table4", values)
    row = row_of(report("table4", tmp_path), "afa")
    assert (row["n"], row["diff_n"]) == (3, 2)
    assert row["diff"] == pytest.approx(0.75)
    interval = stats.ttest_1samp([1.0, 0.5], 0).confidence_interval(0.95)
    assert row["diff_half"] == pytest.approx((interval.high - interval.low) / 2)


def test_one_shared_seed_has_a_difference_and_no_interval(tmp_path):
    fill(tmp_path, "table4", {"l2": {0: 70.0}, "afa": {0: 71.0}})
    found = report("table4", tmp_path)
    row = row_of(found, "afa")
    assert row["diff"] == 1.0
    assert math.isnan(row["diff_half"])
    assert "+1.00 (n = 1)" in found.markdown()
    assert "one shared seed, so no interval: AFA" in found.markdown()


def test_what_is_missing_is_said_seed_by_seed(tmp_path):
    fill(tmp_path, "table4", {"l2": near(78.4), "spgca": {0: 80.0}, "afa": {}, "delta": {}})
    for seed, name, text in (
        (1, "failure.json", json.dumps({"error": "TrainingError: loss is nan at step 7"})),
        (2, "checkpoint.pt", ""),
        (3, "recipe.json", "{"),
    ):
        recipe = recipe_of("cub200", "spgca", seed)
        folder = lab.RunStore(tmp_path).folder(recipe)
        folder.mkdir(parents=True)
        (folder / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
        (folder / name).write_text(text, encoding="utf-8")
    busy = lab.RunStore(tmp_path).folder(recipe_of("cub200", "delta", 0))
    busy.mkdir()
    (busy / "recipe.json").write_text(recipe_of("cub200", "delta", 0).to_json(), encoding="utf-8")
    with Lease.take(busy, "terminal"):
        found = report("table4", tmp_path)
    note = row_of(found, "spgca")["note"]
    assert note.startswith("1 of 5 seeds; ")
    assert "1 failed: TrainingError: loss is nan at step 7 (seed 1)" in note
    assert "1 interrupted (seed 2)" in note
    assert "1 unreadable: " in note
    assert "1 not run (seed 4)" in note
    assert row_of(found, "afa")["note"] == "not run"
    assert row_of(found, "delta")["note"] == "0 of 5 seeds; 1 running (seed 0); 4 not run (seeds 1, 2, 3, 4)"
    lines = {
        line.split("|")[1].strip(): line for line in found.markdown().splitlines() if line.startswith("| ")
    }
    assert "1 of 5" in lines["SPA→GCA"]
    assert "not run" in lines["AFA"]
    assert "not finished" in lines["DELTA"]
    assert "80.30 ± 0.03" in lines["AFA"]
    assert "†" not in lines["AFA"]


def test_without_a_plan_there_are_the_papers_cells_and_the_command_to_begin_with(tmp_path):
    write_run(tmp_path, recipe_of("cub200", "spgca", 0), 80.0)
    for table, cells in (("table4", 35), ("table5", 30), ("table6", 4), ("table7", 10), ("fig2", 4)):
        found = report(table, tmp_path)
        assert len(found.frame) == cells
        assert (found.frame["note"] == "not run").all()
        assert (found.frame["n"] == 0).all()
        text = found.markdown()
        assert f"spgca-lab grid {table} --store {tmp_path}" in text
        assert "What the numbers say" not in text
        printed = found.frame.dropna(subset=["published_mean"])
        number = 5 if table == "fig2" else int(table[-1])
        expected = {
            k: v for k, v in paper.printed(number).items() if table != "fig2" or k[0] == "Caltech 256-60"
        }
        if table == "table5":
            expected |= {k: v for k, v in paper.printed(4).items() if k[1] == "l2"}
        assert {
            (r.dataset, r.column): (r.published_mean, r.published_sd) for r in printed.itertuples()
        } == expected
    assert report("table4", tmp_path / "absent").frame["n"].sum() == 0


def test_runs_on_a_validation_split_are_refused_by_name(tmp_path):
    cells = fill(tmp_path, "table4", {"l2": near(78.0)})
    held = {seed: recipe_of("cub200", "afa", seed, validation=0.2) for seed in SEEDS}
    for seed in (1, 3):
        write_run(tmp_path, held[seed], 81.0)
    write_plan(tmp_path, "table4", [*cells, ("cub200", "afa", held)])
    with pytest.raises(ReportError, match="2 runs were measured on held-out training pictures") as caught:
        report("table4", tmp_path)
    assert f"afa-{held[1].hash()}, afa-{held[3].hash()}" in str(caught.value)


def test_a_full_repeat_bears_no_mark(four):
    found = report("table4", four[0])
    assert found.frame["comparable"].all()
    assert "†" not in found.markdown()
    assert "stand beside" not in found.markdown()


def test_a_rehearsal_can_never_pass_for_the_papers_experiment(tmp_path):
    small = {"backbone": "resnet50", "weights": "random", "iterations": 2, "image_size": 64, "batch_size": 4}
    few = {"train_pictures": 96, "test_pictures": 24, "classes": 8}
    fill(tmp_path, "table4", {"l2": near(5.0), "spgca": near(6.0)}, result=few, **small)
    found = report("table4", tmp_path)
    text = found.markdown()
    run = found.frame[found.frame["n"] > 0]
    assert not run["comparable"].any()
    assert found.frame[found.frame["n"] == 0]["comparable"].all()
    assert set(run["note"]) == {
        "96 of 5,994 training pictures, 24 of 5,794 test pictures, 8 of 200 classes: not the paper's set"
    }
    assert "80.62 ± 0.08 †" in text
    assert "80.30 ± 0.03 †" not in text
    (told,) = [line for line in text.splitlines() if line.startswith("Recipe differs")]
    for difference in (
        "resnet50 in place of ResNet-101",
        "random weights in place of pretrained ones",
        "iterations 2 in place of 9,000",
        "pictures a batch 4 in place of 64",
        "64 px in place of 224",
    ):
        assert told.count(difference) == 1
    assert "where they are marked †, not about the paper's experiment" in text


@pytest.mark.parametrize(
    ("column", "changes", "said"),
    [
        ("afa", {"alpha": 3.0}, "α = 3, 3 outside the paper's 0.005 to 0.1"),
        ("afa", {"alpha": (0.1, 0.15)}, "α = 0.15 outside the paper's 0.005 to 0.1"),
        ("spgca", {"r": 8}, "r = 8 in place of 4"),
        ("spgca", {"scale": "relative"}, "penalties of scale 'relative'"),
        ("spgca", {"attention": "uniform"}, "uniform attention in place of learned"),
        ("delta", {"lr": 0.1}, "learning rate 0.1 in place of 0.01"),
        ("delta", {"milestones": (0.5,)}, "learning rate falls at 0.5 of the iterations"),
        ("delta", {"beta": 0.0}, "β 0.0 in place of 0.01"),
        ("l2", {"r": 8}, None),
        ("l2_sp", {"alpha": 0.5}, None),
    ],
)
def test_every_departure_from_section_4_2_marks_the_cell(tmp_path, column, changes, said):
    fill(tmp_path, "table4", {column: {0: 80.0}}, seeds=(0,), **changes)
    found = report("table4", tmp_path)
    assert row_of(found, column)["comparable"] == (said is None)
    assert said is None or said in found.markdown()


def test_indoor_scenes_need_the_places_network(tmp_path):
    for backbone, right in (("resnet50_places365", True), ("resnet50", False)):
        store = tmp_path / backbone
        fill(store, "table4", {"l2": {0: 83.0}}, dataset="mit_indoor67", seeds=(0,), backbone=backbone)
        found = report("table4", store)
        assert row_of(found, "l2", "MIT Indoor 67")["comparable"] == right
        assert ("resnet50 in place of ResNet-50 of Places365" in found.markdown()) != right


def test_columns_of_table_6_are_rates_and_their_own_r_is_right(tmp_path):
    values = {r: near(86.0) for r in ("4", "8", "16", "32")}
    cells = fill(tmp_path, "table6", values, dataset="caltech256_30", baseline="4")
    assert len({recipe.r for _, _, recipes in cells for recipe in recipes.values()}) == 4
    found = report("table6", tmp_path)
    assert found.frame["column"].tolist() == ["4", "8", "16", "32"]
    assert "r = 32" in found.markdown()
    assert "in place of" not in found.markdown()


def test_another_baseline_can_be_asked_for_and_a_wrong_one_is_quoted(four):
    store, values = four
    row = row_of(report("table4", store, baseline="afa"), "spgca")
    gaps = [values["spgca"][seed] - values["afa"][seed] for seed in SEEDS]
    assert row["diff"] == pytest.approx(np.mean(gaps))
    assert row["published_diff"] == pytest.approx(0.32)
    with pytest.raises(
        ReportError, match="table4 has no column 'L2' to be the baseline: choose one of l2, l2_fe"
    ):
        report("table4", store, baseline="L2")
    with pytest.raises(ReportError, match="there is no report 'table3': choose one of table4, table5"):
        report("table3", store)
    with pytest.raises(StatisticsError, match="level must lie between 0 and 1"):
        report("table4", store, level=95)


def test_own_pictures_have_no_published_cell(tmp_path):
    fill(tmp_path, "table5", {"uniform": near(60), "spa": near(61)}, dataset="a/photos", baseline="uniform")
    found = report("table5", tmp_path)
    own = found.frame[found.frame["dataset"] == "photos"]
    assert own["column"].tolist() == ["ast", "act", "spa", "gca", "uniform"]
    assert own["published_mean"].isna().all()
    assert row_of(found, "spa", "photos")["diff_n"] == 5
    text = found.markdown()
    assert re.search(r"\| SPA +\|.+\| +— \| +— \|", text)
    assert "## Not run: the paper's other data sets" in text
    assert set(found.shown["dataset"]) == {"photos"}


def test_two_folders_of_one_name_stay_apart(tmp_path):
    cells = []
    for dataset in ("a/photos", "b/photos"):
        recipes = {seed: recipe_of(dataset, "spa", seed) for seed in SEEDS}
        write_run(tmp_path, recipes[0], 50.0 if dataset[0] == "a" else 60.0)
        cells.append((dataset, "spa", recipes))
    write_plan(tmp_path, "table5", cells, baseline="uniform")
    found = report("table5", tmp_path)
    assert row_of(found, "spa", "a/photos")["mean"] == 50.0
    assert row_of(found, "spa", "b/photos")["mean"] == 60.0


def test_a_grid_that_was_saved_is_found_again(tmp_path):
    grid = expand(
        "table7", seeds=[3, 4], datasets=["cub200", "some/photos"], columns=["spa->gca", "gca->spa"]
    )
    store = lab.RunStore(tmp_path)
    grid.save(store)
    for i, recipe in enumerate(grid.recipes()):
        write_run(tmp_path, recipe, 70.0 + i)
    found = report("table7", store)
    # Seed by seed, then CUB-200-2011 and the photographs, each in both orders.
    assert row_of(found, "spa->gca")["mean"] == pytest.approx((70 + 74) / 2)
    assert row_of(found, "gca->spa", "photos")["mean"] == pytest.approx((73 + 77) / 2)
    assert row_of(found, "gca->spa")["diff"] == pytest.approx(1.0)
    assert row_of(found, "gca->spa")["published_diff"] == pytest.approx(79.93 - 80.62)
    assert found.frame["planned"].sum() == 4


def test_plans_that_cannot_be_used_say_what_to_do(tmp_path):
    file = tmp_path / "grids" / "table4.json"
    file.parent.mkdir()
    short = {
        "baseline": "l2",
        "seeds": [0, 1],
        "cells": [{"title": "a", "model": "m", "column": "l2", "recipes": ["x"]}],
    }
    for text, said in (
        ("{", "is no plan of a grid"),
        ('{"seeds": []}', "is no plan of a grid"),
        (json.dumps(short), "l2 on a has 1 runs for 2 seeds"),
        (json.dumps(short | {"cells": [{"title": "a"}]}), "a cell lacks 'model'"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ReportError, match=said) as caught:
            report("table4", tmp_path)
        assert f"spgca-lab grid table4 --store {tmp_path}" in str(caught.value)


def test_two_folders_of_one_hash_and_a_run_of_another_seed_are_errors(tmp_path):
    cells = fill(tmp_path, "table4", {"l2": {0: 70.0}}, seeds=(0,))
    recipe = cells[0][2][0]
    twin = tmp_path / f"copy-{recipe.hash()}"
    twin.mkdir()
    with pytest.raises(ReportError, match=f"several run folders end in {recipe.hash()}"):
        report("table4", tmp_path)
    twin.rmdir()
    write_plan(tmp_path, "table4", [("cub200", "l2", {5: recipe})], seeds=(5,))
    with pytest.raises(ReportError, match="the grid gives .+ the seed 5, its recipe has 0"):
        report("table4", tmp_path)


def test_folders_of_other_runs_are_never_opened(tmp_path):
    fill(tmp_path, "table4", {"l2": {0: 70.0}}, seeds=(0,))
    for i in range(300):
        folder = tmp_path / f"spgca-{i:012x}"
        folder.mkdir()
        (folder / "recipe.json").write_text("not JSON", encoding="utf-8")
    assert row_of(report("table4", tmp_path), "l2")["mean"] == 70.0


def test_the_sentences_follow_from_the_intervals(tmp_path):
    base = {0: 70.0, 1: 71.0, 2: 70.5}
    values = {
        "l2": base,
        "afa": {0: 72.0, 1: 72.9, 2: 72.6},
        "delta": {0: 68.0, 1: 69.1, 2: 68.4},
        "l2_sp": {0: 71.0, 1: 70.0, 2: 70.6},
        "l2_fe": {seed: top1 + 1 for seed, top1 in base.items()},
        "spgca": {0: 72.0},
        "uniform": {},
    }
    fill(tmp_path, "table4", values, seeds=(0, 1, 2))
    text = report("table4", tmp_path).markdown()
    (line,) = [line for line in text.splitlines() if line.startswith("- CUB-200-2011, against L2")]
    parts = dict(
        part.split(": ", 1) for part in line.removeprefix("- CUB-200-2011, against L2: ").split("; ")
    )
    assert parts["above"].startswith("AFA (+2.00")
    assert parts["below"].startswith("DELTA (-2.00")
    assert parts["not told apart"].startswith("L2-SP (+0.03")
    assert parts["the same difference with every seed, so that its interval says nothing"].startswith(
        "L2-FE (+1.00"
    )
    assert parts["one shared seed, so no interval"].startswith("SPA→GCA")
    assert "uniform" not in line
    assert "3 comparisons at 95 %: were no column different" in text
    assert "about 0.15 of them would still exclude 0 by chance" in text
    kept = [
        name
        for name in ("afa", "delta")
        if stats.ttest_rel(list(values[name].values()), list(base.values())).pvalue < 0.05 / 3
    ]
    assert f"Of the 2 that do, {len(kept)} do so with Bonferroni's correction" in text


def test_claims_of_the_text_stand_beside_ours(tmp_path):
    values = {
        c: near(m) for c, m in {"ast": 84.4, "act": 84.0, "spa": 84.2, "gca": 84.7, "uniform": 84.0}.items()
    }
    fill(tmp_path, "table5", values, dataset="mit_indoor67", baseline="uniform")
    found = report("table5", tmp_path)
    gap = found.difference("MIT Indoor 67", "spa", "ast")
    text = found.markdown()
    (line,) = [line for line in text.splitlines() if "SPA − AST" in line]
    assert [cell.strip() for cell in line.strip("| ").split("|")] == [
        "MIT Indoor 67",
        "SPA − AST",
        "-0.18",
        "-0.18 ± 0.17",
        f"{gap:+.2f}",
    ]
    assert gap.mean == pytest.approx(np.mean([values["spa"][s] - values["ast"][s] for s in SEEDS]))
    assert "the SPA resulted in 0.18% less accuracy" in text
    assert "SPA and GCA show similar or improved accuracy across the board" in text


def test_how_alpha_was_chosen_is_told(tmp_path):
    told = "best of 0.01: 79.0 %, 0.1: 80.0 % on 20% of the training pictures, held out; seed 0"
    fill(tmp_path, "table4", {"spgca": near(80.0)}, alpha=0.1, alpha_from=told)
    found = report("table4", tmp_path)
    assert f"- SPA→GCA on CUB-200-2011: {told}" in found.markdown()
    assert row_of(found, "spgca")["alpha_from"] == told
    assert row_of(found, "spgca")["alpha"] == "0.1"
    fill(tmp_path / "other", "table4", {"afa": near(80.0)}, alpha=(0.1, 0.05))
    by_hand = report("table4", tmp_path / "other")
    assert row_of(by_hand, "afa")["alpha"] == "0.1 0.05"
    assert "set by hand, not chosen on held-out pictures" in by_hand.markdown()


def test_every_markdown_table_lines_up(four):
    for table in ("table4", "table5", "fig2"):
        blocks = re.findall(r"(?:^\|.*\|\n)+", report(table, four[0]).markdown(), flags=re.MULTILINE)
        assert blocks
        for block in blocks:
            lines = block.splitlines()
            assert len({len(line) for line in lines}) == 1
            assert len({line.count(" | ") for line in lines}) == 1


def test_what_others_publish_and_the_papers_contradictions_are_there(four):
    text = report("table4", four[0]).markdown()
    assert "88.7 ± 0.1 (ResNet-101, best on the test set)" in text
    assert "82.3 (ResNet-50, best on the test set)" in text
    assert "AFA's authors report 88.7 for DELTA and 90.1 for AFA" in text
    seven = report("table7", four[0]).markdown()
    assert "It is the one data set of five on which GCA first is ahead" in seven
    assert "88.7" not in seven


# Figure 2


@pytest.fixture(scope="module")
def figure2(tmp_path_factory):
    """AST and SPA with three seeds, ACT and GCA with two; steps to the targets are known by hand."""
    store = tmp_path_factory.mktemp("figure2")
    curves = {
        "ast": {s: [(10, 40.0), (20, 70.0 + s), (30, 79.0 + s), (40, 80.0 + s)] for s in (0, 1, 2)},
        "spa": {
            0: [(10, 77.0), (20, 80.5), (30, 81.0), (40, 81.0)],
            1: [(10, 60.0), (20, 78.0), (30, 81.5), (40, 81.0)],
            2: [(10, 77.0), (20, 78.0), (30, 80.0), (40, 80.0)],
        },
        "act": {s: [(10, 50.0), (40, 80.0)] for s in (0, 1)},
        "gca": {s: [(10, 50.0), (20, 81.0), (40, 82.0)] for s in (0, 1)},
    }
    cells = []
    for column, by_seed in curves.items():
        recipes = {seed: recipe_of("caltech256_60", column, seed) for seed in (0, 1, 2)}
        cells.append(("caltech256_60", column, recipes))
        for seed, curve in by_seed.items():
            write_run(store, recipes[seed], curve[-1][1], curve=curve)
    write_plan(store, "fig2", cells, (0, 1, 2), baseline="ast")
    return store


def test_steps_to_the_targets_are_those_counted_by_hand(figure2):
    rows = report("fig2", figure2).convergence
    spa = rows[rows["column"] == "spa"].set_index("target")
    own = spa.loc["95 % of its own final accuracy"]
    # AST: 0.95 × 80 = 76, 76.95, 77.9: all at 30. SPA: 76.95 at 10, 76.95 at 20, 76 at 10.
    assert (own["reference_steps"], own["steps"]) == (30.0, pytest.approx(40 / 3))
    assert own["diff"] == pytest.approx(np.mean([-20, -10, -20]))
    interval = stats.ttest_1samp([-20, -10, -20], 0).confidence_interval(0.95)
    assert own["diff_half"] == pytest.approx((interval.high - interval.low) / 2)
    # The same seed's AST ends at 80, 81, 82: SPA is there at 20, at 30, and never.
    same = spa.loc["final accuracy of AST"]
    assert (same["reference_steps"], same["reference_reached"], same["reference_n"]) == (40.0, 3, 3)
    assert (same["steps"], same["reached"], same["n"], same["diff_n"]) == (25.0, 2, 3, 2)
    assert same["diff"] == pytest.approx(np.mean([20 - 40, 30 - 40]))
    gca = rows[rows["column"] == "gca"].set_index("target")
    assert gca.loc["final accuracy of ACT", ["diff", "diff_half", "diff_n"]].tolist() == [-20.0, 0.0, 2]


def test_the_convergence_table_is_told_with_its_caveats(figure2):
    found = report("fig2", figure2)
    text = found.markdown()
    assert "25 (2 of 3)" in text
    assert "-20 with each" in text
    assert "the values of its curves are not printed" in text
    assert "both proposed submodules converged faster" in text
    assert "steps of SPA against AST" in text
    assert "3 of 3" not in text
    assert row_of(found, "spa", "Caltech 256-60")["reference"] == "ast"
    assert row_of(found, "gca", "Caltech 256-60")["published_diff"] == pytest.approx(0.85)
    assert found.baseline is None


def test_a_target_that_nobody_reaches_is_not_reached():
    curves = pd.DataFrame(
        [("d", c, 0, s, t) for c, s, t in (("ast", 10, 80.0), ("spa", 10, 40.0), ("spa", 20, 60.0))],
        columns=["dataset", "column", "seed", "step", "top1"],
    )
    rows = convergence(curves, {("d", "ast"): {0: 80.0}, ("d", "spa"): {0: 60.0}})
    last = rows.set_index("target").loc["final accuracy of AST"]
    assert (last["reached"], last["n"], last["diff_n"]) == (0, 1, 0)
    assert math.isnan(last["steps"])
    assert math.isnan(steps_to(curves[curves["column"] == "spa"], 60.1))
    assert steps_to(curves[curves["column"] == "spa"], 60.0) == 20.0


def test_mean_curves_are_scipys_step_by_step(figure2):
    found = report("fig2", figure2)
    means = mean_curves(found.curves, 0.9)
    at = means[(means["column"] == "spa") & (means["step"] == 20)].iloc[0]
    x = [80.5, 78.0, 78.0]
    low, high = stats.t.interval(0.9, 2, np.mean(x), stats.sem(x))
    assert (at["n"], at["mean"] - at["half"], at["mean"] + at["half"]) == (
        3,
        pytest.approx(low),
        pytest.approx(high),
    )
    assert len(found.curves) == 12 + 12 + 4 + 6


def test_a_run_without_its_evaluations_is_noted(tmp_path):
    fill(tmp_path, "fig2", {"ast": {0: 80.0}}, dataset="caltech256_60", seeds=(0,), baseline="ast")
    found = report("fig2", tmp_path)
    assert found.curves.empty
    note = row_of(found, "ast", "Caltech 256-60")["note"]
    assert "without its curve" in note
    assert "evaluations.csv" in note
    assert found.mean_curves().empty


# Files and the command


def run(*words):
    """The command by itself, as the command line's parser calls it."""
    parser = argparse.ArgumentParser()
    command.add_commands(parser.add_subparsers(required=True))
    options = parser.parse_args(["report", *map(str, words)])
    return options.run(options)


def test_the_command_prints_and_writes_markdown_csv_and_figure(four, tmp_path, capsys):
    run("table4", "--store", four[0], "--out", tmp_path / "new" / "out")
    out, err = capsys.readouterr()
    folder = tmp_path / "new" / "out"
    assert sorted(file.name for file in folder.iterdir()) == ["table4.csv", "table4.md", "table4.png"]
    found = report("table4", four[0])
    assert (
        out.strip() == found.markdown().strip() == (folder / "table4.md").read_text(encoding="utf-8").strip()
    )
    again = pd.read_csv(folder / "table4.csv")
    assert list(again.columns) == list(found.frame.columns)
    assert np.allclose(again["diff"], found.frame["diff"], atol=1e-6, equal_nan=True)
    with Image.open(folder / "table4.png") as picture:
        assert picture.width > 1200
    assert err.count("wrote ") == 3


def test_several_tables_go_beside_the_runs_by_default(figure2, capsys):
    run("fig2", "table7", "fig2", "--store", figure2)
    names = sorted(file.name for file in (figure2 / "reports").iterdir())
    figure_files = ["fig2.csv", "fig2.md", "fig2.png", "fig2_convergence.csv", "fig2_curves.csv"]
    assert names == sorted([*figure_files, "table7.csv", "table7.md", "table7.png"])
    assert capsys.readouterr().out.count("# Figure 2") == 1
    again = pd.read_csv(figure2 / "reports" / "fig2_convergence.csv")
    assert len(again) == 6
    assert len(lab.RunStore(figure2)) == 10


def test_an_error_comes_before_any_file(four, tmp_path):
    with pytest.raises(ReportError, match="there is no report 'table9'"):
        run("table4", "table9", "--store", four[0], "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Figures


def dots(axes, filled):
    """Places of the dots: ours are filled, the published open."""
    found = []
    for line in axes.lines:
        if isinstance(line, Line2D) and line.get_marker() == "o":
            open_ = line.get_markerfacecolor() == "white"
            if open_ != filled:
                found.append((float(line.get_xdata()[0]), float(line.get_ydata()[0])))
    return found


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_dots_stand_where_the_frame_says(four):
    found = report("table4", four[0])
    figure = report_dots(found.shown, found.references)
    (axes,) = figure.axes
    rows = found.shown.set_index("column")
    near_ones = rows.drop("l2_fe")
    assert sorted(x for x, _ in dots(axes, filled=True)) == pytest.approx(sorted(near_ones["mean"]))
    assert sorted(x for x, _ in dots(axes, filled=False)) == pytest.approx(
        sorted(near_ones["published_mean"].dropna())
    )
    # L2-FE lies 16 points below: at the edge, in figures.
    assert f"{rows.loc['l2_fe', 'mean']:.1f}" in words(axes)
    assert "62.1" in words(axes)
    lines = [line for line in axes.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2]
    assert any(line.get_xdata()[0] == pytest.approx(rows.loc["l2", "mean"]) for line in lines)
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "L2",
        "L2-FE",
        "L2-SP",
        "DELTA",
        "AFA",
        "SPA→GCA",
        "uniform",
    ]
    low, high = axes.get_ylim()
    assert low > high


def test_not_run_is_written_where_it_was_not(tmp_path):
    fill(tmp_path, "table5", {"ast": near(80.3), "spa": {}, "uniform": near(80.0)}, baseline="uniform")
    found = report("table5", tmp_path)
    (axes,) = report_dots(found.shown, found.references).axes
    assert words(axes).count("not run") == 3
    assert len(dots(axes, filled=True)) == 2
    nothing = report("table4", tmp_path)
    figure = report_dots(nothing.shown, nothing.references)
    assert [words(axes).count("not run") for axes in figure.axes] == [7] * 5
    assert all(len(dots(axes, filled=False)) >= 5 for axes in figure.axes)


def test_wide_intervals_and_far_published_values_do_not_flatten_ours(tmp_path):
    values = {"l2": {0: 5.0, 1: 15.0}, "spgca": {0: 16.0, 1: 9.0}}
    fill(tmp_path, "table4", values, seeds=(0, 1), iterations=2)
    found = report("table4", tmp_path)
    (axes,) = report_dots(found.shown, found.references).axes
    low, high = axes.get_xlim()
    assert high - low < 12
    assert "80.6" in words(axes)
    assert axes.get_title().endswith("†")


def test_figures_of_every_table_and_state_can_be_drawn(figure2, tmp_path):
    fill(tmp_path, "table5", {"spa": near(60.0)}, dataset="costs $5", baseline="uniform", backbone="lite0")
    for store in (figure2, tmp_path):
        for table in ("table4", "table5", "table6", "table7", "fig2"):
            figure = command.figure_of(report(table, store))
            with Image.open(io.BytesIO(to_png(figure, dpi=40))) as picture:
                assert picture.width == pytest.approx(360, abs=2)


def test_nothing_in_a_figure_lies_outside_it_or_over_the_title(four, tmp_path):
    cells = [
        cell
        for i in range(5)
        for cell in fill(
            tmp_path, "table5", {"ast": near(50, 5), "spa": near(50, 5)}, f"set {i}", (0, 1, 2, 3, 4)
        )
    ]
    write_plan(tmp_path, "table5", cells, baseline="uniform")
    for found in (report("table4", four[0]), report("table4", tmp_path), report("table5", tmp_path)):
        figure = command.figure_of(found)
        to_png(figure)
        renderer = figure.canvas.get_renderer()
        title = figure.texts[0].get_window_extent(renderer)
        (legend,) = figure.legends
        box = legend.get_window_extent(renderer)
        assert not title.overlaps(box)
        assert box.x1 <= figure.bbox.x1 + 1
        for axes in figure.axes:
            inside = axes.get_tightbbox(renderer)
            assert not inside.overlaps(box)
            assert inside.x0 >= -1
            assert inside.x1 <= figure.bbox.x1 + 1


def test_curves_are_the_means_and_say_what_was_not_run(figure2):
    found = report("fig2", figure2)
    figure = convergence_curves(found.mean_curves(), [("ast", "spa"), ("act", "afa"), ("l2", "l2_sp")])
    first, second, third = figure.axes
    spa = found.curves[found.curves["column"] == "spa"].groupby("step")["top1"].mean()
    drawn = next(line for line in first.lines if line.get_label().startswith("SPA"))
    assert drawn.get_xdata().tolist() == spa.index.tolist()
    assert drawn.get_ydata().tolist() == pytest.approx(spa.tolist())
    assert drawn.get_label() == f"SPA: {spa.iloc[-1]:.1f} % (3 seeds)"
    assert any(line.get_label() == "AFA: not run" for line in second.lines)
    assert words(third) == ["not run"]


def test_wrong_frames_are_refused_with_what_they_lack():
    with pytest.raises(PlotError, match="the frame lacks 'column', 'n'"):
        report_dots(pd.DataFrame({"dataset": ["d"]}))
    columns = ["dataset", "column", "n", "mean", "half", "published_mean", "published_sd"]
    with pytest.raises(PlotError, match="no row"):
        report_dots(pd.DataFrame(columns=columns))
    with pytest.raises(PlotError, match="the curves lack 'half'"):
        convergence_curves(pd.DataFrame(columns=["dataset", "column", "step", "n", "mean"]), [("ast", "spa")])
    empty = pd.DataFrame(columns=["dataset", "column", "step", "n", "mean", "half"])
    with pytest.raises(PlotError, match="name no data set, or there is no pair"):
        convergence_curves(empty, [("ast", "spa")])

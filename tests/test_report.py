"""Reports: numbers against scipy, and what is missing or not comparable is said."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import spgca_lab as lab
from spgca_lab.analysis.statistics import StatisticsError
from spgca_lab.experiments import paper
from spgca_lab.experiments.grid import GridError
from spgca_lab.experiments.report import ReportError, published_difference, report
from spgca_lab.experiments.report_cells import convergence
from spgca_lab.runs.lock import RunLock
from tests.report_runs import (
    SEEDS,
    fill,
    four_of_table4,
    near,
    recipe_of,
    row_of,
    runs_of_figure2,
    write_plan,
    write_run,
)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Table 4 on CUB-200-2011: the store, and the accuracies."""
    store = tmp_path_factory.mktemp("four")
    return store, four_of_table4(store)


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
        (2, "checkpoint.safetensors", ""),
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
    with RunLock.take(busy, "terminal"):
        found = report("table4", tmp_path)
    note = row_of(found, "spgca")["note"]
    assert note.startswith("1 of 5 seeds; ")
    assert "; seed 1 failed: TrainingError: loss is nan at step 7; seed 2 interrupted; " in note
    assert "; seed 3 unreadable: " in note
    assert note.endswith("; seed 4 not run")
    assert row_of(found, "afa")["note"] == "not run"
    assert row_of(found, "delta")["note"].startswith("0 of 5 seeds; seed 0 running; seed 1 not run; ")
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
    with pytest.raises(ReportError, match="2 runs were measured on held-out training images") as caught:
        report("table4", tmp_path)
    assert f"afa-{held[1].hash()}, afa-{held[3].hash()}" in str(caught.value)


def test_a_full_repeat_bears_no_mark(four):
    found = report("table4", four[0])
    assert found.frame["comparable"].all()
    assert "†" not in found.markdown()


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
    (told,) = [line for line in text.splitlines() if "recipe differs from the paper's" in line]
    assert told.startswith("- L2, SPA→GCA: ")
    for difference in (
        "resnet50 in place of ResNet-101",
        "random weights in place of pretrained weights",
        "iterations 2 in place of 9,000",
        "batch size 4 in place of 64",
        "64 px in place of 224",
    ):
        assert told.count(difference) == 1


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


def test_plans_that_cannot_be_used_say_what_to_do(tmp_path):
    file = tmp_path / "grids" / "table4.json"
    file.parent.mkdir()
    for text in (
        "{",
        '{"seeds": []}',
        "[]",
        '{"table": "table4", "baseline": "l2", "seeds": [0], "cells": [{}]}',
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(GridError, match="is no plan of a grid") as caught:
            report("table4", tmp_path)
        assert f"spgca-lab grid table4 --store {tmp_path}" in str(caught.value)


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
    assert parts["undecided"].startswith("L2-SP (+0.03")
    assert parts["the same difference with every seed, so that its interval says nothing"].startswith(
        "L2-FE (+1.00"
    )
    assert parts["one shared seed, so no interval"].startswith("SPA→GCA")
    assert "uniform" not in line
    assert "Comparisons at 95 %: 3. " in text
    assert "about 0.15 of them would exclude 0 by chance" in text


def test_how_alpha_was_chosen_is_told(tmp_path):
    told = "best of 0.01: 79.0 %, 0.1: 80.0 % on 20% of the training pictures, held out; seed 0"
    fill(tmp_path, "table4", {"spgca": near(80.0)}, alpha=0.1, alpha_from=told)
    found = report("table4", tmp_path)
    assert f"- SPA→GCA: α {told}" in found.markdown()
    assert row_of(found, "spgca")["alpha_from"] == told
    assert row_of(found, "spgca")["alpha"] == "0.1"
    fill(tmp_path / "other", "table4", {"afa": near(80.0)}, alpha=(0.1, 0.05))
    by_hand = report("table4", tmp_path / "other")
    assert row_of(by_hand, "afa")["alpha"] == "0.1, 0.05"
    assert "set by hand, not chosen on held-out images" in by_hand.markdown()


def test_every_markdown_table_lines_up(four):
    for table in ("table4", "table5", "fig2"):
        blocks = re.findall(r"(?:^\|.*\|\n)+", report(table, four[0]).markdown(), flags=re.MULTILINE)
        assert blocks
        for block in blocks:
            lines = block.splitlines()
            assert len({len(line) for line in lines}) == 1
            assert len({line.count(" | ") for line in lines}) == 1


# Figure 2


@pytest.fixture(scope="module")
def figure2(tmp_path_factory):
    """The store of Figure 2."""
    store = tmp_path_factory.mktemp("figure2")
    runs_of_figure2(store)
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


def test_the_steps_stand_in_the_report(figure2):
    found = report("fig2", figure2)
    text = found.markdown()
    (line,) = [line for line in text.splitlines() if "| ast       | spa    | final accuracy of AST" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[4:] == ["40", "3", "3", "25", "2", "3", "-15", "64", "2"]
    assert row_of(found, "spa", "Caltech 256-60")["reference"] == "ast"
    assert row_of(found, "gca", "Caltech 256-60")["published_diff"] == pytest.approx(0.85)
    assert "− its partner" in text


def test_a_target_that_nobody_reaches_is_not_reached():
    curves = pd.DataFrame(
        [("d", c, 0, s, t) for c, s, t in (("ast", 10, 80.0), ("spa", 10, 40.0), ("spa", 20, 60.0))],
        columns=["dataset", "column", "seed", "step", "top1"],
    )
    rows = convergence(curves, {("d", "ast"): {0: 80.0}, ("d", "spa"): {0: 60.0}})
    last = rows.set_index("target").loc["final accuracy of AST"]
    assert (last["reached"], last["n"], last["diff_n"]) == (0, 1, 0)
    assert math.isnan(last["steps"])
    assert rows["steps"].iloc[0] == 20.0


def test_mean_curves_are_scipys_step_by_step(figure2):
    found = report("fig2", figure2, level=0.9)
    means = found.mean_curves()
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

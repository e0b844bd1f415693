"""The README's figures are what the committed script makes of the committed runs, never typed in."""

import importlib.util

import numpy as np
import pandas as pd
import pytest

import spgca_lab as lab


@pytest.fixture(scope="module")
def results(request):
    path = request.config.rootpath / "benchmarks" / "results.py"
    spec = importlib.util.spec_from_file_location("results", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table(results):
    return pd.read_csv(results.CSV)


@pytest.mark.parametrize("page", ["README.md", "benchmarks/README.md"])
def test_the_tables_are_the_scripts(page, results, table, repo):
    begin, end = results.MARKS
    text = (repo / page).read_text(encoding="utf-8")
    shown = text.split(begin)[1].split(end)[0].strip()
    assert shown == results.report(table).strip()


def test_the_tables_with_alpha_held_out_are_the_reports(results, repo):
    begin, end = results.HELD_OUT_MARKS
    text = (repo / "benchmarks" / "README.md").read_text(encoding="utf-8")
    shown = text.split(begin)[1].split(end)[0].strip()
    assert shown == results.held_out().strip()
    assert shown.count("| `") == 13


def test_every_method_has_at_least_three_seeds_everywhere(results, table):
    counts = table.groupby(["experiment", "method"])["seed"].nunique()
    assert set(counts.index) == {(e, m) for e in results.EXPERIMENTS for m in results.METHODS}
    assert counts.min() >= 3


def test_each_row_is_the_recipe_that_the_script_trains(results, table):
    for _, row in table.iterrows():
        if row["experiment"].startswith("mini"):
            fields = results.EXPERIMENTS[row["experiment"]] | {
                "method": row["method"],
                "seed": int(row["seed"]),
            }
            assert lab.Recipe(**fields).hash() == row["recipe"]


def test_intervals_are_paired_t_intervals(results):
    rows = [("a", s, v) for s, v in enumerate((1.0, 2.0, 4.0))] + [
        ("b", s, v) for s, v in enumerate((0.0, 1.5, 2.0))
    ]
    found = results.paired(pd.DataFrame(rows, columns=["method", "seed", "top1"]), "a", "b")
    gaps = np.array([1.0, 0.5, 2.0])
    assert found.mean == pytest.approx(gaps.mean())
    # 4.3027 is the 97.5 % quantile of Student's t with two degrees of freedom.
    assert found.half == pytest.approx(4.3027 * gaps.std(ddof=1) / 3**0.5, rel=1e-4)

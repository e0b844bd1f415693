"""Every command of the paper's experiments, end to end: rehearsal archives over loopback, ResNet-50 at 64 px."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import spgca_lab as lab
from spgca_lab.cli import main
from spgca_lab.data import PUBLISHED
from spgca_lab.data.rehearsal import rehearse
from tests.file_server import file_server

REPO = Path(__file__).resolve().parents[1]
FIVE = ("stanford_dogs", "cub200", "caltech256_30", "caltech256_60", "mit_indoor67")
SMALL = ["--backbone", "resnet50", "--weights", "random", "--image-size", "64", "--batch-size", "4"]
SMALL += ["--iterations", "2", "--evaluations", "1", "--snapshots", "0"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data home with all six sets, fetched from a server on this machine by the real command."""
    folder = tmp_path_factory.mktemp("world")
    before = {name: os.environ.get(name) for name in ("SPGCA_LAB_DATA", "no_proxy", "NO_PROXY")}
    os.environ.update({"SPGCA_LAB_DATA": str(folder / "data"), "no_proxy": "*", "NO_PROXY": "*"})
    try:
        with file_server() as server:
            for name in PUBLISHED:
                for archive in rehearse(name, folder / "archives" / name, train=4):
                    server.files[archive.name] = archive.read_bytes()
            names = [name for name in PUBLISHED if name != "caltech256_60"]  # one archive for both
            fetched = ["data", "fetch", *names, "--mirror", server.url, "--unverified", "--allow-http"]
            assert main(fetched) == 0
        yield folder
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def said(capsys, *arguments, status=0):
    capsys.readouterr()
    assert main([str(word) for word in arguments]) == status, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_set_is_checked_and_trains(world, name, capsys):
    text = said(capsys, "data", "check", name, status=1)
    assert "not the published" in text or "not verified" in text
    assert f"{PUBLISHED[name].train:,}" in text or str(PUBLISHED[name].train) in text
    said(capsys, "fit", "--paper", "--dataset", name, "--method", "spgca", *SMALL, "--alpha", 1e-6,
         "--store", world / "fits", "--threads", 2)  # fmt: skip
    (run,) = lab.RunStore(world / "fits").find(dataset=name)
    train, test = lab.load_dataset(name, image_size=64)
    assert (run.result["train_pictures"], run.result["test_pictures"]) == (len(train), len(test))
    assert run.recipe.backbone == "resnet50"
    assert (run.recipe.lr, run.recipe.momentum, run.recipe.beta, run.recipe.r) == (0.01, 0.9, 0.01, 4)


def test_the_list_tells_what_is_installed(world, capsys):
    text = said(capsys, "data", "list")
    rows: dict[str, str] = {}
    for line in filter(str.strip, text.splitlines()):
        rows.setdefault(line.split()[0], line)
    assert all("not verified" in rows[name] for name in PUBLISHED)
    assert "non-commercial research" in text


def test_alpha_is_tuned_on_held_out_pictures_and_the_recipe_says_so(world, capsys):
    file = world / "tuned.json"
    said(capsys, "tune", "--paper", "--dataset", "cub200", "--method", "gca", *SMALL, "--alphas", "1e-6,1e-5",
         "--validation", 0.25, "--store", world / "tune", "--output", file, "--threads", 2)  # fmt: skip
    recipe = lab.Recipe.from_json(file.read_text())
    assert recipe.alpha in (1e-6, 1e-5)
    assert recipe.validation == 0
    assert "25" in recipe.alpha_from
    assert {run.recipe.validation for run in lab.RunStore(world / "tune")} == {0.25}
    assert (world / "tune" / "tune.db").exists()


def test_a_table_is_trained_once_and_reported(world, capsys):
    store = world / "paper"
    grid = ["grid", "table5", "--seeds", 2, "--datasets", "cub200", "--columns", "spa,uniform", *SMALL]
    grid += ["--alpha-grid", "1e-6,1e-5", "--held-out", 0.25]
    grid += ["--store", store, "--workers", 2, "--threads", 1]
    first = said(capsys, *grid)
    assert first.count("% of the held-out images") == 4
    assert first.count("% of the test images") == 4
    again = said(capsys, *grid)
    assert "of the test images" not in again
    assert len(lab.RunStore(store)) == 8
    text = said(capsys, "report", "table5", "--store", store)
    assert "80.47" in text, "the published SPA on CUB stands beside ours"
    assert "not run" in text, "AST, ACT and GCA"
    assert re.search(r"16 of 5,994 training pictures", text), "nobody takes this for the paper's set"
    table = pd.read_csv(store / "reports" / "table5.csv")
    ours = table[table["dataset"] == "CUB-200-2011"].set_index("column").loc["spa", "mean"]
    runs = [run for run in lab.RunStore(store).find(method="spa") if not run.recipe.validation]
    assert ours == pytest.approx(sum(run.result["top1"] for run in runs) / 2)
    assert (store / "reports" / "table5.png").stat().st_size > 10_000
    assert (store / "reports" / "table5.md").read_text().strip() in text


@pytest.mark.parametrize(
    ("table", "datasets", "columns"),
    [
        ("table4", "mit_indoor67", "l2,l2_sp"),
        ("table6", "caltech256_30", "4,32"),
        ("table7", "caltech256_60", "spa->gca,gca->spa"),
        ("fig2", "caltech256_60", "act,gca"),
    ],
)
def test_the_other_tables_run_and_report(world, table, datasets, columns, capsys):
    store = world / "paper"
    alphas = ["--alpha", "1e-6"] if table != "table4" else []
    said(capsys, "grid", table, "--seeds", 1, "--datasets", datasets, "--columns", columns, *SMALL, *alphas,
         "--store", store, "--workers", 2, "--threads", 1)  # fmt: skip
    text = said(capsys, "report", table, "--store", store)
    assert PUBLISHED[datasets].title in text
    assert (store / "reports" / f"{table}.png").exists()
    plan = json.loads((store / "grids" / f"{table}.json").read_text())
    assert len(plan["cells"]) == 2


def test_a_dry_run_trains_nothing(world, tmp_path, capsys):
    text = said(
        capsys, "grid", "table4", "--dry-run", "--store", tmp_path / "none", "--alpha-grid", "0.01,0.1"
    )
    # 7 columns of 5 sets with 5 seeds; two values for four penalties of maps, three for L2 and L2-SP, none for L2-FE.
    assert "175 runs, 0 of them finished" in text
    assert "70 runs, 0 of them finished" in text
    assert not (tmp_path / "none").exists()


def test_a_set_that_is_not_there_stops_the_grid_before_it_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SPGCA_LAB_DATA", str(tmp_path))
    assert main(["grid", "table6", "--store", str(tmp_path / "runs")]) == 2
    assert "spgca-lab data fetch caltech256_30" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_benchmark_of_the_papers_scale_runs_small(tmp_path):
    kept = tmp_path / "figures.json"
    command = [sys.executable, "benchmarks/paper_scale.py", "--images", "40", "--backbone", "resnet50"]
    command += ["--image-size", "64", "--batch-size", "4", "--iterations", "4", "--methods", "l2", "spgca"]
    run = subprocess.run(
        [*command, "--device", "cpu", "--json", str(kept)], cwd=REPO, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    figures = json.loads(kept.read_text())
    assert [row["method"] for row in figures["rows"]] == ["l2", "spgca"]
    assert set(figures["rows"][1]["step"]) == {"spa", "gca"}
    assert all(row["images_s"] > 0 and row["test_images_s"] > 0 for row in figures["rows"])
    assert "random weights" in run.stdout
    assert "Table 4 whole" not in run.stdout, "two methods are not the table"

"""Grids: the paper's tables as recipes, α chosen on held-out pictures, and the plan that the report reads."""

import json
import sys

import pytest

import spgca_lab as lab
from spgca_lab.cli import main
from spgca_lab.experiments import paper
from spgca_lab.experiments.alpha_choice import TuneError
from spgca_lab.experiments.cluster import Outcome
from spgca_lab.experiments.grid import GRIDS, Grid, GridError, choose_alphas, expand, search
from tests import tiny_runs

SMALL = {k: v for k, v in tiny_runs.SMALL.items() if k not in ("seed", "per_class")} | {"per_class": 2}


def tiny(table="table5", columns=("spa", "l2"), seeds=(0, 1)):
    return expand(table, datasets=["stickers"], columns=columns, seeds=seeds, **SMALL)


def fake(store, recipe, top1, cross_entropy=1.0):
    """A finished run that was never trained."""
    folder = store.folder(recipe)
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(recipe.to_json())
    (folder / "result.json").write_text(json.dumps({"top1": top1, "cross_entropy": cross_entropy}))


@pytest.mark.parametrize("number", [4, 5, 6, 7])
def test_a_grid_has_every_printed_cell_of_its_table_and_the_papers_networks(number):
    printed = paper.table(number)
    column = printed.columns[2]
    grid = expand(f"table{number}", seeds=range(5))
    controls = GRIDS[f"table{number}"].controls
    cells = {(c.model, c.title, c.column) for c in grid.cells if c.column not in controls}
    assert cells == {(row.model, row.dataset, str(row[column])) for _, row in printed.iterrows()}
    assert len(grid.recipes()) == len(set(grid.recipes())) == 5 * len(grid.cells)
    for cell in grid.cells:
        assert cell.recipe.iterations == 9000
        assert [recipe.seed for recipe in cell.recipes(grid.seeds)] == [0, 1, 2, 3, 4]
        assert (cell.recipe.backbone == "resnet50_places365") == (cell.title == "MIT Indoor 67")


def test_tables_share_the_runs_that_they_have_in_common():
    runs = {table: {r.hash() for r in expand(table, seeds=[0]).recipes()} for table in GRIDS}
    assert len(runs["table7"] & runs["table4"]) == 5, "SPA→GCA"
    assert len(runs["table6"] & runs["table5"]) == 1, "r = 4"
    assert len(runs["fig2"] & runs["table5"]) == 4, "the modules on Caltech 256-60"


def test_controls_stand_beside_the_papers_columns():
    assert "uniform" in {cell.column for cell in expand("table4").cells}
    assert {"uniform", "l2"} <= {cell.column for cell in expand("table5").cells}
    assert expand("table5").baseline == "uniform"
    assert expand("table5", columns=["ast", "spa"]).baseline == "ast", (
        "without its baseline, the first column"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"table": "table3"}, "no grid 'table3': choose one of table4, table5"),
        ({"table": "table5", "columns": ["afa"]}, "no column 'afa': its columns are ast, act"),
        ({"table": "table5", "seeds": []}, "at least one seed"),
    ],
)
def test_what_cannot_be_expanded_says_why(arguments, says):
    with pytest.raises(GridError, match=says):
        expand(**arguments)
    with pytest.raises(lab.RecipeError, match="no field 'iteration'"):
        expand("table5", iteration=3)


def test_the_best_on_held_out_pictures_is_chosen_and_told(tmp_path):
    store, grid = lab.RunStore(tmp_path), tiny(columns=("spa", "l2"))
    alphas, seeds = [0.3, 1.0, 3.0], (0, 5)
    tries = search(grid, alphas, validation=0.25, seeds=seeds)
    assert {r.validation for r in tries} == {0.25}
    assert not {r.hash() for r in tries} & {r.hash() for r in grid.recipes()}
    # Means over the seeds: SPA 50, 60, 60 with the lower cross-entropy at 3; L2 70, 20, 20.
    scores = {("spa", 0.3): (40, 60), ("spa", 1.0): (90, 30), ("spa", 3.0): (60, 60)}
    scores |= {("l2", 1e-5): (70, 70), ("l2", 1e-4): (20, 20), ("l2", 1e-3): (20, 20)}
    for recipe in tries:
        alpha = round(recipe.alphas[0], 6)
        top1 = scores[recipe.method, alpha][seeds.index(recipe.seed)]
        fake(store, recipe, top1, cross_entropy=0.5 if alpha == 3.0 else 1.0)
    chosen = choose_alphas(grid, store, alphas, validation=0.25, seeds=seeds)
    spa, l2 = chosen.cells
    assert (spa.recipe.alpha, l2.recipe.alpha) == (3.0, pytest.approx(1e-5))
    assert spa.recipe.alpha_from == (
        "best of 0.3: 50.0 %, 1: 60.0 %, 3: 60.0 % on 25% of the training pictures, held out; seeds 0, 5; "
        "3 is the largest tried"
    )
    assert {r.validation for r in chosen.recipes()} == {0.0}


def test_a_missing_or_failed_try_is_told(tmp_path):
    store, grid = lab.RunStore(tmp_path), tiny(columns=("spa",))
    first, second = search(grid, [1.0, 300.0])
    with pytest.raises(GridError, match=r"cannot be chosen yet: the run with α = 1, seed 0 is missing"):
        choose_alphas(grid, store, [1.0, 300.0])
    fake(store, first, 50)
    folder = store.folder(second)
    folder.mkdir()
    (folder / "recipe.json").write_text(second.to_json())
    (folder / "failure.json").write_text(json.dumps({"error": "TrainingError: the loss is nan"}))
    (cell,) = choose_alphas(grid, store, [1.0, 300.0]).cells
    assert cell.recipe.alpha == 1.0
    assert "300: failed" in cell.recipe.alpha_from
    with pytest.raises(
        GridError,
        match=r"spa on stickers: training failed with every value of α: 300: TrainingError: the loss is nan",
    ):
        choose_alphas(grid, store, [300.0])


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_alpha_is_never_chosen_on_the_test_pictures(share, tmp_path, capsys):
    with pytest.raises(TuneError, match=f"above 0 and below 1, got {share}"):
        search(tiny(), [1.0], validation=share)
    words = ["grid", "table5", "--datasets", "stickers", "--alpha-grid", "1", f"--held-out={share}"]
    assert main([*words, "--store", str(tmp_path / "runs")]) == 2
    assert "must be above 0 and below 1" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_same_alpha_chosen_in_other_words_is_no_new_run(tmp_path):
    store, grid = lab.RunStore(tmp_path), tiny(columns=("spa",))
    for recipe in search(grid, [0.3, 1.0, 3.0]):
        fake(store, recipe, 50 + recipe.alphas[0])
    few, more = (choose_alphas(grid, store, values) for values in ([1.0, 3.0], [0.3, 1.0, 3.0]))
    assert few.cells[0].recipe.alpha_from != more.cells[0].recipe.alpha_from
    assert [r.hash() for r in few.recipes()] == [r.hash() for r in more.recipes()]


def test_a_method_without_alpha_is_not_searched(tmp_path):
    grid = tiny("table4", columns=("l2_fe",))
    assert search(grid, [1.0]) == []
    assert choose_alphas(grid, lab.RunStore(tmp_path), [1.0]) == grid


def test_a_saved_grid_comes_back_and_lists_its_runs(tmp_path):
    store, grid = lab.RunStore(tmp_path), tiny()
    file = grid.save(store)
    assert Grid.load(store, "table5") == grid
    plan = json.loads(file.read_text())
    assert (plan["table"], plan["baseline"], plan["seeds"]) == ("table5", "spa", [0, 1])
    with pytest.raises(GridError, match="spgca-lab grid table6 --store"):
        Grid.load(store, "table6")
    assert len(store) == 0, "a plan is no run"


def test_ray_is_told_what_a_run_needs(tmp_path, monkeypatch):
    asked = []

    def run_on_ray(recipes, store, **options):
        asked.append((list(recipes), store.path, options))
        return [Outcome(recipe, "failed" if i else "finished") for i, recipe in enumerate(recipes)]

    monkeypatch.setattr("spgca_lab.experiments.cluster.run_on_ray", run_on_ray)
    grid = ["grid", "table6", "--datasets", "stickers", "--columns", "4,8", "--seeds", "0,3", "--alpha", "1"]
    grid += ["--store", str(tmp_path), "--ray", "auto", "--gpus", "0.5", "--cpus", "2", "--memory", "8"]
    assert main([*grid, "--retries", "1"]) == 1, "three of four failed"
    ((recipes, store, options),) = asked
    assert [(r.r, r.seed) for r in recipes] == [(4, 0), (8, 0), (4, 3), (8, 3)]
    assert store == tmp_path
    resources = {"gpus": 0.5, "cpus": 2.0, "memory": 8 * 2**30}
    assert options == {"address": "auto", "retries": 1, "threads": None} | resources
    main([*grid[:-8], "--ray", "local"])
    assert asked[-1][2]["address"] is None


def test_without_ray_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    grid = ["grid", "table6", "--datasets", "stickers", "--columns", "4", "--seeds", "1", "--ray", "local"]
    assert main([*grid, "--gpus", "0", "--store", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert 'pip install "spgca-lab[cluster]"' in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--seeds", "0"], "expected a whole number of at least 1, got '0'"),
        (["--seeds", "1,1"], "expected a number of seeds, such as 5, or the seeds, such as 0,3,7; got '1,1'"),
        (["--workers", "0"], "expected a whole number of at least 1, got '0'"),
        (["--threads", "-1"], "expected a whole number of at least 1, got '-1'"),
        (["--alpha-grid", "small"], "expected numbers joined by commas, got 'small'"),
        (["--columns", ","], "expected names joined by commas, got ','"),
    ],
)
def test_words_that_make_no_sense_are_quoted(words, says, capsys):
    with pytest.raises(SystemExit):
        main(["grid", "table5", *words])
    assert says in capsys.readouterr().err


def test_a_missing_folder_stops_a_grid_but_not_its_dry_run(capsys):
    assert main(["grid", "table4", "--devices", "all", "--datasets", "no/such", "--dry-run"]) == 0
    assert main(["grid", "table4", "--datasets", "no/such"]) == 2
    assert "'no/such' is neither a data set's name nor a folder" in capsys.readouterr().err

"""RunStore and the command line: what they find, and what they say when they do not."""

import json
import re

import numpy as np
import pytest

import spgca_lab as lab
from spgca_lab.cli import main
from spgca_lab.runs.store import RunWriter

QUICK = {
    "weights": "random",
    "per_class": 1,
    "test_per_class": 1,
    "image_size": 32,
    "iterations": 2,
    "batch_size": 8,
}
QUICK |= {"evaluations": 1, "snapshots": 2}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    for method in ("uniform", "spa"):
        list(lab.fit(lab.Recipe(method=method, **QUICK), store=path, device="cpu"))
    return lab.RunStore(path)


def test_the_table_has_a_row_a_run_and_a_column_a_field(store):
    table = store.table()
    assert sorted(table["method"]) == ["spa", "uniform"]
    assert set(lab.Recipe.__dataclass_fields__) <= set(table.columns)
    assert table["top1"].between(0, 100).all()
    assert len(store) == 2


def test_runs_are_found_by_field_hash_prefix_and_recipe(store):
    (run,) = store.find(method="spa", r=4)
    assert store[run.recipe].path == run.path
    assert store[run.recipe.hash()[:6]].path == run.path
    assert run.recipe in store
    assert lab.Recipe(method="spa", seed=9, **QUICK) not in store
    assert store.find(method="spa", r=8) == []
    with pytest.raises(lab.RunError, match="no field 'rate'"):
        store.find(rate=4)
    with pytest.raises(lab.RunError, match="0 runs in .* match 'ffffffffffff'"):
        store["f" * 12]


def test_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(lab.RunError, match=r"no recipe\.json"):
        lab.Run(tmp_path)
    (tmp_path / "recipe.json").write_text('{"alhpa": 1}')
    with pytest.raises(lab.RunError, match="no field 'alhpa'"):
        lab.Run(tmp_path)


def test_a_run_just_begun_says_what_it_lacks(tmp_path):
    recipe = lab.Recipe(**QUICK)
    RunWriter(tmp_path / "x", recipe)
    run = lab.Run(tmp_path / "x")
    assert run.status == "begun"
    assert run.result is None
    with pytest.raises(lab.RunError, match=r"no steps\.csv yet: the run is begun"):
        _ = run.steps
    with pytest.raises(lab.RunError, match=r"no weights\.safetensors"):
        run.weights()


def test_a_run_that_is_being_written_is_listed_and_found(tmp_path):
    """Whatever `fit` has got to, a reader sees a status, a row of the table and whole files."""
    recipe = lab.Recipe(method="spa", **QUICK)
    store = lab.RunStore(tmp_path)
    seen = []
    for _ in lab.fit(recipe, store=tmp_path, device="cpu"):
        (row,) = store.table().to_dict("records")
        (run,) = store.find(method="spa")
        assert run.evaluations["step"].max() == 2 or run.evaluations.empty
        seen.append((row["status"], len(run.steps)))
    # The table of steps is written anew with every accuracy and attention; the journal has each at once.
    assert seen == [("running", 0), ("running", 0), *[("running", 2)] * 3, ("finished", 2)]


def test_run_folders_hold_no_pickles(store):
    """Nothing in a finished run can execute when it is read."""
    suffixes = {f.suffix for run in store for f in run.path.rglob("*") if f.is_file()}
    assert suffixes == {".json", ".csv", ".npz", ".safetensors"}
    for run in store:
        for file in run.path.rglob("*.npz"):
            with np.load(file, allow_pickle=False) as arrays:
                assert all(arrays[name].dtype != object for name in arrays.files)


def test_help_groups_every_field_of_a_recipe(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    groups = dict(re.findall(r"^(\w+):\n((?:  .*\n|\n(?=  ))+)", text, re.MULTILINE))
    assert list(groups)[-5:] == ["data", "method", "optimisation", "measurement", "run"]
    for name in lab.Recipe.__dataclass_fields__:
        shown = re.findall(rf"^  --{name.replace('_', '-')}[ ,]", text, re.MULTILINE)
        assert len(shown) == (not name.endswith("_code")), name
    for group, option in {"data": "dataset", "method": "alpha", "optimisation": "lr", "run": "store"}.items():
        assert f"  --{option} " in groups[group]


def test_methods_have_a_sentence_each(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(lab.METHODS)]] == list(lab.METHODS)
    assert all(line.endswith(".") and len(line.split()) > 3 for line in lines[: len(lab.METHODS)])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fit", "--iteratons", "5"], "unknown argument --iteratons; did you mean --iterations"),
        (["fit", "--batch_size=5"], "unknown argument --batch_size; did you mean --batch-size?"),
        (["tune", "--alpha", "3"], "unknown argument --alpha; did you mean --alphas"),
        (["data", "fetch", "cub200", "--mirorr", "x"], "did you mean --mirror"),
        (["report", "table4", "--qqqqqq"], "unknown argument --qqqqqq\n"),
    ],
)
def test_an_unknown_option_is_answered_with_near_names(words, says, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["--lr", "0.01,0.001", "--alpha", "1,2"], {"lr": (0.01, 0.001), "alpha": (1.0, 2.0)}),
        (["--trains", "all;layer3,layer4"], {"trains": ("all", "layer3,layer4")}),
        (["--trains", "layer3,layer4"], {"trains": "layer3,layer4"}),
        (
            ["--optimiser", "sgd, adamw", "--batch-size", "auto"],
            {"optimiser": ("sgd", "adamw"), "batch_size": "auto"},
        ),
        (["--milestones", "0.5", "--per-class", "3"], {"milestones": (0.5,), "per_class": 3}),
        (["--attend-through-target"], {"attend_through_target": True}),
        (["--paper", "--dataset", "cub200"], {"iterations": 9000, "backbone": "resnet101"}),
    ],
)
def test_options_are_fields_of_the_recipe(words, fields, capsys):
    assert main(["recipe", "--method", "SpGcA", *words]) == 0
    recipe = lab.Recipe.from_json(capsys.readouterr().out)
    assert {name: getattr(recipe, name) for name in fields} == fields
    assert recipe.method == "spgca"


OWN = """
import torch
import spgca_lab as lab

def build():
    torch.manual_seed(0)
    net = torch.nn.Sequential()
    for i, (a, b) in enumerate([(3, 4), (4, 4), (4, 6), (6, 8)]):
        net.add_module(f"stage{i}", torch.nn.Sequential(torch.nn.Conv2d(a, b, 3, 2, 1), torch.nn.ReLU()))
    net.add_module("pool", torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()))
    net.add_module("fc", torch.nn.Linear(8, 5))
    return lab.Backbone("own", net, taps=["stage1", "stage2", "stage3"], image_size=32, head="fc")
"""


def test_a_backbone_of_a_file_trains_and_its_code_is_in_the_hash(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my_model.py"
    file.write_text(OWN)
    quick = {k: v for k, v in QUICK.items() if k != "weights"}
    words = [w for k, v in quick.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    words = ["fit", "--backbone", "my_model.py:build", "--method", "spa", "--device", "cpu", *words]
    assert main([*words, "--events"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" ·")[0] for line in printed if line.startswith("step")].count("step 1/2") == 1
    assert printed[-1].startswith("done · top-1 ")
    (run,) = lab.RunStore("runs")
    before = (run.path / "result.json").stat().st_mtime_ns
    assert main(words) == 0
    assert "done · top-1 " in capsys.readouterr().out
    assert (run.path / "result.json").stat().st_mtime_ns == before
    recipe = run.recipe
    file.write_text(OWN.replace("seed(0)", "seed(1)"))
    assert main(["fit", "--recipe", str(run.path / "recipe.json")]) == 2
    assert "'my_model.py:build' has changed since this recipe was made" in capsys.readouterr().err
    assert main(words) == 0
    assert len(list((tmp_path / "runs").glob("spa-*"))) == 2
    assert recipe.replace(backbone="my_model.py:build").hash() != recipe.hash()


def test_backbones_prints_table_3_without_weights(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert main(["backbones", "resnet101"]) == 0
    assert "layer3.22.conv3" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.pth"))
    assert main(["backbones"]) == 0
    assert {"lite0", "mini", "resnet101"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fit", "--method", "spgac"], "did you mean 'spgca'"),
        (["fit", "--alpha", "-1"], "got -1.0"),
        (["fit", "--dataset", "no/such/folder"], "no/such/folder"),
        (["fit", "--backbone", "resnet102"], "resnet102"),
        (["fit", "--recipe", "no-such.json"], "no-such.json"),
        (["runs", "no/such/store"], "no/such/store"),
        (["backbones", "resnte50"], "resnte50"),
    ],
)
def test_an_error_is_one_line_that_quotes_it(arguments, says, capsys, tmp_path):
    extra = ["--store", str(tmp_path)] if arguments[0] == "fit" else []
    assert main([*arguments, *extra]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("spgca-lab: ")
    assert "Traceback" not in error


def test_a_saved_recipe_trains_with_changes(store, capsys, tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text(store.find(method="spa")[0].recipe.to_json())
    arguments = [
        *["fit", "--method", "l2", "--seed", "3", "--recipe"],
        str(file),
        "--store",
        str(tmp_path / "s"),
    ]
    assert main([*arguments, "--device", "cpu"]) == 0
    (run,) = lab.RunStore(tmp_path / "s")
    assert (run.recipe.method, run.recipe.seed, run.recipe.alpha) == ("l2", 3, 1e-4)
    assert run.recipe.image_size == 32
    assert json.loads((run.path / "result.json").read_text())["iterations"] == 2

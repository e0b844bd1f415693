"""What importing the lab brings in, counted in modules and never in seconds, and that nobody sees it is put off."""

import ast
import importlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import spgca_lab as lab

REPO = Path(__file__).resolve().parents[1]
HEAVY = {
    "IPython",
    "PIL",
    "accelerate",
    "captum",
    "httpx",
    "huggingface_hub",
    "ipywidgets",
    "matplotlib",
    "optuna",
    "pandas",
    "ray",
    "safetensors",
    "scipy",
    "seaborn",
    "skimage",
    "sqlalchemy",
    "timm",
    "torch._dynamo",
    "torchvision",
}
# What reads and writes runs.
RUNS = {"pandas", "safetensors"}


def in_a_new_process(code: str) -> list:
    """What a program prints, one JSON value a line; it sees this checkout."""
    program = f"import json, sys\nsys.path.insert(0, {str(REPO)!r})\n{code}"
    command = [sys.executable, "-I", "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


def brought_in(*steps: str) -> list[set[str]]:
    """Modules that are there after each step, and were not before the first."""
    look = "print(json.dumps(sorted(set(sys.modules) - before)))"
    return [
        set(found)
        for found in in_a_new_process(
            "before = set(sys.modules)\n" + "\n".join(f"{step}\n{look}" for step in steps)
        )
    ]


@pytest.fixture(scope="module")
def after_torch() -> dict[str, set[str]]:
    """Modules beyond PyTorch's by what was asked for, each in turn: what an earlier one brings in counts for all."""
    steps = {
        "spgca_lab": "import spgca_lab",
        "SpatialAttention": "spgca_lab.SpatialAttention",
        "Recipe": "spgca_lab.Recipe",
        "load_dataset": "spgca_lab.load_dataset",
        "load_backbone": "spgca_lab.load_backbone",
        "fit": "spgca_lab.fit",
        "cli": "import spgca_lab.cli",
    }
    torch, *found = brought_in("import numpy, torch", *steps.values())
    return {name: modules - torch for name, modules in zip(steps, found, strict=True)}


def foreign(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] != "spgca_lab"}


def test_the_package_alone_imports_nothing_but_itself():
    (found,) = brought_in("import spgca_lab")
    assert found - foreign(found) == {"spgca_lab"}
    assert foreign(found) & (HEAVY | {"numpy", "torch"}) == set()
    assert len(foreign(found)) <= 25, sorted(found)


@pytest.mark.parametrize("name", ["spgca_lab", "SpatialAttention", "Recipe", "load_dataset", "load_backbone"])
def test_what_needs_no_network_and_no_run_adds_little_to_torch(name: str, after_torch: dict[str, set[str]]):
    found = after_torch[name]
    assert found & HEAVY == set()
    assert len(foreign(found)) <= 40, sorted(foreign(found))


@pytest.mark.parametrize("name", ["fit", "cli"])
def test_training_and_the_command_line_build_networks_only_when_asked(
    name: str, after_torch: dict[str, set[str]]
):
    assert after_torch[name] & (HEAVY - RUNS) == set()


def homes() -> dict[str, str]:
    """Where the type checkers' list of public names finds each of them."""
    tree = ast.parse((REPO / "spgca_lab" / "__init__.pyi").read_text(encoding="utf-8"))
    return {
        alias.name: ".".join(filter(None, ["spgca_lab", node.module]))
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize(("name", "home"), sorted(homes().items()))
def test_a_public_name_is_what_its_module_defines(name: str, home: str):
    importlib.import_module(home)
    expected = importlib.import_module(f"{home}.{name}") if home == "spgca_lab" else None
    assert getattr(lab, name) is (expected or getattr(sys.modules[home], name))


def test_listed_names_are_those_that_type_checkers_see():
    assert sorted(lab.__all__) == dir(lab) == sorted(homes())


def test_a_star_imports_every_listed_name():
    (names,) = in_a_new_process("from spgca_lab import *\nprint(json.dumps(sorted(globals())))")
    assert set(lab.__all__) <= set(names)


@pytest.mark.parametrize("name", ["plots", "explorers", "exercises", "analysis", "data"])
def test_modules_are_there_without_an_import_of_their_own(name: str):
    found = in_a_new_process(f"import spgca_lab as lab\nprint(json.dumps(lab.{name}.__name__))")
    assert found == [f"spgca_lab.{name}"]


def test_launch_is_the_function_whichever_is_imported_first():
    look = (
        "home = sys.modules['spgca_lab.runs.background']\n"
        "print(json.dumps([type(lab.launch).__name__, home.launch is lab.launch]))"
    )
    first = f"import spgca_lab.runs.background\nimport spgca_lab as lab\n{look}"
    again = f"import importlib\nimportlib.reload(importlib.import_module('spgca_lab.runs.worker'))\n{look}"
    named = (
        f"from spgca_lab import launch\nlab = sys.modules['spgca_lab']\nassert launch is lab.launch\n{look}"
    )
    assert in_a_new_process("\n".join([first, again, named])) == [["function", True]] * 3
    assert isinstance(importlib.import_module("spgca_lab.runs.background"), ModuleType)
    assert isinstance(lab.launch, FunctionType)


def test_a_misspelt_name_is_answered_with_near_ones():
    with pytest.raises(
        AttributeError, match=r"^module 'spgca_lab' has no attribute 'Recipie'\. Near names: Recipe"
    ):
        lab.Recipie  # noqa: B018
    with pytest.raises(AttributeError, match="Near names: .*plots"):
        lab.plotts  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute '__wrapped__'$"):
        lab.__wrapped__  # noqa: B018
    with pytest.raises(ImportError, match="Recipie"):
        exec("from spgca_lab import Recipie")


def test_names_can_be_replaced_and_put_back(monkeypatch: pytest.MonkeyPatch):
    before = lab.launch
    with monkeypatch.context() as patch:
        patch.setattr(lab, "launch", len)
        patch.setattr("spgca_lab.fit", len)
        assert lab.launch is lab.fit is len
    assert lab.launch is before
    assert lab.fit is importlib.import_module("spgca_lab.runs.fit").fit


def test_pickles_name_the_module_that_defines():
    recipe = lab.Recipe(method="l2", seed=3)
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert pickle.loads(pickle.dumps(lab.launch)) is lab.launch

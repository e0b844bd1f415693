"""Nonsense at every public door: each argument of each public function is replaced by what it does not take.

A call that is refused must be refused by the lab itself, in words that quote what was given, and before any work: no
step is taken. What a function takes after all is named in `TAKES`, with why.
"""

import importlib
import math
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import spgca_lab as lab
from spgca_lab import datasets, plots, quoting, widgets
from spgca_lab.stepping import StageSteps

MODULES = (
    "penalties", "scores", "statistics", "attribution", "plots", "truth", "factorial", "alphas", "tune", "grids",
    "report", "exercises", "paper", "trained", "datasets",
)  # fmt: skip
EXPLORERS = (
    "AttentionExplorer", "FeatureMapExplorer", "LossExplorer", "MethodComparison", "RunExplorer", "TrainingMonitor",
)  # fmt: skip
# Records that functions give and nobody makes; ImageSet, Setup and the like are looked at where they are used.
RECORDS = {
    "Done", "Evaluation", "HandOver", "Snapshot", "Step", "StepState", "Setup", "Backbone", "Penalty", "Attention",
    "MaskScores", "AnswersCompared", "MeanInterval", "PairedDifference", "Attribution", "LabFigure", "AlphaSearch",
    "Tuned", "Cell", "Grid", "GridTable", "Report", "Exercise", "Mistake", "Progress", "Verdict", "Claim", "Elsewhere",
    "Note", "TrainedRun", "PublishedSet", "Recipe",
}  # fmt: skip
NOTHING_TO_GIVE = {
    "data_dir",
    "exhibits",
    "list_backbones",
    "list_datasets",
    "sticker_classes",
    "layer_colours",
}


class Strange:
    """Of no kind that anything takes."""

    def __repr__(self) -> str:
        return "Strange()"


ANY = (
    Strange(), None, True, 3, -1, 0, 2.5, math.nan, math.inf, "nonsense", "", "a\0b", b"bytes", [], {}, (), ["x"],
    {"x": 1}, 10**30, Path("no/such/place"), np.array("x"), torch.zeros(0), torch.full((2, 2), math.nan),
    torch.zeros(2, 3, 4, 5, 6), pd.DataFrame(), pd.DataFrame({"x": [1]}), int, len,
)  # fmt: skip


def public() -> dict[str, Callable[..., Any]]:
    """Every public callable that takes something, by its name."""
    found: dict[str, Callable[..., Any]] = {}
    for module in (lab, *(importlib.import_module(f"spgca_lab.{name}") for name in MODULES)):
        for name in module.__all__:
            value = getattr(module, name)
            fails = isinstance(value, type) and issubclass(value, BaseException)
            if callable(value) and not fails and name not in RECORDS | NOTHING_TO_GIVE:
                found[f"{module.__name__.removeprefix('spgca_lab').strip('.')}.{name}".lstrip(".")] = value
    return found | {name: getattr(widgets, name) for name in EXPLORERS}


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """A call of each that works, as keywords."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("valid")
    mini = lab.load_backbone("mini", weights="random")
    train, test = lab.load_dataset("stickers", per_class=1, test_per_class=1, image_size=32)
    images = datasets.center_crop(test.images[:2], 32)
    target = mini.to_target(len(train.classes), seed=0)
    shipped = lab.RunStore(lab.data_dir() / "runs")
    run = next(
        run for run in shipped if run.recipe.method == "spgca" and (run.path / "weights.safetensors").exists()
    )
    recipe = lab.Recipe(
        backbone="mini", weights="random", image_size=32, per_class=1, test_per_class=1, iterations=2
    )
    shapes = {"a": (4, 6, 6), "b": (8, 3, 3)}
    maps = {tap: torch.randn(2, *shape) for tap, shape in shapes.items()}
    other = {tap: torch.randn(2, *shape) for tap, shape in shapes.items()}
    spatial = {tap: torch.full((2, h * w), 1 / (h * w)) for tap, (_, h, w) in shapes.items()}
    channel = {tap: torch.full((2, c), 1 / c) for tap, (c, _, _) in shapes.items()}
    joint = {tap: torch.full((2, c), 1 / 12) for tap, (c, _, _) in shapes.items()}
    random = np.random.RandomState(0).rand
    heat, mask = random(8, 8), np.eye(8, dtype=bool)
    both = {"maps_s": maps, "maps_t": other}
    steps, tests = run.steps, run.evaluations
    table = importlib.import_module("spgca_lab.truth").truth()
    cells = importlib.import_module("spgca_lab.factorial").factorial()
    grids = importlib.import_module("spgca_lab.grids")
    grid = grids.expand("table6", seeds=[0], backbone="mini", dataset="stickers")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Flatten())
    explain = {"backbone": mini, "images": images}
    results = pd.DataFrame(
        [{"method": m, "preset": "near", "seed": s, "top1": 50.0 + s, "alpha": 3.0, "r": 4, "status": "finished"}
         for m in ("uniform", "spa") for s in (0, 1)]
    )  # fmt: skip
    dots = pd.DataFrame({"heat": ["SPA", "IG"], "layer": 1, "preset": "near", "gain": 1.0, "half": 0.5})
    return {
        "ImageSet": {"images": train.images, "labels": train.labels, "classes": train.classes, "image_size": 32},
        "FeatureTaps": {"model": net, "taps": ["0"]},
        "ChannelAttention": {"shapes": shapes},
        "SpatialAttention": {"shapes": shapes},
        "SelfPixelAttention": {"shapes": shapes, "attend_through_target": False},
        "GlobalChannelAttention": {"shapes": shapes, "r": 2},
        "Run": {"path": run.path},
        "RunStore": {"path": place},
        "RunHandle": {"run": run},
        "Queue": {"handles": [], "workers": 1},
        "center_crop": {"images": train.images[:2], "size": 32},
        "random_crop_flip": {"images": train.images[:2], "size": 32, "generator": torch.Generator()},
        "fit": {"recipe": recipe, "store": place / "fit", "device": "cpu", "resume": True},
        "launch": {"recipe": recipe, "store": place / "fit", "device": "cpu", "detach": False, "threads": 1},
        "launch_all": {
            "recipes": [], "store": place / "fit", "workers": 1, "device": "cpu", "threads": 1, "retries": 0,
        },
        "load_backbone": {"name": "mini", "weights": "random", "seed": 0},
        "load_dataset": {
            "name_or_folder": "stickers", "preset": "near", "per_class": 1, "test_per_class": 1, "image_size": 32,
            "clutter": 1, "seed": 0,
        },
        "predict_memory": {"recipe": recipe, "device": "cpu"},
        "settle_batch_size": {"recipe": recipe, "device": "cpu"},
        "table3": {"name": "mini", "image_size": 64},
        "penalties.ast": {**both, "weights": spatial, "scale": "afa"},
        "penalties.spa": {**both, "weights": spatial, "scale": "afa"},
        "penalties.spatial": {**both, "weights": spatial, "scale": "afa"},
        "penalties.act": {**both, "weights": channel, "scale": "afa"},
        "penalties.channel": {**both, "weights": channel, "scale": "afa"},
        "penalties.delta": {**both, "weights": channel, "scale": "afa"},
        "penalties.gca": {**both, "weights": joint, "scale": "afa"},
        "penalties.features": {**both, "scale": "afa"},
        "penalties.l2": {"parameters": [torch.ones(2)]},
        "penalties.l2_sp": {"parameters": {"w": torch.ones(2)}, "start": {"w": torch.zeros(2)}},
        "penalties.lwf": {"logits_s": torch.randn(2, 5), "logits_t": torch.randn(2, 5), "temperature": 2.0},
        "scores.best_iou": {"heat": heat, "mask": mask},
        "scores.effective_number": {"weights": np.full(4, 0.25)},
        "scores.entropy": {"weights": np.full(4, 0.25)},
        "scores.layer_shares": {"weights": joint},
        "scores.mask_scores": {"heat": heat, "mask": mask},
        "scores.mass_inside": {"heat": heat, "mask": mask},
        "scores.pointing_hit": {"heat": heat, "mask": mask},
        "scores.touched": {"mask": mask, "shape": (4, 4)},
        "scores.weight_counts": {"snapshots": run.snapshots()[:1]},
        "statistics.compare_answers": {"labels": [0, 1, 2], "a": [0, 1, 1], "b": [0, 2, 2], "level": 0.95},
        "statistics.mean_interval": {"values": [1.0, 2.0], "level": 0.95},
        "statistics.paired_difference": {"a_by_seed": {0: 1.0, 1: 2.0}, "b_by_seed": {0: 1.5, 1: 2.0}, "level": 0.95},
        "attribution.attention_maps": {"weights": spatial, "shapes": shapes, "size": 12},
        "attribution.channel_ablation": {**explain, "target": target, "labels": [0, 1], "layers": [mini.taps[3]]},
        "attribution.channel_maps": {
            **explain, "target": target, "labels": [0, 1], "size": 32,
            "weights": {t: np.full((2, c), 1 / c) for t, (c, _, _) in mini.tap_shapes(32).items()},
        },
        "attribution.grad_cam": {**explain, "target": target, "labels": [0, 1], "layers": [mini.taps[3]], "size": 32},
        "attribution.integrated_gradients": {**explain, "target": target, "labels": [0, 1], "steps": 2, "size": 32},
        "attribution.occlusion": {**explain, "target": target, "labels": [0, 1], "cells": 2, "size": 32},
        "attribution.rank_agreement": {"attention": random(2, 9), "attribution": random(2, 9)},
        "attribution.stretch": {"maps": random(2, 3, 3), "size": 9},
        "plots.attention_overlay": {"images": images, "weights": {"a": np.full((2, 16), 1 / 16)}, "opacity": 0.5},
        "plots.bar_terms": {"terms": {"a": {"x": 1.0}}, "log": False, "title": "t"},
        "plots.channel_weights": {"weights": {t: w[0].numpy() for t, w in joint.items()}, "joint": True, "title": "t"},
        "plots.entropy_curves": {"steps": steps, "title": "t"},
        "plots.factorial_gains": {
            "gains": {"a": importlib.import_module("spgca_lab.factorial").gains(cells, "uniform")}, "title": "t",
        },
        "plots.feature_maps": {"maps": maps["a"][0], "channels": [0, 1], "count": 2, "columns": 2, "title": "t"},
        "plots.gain_plot": {"table": results, "by": "preset", "baseline": "uniform", "title": "t"},
        "plots.gradcam_beside": {
            "image": images[0], "cam": random(32, 32), "weights": {"a": np.full(16, 1 / 16)},
        },
        "plots.interval_dots": {"table": dots, "row": "heat", "panel": "layer", "colour": "preset", "label": "points"},
        "plots.map_triplet": {"source": maps["a"][0], "target": other["a"][0], "title": "t"},
        "plots.method_colour": {"method": "spa"},
        "plots.method_label": {"method": "spa"},
        "plots.picture_grid": {"images": images, "titles": ["a", "b"], "columns": 2, "title": "t"},
        "plots.results_dots": {"table": results, "baseline": "uniform", "title": "t"},
        "plots.share_bars": {"groups": {"a": {"x": [0.5], "y": [0.5]}}, "title": "t"},
        "plots.sweep_plot": {"table": results, "x": "alpha", "by": "method", "title": "t"},
        "plots.to_png": {"figure": plots.bar_terms({"a": {"x": 1.0}}), "dpi": 50, "colours": 16},
        "plots.training_curves": {"runs": [("a", steps, tests)], "title": "t"},
        "plots.weights_vs_optimum": {"weights": np.full(4, 0.25), "differences": np.arange(1.0, 5.0), "title": "t"},
        "truth.against_even": {"table": table, "score": "inside"},
        "truth.attention_scores": {"run": run},
        "truth.control_scores": {"run": run},
        "truth.truth": {"file": None},
        "factorial.best_alphas": {"table": cells},
        "factorial.factorial": {"file": None},
        "factorial.gains": {"table": cells, "over": "uniform"},
        "alphas.alpha_ranges": {"recipe": recipe},
        "alphas.in_words": {"alpha": 3.0},
        "tune.alpha_ranges": {"recipe": recipe},
        "tune.tune": {"recipe": recipe.replace(per_class=4), "store": place / "tuned", "trials": 1, "alphas": [1.0]},
        "grids.choose_alphas": {"grid": grid, "store": lab.RunStore(place / "none"), "alphas": [1.0]},
        "grids.expand": {"table": "table6", "seeds": [0], "datasets": ["stickers"], "columns": ["4"]},
        "grids.search": {"grid": grid, "alphas": [1.0], "validation": 0.2, "seeds": [0]},
        "report.label": {"column": "spa"},
        "report.published_difference": {"a": (80.0, 0.5), "b": (79.0, 0.5), "n": 5, "level": 0.95},
        "report.report": {"table": "table4", "store": lab.data_dir() / "comparison", "level": 0.95},
        "exercises.check": {"name": "l2_sp", "function": lambda p, s: 0.0, "folder": place},
        "exercises.hint": {"name": "l2_sp", "step": 1},
        "exercises.judge": {"name": "l2_sp", "function": lambda p, s: 0.0},
        "exercises.progress": {"folder": place},
        "paper.printed": {"number": 4},
        "paper.table": {"number": 4},
        "trained.load_run": {"run": run},
        "datasets.ImageSet": {},
        "datasets.center_crop": {},
        "datasets.data_home": {"home": place},
        "datasets.fingerprint": {"name": "stickers", "home": place},
        "datasets.hold_out": {"train": train.subset(list(range(8)) * 4), "share": 0.25, "seed": 0},
        "datasets.load_dataset": {},
        "datasets.load_folder": {
            "folder": _folder(place / "photos"), "per_class": 1, "test_per_class": 1, "image_size": 32, "seed": 0,
        },
        "datasets.load_published": {"name": "cub200", "per_class": 1, "image_size": 32, "seed": 0, "home": place},
        "datasets.published": {"name": "cub200"},
        "datasets.random_crop_flip": {},
        "datasets.stored_size": {"image_size": 224},
        "AttentionExplorer": {"source": mini, "images": test},
        "FeatureMapExplorer": {"backbone": mini, "images": test, "target": target},
        "LossExplorer": {"backbone": mini, "dataset": train},
        "MethodComparison": {"store": lab.data_dir() / "comparison"},
        "RunExplorer": {"store": lab.data_dir() / "runs", "alphas": [3.0], "methods": ["spgca"]},
        "TrainingMonitor": {"run": run},
    }  # fmt: skip


def _folder(root: Path) -> Path:
    from PIL import Image

    for name in ("ants", "bees"):
        (root / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (9, 9), (i, 9 * (name == "bees"), 0)).save(root / name / f"{i}.png")
    return root


def test_there_are_thousands_of_calls(valid):
    assert sum(len(call) for call in valid.values()) * len(ANY) > 7500


def test_every_public_function_has_a_call(valid):
    known = set(public())
    assert set(valid) == known, (sorted(known - set(valid)), sorted(set(valid) - known))


def sane(value: object) -> bool:
    """A result that says something: no NaN among numbers and tensors."""
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, float):
        return math.isfinite(value)
    return True


def refusal(name: str, function: Callable[..., Any], call: Mapping[str, Any], argument: str) -> str | None:
    """What is wrong with how a bad call ends; None where nothing is, or where it was taken and gave something sane."""
    value = call[argument]
    try:
        result = function(**call)
        if name == "fit":
            next(result)
        close = getattr(result, "close", None)
        if name in EXPLORERS and close is not None:
            close()
    except (ValueError, TypeError, LookupError, OSError, RuntimeError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if "spgca_lab" not in frames[-1].filename:
            return f"raised in {Path(frames[-1].filename).name}:{frames[-1].lineno}: {type(error).__name__}: {error}"
        message = str(error)
        if not any(part in message for part in quotations(value)):
            return f"does not quote it: {type(error).__name__}: {message}"
        return None
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"
    return None if sane(result) else f"silently gives {result!r}"


def quotations(value: object) -> list[str]:
    """How an error may tell a value: itself, its kind, or its shape."""
    told = [quoting.quote(value)[:60], str(value)[:40] or "''", type(value).__name__]
    if isinstance(value, torch.Tensor | np.ndarray | pd.DataFrame):
        told += [
            str(tuple(value.shape)),
            str(list(value.shape)),
            str(getattr(value, "dtype", "")),
            "finite",
            "NaN",
        ]
    if isinstance(value, Mapping | list | tuple):
        told += [repr(each) for each in value] + ["no ", "nothing", "empty", "at least", "lack"]
    if isinstance(value, pd.DataFrame):
        told += ["column", "lack", "no "]
    if isinstance(value, torch.Tensor | np.ndarray):
        told += [
            str(list(value.shape[1:])),
            f"got {value.size if isinstance(value, np.ndarray) else value.numel()}",
        ]
        told += ["picture", f" {int(np.prod(tuple(value.shape)))}", f" {len(value) if value.ndim else 1}"]
    if isinstance(value, list | tuple | dict):
        told += [f" {len(value)}", "[]"]
    if isinstance(value, list | tuple | str):
        told += [str(list(np.shape(value))), "none", "no "]
    if isinstance(value, str) and not value:
        told += ["'.'", repr(str(Path.cwd()))]
    if type(value) is int and value == 10**30:
        told.append("integer")
    return told


def _takes(name: str, argument: str, value: object, right: object) -> bool:
    """Whether it is as right as what a valid call has."""
    if type(value) is bool and type(right) is bool:
        return True
    own = TAKES.get((name, argument)) or TAKES.get(("", argument))
    return own is not None and bool(own(value))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(public()))
def test_nonsense_is_refused_with_a_quotation_before_any_work(name, valid, monkeypatch, tmp_path):
    function, call = public()[name], valid[name]
    if not call:
        pytest.skip("the same function under another name")
    # What is made by mistake is made there.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(StageSteps, "step", lambda *_: pytest.fail("a step was taken"))
    wrong = []
    for argument in call:
        for value in ANY:
            if _takes(name, argument, value, call[argument]):
                continue
            told = refusal(name, function, {**call, argument: value}, argument)
            if told:
                wrong.append(f"{name}({argument}={quoting.quote(value)[:60]}) {told[:300]}")
    assert not wrong, "\n".join(wrong)


def name_of_a_place(value: object) -> bool:
    return isinstance(value, Path) or (isinstance(value, str) and value == "nonsense")


def anything(value: object) -> bool:
    return True


# What is taken all the same: (function, argument); "" is any function.
TAKES: dict[tuple[str, str], Callable[[Any], bool]] = {
    # A folder that is not there yet is made, or is empty.
    ("", "store"): name_of_a_place,
    ("", "folder"): name_of_a_place,
    ("", "home"): name_of_a_place,
    ("RunStore", "path"): lambda v: name_of_a_place(v) or (isinstance(v, str) and not v),
    # Labels are T's, so without T they are what is wrong, and are quoted.
    ("", "target"): lambda v: v is None,
    # What is not installed comes first.
    **{("datasets.load_published", name): anything for name in ("per_class", "image_size", "seed", "home")},
    ("tune.tune", "trials"): lambda v: type(v) is int and v > 0,
    ("tune.tune", "alphas"): lambda v: v is None,
    ("tune.tune", "store"): lambda v: name_of_a_place(v) or (isinstance(v, str) and not v),
    # NaN stays NaN.
    ("penalties.l2", "parameters"): lambda v: isinstance(v, torch.Tensor) and v.ndim > 1,
    # Words are shown as they are.
    ("plots.interval_dots", "label"): lambda v: isinstance(v, str) and "\0" not in v,
    ("", "title"): lambda v: isinstance(v, str) and "\0" not in v,
}

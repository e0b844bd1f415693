"""The runs under data/runs: complete, readable, and what their recipes still give."""

import importlib.util

import numpy as np
import pytest
import torch

import spgca_lab as lab
from spgca_lab.runs.fit import cpu_name

SHIPPED = lab.RunStore(lab.data_dir() / "runs")


@pytest.fixture(scope="module")
def script(request):
    path = request.config.rootpath / "data" / "make_runs.py"
    spec = importlib.util.spec_from_file_location("make_runs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_run_of_the_script_is_there_finished_and_nothing_else(script):
    wanted = {lab.Recipe(**fields).hash() for fields in script.jobs()}
    assert {run.recipe.hash() for run in SHIPPED} == wanted
    for run in SHIPPED:
        assert run.status == "finished", run.path.name
        assert len(run.steps) == run.recipe.iterations
        assert run.evaluations["top1"].iloc[-1] == run.result["top1"]
        told = {k: getattr(run.recipe, k) for k in ("method", "alpha", "seed")}
        assert (run.path / "probe.npz").exists() == script.keeps_attention(told), run.path.name
        assert bool(run.snapshots()) == (
            script.keeps_attention(told) and run.recipe.method not in ("l2", "uniform")
        )
        for shot in run.snapshots():
            for tap, w in shot.weights.items():
                assert np.isfinite(w).all(), (run.path.name, tap)
        answers = run.predictions
        assert 100 * (answers["label"] == answers["predicted"]).mean() == pytest.approx(run.result["top1"])


def test_one_run_ships_its_weights_in_half_precision(script):
    with_weights = [run for run in SHIPPED if (run.path / "weights.safetensors").exists()]
    assert [{k: getattr(r.recipe, k) for k in script.WITH_WEIGHTS} for r in with_weights] == [
        script.WITH_WEIGHTS
    ]
    floats = [t for t in with_weights[0].weights().values() if t.is_floating_point()]
    assert floats
    assert all(t.dtype == torch.float16 for t in floats)


def test_runs_of_one_alpha_share_their_first_stage():
    """r enters with GCA, so that the SPA stage of a row of the grid is one and the same."""
    for alpha in (0.3, 1.0, 3.0, 10.0):
        for seed in (0, 1, 2):
            runs = SHIPPED.find(method="spgca", alpha=alpha, seed=seed)
            first = [run.steps.query("stage == 'spa'")["loss"] for run in runs]
            assert len(first) == 4
            assert all(np.array_equal(first[0], other) for other in first[1:])


def test_no_file_of_a_process_ships():
    kept = {"recipe.json", "result.json", "steps.csv", "evaluations.csv", "predictions.csv", "probe.npz"}
    for file in SHIPPED.path.rglob("*"):
        if file.is_file():
            assert file.name in kept | {"weights.safetensors"} or file.parent.name == "snapshots", file


def test_a_shipped_run_trains_again_to_the_same_numbers(tmp_path):
    (shipped,) = SHIPPED.find(method="uniform", seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(shipped.result["threads"])
    try:
        *_, done = lab.fit(shipped.recipe, store=tmp_path, device="cpu")
    finally:
        torch.set_num_threads(threads)
    again, first = lab.Run(done.path), shipped
    # They were trained before sums over maps were taken in today's order, and training spreads what rounding differs:
    # the beginning agrees, the end nearly.
    same = (again.result["torch"], cpu_name()) == (first.result["torch"], first.result.get("cpu"))
    np.testing.assert_allclose(
        again.steps["loss"][:10], first.steps["loss"][:10], rtol=1e-5 if same else 1e-3
    )
    assert again.result["top1"] == pytest.approx(first.result["top1"], abs=5)

"""One run in two processes: the curve of one, everything in step, and one end for both."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

import spgca_lab as lab
from spgca_lab.runs import checkpoint
from spgca_lab.training.global_batch import GlobalBatchNorm, share_batch_norm
from spgca_lab.training.processes import Processes
from tests import two_processes
from tests.two_processes import CUT, LAYERS, RUNS, recipe

REPO = Path(__file__).resolve().parents[1]
PATIENCE = 120.0
# Single precision, whose sums depend on where the batch is cut; ten steps make of 6e-8 some 3e-7.
CURVE = 1e-5

FAILS = """
import os
import torch
import spgca_lab as lab

class Fails(lab.Penalty):
    needs_source = False
    steps = 0

    def penalty(self, state, weights):
        self.steps += 1
        if self.steps == 3 and os.environ["RANK"] == "1":
            raise lab.AttentionError("the second process has had enough")
        return torch.zeros(())
"""


def torchrun(*words):
    """Two processes on this machine; its output, errors included, in one pipe."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [*command, *map(str, words)],
        cwd=REPO,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def flags(fields):
    return [w for k, v in fields.items() for w in (f"--{k.replace('_', '-')}", str(v))]


def until(condition):
    """Wait for what comes sooner or later, however busy the machine is."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def assert_same_curve(one, other, rtol=CURVE):
    assert list(one.steps) == list(other.steps)
    for name in one.steps:
        if name == "stage":
            assert one.steps[name].tolist() == other.steps[name].tolist()
        else:
            # A folded S differs by rounding from a T that is the same network, and their distance is all rounding then.
            np.testing.assert_allclose(other.steps[name], one.steps[name], rtol=rtol, atol=5e-6)
    accuracies = (run.evaluations["cross_entropy"] for run in (other, one))
    np.testing.assert_allclose(*accuracies, rtol=rtol)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The runs of `two_processes` in this process."""
    store = lab.RunStore(tmp_path_factory.mktemp("one"))
    for fields in (*RUNS.values(), CUT):
        list(lab.fit(recipe(**fields), store=store, device="cpu"))
    return store


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What two processes found, and the store that they wrote; one of the runs was begun by this process."""
    folder = tmp_path_factory.mktemp("both")
    begun = lab.fit(recipe(**CUT), store=folder / "two", device="cpu")
    for event in begun:
        if isinstance(event, lab.Step) and event.step == 7:
            break
    begun.close()
    with torchrun("-m", "tests.two_processes", folder) as run:
        output = run.communicate(timeout=PATIENCE)[0]
    assert run.returncode == 0, output[-4000:]
    ranks = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    return ranks, lab.RunStore(folder / "two")


@pytest.mark.parametrize("name", [*RUNS, "cut"])
def test_the_curve_is_that_of_one_process(name, alone, both):
    fields = RUNS.get(name, CUT)
    one, two = (store[recipe(**fields)] for store in (alone, both[1]))
    assert_same_curve(one, two)
    assert (one.result["processes"], two.result["processes"]) == (1, 2)
    assert (one.predictions["predicted"] == two.predictions["predicted"]).mean() > 0.9
    assert {file.name for file in one.path.rglob("*")} == {file.name for file in two.path.rglob("*")}


@pytest.mark.parametrize("name", [*RUNS, "cut"])
def test_weights_nets_and_buffers_are_in_step_and_those_of_one_process(name, alone, both):
    states = [rank["states"][name] for rank in both[0]]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    expected = alone[recipe(**RUNS.get(name, CUT))].weights()
    assert expected.keys() == {key for key in states[0] if not key.startswith("source.")}
    for key, value in expected.items():
        torch.testing.assert_close(
            states[0][key], value, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_all_processes_are_given_the_same_events(both):
    first, second = (rank["events"] for rank in both[0])
    assert first == second
    kinds = [text.split("(")[0].split(" ")[0] for text in first["two stages"]]
    assert set(kinds) == {"Snapshot", "Step", "Evaluation", "HandOver", "Done"}
    assert first["cut"][0].startswith("Step(step=8")
    again = [rank["again"] for rank in both[0]]
    assert again[0] == again[1] == first["two stages"][-1:]


def test_what_one_says_all_know(both):
    first, second = both[0]
    assert (first["count"], second["count"]) == (2, 2)
    assert (first["rows"], second["rows"]) == (slice(0, 4), slice(4, 8))
    for rank in (first, second):
        assert rank["mean"] == 1.5
        assert rank["agree"] == [False, True]
        assert rank["told"] == {"by": 0}
        assert rank["error"] == rank["errors"] == "RunBusy: said by process 0"
    assert (first["lease"], second["lease"]) == ("held", None)


def test_a_batch_that_two_cannot_divide_is_refused_and_divergence_ends_both(both):
    first, second = both[0]
    assert first["odd"] == second["odd"]
    assert first["odd"].startswith(
        "TrainingError: batch_size is 9, which 2 processes cannot divide evenly: use 8 or 10"
    )
    assert first["wild"] == second["wild"]
    assert first["wild"].startswith("TrainingError: the loss is ")
    assert "try scale='relative'" in first["wild"]
    assert recipe(batch_size=9) not in both[1]


def test_each_draws_its_own_dropout_and_idle_parameters_do_no_harm(both):
    first, second = (rank["drawn"] for rank in both[0])
    assert len(first) == len(second) == 3
    assert len({*first, *second}) == 6


@pytest.mark.parametrize("name", LAYERS)
def test_batch_norm_of_two_parts_is_that_of_the_whole(name, both):
    """Forward, gradients and running statistics against PyTorch's own on the batch that both make up."""
    whole = two_processes.passes(two_processes.layer(name).double(), name, slice(None))
    parts = [rank["layers"][name] for rank in both[0]]
    assert parts[0].keys() == parts[1].keys() == whole.keys()
    for key, value in whole.items():
        if key in ("y", "x"):
            found = torch.cat([part[key] for part in parts])
        elif key == "still":
            if name == "unkept":  # without running statistics eval mode knows only its own part
                continue
            found = torch.cat([part[key] for part in parts])
        elif key.startswith("grad "):
            found = parts[0][key] + parts[1][key]
        else:
            assert torch.equal(parts[0][key], parts[1][key]), key
            found = parts[0][key]
        torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")


def test_the_variance_is_that_of_the_whole_batch(both):
    x = two_processes.pictures("plain")[0]
    for rank, part in zip(both[0], x.split(two_processes.PARTS), strict=True):
        torch.testing.assert_close(rank["variance"], x.var(correction=0), rtol=1e-5, atol=0)
        assert torch.equal(rank["own variance"], part.var(correction=0))
        assert rank["own variance"] != rank["variance"]


def test_a_signal_to_one_process_stops_both_and_one_process_goes_on(tmp_path):
    # Slowly, so that rounding does not grow much over more steps than above.
    fields = {"method": "spgca", "iterations": 24, "lr": 0.001}
    chosen = recipe(**fields)
    expected = tmp_path / "one"
    list(lab.fit(chosen, store=expected, device="cpu"))
    folder = lab.RunStore(tmp_path / "two").folder(chosen)
    words = flags(two_processes.SMALL | fields)
    words = ["-m", "spgca_lab", "fit", *words, "--store", tmp_path / "two", "--device", "cpu"]
    with torchrun(*words) as run:
        until(lambda: (folder / "events.jsonl").exists() and lab.RunHandle(folder).progress.step >= 2)
        handle = lab.RunHandle(folder)
        handle.pause()
        until(lambda: handle.status == "paused" or run.poll() is not None)
        (other,) = [p for p in psutil.Process(run.pid).children() if p.pid != handle.pid]
        other.terminate()
        output = run.communicate(timeout=PATIENCE)[0]
    assert run.returncode != 0
    assert output.count("spgca-lab: stopped; the same command goes on from here") == 1
    assert "exitcode  : 143" in output
    assert (handle.status, handle.failure) == ("interrupted", None)
    left = checkpoint.read(handle.path)
    assert 2 <= left["step"] == handle.progress.step < 24
    steps = [e.step for e in lab.fit(chosen, store=tmp_path / "two", device="cpu") if isinstance(e, lab.Step)]
    assert steps == list(range(left["step"] + 1, 25))
    assert_same_curve(lab.RunStore(expected)[chosen], handle.run, rtol=1e-4)
    assert handle.run.result["processes"] == 1


def test_an_error_in_one_process_ends_both_at_once(tmp_path):
    own = tmp_path / "fails.py"
    own.write_text(FAILS)
    words = flags(two_processes.SMALL | {"method": f"{own}:Fails", "iterations": 100_000})
    words = ["-m", "spgca_lab", "fit", *words, "--store", tmp_path / "two", "--device", "cpu"]
    with torchrun(*words) as run:
        output = run.communicate(timeout=PATIENCE)[0]
    assert run.returncode != 0
    assert "spgca-lab: the second process has had enough" in output
    (found,) = lab.RunStore(tmp_path / "two")
    assert found.status == "failed"
    assert found.failure.startswith("TrainingError: another of the 2 processes that train 'Fails-")
    assert not (found.path / "run.lock").exists()


def test_several_processes_need_accelerate_and_a_device_for_each(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Processes.current("cpu").count == 1, "a number of processes without a place among them"
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="device is 'cuda:1', but 4 processes train: use 'cuda'"):
        Processes.current("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cuda", None):
        with pytest.raises(
            ValueError, match="4 processes on this machine, which has 2 GPUs.*--nproc-per-node 2"
        ):
            Processes.current(device)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(
        lab.TrainingError, match=r'4 processes .* missing: pip install "spgca-lab\[cluster\]"'
    ):
        Processes.current("cpu")


def test_a_batch_norm_that_is_another_is_not_replaced_in_silence():
    class Louder(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match="Louder is a BatchNorm with a forward of its own"):
        share_batch_norm(nn.Sequential(Louder(3)))
    twice = nn.BatchNorm2d(3)
    model = share_batch_norm(nn.Sequential(twice, nn.ReLU(), twice))
    assert model[0] is model[2]
    assert isinstance(model[0], GlobalBatchNorm)
    assert model[0].weight is twice.weight

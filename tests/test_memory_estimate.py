"""Memory: estimated before a training takes it, settled by "auto", and said in one sentence when it runs out."""

import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

import spgca_lab as lab
from spgca_lab.cli import main
from spgca_lab.experiments import grid as grids
from spgca_lab.runs import checkpoint, memory
from spgca_lab.runs.memory import OutOfMemory, estimate_memory, fits_on_device, is_out_of_memory
from spgca_lab.training.stage import StageTrainer
from tests import tiny_runs

REPO = Path(__file__).resolve().parents[1]
SMALL = tiny_runs.SMALL | {"iterations": 2, "evaluations": 1, "snapshots": 0}
del SMALL["batch_size"]


def inputs_of(recipe):
    train = lab.load_dataset("stickers", per_class=1, test_per_class=1, image_size=recipe.image_size)[0]
    return lab.load_backbone(recipe.backbone, weights="random"), train


def estimate(recipe):
    return estimate_memory(recipe, *inputs_of(recipe), "cpu")


def saved_bytes(recipe):
    """What one real step of a whole batch saves for its backward pass, tensor by tensor, without the weights."""
    training = lab.training.loop.Training(recipe, *inputs_of(recipe), inputs_of(recipe)[1], device="cpu")
    training.begin_stage(0)
    weights = {p.data_ptr() for p in training.networks.target.parameters()}
    sizes = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        terms = training.stage.objective(*training.networks.batches(0))
    training.close()
    assert torch.isfinite(terms.loss)
    return sum(sizes.values())


@pytest.mark.parametrize(("method", "size"), [("spa", 64), ("l2", 32), ("uniform", 32)])
def test_a_step_is_estimated_from_a_few_images(method, size):
    recipe = lab.Recipe(**SMALL | {"image_size": size}, batch_size=24, method=method)
    found = estimate(recipe)
    assert 24 * found.per_image == pytest.approx(memory.BEYOND_SAVED * saved_bytes(recipe), rel=0.1)
    assert found.bytes == found.resident + 24 * found.per_image


def test_an_estimate_changes_nothing():
    recipe = lab.Recipe(**SMALL, batch_size=8, method="spgca")
    backbone, train = inputs_of(recipe)
    before = {name: t.clone() for name, t in backbone.model.state_dict().items()}
    drawn = torch.get_rng_state()
    estimate_memory(recipe, backbone, train, "cpu")
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(t, before[name]) for name, t in backbone.model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.model.modules())


def test_the_batch_that_is_named_fits_with_its_margin(free):
    whole = estimate(lab.Recipe(**SMALL, batch_size=48, method="spa"))
    free(whole.resident + 30 * whole.per_image)
    limited = estimate(lab.Recipe(**SMALL, batch_size=48, method="spa"))
    assert limited.bytes > limited.free
    named = estimate(lab.Recipe(**SMALL, batch_size=limited.largest_batch, method="spa"))
    assert 2 < named.batch <= named.largest_batch < limited.largest_batch + 2
    assert memory.SHARE * named.free >= named.bytes


@pytest.fixture
def free(monkeypatch):
    """Say how much memory is free."""

    def say(count):
        monkeypatch.setattr(memory, "free_memory", lambda _: count)

    return say


def test_a_training_that_cannot_fit_is_refused_before_its_first_step(tmp_path, free, monkeypatch):
    recipe = lab.Recipe(**SMALL, batch_size=48, method="spa")
    monkeypatch.setattr(StageTrainer, "step", lambda *_: pytest.fail("a step was taken"))
    free(20 * 10**6)
    with pytest.raises(
        OutOfMemory, match=r"needs about 0\.\d\d GB on cpu, where 0\.\d\d GB are free: .*48 images"
    ) as told:
        list(lab.fit(recipe, tmp_path, device="cpu"))
    assert isinstance(told.value, lab.TrainingError)
    assert "batch_size=" in str(told.value) or "even a batch of 2" in str(told.value)


def test_what_is_far_below_what_is_free_is_not_measured(free, monkeypatch):
    recipe = lab.Recipe(**SMALL, batch_size=8)
    monkeypatch.setattr(memory, "estimate_memory", lambda *_: pytest.fail("measured"))
    for count in (10**10, None):
        free(count)
        memory.check_memory(recipe, *inputs_of(recipe), torch.device("cpu"))


@pytest.mark.parametrize(("room", "size"), [(None, 48), (10**12, 48), (1.0, 24), (0.5, 12)])
def test_auto_is_64_the_pictures_or_what_fits(free, monkeypatch, room, size):
    recipe = lab.Recipe(**SMALL | {"image_size": 64}, batch_size="auto", method="spa")
    whole = lab.predict_memory(recipe.replace(batch_size=48), "cpu").bytes
    free(room if room is None or room > 1e6 else int(room * whole))
    settled = lab.choose_batch_size(recipe, "cpu")
    assert settled.batch_size == size
    assert settled == recipe.replace(batch_size=size)


def test_auto_halves_what_a_real_step_does_not_stand_and_keeps_nothing(monkeypatch):
    """As on a GPU: the estimate says yes, the device says no."""
    targets, living = [], []
    step = StageTrainer.step

    def short(self, number):
        living.append(sum(each() is not None for each in targets))
        targets.append(weakref.ref(self.networks.target))
        step(self, number)
        if self.recipe.batch > 12:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(StageTrainer, "step", short)
    recipe = lab.Recipe(**SMALL, batch_size=12, method="spa")
    for size, fits in ((48, False), (24, False), (12, True)):
        assert fits_on_device(recipe.replace(batch_size=size), *inputs_of(recipe), "cpu") is fits
    assert living[:3] == [0, 0, 0]
    assert all(each() is None for each in targets)


def test_auto_says_when_nothing_fits(free):
    free(10**6)
    with pytest.raises(OutOfMemory, match=r"not even a batch of 2 images of mini fits \(about 0\.0"):
        lab.choose_batch_size(lab.Recipe(**SMALL, batch_size="auto"), "cpu")


def test_a_run_by_auto_is_that_of_its_number(tmp_path, capsys):
    auto = lab.Recipe(**SMALL, batch_size="auto", method="spa")
    assert lab.Recipe.from_json(auto.to_json()) == auto
    for name in (auto.hash, lambda: lab.RunStore(tmp_path).folder(auto)):
        with pytest.raises(
            lab.RecipeError, match="batch_size is 'auto', and a run needs a number: choose_batch_size"
        ):
            name()
    (*_, done) = lab.fit(auto, tmp_path, device="cpu")
    assert lab.Run(done.path).recipe == auto.replace(batch_size=48)
    # The same again is answered from the store, by whichever door.
    assert [type(event) for event in lab.fit(auto, tmp_path, device="cpu")] == [lab.Done]
    handle = lab.launch(auto, tmp_path, device="cpu")
    assert (handle.status, handle.path) == ("finished", done.path)
    flags = [w for k, v in SMALL.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    assert main(["fit", "--method", "spa", *flags, "--batch-size", "auto", "--store", str(tmp_path)]) in (
        None,
        0,
    )
    assert len(lab.RunStore(tmp_path)) == 1


def test_a_grid_compares_runs_of_one_batch_size():
    with pytest.raises(grids.GridError, match="batch_size is 'auto': a grid compares runs of one batch size"):
        grids.expand("table5", seeds=[0], batch_size="auto")


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), True),
        (RuntimeError("[alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: 99"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("std::bad_alloc"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("could not create a primitive"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error, answer):
    assert is_out_of_memory(error) is answer


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
def test_memory_that_runs_out_is_said_and_given_back(tmp_path):
    """In a process with a limit of its own: refused, then run out all the same, then trained on."""
    command = [sys.executable, "-W", "ignore", "tests/out_of_memory.py", str(tmp_path / "runs"), "1000"]
    run = subprocess.run(
        command, cwd=REPO, env=_environment(), capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr[-3000:]
    told = json.loads(run.stdout)
    assert "64 images" in told["refused"] or "batch_size=64" in told["refused"]
    assert told["ran out"].startswith("memory ran out on cpu with batch_size=64, mini at 128 px, run 'spa-")
    assert "the last checkpoint stays" in told["ran out"]
    # The error is kept, as a notebook keeps it; what a batch takes is 1.2 GB.
    assert told["kept"] < 150e6
    assert told["after"] == 1


def _environment():
    return os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "2"}


def test_a_checkpoint_without_room_to_be_written_is_an_error_and_no_abort(monkeypatch):
    state = {"net": {"w": torch.zeros(1000)}}
    monkeypatch.setattr(checkpoint, "free_memory", lambda: 7999)
    with pytest.raises(
        MemoryError, match=r"saving the tensors takes 8,\d{3} bytes of memory, and 7,999 are free"
    ):
        checkpoint.pack(state)
    monkeypatch.setattr(checkpoint, "free_memory", lambda: 9000)
    assert torch.equal(checkpoint.unpack(checkpoint.pack(state))["net"]["w"], torch.zeros(1000))


def test_free_memory_is_the_least_that_machine_and_container_leave(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    machine = memory.free_memory()
    assert machine > 10**7
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("2500000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 500000\n")
    assert memory.free_memory() > 10**7
    (tmp_path / "memory.max").write_text("3000000\n")
    assert memory.free_memory() == 1_000_000
    assert memory.free_memory("meta") is None

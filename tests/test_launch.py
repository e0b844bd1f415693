"""launch: runs in processes of their own, seen and steered through their folders alone."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
import torch

import spgca_lab as lab
from spgca_lab.cli import main
from spgca_lab.runs import checkpoint
from spgca_lab.runs.follow import EventReader
from spgca_lab.runs.lock import RunLock, lock_owner, send_request
from spgca_lab.runs.worker import Worker
from tests import tiny_runs
from tests.test_journal import plain

PATIENCE = 120.0
LONG = 100_000


def tiny(**changes):
    return lab.Recipe(**{"method": "spgca"} | tiny_runs.SMALL | changes)


def until(condition):
    """Wait for what comes sooner or later, however busy the machine is."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def starts(handle):
    return (handle.path / "log.txt").read_text().count("# started")


def assert_same_run(one, other):
    for name in ("steps.csv", "evaluations.csv", "predictions.csv"):
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), name
    files = sorted(file.name for file in (one.path / "snapshots").iterdir())
    assert files == sorted(file.name for file in (other.path / "snapshots").iterdir())
    for name in files:
        assert (one.path / "snapshots" / name).read_bytes() == (other.path / "snapshots" / name).read_bytes()
    weights = other.weights()
    assert all(torch.equal(value, weights[name]) for name, value in one.weights().items())


def test_launches_at_one_moment_meet_in_one_run_that_equals_fits(tmp_path):
    recipe = tiny()
    expected = [plain(e) for e in lab.fit(recipe, store=tmp_path / "fit", device="cpu")]
    barrier, handles = threading.Barrier(4), []

    def launch():
        barrier.wait()
        handles.append(lab.launch(recipe, tmp_path / "launched", device="cpu"))

    threads = [threading.Thread(target=launch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(handles) == 4
    assert {handle.status for handle in handles} == {"running"}
    assert len({handle.pid for handle in handles}) == 1
    for handle in handles[:2]:
        assert [plain(e) for e in handle.events()][:-1] == expected[:-1]
    assert handles[0].wait(PATIENCE) == "finished"
    assert starts(handles[0]) == 1
    assert_same_run(lab.RunStore(tmp_path / "fit")[recipe], handles[0].run)
    again = lab.launch(recipe, tmp_path / "launched", device="cpu")
    assert (again.status, again.pid, starts(again)) == ("finished", None, 1)
    left = {file.name for file in again.path.iterdir()}
    assert left == {
        "recipe.json", "result.json", "log.txt", "probe.npz", "snapshots",
        "steps.csv", "evaluations.csv", "predictions.csv", "weights.safetensors",
    }  # fmt: skip


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    recipe = tiny(iterations=32)
    expected = [plain(e) for e in lab.fit(recipe, store=tmp_path / "fit", device="cpu")]
    handle = lab.launch(recipe, tmp_path / "killed", device="cpu")
    tail, seen = EventReader(handle.path), []
    handle.pause()  # so that it is certainly there to be killed
    until(lambda: handle.status == "paused")
    seen += tail.read()
    os.kill(handle.pid, signal.SIGKILL)
    with pytest.raises(
        lab.RunFailed, match="without an error message, killed by SIGKILL: perhaps the memory ran out"
    ):
        list(handle.events())
    assert handle.status == "begun"
    handle.resume()
    until(lambda: handle.progress.step >= 10 or handle.pid is None)
    seen += tail.read()
    if (pid := handle.pid) not in (None, os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        handle.wait(PATIENCE)
    assert lab.launch(recipe, tmp_path / "killed", device="cpu").wait(PATIENCE) == "finished"
    seen += tail.read()
    assert [plain(e) for e in seen][:-1] == expected[:-1]
    assert_same_run(lab.RunStore(tmp_path / "fit")[recipe], handle.run)


def test_a_run_ends_with_the_session_that_started_it_unless_detached(tmp_path):
    attached, detached = tiny(iterations=LONG), tiny(iterations=30, seed=1)
    code = f"""
import time
import spgca_lab as lab
for recipe, detach in (({attached.to_dict()}, False), ({detached.to_dict()}, True)):
    lab.launch(lab.Recipe.from_dict(recipe), {str(tmp_path)!r}, device="cpu", detach=detach)
print("launched", flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout.readline() == "launched\n"
        store = lab.RunStore(tmp_path)
        kept, gone = (lab.RunHandle(store.folder(recipe)) for recipe in (detached, attached))
        assert lock_owner(kept.path).kind == "detached"
        until(lambda: gone.progress.step > 0)
        pids = [gone.pid, kept.pid]
        assert None not in pids or kept.status == "finished"
        session.send_signal(signal.SIGKILL)
    assert gone.wait(PATIENCE) == "interrupted"
    assert gone.failure is None
    assert 0 < checkpoint.read(gone.path)["step"] < LONG
    assert kept.wait(PATIENCE) == "finished"


def test_pause_stop_and_resume_from_another_handle(tmp_path):
    recipe = tiny(iterations=LONG)
    handle = lab.launch(recipe, tmp_path, device="cpu", threads=1)
    other = lab.RunHandle(handle.path)
    other.pause()  # before the child has come up
    until(lambda: handle.status == "paused")
    assert main(["resume", str(handle.path)]) == 0
    until(lambda: handle.status == "running" and handle.progress.step >= 3)
    handle.pause()
    until(lambda: other.status == "paused")
    before = handle.progress
    with pytest.raises(lab.RunBusy, match=rf"trained by process {handle.pid}, since .* in the background"):
        next(lab.fit(recipe, store=tmp_path, device="cpu"))
    assert lab.RunStore(tmp_path).table()["status"].tolist() == ["paused"]
    assert handle.progress == before
    assert main(["stop", str(handle.path)]) == 0
    assert (handle.status, handle.pid, handle.failure) == ("interrupted", None, None)
    assert [e.step for e in handle.events() if isinstance(e, lab.Step)] == list(range(1, before.step + 1))
    assert main(["pause", str(handle.path)]) == 2
    handle.resume()
    assert handle.status == "running"
    handle.stop(PATIENCE)  # again before the child has come up
    assert (handle.status, starts(handle)) == ("interrupted", 2)
    assert handle.progress.step >= before.step
    assert (handle.path / "request").exists() is False
    listed = sorted(file.name for file in handle.path.iterdir() if file.suffix in (".part", ".lock"))
    assert listed == []


def test_a_queue_passes_over_what_is_finished_and_what_fails(tmp_path):
    done, wrong, good = tiny(), tiny(batch_size=4000), tiny(seed=1)
    list(lab.fit(done, store=tmp_path, device="cpu"))
    queue = lab.launch_all([done, wrong, good], tmp_path, device="cpu")
    assert not queue.done
    assert queue.wait(2 * PATIENCE)
    assert [handle.status for handle in queue.handles] == ["finished", "failed", "finished"]
    assert not (queue.handles[0].path / "log.txt").exists()
    failed = queue.handles[1]
    with pytest.raises(lab.RunFailed, match="TrainingError: batch_size is 4000, but 'stickers' has only"):
        list(failed.events())
    assert failed.failure == failed.run.failure
    assert lab.RunStore(tmp_path).find(seed=1)[0].path == queue.handles[2].path


def test_a_stopped_queue_starts_nothing_more(tmp_path):
    queue = lab.launch_all([tiny(iterations=LONG), tiny(iterations=LONG, seed=1)], tmp_path, device="cpu")
    until(lambda: queue.handles[0].pid is not None)
    queue.stop(wait=False)
    assert queue.wait(PATIENCE)
    assert {handle.pid for handle in queue.handles} == {None}
    assert not (queue.handles[1].path / "log.txt").exists()
    with pytest.raises(ValueError, match="got 0"):
        lab.launch_all([], tmp_path, workers=0)


def test_a_queue_ends_with_its_session(tmp_path):
    recipes = [tiny(iterations=LONG), tiny(iterations=LONG, seed=1)]
    code = f"""
import time
import spgca_lab as lab
recipes = [lab.Recipe.from_dict(recipe) for recipe in {[recipe.to_dict() for recipe in recipes]}]
queue = lab.launch_all(recipes, {str(tmp_path)!r}, device="cpu")
while queue.handles[0].progress.step == 0:
    time.sleep(0.05)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
    first, second = (lab.RunHandle(lab.RunStore(tmp_path).folder(recipe)) for recipe in recipes)
    assert (first.wait(PATIENCE), second.status) == ("interrupted", "begun")


def test_workers_are_spread_over_devices(tmp_path):
    queue = lab.launch_all([tiny(seed=seed) for seed in range(2)], tmp_path, device=["cpu", "meta"])
    assert queue.wait(2 * PATIENCE)
    # Tensors on `meta` have no values: the run there fails, and keeps what it was started with.
    (here,) = [handle for handle in queue.handles if handle.status == "finished"]
    (there,) = [handle for handle in queue.handles if handle.status == "failed"]
    assert here.run.result["device"] == "cpu"
    assert json.loads((there.path / "launch.json").read_text())["device"] == "meta"
    with pytest.raises(ValueError, match=r"at least one device, got \[\]"):
        lab.launch_all([], tmp_path, device=[])


def _worker(handle, seen):
    """The process that trains, unless it is this one; kept in `seen`."""
    seen.append(handle.pid)
    return seen[-1] not in (None, os.getpid())


def test_a_run_whose_process_dies_goes_on_when_retried(tmp_path):
    queue = lab.launch_all([tiny(iterations=LONG)], tmp_path, device="cpu", retries=1)
    handle = queue.handles[0]
    until(lambda: checkpoint.exists(handle.path) or handle.progress.step >= 2)
    for attempt in (1, 2):
        # While a retry begins, this very process holds the run for a moment: the number that is killed is read once.
        seen: list[int | None] = []
        until(lambda: _worker(handle, seen) and handle.progress.step >= 2)  # noqa: B023
        os.kill(seen[-1], signal.SIGKILL)
        until(lambda: starts(handle) > attempt or queue.done)  # noqa: B023
    assert queue.wait(PATIENCE)
    assert starts(handle) == 2, "one start and one retry, no third"
    assert "killed by SIGKILL" in handle.failure


def test_what_cannot_be_launched_says_why(tmp_path):
    class Flat(lab.Attention):
        kind = "channel"

        def forward(self, maps_s, maps_t):
            return {t: torch.full(m.shape[:2], 1 / m.shape[1]) for t, m in maps_s.items()}

    with pytest.raises(
        lab.RecipeError, match=r"Flat' is a class of this session.*put it at the top level of a"
    ):
        lab.launch(tiny(method=Flat), tmp_path)
    assert list(tmp_path.iterdir()) == []
    recipe = tiny()
    list(lab.fit(recipe, store=tmp_path, device="cpu"))
    renamed = lab.RunStore(tmp_path)[recipe].path.rename(tmp_path / "mine")
    (renamed / "result.json").unlink()
    with pytest.raises(lab.RunError, match="'mine' is not the folder of its recipe"):
        lab.RunHandle(renamed).resume()
    assert lock_owner(renamed) is None


def test_a_loop_over_fit_is_followed_but_not_steered(tmp_path):
    recipe = tiny()
    running = lab.fit(recipe, store=tmp_path, device="cpu")
    first = next(running)
    handle = lab.RunHandle(lab.RunStore(tmp_path).folder(recipe))
    assert (handle.status, handle.pid) == ("running", os.getpid())
    assert [plain(e) for e in handle.events(follow=False)] == [plain(first)]
    for steer in (handle.stop, handle.pause):
        with pytest.raises(lab.RunBusy, match="reads no requests"):
            steer()
    with pytest.raises(lab.RunBusy, match=r"close\(\) the generator"):
        next(lab.fit(recipe, store=tmp_path, device="cpu"))
    running.close()
    assert handle.status == "interrupted"


@pytest.mark.parametrize("how", ["request", "SIGTERM", "SIGINT"])
def test_a_worker_ends_at_the_next_event_with_a_checkpoint(how, tmp_path):
    recipe = tiny()
    folder = lab.RunStore(tmp_path).folder(recipe)
    folder.mkdir()
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    steps = []
    with RunLock.take(folder, "terminal") as lease, Worker(lease) as worker:
        for event in worker.steered(lab.fit(recipe, store=tmp_path, device="cpu", lease=lease)):
            steps += [event.step] if isinstance(event, lab.Step) else []
            if steps == [1]:
                send_request(folder, "stop") if how == "request" else os.kill(
                    os.getpid(), getattr(signal, how)
                )
    assert worker.stopped
    assert worker.signal == (None if how == "request" else getattr(signal, how))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert steps == [1]
    assert lab.Run(folder).status == "interrupted"
    steps += [e.step for e in lab.fit(recipe, store=tmp_path, device="cpu") if isinstance(e, lab.Step)]
    assert steps == [1, 2, 3, 4]

"""Who holds a run folder: one at a time, and nobody after a death."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from spgca_lab._files import RunError
from spgca_lab.runs import lock as module
from spgca_lab.runs.lock import Lease, RunBusy, ask, asked, crashed, holder

# The file alone, without the package and its seconds of importing PyTorch.
HOLD = f"""
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("lease", {module.__file__!r})
lease = sys.modules["lease"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lease)
folder = pathlib.Path(sys.argv[1])
"""


def process(code, folder, *arguments, **options):
    command = [sys.executable, "-c", HOLD + code, str(folder), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def test_the_lease_of_a_killed_process_is_free_and_its_requests_are_forgotten(tmp_path):
    code = "held = lease.Lease.take(folder, 'detached'); held.say('paused'); print(1, flush=True); input()"
    with process(code, tmp_path) as other:
        assert other.stdout.readline() == "1\n"
        who = holder(tmp_path)
        assert (who.pid, who.kind, who.state, who.here) == (other.pid, "detached", "paused", True)
        with pytest.raises(RunBusy, match=rf"trained by process {other.pid}, since .*RunHandle\("):
            Lease.take(tmp_path, "session", patience=0.1)
        assert crashed(tmp_path) is None
        ask(tmp_path, "stop")
        other.send_signal(signal.SIGKILL)
    assert holder(tmp_path) is None
    assert crashed(tmp_path) == who
    with Lease.take(tmp_path, "session"):
        assert holder(tmp_path).pid == os.getpid()
        assert asked(tmp_path) is None
        with pytest.raises(RunBusy, match=r"this very process .*close\(\) the generator"):
            Lease.take(tmp_path, "session", patience=0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_lease_passes_to_a_child_without_being_free_in_between(tmp_path):
    code = """
print(lease.holder(folder) is not None, flush=True)
held = lease.Lease.adopt(folder, int(sys.argv[2]), "attached")
input()
held.release()
"""
    held = Lease.take(tmp_path, "attached")
    ask(tmp_path, "pause")
    with process(code, tmp_path, str(held.descriptor), pass_fds=(held.descriptor,)) as child:
        held.give(child.pid)
        assert holder(tmp_path).pid == child.pid
        assert child.stdout.readline() == "True\n"
        assert asked(tmp_path) == "pause"  # what was asked before the child was there
        held.release()
        assert holder(tmp_path).pid == child.pid
        child.stdin.write("\n")
    assert child.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_descriptor_is_not_adopted(tmp_path):
    with (tmp_path / "other").open("w") as file, pytest.raises(RunError, match="is not the lock of"):
        Lease.adopt(tmp_path, file.fileno(), "attached")


def test_many_takers_and_onlookers_never_hold_it_together(tmp_path):
    """Onlookers take the lock for moments, and every holder takes the locked file away at its end."""
    inside, most, busy, done = 0, [], [], threading.Event()

    def take():
        nonlocal inside
        for _ in range(20):
            try:
                with Lease.take(tmp_path, "session", patience=60):
                    inside += 1
                    most.append(inside)
                    inside -= 1
            except RunBusy as error:
                busy.append(error)

    def look():
        while not done.is_set():
            holder(tmp_path)

    takers = [threading.Thread(target=take) for _ in range(4)]
    onlookers = [threading.Thread(target=look, daemon=True) for _ in range(2)]
    for thread in (*takers, *onlookers):
        thread.start()
    for thread in takers:
        thread.join()
    done.set()
    assert set(most) == {1}
    assert len(most) == 80
    assert busy == []


def test_requests_are_stop_or_pause(tmp_path):
    with pytest.raises(ValueError, match="got 'halt'"):
        ask(tmp_path, "halt")
    ask(tmp_path, "pause")
    assert asked(tmp_path) == "pause"
    ask(tmp_path, None)
    assert asked(tmp_path) is None

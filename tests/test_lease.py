"""Who holds a run folder: one at a time, and nobody after a death."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from spgca_lab.runs import lock as module
from spgca_lab.runs.lock import RunBusy, RunLock, crashed_owner, lock_owner, pending_request, send_request

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
    code = "held = lease.RunLock.take(folder, 'detached'); held.set_state('paused'); print(1, flush=True); input()"
    with process(code, tmp_path) as other:
        assert other.stdout.readline() == "1\n"
        who = lock_owner(tmp_path)
        assert (who.pid, who.kind, who.state, who.on_this_machine) == (other.pid, "detached", "paused", True)
        with pytest.raises(RunBusy, match=rf"trained by process {other.pid}, since .*RunHandle\("):
            RunLock.take(tmp_path, "session", patience=0.1)
        assert crashed_owner(tmp_path) is None
        send_request(tmp_path, "stop")
        other.send_signal(signal.SIGKILL)
    assert lock_owner(tmp_path) is None
    assert crashed_owner(tmp_path) == who
    with RunLock.take(tmp_path, "session"):
        assert lock_owner(tmp_path).pid == os.getpid()
        assert pending_request(tmp_path) is None
        with pytest.raises(RunBusy, match=r"this very process .*close\(\) the generator"):
            RunLock.take(tmp_path, "session", patience=0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_passes_to_a_child_without_being_free_in_between(tmp_path):
    code = """
input()
held = lease.RunLock.take(folder, "attached", patience=60)
print("locked", flush=True)
input()
held.release()
"""
    held = RunLock.take(tmp_path, "attached")
    send_request(tmp_path, "pause")
    with process(code, tmp_path) as child:
        held.transfer_to(child.pid)
        for _ in range(3):  # the child has not locked the folder yet
            who = lock_owner(tmp_path)
            assert (who.pid, who.state) == (child.pid, "starting")
            with pytest.raises(RunBusy, match=f"trained by process {child.pid}"):
                RunLock.take(tmp_path, "session", patience=0.1)
        held.release()
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "locked\n"
        who = lock_owner(tmp_path)
        assert (who.pid, who.kind, who.state) == (child.pid, "attached", "running")
        assert pending_request(tmp_path) == "pause"  # requests from before the child's lock stay
        child.stdin.write("\n")
    assert child.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_ends_before_it_locks_the_folder_leaves_it_free(tmp_path):
    held = RunLock.take(tmp_path, "attached")
    with process("input()", tmp_path) as child:
        held.transfer_to(child.pid)
        assert lock_owner(tmp_path).pid == child.pid
        child.kill()
        child.wait()
    assert lock_owner(tmp_path) is None
    assert crashed_owner(tmp_path).pid == child.pid
    # Another process that has its number by now is not that child.
    left = json.loads((tmp_path / "process.json").read_text())
    text = json.dumps(left | {"pid": os.getpid(), "started": "2020-01-01T00:00:00+00:00"})
    (tmp_path / "process.json").write_text(text)
    assert lock_owner(tmp_path) is None
    with RunLock.take(tmp_path, "session"):
        assert lock_owner(tmp_path).state == "running"


def test_a_file_system_without_locks_has_a_marker_file(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with RunLock.take(tmp_path, "session"):
        assert lock_owner(tmp_path).pid == os.getpid()
        with pytest.raises(RunBusy, match="this very process"):
            RunLock.take(tmp_path, "session", patience=0.1)
    assert lock_owner(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_many_takers_and_onlookers_never_hold_it_together(tmp_path):
    """Onlookers take the lock for moments, and every holder takes the locked file away at its end."""
    inside, most, busy, done = 0, [], [], threading.Event()

    def take():
        nonlocal inside
        for _ in range(20):
            try:
                with RunLock.take(tmp_path, "session", patience=60):
                    inside += 1
                    most.append(inside)
                    inside -= 1
            except RunBusy as error:
                busy.append(error)

    def look():
        while not done.is_set():
            lock_owner(tmp_path)

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


def test_the_lock_file_of_a_process_that_was_killed_during_its_release_is_removed(tmp_path):
    (tmp_path / "run.lock").touch()
    assert crashed_owner(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_request_is_sent_and_withdrawn(tmp_path):
    send_request(tmp_path, "pause")
    assert pending_request(tmp_path) == "pause"
    send_request(tmp_path, None)
    assert pending_request(tmp_path) is None

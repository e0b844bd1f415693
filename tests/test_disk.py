"""A disk that is full or read-only: one sentence, nothing lost, and the same call goes on."""

import errno
import os
import shutil
import subprocess
import sys

import pytest

import spgca_lab as lab
from spgca_lab import _files as files
from spgca_lab.cli import main
from spgca_lab.runs import inputs
from spgca_lab.runs.lock import RunLock
from spgca_lab.runs.worker import Worker
from tests.kill_points import OsWith, contents
from tests.tiny_runs import SMALL

RECIPE = lab.Recipe(method="spa", **SMALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    store = tmp_path_factory.mktemp("whole")
    list(lab.fit(RECIPE, store, device="cpu"))
    return contents(lab.RunStore(store).folder(RECIPE))


@pytest.fixture
def quick(monkeypatch):
    """Make the images once."""
    images = inputs.load_data(RECIPE, 32)
    monkeypatch.setattr(inputs, "load_data", lambda *_: images)


class Disk:
    """Takes `room` writes, the last of them in half, and then fails."""

    def __init__(self, room: int, number: int):
        self.room, self.number, self.taken = room, number, 0

    def __call__(self, descriptor, content):
        self.taken += 1
        if self.taken < self.room:
            return os.write(descriptor, content)
        if self.taken == self.room:
            return os.write(descriptor, content[: len(content) // 2])
        raise OSError(self.number, os.strerror(self.number))


def test_a_disk_that_fills_up_at_any_write_loses_nothing(tmp_path, monkeypatch, quick, whole):
    room = failed = 0
    while True:
        store = tmp_path / str(room)
        disk = Disk(room, errno.ENOSPC)
        monkeypatch.setattr(files, "os", OsWith(disk))
        try:
            list(lab.fit(RECIPE, store, device="cpu"))
            break
        except files.NotWritten as error:
            said = str(error)
            assert said.startswith(repr(str(store))[:-1])
            assert "cannot be written: the disk is full: make room" in said
            assert said.count("\n") == 0
            failed += 1
        finally:
            monkeypatch.setattr(files, "os", os)
        folder = lab.RunStore(store).folder(RECIPE)
        assert list(folder.rglob("*.part")) == []
        list(lab.fit(RECIPE, store, device="cpu"))
        assert contents(folder) == whole, room
        shutil.rmtree(store)
        room += 1
    assert failed > 15


def test_a_limit_that_the_system_itself_sets_is_told_and_the_run_goes_on(tmp_path, repo, whole):
    code = f"""
import resource, signal, sys
import spgca_lab as lab
from tests.test_disk import RECIPE
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    list(lab.fit(RECIPE, {str(tmp_path)!r}, device="cpu"))
except lab.RunError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=True)
    assert "checkpoint.safetensors" in told.stdout
    assert "the file would be larger than this process may write (ulimit -f)" in told.stdout
    folder = lab.RunStore(tmp_path).folder(RECIPE)
    assert list(folder.rglob("*.part")) == []
    list(lab.fit(RECIPE, tmp_path, device="cpu"))
    assert set(contents(folder)) == set(whole)


@pytest.mark.parametrize("store", ["/proc/runs", "{file}/runs"])
def test_a_store_that_cannot_be_made_is_one_sentence(tmp_path, store, capsys):
    file = tmp_path / "file"
    file.touch()
    store = store.format(file=file)
    with pytest.raises(
        lab.RunError, match=r"cannot be written: .*: use another store; what was there before"
    ):
        next(lab.fit(RECIPE, store, device="cpu"))
    assert main(["fit", "--store", store, "--device", "cpu"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO, errno.ENOSPC])
def test_a_folder_that_became_unwritable_stops_the_run_at_the_next_write(
    tmp_path, monkeypatch, quick, number
):
    running = lab.fit(RECIPE, tmp_path, device="cpu")
    next(running)
    monkeypatch.setattr(files, "os", OsWith(Disk(0, number)))
    with pytest.raises(lab.RunError, match=r"cannot be written: .*goes on from its last checkpoint"):
        list(running)
    monkeypatch.undo()
    assert lab.Run(lab.RunStore(tmp_path).folder(RECIPE)).status == "begun"
    assert isinstance(list(lab.fit(RECIPE, tmp_path, device="cpu"))[-1], lab.Done)


def test_the_reason_is_told_where_the_run_was_started_from_elsewhere(tmp_path, monkeypatch, quick):
    """On a full disk not even the failure can be written down; the error is what the process ends with."""
    folder = lab.RunStore(tmp_path).folder(RECIPE)
    folder.mkdir(parents=True)

    def train():
        with RunLock.take(folder, "terminal") as lease, Worker(lease) as worker:
            running = lab.fit(RECIPE, tmp_path, device="cpu", lease=lease)
            next(running)
            monkeypatch.setattr(files, "os", OsWith(Disk(0, errno.ENOSPC)))
            list(worker.steered(running))

    with pytest.raises(lab.RunError, match="the disk is full"):
        train()
    assert not (folder / "failure.json").exists()

"""A grid on Ray: a real cluster that loses a node, and the way of a finished run into the store."""

import io
import os
import shutil
import signal
import tarfile
import tempfile
import threading
from pathlib import Path

import platformdirs
import pytest

import spgca_lab as lab
from spgca_lab.experiments.cluster import run_on_ray, train_packed, unpack
from tests import tiny_runs
from tests.test_launch import assert_same_run, until

TINY = tiny_runs.SMALL | {"iterations": 16}
pytestmark = pytest.mark.usefixtures("one_thread")  # as many as each run has

# At its seventh step it writes down its node and process, and waits until a file allows it to go on.
WAITS = '''
"""A penalty that waits."""

import os
import time
from pathlib import Path

import ray

from spgca_lab import Penalty


class Waits(Penalty):
    """Squares of T's maps, computed in no hurry."""

    calls = 0

    def penalty(self, state, weights):
        """Return the squares."""
        here = Path(__file__).parent
        self.calls += 1
        if self.calls == 7 and not (here / "go").exists():
            (here / "part").write_text(f"{ray.get_runtime_context().get_node_id()} {os.getpid()}")
            (here / "part").rename(here / "at")
        while self.calls > 6 and not (here / "go").exists():
            time.sleep(0.02)
        return sum(m.square().mean() for m in state.maps_t.values())
'''

DIES = '''
"""A penalty that ends its process, as a machine without memory does."""

import os
import signal

from spgca_lab import Penalty


class Dies(Penalty):
    """The end of its process."""

    def penalty(self, state, weights):
        """Kill the process."""
        os.kill(os.getpid(), signal.SIGKILL)
'''


def tiny(**changes):
    return lab.Recipe(**{"method": "l2_sp"} | TINY | changes)


def own(folder, name, code):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(code)
    return tiny(method=f"{folder / name}.py:{name}", alpha=0.1)


def fitted(recipe, store):
    for _ in lab.fit(recipe, store=store, device="cpu"):
        pass
    return lab.RunStore(store)[recipe]


def at(folder):
    """Wait for the penalty that waits, and return its node and process."""
    until(lambda: (folder / "at").exists())
    node, pid = (folder / "at").read_text().split()
    return node, int(pid)


@pytest.fixture(scope="module")
def cluster():
    """A head that trains nothing and two nodes of one CPU each, all on this machine."""
    patch, on_term = pytest.MonkeyPatch(), signal.getsignal(signal.SIGTERM)
    # Addresses of the loopback stay such, and fewer processes are started; Ray reads both when it is imported.
    patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_enable_metrics_collection", "0")
    # Short, because sockets lie in it; and not Ray's usual one, which may belong to a cluster that is in use.
    folder = tempfile.mkdtemp(prefix="ray-")
    for name in ("RAY_TMPDIR", "TMPDIR", "XDG_CACHE_HOME"):
        patch.setenv(name, folder)
    from ray.cluster_utils import Cluster

    common = {"include_dashboard": False, "object_store_memory": 128 << 20}
    head = {"num_cpus": 0, "no_monitor": True, "include_log_monitor": False}
    # A node that is gone is noticed within seconds.
    head |= {"_system_config": {"health_check_period_ms": 500, "health_check_initial_delay_ms": 500}}
    made = Cluster(initialize_head=True, head_node_args=common | head)
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, wait=False, **common)
        made.wait_for_nodes(timeout=120)
        yield made
    finally:
        made.shutdown()
        # Its agents may write a last line after their raylet has gone.
        until(lambda: shutil.rmtree(folder, ignore_errors=True) or not Path(folder).exists())
        signal.signal(signal.SIGTERM, on_term)
        patch.undo()


def test_a_node_is_lost_in_the_middle_of_a_run_and_every_run_is_finished_once(cluster, tmp_path):
    store, method = lab.RunStore(tmp_path / "store"), tmp_path / "method"
    hit = own(method, "Waits", WAITS)
    good = [hit, tiny(), tiny(method="spgca", seed=1), tiny(seed=2)]
    nowhere = tiny(dataset=str(tmp_path / "photos"))
    lines, lost = [], []

    def lose():
        node, _ = at(method)
        lost.append(node)
        (method / "at").unlink()
        (found,) = [n for n in cluster.worker_nodes if n.node_id == node]
        cluster.remove_node(found, allow_graceful=False)
        # Only the second attempt, on the node that is left, may go on.
        lost.append(at(method)[0])
        (method / "go").touch()

    loser = threading.Thread(target=lose)
    loser.start()
    outcomes = run_on_ray([*good, nowhere], store, address=cluster.address, threads=1, log=lines.append)
    loser.join()
    print("\n".join(lines))
    assert [outcome.status for outcome in outcomes] == ["finished"] * 4 + ["failed"]
    assert lost[0] != lost[1]
    assert "FileNotFoundError" in outcomes[-1].error
    assert "photos" in store[nowhere].failure
    for recipe in good:
        assert sum(line.endswith(f"{store.folder(recipe).name}: finished") for line in lines) == 1
        assert_same_run(fitted(recipe, tmp_path / "fit"), store[recipe])
    assert len(lines) == 5
    assert sorted(p.name for p in store.path.iterdir()) == sorted(
        store.folder(r).name for r in [*good, nowhere]
    )
    results = {recipe: (store[recipe].path / "result.json").stat().st_mtime_ns for recipe in good}
    again = run_on_ray(good, store, address="localhost:1", log=lines.append)  # nothing is left to connect for
    assert [outcome.status for outcome in again] == ["finished"] * 4
    assert results == {recipe: (store[recipe].path / "result.json").stat().st_mtime_ns for recipe in good}
    assert len(lines) == 5


def test_ctrl_c_stops_all_with_checkpoints_and_the_same_call_goes_on(cluster, tmp_path, request):
    import ray

    store, method = lab.RunStore(tmp_path / "store"), tmp_path / "method"
    stopped, waits = own(method, "Waits", WAITS), tiny(seed=3)
    pid = []

    def interrupt():
        pid.append(at(method)[1])
        os.kill(os.getpid(), signal.SIGINT)

    # A session that is connected already stays so.
    ray.init(cluster.address, log_to_driver=False)
    request.addfinalizer(ray.shutdown)
    threading.Thread(target=interrupt).start()
    lines = []

    def log(line):
        lines.append(line)
        if line.startswith("stopping"):
            # The penalty's wait ends, so that the step can.
            threading.Timer(2, (method / "go").touch).start()

    with pytest.raises(KeyboardInterrupt):
        run_on_ray([stopped, waits], store, address=cluster.address, threads=1, log=log)
    assert lines[-1] == "stopping, with checkpoints …"
    assert not store.folder(stopped).exists()
    cache = lab.RunStore(platformdirs.user_cache_path("spgca-lab") / "ray")
    assert cache[stopped].status == "interrupted"
    begun = len(cache[stopped].steps)
    assert begun >= 6
    dies = own(method, "Dies", DIES)
    recipes = [stopped, waits, dies]
    outcomes = run_on_ray(recipes, store, address=cluster.address, threads=1, retries=1, log=lines.append)
    assert [outcome.status for outcome in outcomes] == ["finished", "finished", "failed"]
    assert store[dies].failure == outcomes[-1].error
    assert "WorkerCrashedError" in outcomes[-1].error or "OutOfMemoryError" in outcomes[-1].error
    assert ray.is_initialized()
    assert_same_run(fitted(stopped, tmp_path / "fit"), store[stopped])


def packed(**files):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return archive.getvalue()


def test_an_archive_that_is_not_the_finished_run_leaves_the_store_as_it_was(tmp_path, monkeypatch):
    store, recipe = lab.RunStore(tmp_path / "store"), tiny()
    evil = packed(**{"run/recipe.json": recipe.to_json().encode(), "../out.txt": b"x"})
    with pytest.raises(tarfile.OutsideDestinationError):
        unpack(evil, recipe, store)
    for content in (tiny(seed=5).to_json(), recipe.to_json()):
        with pytest.raises(lab.RunError, match="came back as another run, or unfinished: update spgca_lab"):
            unpack(packed(**{"run/recipe.json": content.encode()}), recipe, store)
    assert list(store.path.iterdir()) == []
    assert list(tmp_path.iterdir()) == [store.path]
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda _: tmp_path / "cache")
    for _ in zip(range(3), lab.fit(recipe, store, device="cpu"), strict=False):
        pass
    archive = train_packed(recipe.to_dict(), "cpu", 1, str(Path.cwd()))
    assert list((tmp_path / "cache" / "ray").iterdir()) == []
    unpack(archive, recipe, store)
    assert_same_run(fitted(recipe, tmp_path / "fit"), store[recipe])


def test_a_run_that_another_process_trains_is_held(tmp_path):
    store, recipe = lab.RunStore(tmp_path), tiny()
    events = lab.fit(recipe, store, device="cpu")
    next(events)
    (outcome,) = run_on_ray([recipe, recipe], store, address="localhost:1")
    assert outcome.status == "held"
    assert outcome.error == f"another process trains it in {str(store.path)!r}"
    events.close()

"""A grid on Ray: a real cluster of which a node is lost, and what gathers the runs by itself."""

import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

import spgca_lab as lab
from spgca_lab.experiments.cluster import Gatherer, Refused, attempt, driver, run_on_ray
from spgca_lab.experiments.cluster import gatherer as module
from spgca_lab.runs.lock import Lease, holder
from tests import tiny_runs
from tests.test_launch import assert_same_run, until

TINY = tiny_runs.SMALL | {"iterations": 16}
pytestmark = pytest.mark.usefixtures("one_thread")  # as many as each run has
OPTIONS = attempt.Options(device="cpu", threads=1, cwd=str(Path.cwd()))
# It waits where it can be hit, after its first checkpoint, until a file says go on or somebody asks it to stop.
WAITS = '''
"""A penalty that waits."""

import signal
import time
from pathlib import Path

from spgca_lab import Penalty


class Waits(Penalty):
    """Squares of T's maps, in no hurry."""

    calls = 0

    def penalty(self, state, weights):
        """The squares."""
        self.calls += 1
        while self.calls > 6 and not (Path(__file__).parent / "go").exists():
            worker = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
            if worker is not None and worker.signal is not None:
                break
            time.sleep(0.02)
        return sum(m.square().mean() for m in state.maps_t.values())
'''

DIES = '''
"""A penalty that ends its process, as a machine does that runs out of memory."""

import os
import signal

from spgca_lab import Penalty


class Dies(Penalty):
    """Nothing survives it."""

    def penalty(self, state, weights):
        """The end."""
        os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where attempts put their copies of the run folder."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def tiny(**changes):
    return lab.Recipe(**{"method": "l2_sp"} | TINY | changes)


def own(folder, name, code):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(code)
    return tiny(method=f"{folder / name}.py:{name}", alpha=0.1)


def waiting(folder):
    """A recipe that waits at the seventh step until `folder` has a file `go`."""
    return own(folder, "Waits", WAITS)


def fitted(recipe, store):
    for _ in lab.fit(recipe, store=store, device="cpu"):
        pass
    return lab.RunStore(store)[recipe]


def gathering(store, *recipes):
    lines = []
    return Gatherer(store, recipes, lines.append), lines


def directly(gatherer):
    return lambda name, *args: getattr(gatherer, name)(*args)


def attempted(gatherer, recipe, number=1, call=None):
    call = call or directly(gatherer)
    return attempt.attempt_run(call, recipe.hash(), recipe.to_dict(), number, f"node{number}", OPTIONS)


def said(lines):
    return [line.rpartition(": ")[2] for line in lines]


def assert_one_at_a_time(lines):
    """A node of one CPU has no second run while the first talks to the gatherer."""
    busy = {}
    for name, node, what in (
        re.search(r"  (.*), attempt .* on node (\w+): (\w+)", line).groups() for line in lines
    ):
        if what in ("started", "goes"):
            assert node not in busy
            busy[node] = name
        assert busy[node] == name
        if what in ("finished", "failed", "lost"):
            del busy[node]


def content(text):
    return np.frombuffer(text.encode(), np.uint8)


def whole(**more):
    names = ("steps.csv", "evaluations.csv", "predictions.csv", "weights.safetensors")
    result = content('{"top1": 50.0, "seconds": 2.0}')
    return {name: content(name) for name in names} | {"result.json": result} | more


def test_the_nodes_are_told_the_folder_that_holds_the_package():
    root = driver._root()
    assert root is None or (Path(root) / "spgca_lab" / "__init__.py").is_file()


def test_an_attempt_leaves_the_run_that_fit_leaves(tmp_path, scratch):
    recipe = tiny(method="spgca")
    gatherer, lines = gathering(tmp_path / "store", recipe)
    assert attempted(gatherer, recipe) == "finished"
    run, expected = lab.RunStore(tmp_path / "store")[recipe], fitted(recipe, tmp_path / "fit")
    assert_same_run(expected, run)
    assert {f.name for f in run.path.iterdir()} == {f.name for f in expected.path.iterdir()}
    steps = [f"checkpoint received at step {step}" for step in (4, 8, 12)]
    top1 = f"finished, top-1 {run.result['top1']:.2f} % in {run.result['seconds']:.0f} s"
    assert [line.partition("node1: ")[2] for line in lines] == ["started", *steps, top1]
    assert (tmp_path / "store" / "ray.log").read_text().splitlines() == lines
    assert list(scratch.iterdir()) == []


def test_an_attempt_that_was_taken_for_lost_is_refused_and_the_next_goes_on_to_the_same_bits(
    tmp_path, scratch
):
    recipe = tiny(method="spgca")
    gatherer, lines = gathering(tmp_path / "store", recipe)
    folder = lab.RunStore(tmp_path / "store").folder(recipe)
    refused = []

    def call(name, *args):
        if name == "keep" and args[-1] == 8:
            assert gatherer.lost(recipe.hash(), 1, "no sign of it")
            before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
            with pytest.raises(Refused, match="another has taken its place") as error:
                gatherer.keep(*args)
            refused.append(
                {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
            )
            raise error.value
        return getattr(gatherer, name)(*args)

    assert attempted(gatherer, recipe, call=call) == "refused"
    assert refused == [True]
    assert holder(folder) is not None  # kept for the next attempt
    assert attempted(gatherer, recipe, number=1) == "refused"  # it comes late, and has been given up
    assert attempted(gatherer, recipe, number=2) == "finished"
    steps = [int(line.split()[-1]) for line in lines if "received" in line]
    assert steps == [4, 8, 12]
    assert said(lines)[2:4] == ["lost (no sign of it)", "goes on from step 4"]
    assert holder(folder) is None
    assert_same_run(fitted(recipe, tmp_path / "fit"), lab.Run(folder))
    assert list(scratch.iterdir()) == []


def test_an_attempt_that_is_asked_to_stop_sends_a_checkpoint_of_that_moment(tmp_path, scratch):
    recipe = tiny()
    gatherer, lines = gathering(tmp_path, recipe)

    def call(name, *args):
        answer = getattr(gatherer, name)(*args)
        if name == "keep":
            os.kill(os.getpid(), signal.SIGINT)
        return answer

    assert attempted(gatherer, recipe, call=call) == "stopped"
    gatherer.close()
    run = lab.RunStore(tmp_path)[recipe]
    assert (run.status, holder(run.path)) == ("interrupted", None)
    assert said(lines)[1:] == [
        "checkpoint received at step 4",
        "checkpoint received at step 5",
        "stopped, with this checkpoint",
    ]
    steps = [event.step for event in lab.fit(recipe, tmp_path, device="cpu") if isinstance(event, lab.Step)]
    assert steps == list(range(6, 17))


def test_an_error_of_the_training_ends_the_run_and_says_where_it_was(tmp_path, scratch):
    diverges, nowhere = tiny(lr=1e30), tiny(dataset=str(tmp_path / "photos"))
    gatherer, _ = gathering(tmp_path / "store", diverges, nowhere)
    assert attempted(gatherer, diverges) == attempted(gatherer, nowhere) == "failed"
    store = lab.RunStore(tmp_path / "store")
    assert [store[recipe].status for recipe in (diverges, nowhere)] == ["failed"] * 2
    assert re.match(r"TrainingError: the loss is nan at step \d+ of 16", store[diverges].failure)
    assert re.match(r"FileNotFoundError: '.*/photos' .*\(on node node1, .+\)$", store[nowhere].failure)
    assert [(o.status, o.error) for o in gatherer.outcomes()] == [
        ("failed", store[recipe].failure) for recipe in (diverges, nowhere)
    ]
    assert [holder(store.folder(recipe)) for recipe in (diverges, nowhere)] == [None, None]
    other = diverges.replace(seed=5)
    gatherer, _ = gathering(tmp_path / "store", other)
    call = directly(gatherer)
    assert attempt.attempt_run(call, other.hash(), diverges.to_dict(), 1, "n", OPTIONS) == "failed"
    assert "this recipe has another hash" in store[other].failure


def test_a_run_that_is_held_or_finished_elsewhere_is_not_trained(tmp_path, scratch):
    held, done = tiny(), tiny(seed=1)
    finished = fitted(done, tmp_path)
    before = (finished.path / "result.json").stat().st_mtime_ns
    gatherer, lines = gathering(tmp_path, held, done)
    folder = lab.RunStore(tmp_path).folder(held)
    folder.mkdir()
    with Lease.take(folder, "session"):
        assert attempted(gatherer, held) == "held"
    assert attempted(gatherer, done) == "finished"
    assert [outcome.status for outcome in gatherer.outcomes()] == ["held", "finished"]
    assert "is being trained by this very process" in gatherer.outcomes()[0].error
    assert (finished.path / "result.json").stat().st_mtime_ns == before
    assert not (folder / "recipe.json").exists()
    assert len(lines) == 2


def test_a_run_that_somebody_else_finishes_while_the_lease_is_taken_stays_as_it_is(tmp_path, monkeypatch):
    recipe = tiny()
    gatherer, _ = gathering(tmp_path, recipe)
    folder, take = lab.RunStore(tmp_path).folder(recipe), Lease.take

    def late(path, kind):
        lease = take(path, kind)
        (path / "result.json").write_text("{}")
        return lease

    monkeypatch.setattr(Lease, "take", late)
    assert gatherer.begin(recipe.hash(), "a", 1).status == "finished"
    assert {file.name for file in folder.iterdir()} == {"result.json"}
    assert holder(folder) is None


def test_while_an_attempt_trains_others_see_that_the_run_is_taken(tmp_path):
    recipe = tiny()
    gatherer, _ = gathering(tmp_path, recipe)
    gatherer.begin(recipe.hash(), "a", 1)
    who = holder(lab.RunStore(tmp_path).folder(recipe))
    assert (who.kind, who.obeys) == ("cluster", False)
    with pytest.raises(lab.RunBusy, match="is being trained"):
        next(lab.fit(recipe, tmp_path, device="cpu"))
    gatherer.close()
    assert isinstance(next(lab.fit(recipe, tmp_path, device="cpu")), lab.Step)


def test_a_run_is_finished_once(tmp_path, monkeypatch):
    recipe = tiny()
    gatherer, _ = gathering(tmp_path, recipe)
    folder = lab.RunStore(tmp_path).folder(recipe)
    token = gatherer.begin(recipe.hash(), "a", 1).token
    gatherer.keep(
        recipe.hash(), token, {"events.jsonl": content("{}"), "snapshots/000000-0.npz": content("s")}
    )
    without = {name: c for name, c in whole().items() if name != "predictions.csv"}
    with pytest.raises(lab.RunError, match=r"cannot be finished without predictions\.csv$"):
        gatherer.finish(recipe.hash(), token, without)
    with pytest.raises(lab.RunError, match=r"cannot be finished without result\.json$"):
        gatherer.finish(recipe.hash(), token, {k: v for k, v in whole().items() if k != "result.json"})
    assert not (folder / "steps.csv").exists()
    order, replace = [], module.replace_file
    monkeypatch.setattr(
        module, "replace_file", lambda file, data: (order.append(file.name), replace(file, data))
    )
    gatherer.finish(recipe.hash(), token, whole(**{"checkpoint.safetensors": content("c")}))
    assert order[-2:] == ["checkpoint.safetensors", "result.json"]
    with pytest.raises(Refused, match="the run is finished"):
        gatherer.finish(recipe.hash(), token, whole())
    with pytest.raises(Refused, match="the run is finished"):
        gatherer.keep(recipe.hash(), token, {"steps.csv": content("again")})
    assert gatherer.lost(recipe.hash(), 1, "its last word had been heard") is False
    gatherer.fail(recipe.hash(), None, "RunError: too late")
    assert [outcome.status for outcome in gatherer.outcomes()] == ["finished"]
    left = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert left == {"recipe.json", "snapshots/000000-0.npz", *whole()}


@pytest.mark.parametrize(
    "name",
    [
        "../other/result.json", "/etc/steps.csv", "snapshots/../../a.csv", "snapshots/a/b.npz", "", ".", "./steps.csv",
        "..\\a.csv", "c:steps.csv", "link/a.csv", "recipe.json", "run.lock", "process.json", "launch.json", "request",
        "failure.json", "log.txt", "steps.csv.1-1.part", "result.json",
    ],
)  # fmt: skip
def test_no_name_leads_out_of_the_run_folder_or_to_what_is_the_store_s_own(name, tmp_path):
    recipe = tiny()
    gatherer, _ = gathering(tmp_path / "store", recipe)
    token = gatherer.begin(recipe.hash(), "a", 1).token
    folder = lab.RunStore(tmp_path / "store").folder(recipe)
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(
        lab.RunError, match="is not the name of a file|not for an attempt to write|leads out of"
    ):
        gatherer.keep(recipe.hash(), token, {"steps.csv": content("1"), name: content("2")})
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    gatherer.close()


def test_what_a_killed_attempt_left_on_its_node_is_removed_by_the_next(scratch):
    for name in ("dead", "alive"):
        (scratch / f"spgca-lab-ray-{name}" / "run").mkdir(parents=True)
    (scratch / "spgca-lab-ray-dead" / "run" / "process.json").write_text('{"pid": 1, "host": "h"}')
    (scratch / "spgca-lab-ray-new").mkdir()
    with Lease.take(scratch / "spgca-lab-ray-alive" / "run", "session"):
        attempt._sweep()
        assert sorted(file.name[14:] for file in scratch.iterdir()) == ["alive", "new"]


def test_what_makes_no_sense_is_said_before_ray_is_started(tmp_path):
    class Here(lab.Penalty):
        pass

    for wrong, message in (
        ({"gpus": -1}, "gpus must be a number of at least 0, got -1"),
        ({"cpus": "2"}, "cpus must be a number of at least 0, got '2'"),
        ({"memory": float("nan")}, "memory must be a number of at least 0, got nan"),
        ({"retries": 1.5}, "retries must be an integer of at least 0, got 1.5"),
        ({"address": "ray://gpu1:10001"}, "'ray://gpu1:10001' is that of a Ray Client"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            run_on_ray([tiny()], tmp_path, **wrong)
    with pytest.raises(lab.RecipeError, match="Here' is a class of this session"):
        run_on_ray([tiny(method=Here)], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def cluster():
    """A head that trains nothing and two nodes of one CPU each, all on this machine."""
    patch, on_term = pytest.MonkeyPatch(), signal.getsignal(signal.SIGTERM)
    # Addresses of the loopback stay such, and fewer processes are started; both are read at the import of Ray.
    patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_enable_metrics_collection", "0")
    # Short, because sockets lie in it; and not Ray's usual one, which may belong to a cluster that is in use.
    folder = tempfile.mkdtemp(prefix="ray-")
    patch.setenv("RAY_TMPDIR", folder)
    patch.setenv("TMPDIR", folder)
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
    store = lab.RunStore(tmp_path / "store")
    hit = waiting(tmp_path / "method")
    good = [hit, tiny(), tiny(method="spgca", seed=1), tiny(seed=2)]
    nowhere = tiny(dataset=str(tmp_path / "photos"))
    name, lines = store.folder(hit).name, []

    def log(line):
        lines.append(line)
        first = re.search(rf"{name}, attempt 1 on node (\w+): checkpoint received at step 4", line)
        if first:
            assert (store.folder(hit) / "checkpoint.safetensors").exists()
            (node,) = [n for n in cluster.worker_nodes if n.node_id.startswith(first[1])]
            cluster.remove_node(node, allow_graceful=False)
            (tmp_path / "method" / "go").touch()

    outcomes = run_on_ray([*good, nowhere], store, address=cluster.address, threads=1, log=log)
    print("\n".join(lines))
    assert [outcome.status for outcome in outcomes] == ["finished"] * 4 + ["failed"]
    assert outcomes[0].attempts == 2
    assert "FileNotFoundError" in outcomes[-1].error
    assert "photos" in store[nowhere].failure
    hits = [line.partition("  ")[2] for line in lines if name in line]
    assert re.match(rf"{name}, attempt 1 on node \w+: lost \((NodeDied|WorkerCrashed)Error", hits[2])
    assert re.match(rf"{name}, attempt 2 on node \w+: goes on from step 4$", hits[3])
    assert re.search(r"node (\w+):", hits[2])[1] != re.search(r"node (\w+):", hits[3])[1] == outcomes[0].node
    assert_one_at_a_time(lines)
    for recipe in good:
        assert sum(": finished, " in line for line in lines if store.folder(recipe).name in line) == 1
        assert holder(store.folder(recipe)) is None
        assert_same_run(fitted(recipe, tmp_path / "fit"), store[recipe])
    assert (store.path / "ray.log").read_text().splitlines() == lines
    results = {recipe: (store[recipe].path / "result.json").stat().st_mtime_ns for recipe in good}
    again = run_on_ray(good, store, address="localhost:1", log=lines.append)  # nothing is left to connect for
    assert [(outcome.status, outcome.attempts) for outcome in again] == [("finished", 0)] * 4
    assert results == {recipe: (store[recipe].path / "result.json").stat().st_mtime_ns for recipe in good}
    assert (store.path / "ray.log").read_text().splitlines() == lines


def test_ctrl_c_stops_all_with_checkpoints_and_the_same_call_goes_on(cluster, tmp_path, request):
    import ray

    store = lab.RunStore(tmp_path / "store")
    stopped, waits = waiting(tmp_path / "method"), tiny(seed=3)
    lines = []

    def interrupt(line):
        lines.append(line)
        if "checkpoint received at step 4" in line and store.folder(stopped).name in line:
            raise KeyboardInterrupt

    # A session that is connected already stays so, and its processes serve both calls.
    ray.init(cluster.address, log_to_driver=False)
    request.addfinalizer(ray.shutdown)
    with pytest.raises(KeyboardInterrupt):
        run_on_ray([stopped, waits], store, address=cluster.address, threads=1, log=interrupt)
    assert store[stopped].status == "interrupted"
    assert holder(store.folder(stopped)) is None
    assert said(lines)[-1] == "stopped, with this checkpoint"
    assert any(line.startswith("stopping") for line in lines)
    (tmp_path / "method" / "go").touch()
    log = []
    dies = own(tmp_path / "method", "Dies", DIES)
    recipes = [stopped, waits, dies]
    outcomes = run_on_ray(recipes, store, address=cluster.address, threads=1, retries=1, log=log.append)
    assert [outcome.status for outcome in outcomes] == ["finished", "finished", "failed"]
    assert outcomes[-1].attempts == 2
    assert re.match(r"RunError: lost 2 times, the last one by \w+Error: ", store[dies].failure)
    assert holder(store.folder(dies)) is None
    assert any(
        re.search(rf"{store.folder(stopped).name}, .*: goes on from step [567]$", line) for line in log
    )
    assert ray.is_initialized()
    assert_same_run(fitted(stopped, tmp_path / "fit"), store[stopped])


def test_it_is_said_when_no_node_has_what_a_run_needs():
    needs = driver._Needs.of(1, 2.0, 2**30)
    assert str(needs) == "2 CPUs, 1 GPUs and 1 GiB of memory"
    assert not needs.met_by({"CPU": 4.0, "memory": 2.0**31})
    assert needs.met_by({"CPU": 4.0, "memory": 2.0**31, "GPU": 1.0})

"""run_on_ray: a grid of runs on a Ray cluster, one task a run, gathered to one store."""

import logging
import os
import signal
import site
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spgca_lab._files import RunError
from spgca_lab.experiments.cluster.attempt import Options
from spgca_lab.experiments.cluster.gatherer import Outcome
from spgca_lab.runs.background import prepare
from spgca_lab.runs.store import RunStore
from spgca_lab.training.recipe import Recipe

__all__ = ["run_on_ray"]

POLL = 0.5
GRACE = 60.0


def run_on_ray(
    recipes: Iterable[Recipe],
    store: str | Path | RunStore = "runs",
    *,
    address: str | None = None,
    gpus: float = 0.0,
    cpus: float = 1.0,
    memory: float | None = None,
    retries: int = 3,
    device: str | None = None,
    threads: int | None = None,
    log: Callable[[str], None] | None = None,
) -> list[Outcome]:
    """Train what the store lacks on a Ray cluster, one task a run, and return when all is done.

    The nodes need this package and, at the same path, a data set that is a folder; they share no file system with this
    machine. Each run trains in a folder of its node, and whenever it has written a checkpoint the store gets it. A run
    whose process or node is lost goes on from there on another one, to the same numbers, bit for bit, on CPUs of one
    kind. An error of the training is none of the cluster: it is kept as the run's failure and not tried again.

    Ctrl-C stops all with a checkpoint, and the same call goes on. What happens is also in `ray.log` of the store.

    Args:
        recipes: what to train; a class of your own must be in a file, at the same path on the nodes.
        store: folder of runs, on this machine.
        address: of the cluster, `"auto"` for the one that this machine belongs to; None starts a Ray of this machine
            alone. A session that is connected already is used as it is.
        gpus: that a run needs.
        cpus: that a run needs.
        memory: bytes that a run needs, by which Ray places runs; None leaves it open.
        retries: how often a run goes on that was lost.
        device: `"cpu"`, `"cuda"`, …; None is `"cuda"` where a run has GPUs, else `"cpu"`.
        threads: of the CPU, a run; None takes as many as it has CPUs.
        log: is given a line a happening; None prints them.

    Returns:
        What became of each recipe, in order; of equal ones once.

    Raises:
        ImportError: without Ray.
        ValueError: for needs that make no sense, or that this machine alone cannot meet.
        RecipeError: when a recipe's class lives only in this session.
        RunError: when the process that gathers the runs is gone.

    Example:
        >>> run_on_ray([], retries=0)
        []
    """
    needs = _Needs.of(gpus, cpus, memory)
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ValueError(f"retries must be an integer of at least 0, got {retries!r}")
    if address is not None and address.startswith("ray://"):
        raise ValueError(
            f"address: {address!r} is that of a Ray Client, whose machine is no part of the cluster, so that nothing "
            "can be gathered there; run this on a node of the cluster with address='auto'"
        )
    store = store if isinstance(store, RunStore) else RunStore(store)
    wanted = list(dict.fromkeys(recipes))
    left = [recipe for recipe in wanted if not (store.folder(recipe) / "result.json").exists()]
    options = Options(
        device=device or ("cuda" if gpus else "cpu"),
        threads=threads or max(1, int(cpus)),
        cwd=str(Path.cwd()),
    )
    for recipe in left:
        prepare(recipe, store, device=device, detach=False, threads=options.threads)
    outcomes = {recipe: Outcome(recipe, "finished") for recipe in wanted}
    if left:
        with _connected(address) as (ray, alone):
            driver = _Driver(ray, left, store, needs, options, retries, log or _print)
            outcomes |= {outcome.recipe: outcome for outcome in driver.run(alone)}
    return list(outcomes.values())


@dataclass(frozen=True)
class _Needs:
    gpus: float
    cpus: float
    memory: float | None

    @classmethod
    def of(cls, gpus: float, cpus: float, memory: float | None) -> "_Needs":
        for name, value in (("gpus", gpus), ("cpus", cpus), ("memory", memory)):
            if value is None and name == "memory":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
        return cls(gpus, cpus, memory)

    def __str__(self) -> str:
        memory = "" if self.memory is None else f" and {self.memory / 2**30:.3g} GiB of memory"
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs{memory}"

    def met_by(self, resources: dict[str, float]) -> bool:
        asked = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory or 0}
        return all(resources.get(name, 0.0) >= amount for name, amount in asked.items())

    def options(self) -> dict[str, Any]:
        memory = {} if self.memory is None else {"memory": int(self.memory)}
        # Tries are counted here, so that each has its line and its number; see `_Driver`.
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": 0} | memory


class _Driver:
    """Sends runs to the cluster and sends those again that were lost."""

    def __init__(
        self,
        ray: Any,
        recipes: list[Recipe],
        store: RunStore,
        needs: _Needs,
        options: Options,
        retries: int,
        log: Callable[[str], None],
    ):
        self.ray, self.needs, self.options, self.retries, self.log = ray, needs, options, retries, log
        self.recipes = {recipe.hash(): recipe for recipe in recipes}
        self.names = {key: store.folder(recipe).name for key, recipe in self.recipes.items()}
        train, keeper = _sent(_root())
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        fields = [recipe.to_dict() for recipe in recipes]
        self.gatherer = (
            ray.remote(keeper)
            .options(num_cpus=0, scheduling_strategy=here)
            .remote(str(store.path.absolute()), fields)
        )
        self.task = ray.remote(train)
        self.active: dict[Any, tuple[str, int]] = {}

    def run(self, alone: bool) -> list[Outcome]:
        """Train all; `alone` says that this machine's CPUs and GPUs are all that there will be."""
        try:
            self._check(alone)
            for run in self.recipes:
                self._send(run, 1)
            while self.active:
                ready, _ = self.ray.wait(list(self.active), timeout=POLL)
                self._tell()
                for ref in ready:
                    self._settle(ref)
            outcomes = self._call("outcomes")
            self._tell()
        except KeyboardInterrupt:
            self._stop()
            raise
        except self.ray.exceptions.RayActorError as error:
            raise RunError(
                f"the process that gathers the runs is gone ({_why(error)}); the same call goes on"
            ) from error
        finally:
            for ref in self.active:
                self.ray.cancel(ref, force=True, recursive=False)
            self.ray.kill(self.gatherer)
        return outcomes

    def _check(self, alone: bool) -> None:
        """Say it where no node has what a run needs: Ray would wait in silence."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if any(self.needs.met_by(resources) for resources in nodes):
            return
        if alone:
            has = ", ".join(f"{nodes[0].get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
            raise ValueError(f"a run needs {self.needs}, but this machine has {has}")
        self._call("note", f"no node of the cluster has {self.needs}, which a run needs: waiting for one")

    def _send(self, run: str, attempt: int) -> None:
        task = self.task.options(name=self.names[run], **self.needs.options())
        ref = task.remote(self.gatherer, run, self.recipes[run].to_dict(), attempt, vars(self.options))
        self.active[ref] = (run, attempt)

    def _settle(self, ref: Any) -> None:
        errors = self.ray.exceptions
        run, attempt = self.active.pop(ref)
        try:
            status = self.ray.get(ref)
            if status != "stopped":
                return
            why = "its process was asked to stop"
        except errors.RayTaskError as error:
            cause = error.cause
            if not isinstance(cause, errors.RayError):
                self._call("fail", run, None, f"{type(cause).__name__}: {cause}", {}, attempt)
                return
            why = _why(cause)
        except (
            errors.TaskCancelledError,
            errors.RuntimeEnvSetupError,
            errors.TaskUnschedulableError,
        ) as error:
            self._call("fail", run, None, _why(error), {}, attempt)
            return
        except errors.RayError as error:
            why = _why(error)
        if not self._call("lost", run, attempt, why):
            return
        if attempt <= self.retries:
            self._send(run, attempt + 1)
        else:
            self._call("fail", run, None, f"RunError: lost {attempt} times, the last one by {why}")

    def _stop(self) -> None:
        self.log("stopping, with checkpoints …")
        # Those that wait first, so that none begins in the place of one that ends.
        for ref in reversed(self.active):
            self.ray.cancel(ref, recursive=False)
        until = time.monotonic() + GRACE
        waiting = list(self.active)
        while waiting and time.monotonic() < until:
            _, waiting = self.ray.wait(waiting, num_returns=len(waiting), timeout=POLL)
            self._tell()
        self._call("close")
        self._tell()

    def _call(self, name: str, *args: Any) -> Any:
        return self.ray.get(self.gatherer.call.remote(name, *args))

    def _tell(self) -> None:
        for line in self.ray.get(self.gatherer.news.remote()):
            self.log(line)


def _sent(root: str | None) -> tuple[Callable[..., str], type]:
    """What runs on other machines, made here so that Ray sends the code itself: it finds this package, then uses it."""

    def find() -> None:
        if root is not None and root not in sys.path and Path(root).is_dir():
            sys.path.append(root)

    def train(gatherer: Any, run: str, fields: dict[str, Any], attempt: int, options: dict[str, Any]) -> str:
        find()
        # Ray uses a process again whose task was cancelled: it must not be left with half of an import.
        stops: list[int] = []
        before = signal.signal(signal.SIGINT, lambda number, _: stops.append(number))
        try:
            from spgca_lab.experiments.cluster.attempt import attempt_on_node
        except ImportError as error:
            raise ImportError(
                f"on {socket.gethostname()} spgca_lab cannot be imported ({error}); every node of the cluster needs it"
            ) from error
        finally:
            signal.signal(signal.SIGINT, before)
        if stops:
            raise KeyboardInterrupt
        return attempt_on_node(gatherer, run, fields, attempt, options)

    class Keeper:
        def __init__(self, store: str, recipes: list[dict[str, Any]]):
            find()
            from spgca_lab.experiments.cluster.gatherer import Gatherer
            from spgca_lab.training.recipe import Recipe

            self.lines: list[str] = []
            self.gatherer = Gatherer(store, [Recipe.from_dict(r) for r in recipes], self.lines.append)

        def call(self, name: str, *args: Any) -> Any:
            return getattr(self.gatherer, name)(*args)

        def news(self) -> list[str]:
            lines = self.lines.copy()
            self.lines.clear()
            return lines

    return train, Keeper


def _why(error: BaseException) -> str:
    # Ray's messages go on with advice and addresses.
    first = (str(error).strip().splitlines() or ["no word why"])[0].partition(". ")[0].rstrip(".")
    return f"{type(error).__name__}: {first}"


def _print(line: str) -> None:
    print(line, flush=True)


def _root() -> str | None:
    """Where this package is imported from, if it is not installed."""
    root = str(Path(__file__).resolve().parents[3])
    return None if root in site.getsitepackages() else root


@contextmanager
def _connected(address: str | None) -> Iterator[tuple[Any, bool]]:
    """Ray, connected, and whether it was started here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A Ray of this machine alone is to listen on the loopback only, which is settled when Ray is imported.
    switch = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    switched = address is None and "ray" not in sys.modules and switch not in os.environ
    if switched:
        os.environ[switch] = "0"
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ImportError(
            'a grid on a cluster needs Ray, which is missing: pip install "spgca-lab[cluster]"'
        ) from error
    if ray.is_initialized():
        yield ray, False
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    # "local", because None would look for the address of a cluster in the environment.
    ray.init("local", include_dashboard=False, **quiet) if address is None else ray.init(address, **quiet)
    try:
        yield ray, address is None
    finally:
        ray.shutdown()
        if switched:
            del os.environ[switch]

"""RunStore: one folder a run, written as it happens and read back as pandas tables."""

import io
import json
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.torch
from torch import Tensor

from spgca_lab._checks import quote
from spgca_lab._files import NotWritten, RunError, make_folder, replace_file
from spgca_lab.data.shipped import ShippedDataError, check_shipped
from spgca_lab.runs import checkpoint
from spgca_lab.runs.lock import LOCK, PROCESS, REQUEST, RunBusy, holder
from spgca_lab.training.events import Evaluation, Snapshot, Step
from spgca_lab.training.recipe import Recipe, RecipeError

__all__ = [
    "NotWritten",
    "Run",
    "RunBusy",
    "RunError",
    "RunStore",
    "RunWriter",
    "read_snapshot",
    "snapshot_name",
]

# Before 3.1 pandas rounds the last digits unless told not to; since then it reads exactly and deprecates this.
_OLD_PANDAS = tuple(int(part) for part in pd.__version__.split(".")[:2]) < (3, 1)
_EXACT: dict[str, Any] = {"float_precision": "round_trip"} if _OLD_PANDAS else {}


SHOWN = 3
# What belongs to whoever starts and holds a run, not to the attempt that `clear` forgets.
_KEPT = {"recipe.json", "launch.json", "log.txt", LOCK, PROCESS, REQUEST}


class Run:
    """One run folder, read lazily.

    Args:
        path: the folder.

    Raises:
        RunError: when it holds no recipe that can be read, and later when a file of it is damaged; what ships with the
            lab is compared with its checksum.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self.recipe = Recipe.from_json(_content(self.path / "recipe.json").decode())
        except FileNotFoundError as error:
            raise RunError(f"{str(self.path)!r} is not a run folder: it has no recipe.json") from error
        except (RecipeError, UnicodeDecodeError) as error:
            raise RunError(f"the recipe in {str(self.path)!r} cannot be used: {error}") from error

    def __repr__(self) -> str:
        top1 = f", top-1 {self.result['top1']:.2f} %" if self.result else ""
        return f"Run({self.path.name!r}, {self.status}{top1})"

    @property
    def status(self) -> str:
        """What can be done with the run.

        `"finished"`; `"running"` or `"paused"` while a process trains; `"failed"` (see `failure`), `"interrupted"`
        (goes on from its checkpoint) or `"begun"` (no checkpoint yet) when none does.
        """
        if (self.path / "result.json").exists():
            return "finished"
        who = holder(self.path)
        if who is not None:
            return "paused" if who.state == "paused" else "running"
        # Looked at again: it may have finished between the two looks.
        for name, status in (("result.json", "finished"), ("failure.json", "failed")):
            if (self.path / name).exists():
                return status
        return "interrupted" if checkpoint.exists(self.path) else "begun"

    @property
    def failure(self) -> str | None:
        """What ended a run that `spgca-lab fit` or `launch` trained, as `"TrainingError: …"`; None otherwise."""
        told = _read_json(self.path / "failure.json")
        return str(told.get("error", "unknown")) if told is not None else None

    @property
    def result(self) -> dict[str, Any] | None:
        """What the run ended with (`top1` in percent, `seconds`, versions, …), None before."""
        return _read_json(self.path / "result.json")

    @property
    def steps(self) -> pd.DataFrame:
        """One row a step: losses in nats, batch accuracy in percent, entropies and layer shares."""
        return self._read_csv("steps.csv")

    def columns(self, *names: str) -> pd.DataFrame:
        """Some columns of `steps`, of a file of a million rows in a fraction of the time.

        Raises:
            RunError: when there are no steps yet, or no such column, listing those that there are.

        Example:
            >>> from spgca_lab.data.location import data_dir
            >>> run = Run(next((data_dir() / "runs").glob("spgca-*")))
            >>> list(run.columns("step", "loss"))
            ['step', 'loss']
        """
        known = list(self._read_csv("steps.csv", nrows=0))
        if unknown := [name for name in names if name not in known]:
            raise RunError(
                f"the steps of {str(self.path)!r} have no column {unknown[0]!r}: {', '.join(known)}"
            )
        return self._read_csv("steps.csv", usecols=list(names))[list(names)]

    @property
    def evaluations(self) -> pd.DataFrame:
        """One row an evaluation: `top1` in percent, `cross_entropy` in nats."""
        return self._read_csv("evaluations.csv")

    def snapshots(self) -> list[Snapshot]:
        """Attention of the probe batch over time, in the order of steps."""
        return [shot for _, shot in self.staged_snapshots()]

    def staged_snapshots(self) -> list[tuple[int, Snapshot]]:
        """The same with the number of the stage that each belongs to: two stages may bear one name."""
        files = sorted((self.path / "snapshots").glob("*.npz"))
        return [(int(file.stem.rsplit("-", 1)[1]), read_snapshot(file)) for file in files]

    @cached_property
    def probe(self) -> dict[str, np.ndarray]:
        """The probe batch: `images` uint8 `[n, 3, s, s]`, `labels`, `rows` (test set), and `masks` where known."""
        with _arrays(self.path / "probe.npz") as arrays:
            return {name: arrays[name] for name in arrays.files}

    @property
    def predictions(self) -> pd.DataFrame:
        """One row a test picture at the last iterate: `label`, `predicted`."""
        return self._read_csv("predictions.csv")

    def weights(self) -> dict[str, Tensor]:
        """Tensors of the trained model: `target.…`, and the last stage's `penalty.…`.

        Raises:
            RunError: when the run has not ended or was shipped without its weights.
        """
        file = self.path / "weights.safetensors"
        if not file.exists():
            raise RunError(
                f"{str(self.path)!r} has no weights.safetensors: the run is {self.status}, or shipped without"
            )
        try:
            return safetensors.torch.load(_content(file))
        except safetensors.SafetensorError as error:
            raise _damaged(file, error) from error

    def _read_csv(self, name: str, **options: Any) -> pd.DataFrame:
        file = self.path / name
        if not file.exists():
            raise RunError(f"{str(self.path)!r} has no {name} yet: the run is {self.status}")
        try:
            check_shipped(file)
            return pd.read_csv(file, **_EXACT, **options)
        except (ValueError, pd.errors.ParserError) as error:
            raise _damaged(file, error) from error


def _content(file: Path) -> bytes:
    """The bytes of a file; of one that ships with the lab those that left the project."""
    try:
        check_shipped(file)
    except ShippedDataError as error:
        raise RunError(str(error)) from error
    return file.read_bytes()


def _damaged(file: Path, error: Exception) -> RunError:
    if isinstance(error, ShippedDataError):
        return RunError(str(error))
    return RunError(
        f"{str(file)!r} is damaged ({type(error).__name__}: {error}): train the run again, or remove it"
    )


def _read_json(file: Path) -> dict[str, Any] | None:
    # Not `exists` and then `read`: a run that starts afresh may take the file away in between.
    try:
        told = json.loads(_content(file))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise _damaged(file, error) from error
    if not isinstance(told, dict):
        raise _damaged(file, TypeError(f"a {type(told).__name__} in place of an object"))
    return told


@contextmanager
def _arrays(file: Path) -> Iterator[Any]:
    try:
        with np.load(io.BytesIO(_content(file)), allow_pickle=False) as arrays:
            yield arrays
    except (ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise _damaged(file, error) from error


class RunStore:
    """A folder of runs.

    Args:
        path: made when the first run is written.

    Example:
        >>> RunStore("no/such/folder").table().empty
        True
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._known: dict[str, tuple[tuple[int, ...], Run]] = {}

    def __iter__(self) -> Iterator[Run]:
        """The runs by name; a folder that cannot be used is left out, with a warning, and hides no other."""
        known: dict[str, tuple[tuple[int, ...], Run]] = {}
        broken: list[str] = []
        runs = []
        for name, stamp in self._folders():
            before = self._known.get(name)
            try:
                # A recipe is read once, and again when its file is another.
                run = before[1] if before is not None and before[0] == stamp else Run(self.path / name)
            except (RunError, OSError) as error:
                broken.append(str(error))
                continue
            known[name] = stamp, run
            runs.append(run)
        self._known = known
        _left_out(self.path, broken)
        yield from runs

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, key: str | Recipe) -> Run:
        """The run of a recipe, or of a hash (its beginning is enough).

        Raises:
            RunError: when none or several match.
        """
        wanted = key.hash() if isinstance(key, Recipe) else str(key)
        matches = [name for name, _ in self._folders() if name.rsplit("-", 1)[-1].startswith(wanted)]
        if len(matches) != 1:
            raise RunError(
                f"{len(matches)} runs in {str(self.path)!r} match {quote(wanted)}; RunStore.table() lists them"
            )
        return Run(self.path / matches[0])

    def __contains__(self, recipe: Recipe) -> bool:
        return (self.folder(recipe) / "recipe.json").exists()

    def folder(self, recipe: Recipe) -> Path:
        """Where the run of `recipe` is, or would be."""
        own = str(recipe.method).rsplit(":", 1)[-1]
        return self.path / f"{re.sub(r'[^A-Za-z0-9_]+', '_', own)}-{recipe.hash()}"

    def find(self, **fields: Any) -> list[Run]:
        """Runs whose recipes have these values, those of the lowest seed first.

        Raises:
            RunError: when a name is no field of a recipe.

        Example:
            >>> RunStore("no/such/folder").find(method="spgca")
            []
        """
        unknown = [name for name in fields if name not in Recipe.__dataclass_fields__]
        if unknown:
            raise RunError(f"a recipe has no field {', '.join(map(quote, unknown))}")
        found = [run for run in self if all(getattr(run.recipe, n) == v for n, v in fields.items())]
        return sorted(found, key=lambda run: run.recipe.seed)

    def table(self) -> pd.DataFrame:
        """One row a run: `hash`, `status`, `top1`, `seconds`, then every field of its recipe."""
        rows, broken = [], []
        for run in self:
            try:
                result = run.result or {}
            except RunError as error:
                broken.append(str(error))
                continue
            head = {"hash": run.recipe.hash(), "status": run.status}
            rows.append(head | {k: result.get(k) for k in ("top1", "seconds")} | run.recipe.to_dict())
        _left_out(self.path, broken)
        return pd.DataFrame(rows)

    def _folders(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names of the run folders in order, each with what tells one recipe's file from another."""
        found = []
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    with suppress(OSError):
                        told = os.stat(f"{entry.path}/recipe.json")  # noqa: PTH116
                        found.append((entry.name, (told.st_mtime_ns, told.st_size, told.st_ino)))
        except FileNotFoundError:
            return []
        return sorted(found)


def _left_out(store: Path, broken: Sequence[str]) -> None:
    if broken:
        more = f"; and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        warnings.warn(
            f"{len(broken)} run folders of {str(store)!r} cannot be used and are left out: "
            f"{'; '.join(broken[:SHOWN])}{more}",
            stacklevel=3,
        )


def snapshot_name(step: int, stage: int) -> str:
    """Where a run keeps the snapshot of stage number `stage` after `step` steps.

    Example:
        >>> snapshot_name(40, 1)
        'snapshots/000040-1.npz'
    """
    return f"snapshots/{step:06d}-{stage}.npz"


def read_snapshot(file: Path) -> Snapshot:
    """One snapshot; weights in single precision, as exact as the half precision in which they are kept.

    Raises:
        RunError: when it is damaged.
    """
    with _arrays(file) as arrays:
        meta = json.loads(str(arrays["meta"]))
        weights = {tap: arrays[f"w{i}"].astype(np.float32) for i, tap in enumerate(meta["taps"])}
    return Snapshot(meta["step"], meta["stage"], meta["kind"], weights)


class RunWriter:
    """Writes one run folder; every file is replaced in one move, so a reader never sees half of one."""

    def __init__(self, path: Path, recipe: Recipe):
        self.path = path
        make_folder(path / "snapshots")
        self._replace("recipe.json", recipe.to_json().encode())
        (path / "failure.json").unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget an earlier attempt, but neither the recipe nor who holds the run."""
        # The result first: without it nobody takes what is still there for a finished run.
        (self.path / "result.json").unlink(missing_ok=True)
        for file in self.path.rglob("*"):
            if file.is_file() and file.name not in _KEPT and not _is_others_part(file):
                file.unlink(missing_ok=True)

    def probe(self, **arrays: Any) -> None:
        """Write the probe batch."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        self._replace("probe.npz", buffer.getvalue())

    def rows(self, steps: Iterable[Step], evaluations: Iterable[Evaluation]) -> None:
        """Write all steps and evaluations so far."""
        flat = [{k: v for k, v in vars(s).items() if k != "extra"} | s.extra for s in steps]
        tables = {"steps.csv": (Step, flat), "evaluations.csv": (Evaluation, [vars(e) for e in evaluations])}
        for name, (kind, rows) in tables.items():
            # Before the first row a table has at least the names of its columns.
            columns = None if rows else [f.name for f in fields(kind) if f.name != "extra"]
            self._replace(name, pd.DataFrame(rows, columns=columns).to_csv(index=False).encode())

    def snapshot(self, snapshot: Snapshot, stage: int) -> None:
        """Write one snapshot of stage number `stage`, in half precision."""
        meta = {
            "step": snapshot.step,
            "stage": snapshot.stage,
            "kind": snapshot.kind,
            "taps": list(snapshot.weights),
        }
        arrays: dict[str, Any] = {
            f"w{i}": w.astype(np.float16) for i, w in enumerate(snapshot.weights.values())
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, meta=np.array(json.dumps(meta)), **arrays)
        self._replace(snapshot_name(snapshot.step, stage), buffer.getvalue())

    def predictions(self, labels: np.ndarray, predicted: np.ndarray) -> None:
        """Write the last iterate's answers on the test set."""
        table = pd.DataFrame({"label": labels, "predicted": predicted})
        self._replace("predictions.csv", table.to_csv(index=False).encode())

    def checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write all that a resumed run needs."""
        checkpoint.write(self.path, state)

    def read_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint that is whole, None without one.

        Raises:
            CheckpointError: when none is whole.
        """
        return checkpoint.read(self.path)

    def finish(self, result: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Write weights and result, in this order, and drop the checkpoint."""
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in weights.items()}
        self._replace("weights.safetensors", checkpoint.serialised(tensors), durable=True)
        told = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
        self._replace("result.json", told.encode(), durable=True)
        checkpoint.remove(self.path)
        (self.path / "launch.json").unlink(missing_ok=True)
        for file in self.path.rglob("*.part"):
            if not _is_others_part(file):
                file.unlink(missing_ok=True)

    def _replace(self, name: str, content: bytes, *, durable: bool = False) -> None:
        replace_file(self.path / name, content, durable=durable)


def _is_others_part(file: Path) -> bool:
    """Whether somebody who holds no lease is writing this just now: a request, or the recipe of a run to be started."""
    whose = re.fullmatch(rf"(?:{REQUEST}|{re.escape(PROCESS)}|recipe\.json)\.(\d+)-\d+\.part", file.name)
    return whose is not None and _lives(int(whose[1]))


def _lives(pid: int) -> bool:
    if os.name == "nt":  # where signal 0 is no question, but Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True

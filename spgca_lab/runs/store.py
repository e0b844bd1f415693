"""Run folders: one per run, written during training and read back as pandas tables."""

import io
import json
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
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from spgca_lab._checks import quote
from spgca_lab._files import RunError, make_folder, replace_file
from spgca_lab.data.shipped import ShippedDataError, check_shipped
from spgca_lab.runs import checkpoint
from spgca_lab.runs.lock import LOCK, PROCESS, REQUEST, RunBusy, lock_owner
from spgca_lab.training.events import Evaluation, Snapshot, Step
from spgca_lab.training.recipe import Recipe, RecipeError

__all__ = ["Run", "RunBusy", "RunError", "RunStore", "RunWriter", "read_snapshot", "snapshot_name"]

# Before 3.1 pandas rounds the last digits by default; since then it is exact and deprecates the option.
_OLD_PANDAS = tuple(int(part) for part in pd.__version__.split(".")[:2]) < (3, 1)
_EXACT: dict[str, Any] = {"float_precision": "round_trip"} if _OLD_PANDAS else {}
_DAMAGE = (ValueError, KeyError, TypeError, EOFError, RecursionError, NotImplementedError, SafetensorError)
_LARGEST_ARCHIVE = 1 << 32  # bytes of its arrays
_SHOWN = 3
# Files of the process that starts and owns a run, which a fresh attempt leaves alone.
_OF_PROCESS = {"recipe.json", "launch.json", "log.txt", LOCK, PROCESS, REQUEST}


class Run:
    """A run folder, read lazily.

    Raises:
        RunError: when it has no readable recipe, and later when one of its files is damaged. Files that ship with
            the lab are compared with their checksums.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self.recipe = Recipe.from_json(_content(self.path / "recipe.json").decode())
        except FileNotFoundError as error:
            raise RunError(f"{str(self.path)!r} is not a run folder: it has no recipe.json") from error
        except (RecipeError, UnicodeDecodeError, ShippedDataError) as error:
            raise RunError(f"the recipe in {str(self.path)!r} cannot be used: {error}") from error

    def __repr__(self) -> str:
        top1 = f", top-1 {self.result['top1']:.2f} %" if self.result else ""
        return f"Run({self.path.name!r}, {self.status}{top1})"

    @property
    def status(self) -> str:
        """State of the run.

        `"finished"`; `"running"` or `"paused"` while a process trains; otherwise `"failed"` (see `failure`),
        `"interrupted"` (it can go on from its checkpoint) or `"begun"` (no checkpoint yet).
        """
        finished, failed = self.path / "result.json", self.path / "failure.json"
        if finished.exists():
            return "finished"
        if owner := lock_owner(self.path):
            return "paused" if owner.state == "paused" else "running"
        # The run may have finished since the first look.
        for file, status in ((finished, "finished"), (failed, "failed")):
            if file.exists():
                return status
        return "interrupted" if checkpoint.exists(self.path) else "begun"

    @property
    def failure(self) -> str | None:
        """Error that ended a run of `spgca-lab fit` or `launch`, as `"TrainingError: …"`, or None."""
        failure = self._read_json("failure.json")
        return None if failure is None else str(failure.get("error", "unknown"))

    @property
    def result(self) -> dict[str, Any] | None:
        """Final result (`top1` in percent, `seconds`, versions, …), or None before the end."""
        return self._read_json("result.json")

    @property
    def steps(self) -> pd.DataFrame:
        """One row per step: losses in nats, batch accuracy in percent, entropies and layer shares."""
        return self._read_csv("steps.csv")

    def columns(self, *names: str) -> pd.DataFrame:
        """Return some columns of `steps`, much faster than the whole table."""
        known = list(self._read_csv("steps.csv", nrows=0))
        for name in names:
            if name not in known:
                raise RunError(f"the steps of {str(self.path)!r} have no column {name!r}: {', '.join(known)}")
        return self._read_csv("steps.csv", usecols=list(names))[list(names)]

    @property
    def evaluations(self) -> pd.DataFrame:
        """One row per evaluation: `top1` in percent, `cross_entropy` in nats."""
        return self._read_csv("evaluations.csv")

    def snapshots(self) -> list[Snapshot]:
        """Return the attention of the probe batch over time, in the order of steps."""
        return [shot for _, shot in self.staged_snapshots()]

    def staged_snapshots(self) -> list[tuple[int, Snapshot]]:
        """Return the snapshots with their stage numbers; two stages may have the same name."""
        files = sorted((self.path / "snapshots").glob("*.npz"))
        return [(int(file.stem.rsplit("-", 1)[1]), read_snapshot(file)) for file in files]

    @cached_property
    def probe(self) -> dict[str, np.ndarray]:
        """Probe batch: `images` uint8 `[n, 3, s, s]`, `labels`, `rows` (in the test set), and known `masks`."""
        with _arrays(self.path / "probe.npz") as arrays:
            return dict(arrays)

    @property
    def predictions(self) -> pd.DataFrame:
        """One row per test image at the last iterate: `label`, `predicted`."""
        return self._read_csv("predictions.csv")

    def weights(self) -> dict[str, Tensor]:
        """Return the tensors of the trained model, `target.…`, and of the last stage, `penalty.…`."""
        file = self.path / "weights.safetensors"
        if not file.exists():
            raise RunError(
                f"{str(self.path)!r} has no weights.safetensors: the run is {self.status}, or shipped without"
            )
        with _naming(file):
            return safetensors.torch.load(_content(file))

    def _read_csv(self, name: str, **options: Any) -> pd.DataFrame:
        file = self.path / name
        if not file.exists():
            raise RunError(f"{str(self.path)!r} has no {name} yet: the run is {self.status}")
        with _naming(file):
            check_shipped(file)
            return pd.read_csv(file, **_EXACT, **options)

    def _read_json(self, name: str) -> dict[str, Any] | None:
        with suppress(FileNotFoundError), _naming(self.path / name):
            content = json.loads(_content(self.path / name))
            if not isinstance(content, dict):
                raise TypeError(f"a {type(content).__name__} in place of an object")
            return content
        return None


class RunStore:
    """A folder of runs; the first run creates it."""

    def __init__(self, path: "str | Path | RunStore"):
        self.path: Path = path.path if isinstance(path, RunStore) else Path(path)
        self._known: dict[tuple[str, tuple[int, ...]], Run] = {}

    def __iter__(self) -> Iterator[Run]:
        """Yield the runs by name; broken folders are left out with a warning."""
        known: dict[tuple[str, tuple[int, ...]], Run] = {}
        broken: list[str] = []
        for key in self._folders():
            try:
                # A recipe is read again only if its file has changed.
                known[key] = self._known.get(key) or Run(self.path / key[0])
            except (RunError, OSError) as error:
                broken.append(str(error))
        self._known = known
        self._warn_of(broken)
        yield from list(known.values())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, key: str | Recipe) -> Run:
        """Return the one run of a recipe, or of a hash or its beginning."""
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
        """Return the folder of the run of `recipe`, whether it exists or not."""
        own = str(recipe.method).rsplit(":", 1)[-1]
        return self.path / f"{re.sub(r'[^A-Za-z0-9_]+', '_', own)}-{recipe.hash()}"

    def find(self, **fields: Any) -> list[Run]:
        """Return the runs whose recipes have these values, sorted by seed."""
        unknown = [name for name in fields if name not in Recipe.__dataclass_fields__]
        if unknown:
            raise RunError(f"a recipe has no field {', '.join(map(quote, unknown))}")
        found = [run for run in self if all(getattr(run.recipe, n) == v for n, v in fields.items())]
        return sorted(found, key=lambda run: run.recipe.seed)

    def table(self) -> pd.DataFrame:
        """Return one row per run: `hash`, `status`, `top1`, `seconds`, then all fields of its recipe."""
        rows, broken = [], []
        for run in self:
            try:
                result = run.result or {}
            except RunError as error:
                broken.append(str(error))
                continue
            row = {"hash": run.recipe.hash(), "status": run.status}
            rows.append(row | {k: result.get(k) for k in ("top1", "seconds")} | run.recipe.to_dict())
        self._warn_of(broken)
        return pd.DataFrame(rows)

    def _folders(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return the sorted names of run folders, with a stamp that changes with the recipe's file."""
        found = []
        for file in self.path.glob("*/recipe.json"):
            with suppress(OSError):
                stat = file.stat()
                found.append((file.parent.name, (stat.st_mtime_ns, stat.st_size, stat.st_ino)))
        return sorted(found)

    def _warn_of(self, broken: Sequence[str]) -> None:
        if broken:
            head = f"{len(broken)} run folders of {str(self.path)!r} cannot be used and are left out"
            more = f"; and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
            warnings.warn(f"{head}: {'; '.join(broken[:_SHOWN])}{more}", stacklevel=3)


class RunWriter:
    """The writer of one run folder; each file is replaced in one move, so readers see no partial files."""

    def __init__(self, path: Path, recipe: Recipe):
        self.path = path
        make_folder(path / "snapshots")
        self._write("recipe.json", recipe.to_json().encode())
        (path / "failure.json").unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all files of an earlier attempt."""
        # The result goes first: without it, no reader mistakes the remaining files for a finished run.
        for file in (self.path / "result.json", *self.path.rglob("*")):
            if file.is_file() and file.name not in _OF_PROCESS:
                file.unlink(missing_ok=True)

    def probe(self, **arrays: Any) -> None:
        """Write the probe batch."""
        self._write_arrays("probe.npz", arrays)

    def rows(self, steps: Iterable[Step], evaluations: Iterable[Evaluation]) -> None:
        """Write all steps and evaluations so far."""
        self._write_table("steps.csv", [step.row() for step in steps], Step.columns())
        columns = [field.name for field in fields(Evaluation)]
        self._write_table("evaluations.csv", [vars(each) for each in evaluations], columns)

    def snapshot(self, snapshot: Snapshot, stage: int) -> None:
        """Write a snapshot of stage number `stage`, in half precision."""
        meta: dict[str, Any] = {name: getattr(snapshot, name) for name in ("step", "stage", "kind")}
        arrays = {"meta": np.array(json.dumps(meta | {"taps": list(snapshot.weights)}))}
        arrays |= {f"w{i}": w.astype(np.float16) for i, w in enumerate(snapshot.weights.values())}
        self._write_arrays(snapshot_name(snapshot.step, stage), arrays)

    def predictions(self, labels: np.ndarray, predicted: np.ndarray) -> None:
        """Write the last iterate's predictions on the test set."""
        rows = {"label": labels, "predicted": predicted}
        self._write("predictions.csv", pd.DataFrame(rows).to_csv(index=False).encode())

    def finish(self, result: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Write weights and result, in this order; remove checkpoints and leftovers of killed processes."""
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in weights.items()}
        self._write("weights.safetensors", checkpoint.to_bytes(tensors), durable=True)
        text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
        self._write("result.json", text.encode(), durable=True)
        checkpoint.remove(self.path)
        for file in (self.path / "launch.json", *self.path.rglob("*.part")):
            file.unlink(missing_ok=True)

    def _write_table(self, name: str, rows: list[dict[str, Any]], columns: list[str]) -> None:
        # An empty table has at least the names of its columns.
        table = pd.DataFrame(rows, columns=None if rows else columns)
        self._write(name, table.to_csv(index=False).encode())

    def _write_arrays(self, name: str, arrays: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        self._write(name, buffer.getvalue())

    def _write(self, name: str, content: bytes, *, durable: bool = False) -> None:
        replace_file(self.path / name, content, durable=durable)


def snapshot_name(step: int, stage: int) -> str:
    """Return the path of a snapshot inside its run folder."""
    return f"snapshots/{step:06d}-{stage}.npz"


def read_snapshot(file: Path) -> Snapshot:
    """Read a snapshot, its half-precision weights in single precision."""
    with _arrays(file) as arrays:
        meta = json.loads(str(arrays["meta"]))
        weights = {tap: arrays[f"w{i}"].astype(np.float32) for i, tap in enumerate(meta["taps"])}
        return Snapshot(meta["step"], meta["stage"], meta["kind"], weights)


@contextmanager
def _arrays(file: Path) -> Iterator[Any]:
    with _naming(file):
        content = io.BytesIO(_content(file))
        with zipfile.ZipFile(content) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _LARGEST_ARCHIVE:
            raise ValueError(f"it unpacks to {size:,} bytes, at most {_LARGEST_ARCHIVE:,} are allowed")
        with np.load(content, allow_pickle=False) as arrays:
            yield arrays


def _content(file: Path) -> bytes:
    check_shipped(file)
    return file.read_bytes()


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Turn errors of a damaged file into one that names it, with what to do."""
    try:
        yield
    except RunError:
        raise
    except ShippedDataError as error:
        raise RunError(str(error)) from error
    except (*_DAMAGE, zipfile.BadZipFile, zlib.error, pd.errors.ParserError) as error:
        raise RunError(
            f"{str(file)!r} is damaged ({type(error).__name__}: {error}): train the run again, or remove it"
        ) from error

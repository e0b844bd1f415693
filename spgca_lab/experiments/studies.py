"""Study: a search in a database, by one process or many machines, and what a dead process left half tried."""

import os
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spgca_lab.runs.lock import Lease, RunBusy, holder

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, Trial, TrialState

__all__ = ["Study", "StudyError", "open_study", "place_of"]

# Seconds. Who has not been heard of for GRACE is taken for dead, on whichever machine it was.
BEAT, GRACE, POLL = 15, 120, 0.5
PATIENCE = 60
CONNECTS = 6


class StudyError(ValueError):
    """A study that cannot be opened, or was made for something else."""


def place_of(url: str) -> str:
    """Where a database is, without user, password and options.

    Raises:
        StudyError: when it is no SQLAlchemy URL; the text is not quoted, because it may hold a password.

    Example:
        >>> place_of("postgresql+psycopg://me:secret@db.lab:5432/studies?password=secret")
        'postgresql://db.lab:5432/studies'
        >>> place_of("sqlite:///runs/tune.db")
        'runs/tune.db'
    """
    address = _address(url)
    kind = address.get_backend_name()
    if kind == "sqlite":
        return str(address.database)
    port = f":{address.port}" if address.port else ""
    return f"{kind}://{address.host or 'localhost'}{port}/{address.database or ''}"


@contextmanager
def open_study(
    name: str,
    url: str,
    folder: Path,
    settings: dict[str, Any],
    log: Callable[[str], None] = print,
) -> Iterator["Study"]:
    """Open a study, or make it where there is none.

    Args:
        name: of the study in its database.
        url: of the database, as SQLAlchemy takes it.
        folder: where this machine's processes tell each other that they live.
        settings: what is searched, as JSON has it; all who work on the study have the same.
        log: takes a line of text.

    Yields:
        the study. What the database says against it becomes a `StudyError` without a password.

    Raises:
        StudyError: when the database cannot be used, or the study was made for other settings, naming these.
    """
    import optuna
    import sqlalchemy.exc

    place, worker = place_of(url), folder / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        storage = _connect(url, place)
        with _quiet():
            study = optuna.create_study(
                study_name=name,
                storage=storage,
                direction="maximize",
                load_if_exists=True,
                sampler=optuna.samplers.RandomSampler(seed=0),
            )
        _agree(study, settings, place)
        worker.mkdir(parents=True)
        lease = Lease.take(worker, "session")
        opened = Study(study, storage, worker if lease.descriptor is not None else None, log)
        try:
            yield opened
        finally:
            unfinished = opened.holds_trials()
            lease.release()
            # By the empty folder others know a trial that was left half tried for one that nobody works on.
            if not unfinished:
                worker.rmdir()
            storage.remove_session()
            storage.engine.dispose()
    except (optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise StudyError(f"study {name!r} in {place}: {_masked(error, url)}") from None


class Study:
    """Hands out trials, each place in the search once, however many processes take them; made by `open_study`.

    Optuna numbers the trials of a study one by one, which no two processes can do at once. All that matters is read
    off these numbers: which place in the search a trial has, and which one of two was too many.

    Args:
        study: of Optuna.
        storage: its database.
        worker: folder that this process holds while it lives, None where files cannot be locked.
        log: takes a line of text.
    """

    def __init__(self, study: Any, storage: "RDBStorage", worker: Path | None, log: Callable[[str], None]):
        self.optuna, self._storage, self._log = study, storage, log
        self.worker = {"host": socket.gethostname(), "folder": str(worker.resolve()) if worker else None}

    @property
    def finished(self) -> list["FrozenTrial"]:
        """Trials that count: complete, pruned, or failed for their own value's sake."""
        return [trial for trial in self._trials() if _counts(trial)]

    def take(self, wanted: int) -> tuple["Trial", int] | None:
        """A trial to work on and its place in the search, from 0; None when `wanted` are finished.

        What a dead process left comes first. When others work on all that is left, it waits: one of them may die.
        """
        while True:
            self._revive()
            trials = self._trials()
            counted = sum(map(_counts, trials))
            if counted >= wanted:
                return None
            states = [trial.state.name for trial in trials]
            if "WAITING" in states or counted + states.count("RUNNING") < wanted:
                with _quiet():
                    trial = self.optuna.ask()
                trial.set_user_attr("worker", self.worker)
                place = self._place(trial.number)
                if place is not None and place < wanted:
                    return trial, place
                trial.set_user_attr("surplus", True)
                self.tell(trial, "FAIL")
            else:
                time.sleep(POLL)

    @contextmanager
    def alive(self, trial: "Trial") -> Iterator[None]:
        """Let others know that somebody works on the trial."""
        ended = threading.Event()

        def beat() -> None:
            while True:
                # A database that is away for a moment is no reason to fall silent for good.
                with suppress(Exception):
                    self._storage.record_heartbeat(trial._trial_id)
                if ended.wait(BEAT):
                    return

        thread = threading.Thread(target=beat, name=f"trial {trial.number}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def tell(self, trial: "Trial | int", state: str, value: float | None = None) -> bool:
        """End a trial as `"COMPLETE"`, `"PRUNED"` or `"FAIL"`; False where others had ended it already."""
        from optuna.exceptions import UpdateFinishedTrialError

        wanted = _state(state)
        try:
            told = self.optuna.tell(trial, value, state=wanted, skip_if_finished=True)
        except UpdateFinishedTrialError:
            return False
        return bool(told.state == wanted)

    def holds_trials(self) -> bool:
        """Whether a trial that this process took is unfinished; True when the database does not answer."""
        try:
            return any(t.state.name == "RUNNING" and self._is_mine(t) for t in self._trials())
        except Exception:
            return True

    def _trials(self) -> list["FrozenTrial"]:
        return self.optuna.get_trials(deepcopy=False)

    def _is_mine(self, trial: "FrozenTrial") -> bool:
        return trial.user_attrs.get("worker") == self.worker

    def _place(self, number: int) -> int | None:
        """The trial's place in the search; None where two processes revived one trial and this is the later one."""
        trials = self._trials()
        revived = {trial.number: trial.user_attrs.get("retries") for trial in trials}
        if any(n < number and r is not None and r == revived[number] for n, r in revived.items()):
            return None
        while (earlier := revived[number]) is not None:
            number = earlier
        return sum(
            trial.number < number and revived[trial.number] is None and "surplus" not in trial.user_attrs
            for trial in trials
        )

    def _revive(self) -> None:
        """Queue again, with the same values, what somebody began who is gone."""
        import optuna

        with _quiet():
            optuna.storages.fail_stale_trials(self.optuna)
        for trial in self._trials():
            if trial.state.name == "RUNNING" and self._left(trial):
                self.tell(trial.number, "FAIL")
        trials = self._trials()
        revived = {trial.user_attrs.get("retries") for trial in trials}
        for trial in trials:
            lost = trial.state.name == "FAIL" and not {"failure", "surplus"} & set(trial.user_attrs)
            if lost and trial.number not in revived:
                self.optuna.add_trial(
                    optuna.trial.create_trial(
                        state=_state("WAITING"),
                        params=trial.params,
                        distributions=trial.distributions,
                        user_attrs={"retries": trial.number},
                    )
                )
                values = ", ".join(f"{value:g}" for value in trial.params.values())
                self._log(
                    "a process ended amid a trial"
                    + (f" of α = {values}" if values else "")
                    + ": it is taken up again"
                )

    def _left(self, trial: "FrozenTrial") -> bool:
        """Whether the trial's process is certainly gone; of those on other machines the heartbeat tells."""
        worker = trial.user_attrs.get("worker")
        if worker is None:
            # Its process died, or halts, in the moment between taking it and signing it.
            begun = trial.datetime_start or datetime.now()
            return datetime.now() - begun > timedelta(seconds=GRACE)
        if self._is_mine(trial) or worker["host"] != self.worker["host"] or worker["folder"] is None:
            return False
        folder = Path(worker["folder"])
        # The name is random: where the folder is not, this is another machine of the same name.
        if not folder.is_dir() or holder(folder) is not None:
            return False
        with suppress(OSError, RunBusy):
            Lease.take(folder, "session", patience=0).release()
            folder.rmdir()
        return True


def _counts(trial: "FrozenTrial") -> bool:
    return trial.state.name in ("COMPLETE", "PRUNED") or (
        trial.state.name == "FAIL" and "failure" in trial.user_attrs
    )


def _state(name: str) -> "TrialState":
    from optuna.trial import TrialState

    return TrialState[name]


def _agree(study: Any, settings: dict[str, Any], place: str) -> None:
    there = study.user_attrs.get("settings")
    if there is None:
        if study.get_trials(deepcopy=False):
            raise StudyError(
                f"study {study.study_name!r} in {place} was made by another program: choose another name"
            )
        study.set_user_attr("settings", settings)
        there = study.user_attrs["settings"]
    # Fields that a later version of the lab added are no difference.
    differ = [
        f"{name} {there[name]!r} there, {value!r} here"
        for name, value in settings.items()
        if name in there and there[name] != value
    ]
    if differ:
        raise StudyError(
            f"study {study.study_name!r} in {place} was made for something else: {'; '.join(differ)}. "
            "Choose another name, or let one be made up"
        )


def _connect(url: str, place: str) -> "RDBStorage":
    import optuna
    import sqlalchemy.exc

    address = _address(url)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if address.get_backend_name() == "sqlite":
        if not address.database or ":memory:" in address.database:
            raise StudyError(
                "a study in memory cannot be gone on with: give a file, as sqlite:///runs/tune.db"
            )
        Path(address.database).parent.mkdir(parents=True, exist_ok=True)
        options = {"connect_args": {"timeout": PATIENCE}}
    for attempt in range(CONNECTS):
        try:
            with _quiet():
                return optuna.storages.RDBStorage(
                    url, engine_kwargs=dict(options), heartbeat_interval=BEAT, grace_period=GRACE
                )
        except ImportError:
            raise StudyError(
                f"{place} needs the Python driver of {address.drivername!r}, which is not installed"
            ) from None
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            # Two who make the tables of a new database at one moment get in each other's way, once.
            if attempt == CONNECTS - 1:
                raise StudyError(f"{place} cannot be used: {_masked(error, url)}") from None
            time.sleep(POLL * (0.5 + secrets.randbelow(100) / 100))
    raise AssertionError("unreachable")


def _address(url: str) -> Any:
    import sqlalchemy

    try:
        address = sqlalchemy.engine.make_url(url)
        address.get_backend_name()
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise StudyError(
            "the storage is not an SQLAlchemy URL: expected something like sqlite:///runs/tune.db or "
            "postgresql+psycopg://user:password@host/database"
        ) from None
    return address


def _masked(error: Exception, url: str) -> str:
    address = _address(url)
    text = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    line = text[0]
    options = [v for v in address.query.values() for v in ([v] if isinstance(v, str) else v)]
    for secret in filter(None, [url, address.password and str(address.password), *options]):
        line = line.replace(secret, "***")
    return line


@contextmanager
def _quiet() -> Iterator[None]:
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Optuna's own loop over trials is not used; `Study.alive` does what it would have done.
            warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used")
            yield
    finally:
        optuna.logging.set_verbosity(before)

"""The notebooks' "your turn": write an equation, have it checked against the package."""

from pathlib import Path
from typing import Any

from spgca_lab.exercises import basics, experiments, practice, proposed
from spgca_lab.exercises.base import Exercise, ExerciseError, Mistake, Verdict, find
from spgca_lab.exercises.hints import HINTS
from spgca_lab.exercises.progress import STATES, Progress, record

__all__ = [
    "EXERCISES",
    "NOTEBOOKS",
    "Exercise",
    "ExerciseError",
    "Mistake",
    "Progress",
    "Verdict",
    "check",
    "hint",
    "judge",
    "progress",
]

NOTEBOOKS = {
    "00": ("accuracy_interval",),
    "01": ("feature_map",),
    "02": ("l2_sp",),
    "03": ("ast_weights", "ast_loss", "act_loss"),
    "04": ("spa_weights", "spa_loss"),
    "05": ("gca_weights", "layer_shares", "gca_loss"),
    "06": ("total_loss", "hand_over"),
    "07": ("paired_interval",),
    "08": ("mass_inside",),
    "09": ("optimal_positions",),
    "10": ("printed_interval",),
    "11": ("contrast_weights",),
    "12": ("rank_correlation",),
}
_ALL = basics.EXERCISES | proposed.EXERCISES | practice.EXERCISES | experiments.EXERCISES
EXERCISES: dict[str, Exercise] = {name: _ALL[name] for names in NOTEBOOKS.values() for name in names}


def judge(name: str, function: Any) -> Verdict:
    """Compare a reader's function with the package on random inputs.

    Args:
        name: of the exercise, one of `EXERCISES`.
        function: the reader's.

    Returns:
        whether it is right, and what to say about it.

    Raises:
        ExerciseError: for an unknown exercise, with near names.

    Example:
        >>> judge("l2_sp", lambda parameters, start: None).right
        False
    """
    return find(name, EXERCISES).judge(function)


def check(name: str, function: Any, folder: str | Path = "runs") -> None:
    """Print what `judge` finds, and keep it for `progress`.

    Args:
        name: of the exercise, one of `EXERCISES`.
        function: the reader's.
        folder: where the progress is kept.

    Raises:
        ExerciseError: for an unknown exercise, with near names.

    Example:
        >>> import tempfile
        >>> def l2_sp(parameters, start):
        ...     return sum((w - start[name]).square().sum() for name, w in parameters.items())
        >>> check("l2_sp", l2_sp, folder=tempfile.mkdtemp())
        Not right yet: the factor ½ is missing.
    """
    verdict = judge(name, function)
    print(verdict)
    state = STATES[0] if verdict.right else STATES[1] if verdict.attempted else STATES[2]
    if unkept := record(name, state, folder):
        print(unkept)


def hint(name: str, step: int = 1) -> None:
    """Print one of three hints, from a nudge to nearly the line of code.

    Args:
        name: of the exercise, one of `EXERCISES`.
        step: 1, 2 or 3.

    Raises:
        ExerciseError: for an unknown exercise, or a step that is none of these, quoting it.

    Example:
        >>> hint("l2_sp", 3)
        Hint 3 of 3: 0.5 times the sum over names of (w - start[name]).square().sum().
    """
    find(name, EXERCISES)
    if isinstance(step, bool) or step not in (1, 2, 3):
        raise ExerciseError(f"step must be 1, 2 or 3, got {step!r}")
    print(f"Hint {step} of 3: {HINTS[name][step - 1]}")
    if step < 3:
        print(f'The next: exercises.hint("{name}", {step + 1})')


def progress(folder: str | Path = "runs") -> Progress:
    """All exercises by notebook: which are right, not right yet, not attempted.

    Args:
        folder: where `check` kept it.

    Example:
        >>> print(progress("no/such/folder").summary)
        0 of 19 right
    """
    books = {name: book for book, names in NOTEBOOKS.items() for name in names}
    return Progress.of({name: (books[name], one.about) for name, one in EXERCISES.items()}, folder)

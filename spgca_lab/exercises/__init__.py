"""The notebooks' "your turn": write an equation and have it checked against the package, with hints.

May import every other package but the command line; nothing imports it.
"""

import difflib
from pathlib import Path
from typing import Any

from spgca_lab.exercises import closed_form_attention, evidence, source_and_afa, spa_and_gca, training
from spgca_lab.exercises.base import Exercise, ExerciseError, Mistake, Verdict
from spgca_lab.exercises.progress import STATES, Progress, read, record

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
_MODULES = (source_and_afa, spa_and_gca, training, closed_form_attention, evidence)
_BY_NAME = {exercise.name: exercise for module in _MODULES for exercise in module.EXERCISES}
EXERCISES: dict[str, Exercise] = {name: _BY_NAME[name] for names in NOTEBOOKS.values() for name in names}


def judge(name: str, function: Any) -> Verdict:
    """Compare a reader's function with the package on random inputs."""
    return _find(name).judge(function)


def check(name: str, function: Any, folder: str | Path = "runs") -> None:
    """Print the verdict of `judge`, and save it in a folder for `progress`.

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
    if note := record(name, state, folder):
        print(note)


def hint(name: str, step: int = 1) -> None:
    """Print hint 1, 2 or 3, from a nudge to nearly the line of code.

    Example:
        >>> hint("l2_sp", 3)
        Hint 3 of 3: 0.5 times the sum over names of (w - start[name]).square().sum().
    """
    exercise = _find(name)
    if isinstance(step, bool) or step not in (1, 2, 3):
        raise ExerciseError(f"step must be 1, 2 or 3, got {step!r}")
    print(f"Hint {step} of 3: {exercise.hints[step - 1]}")
    if step < 3:
        print(f'The next: exercises.hint("{name}", {step + 1})')


def progress(folder: str | Path = "runs") -> Progress:
    """List all exercises by notebook with the states that `check` saved: right, not right yet, or not attempted."""
    states = read(folder)
    asked = ((book, name) for book, names in NOTEBOOKS.items() for name in names)
    return Progress(tuple((book, n, EXERCISES[n].about, states.get(n, STATES[2])) for book, n in asked))


def _find(name: str) -> Exercise:
    if name in EXERCISES:
        return EXERCISES[name]
    near = difflib.get_close_matches(str(name), EXERCISES, n=2, cutoff=0.4)
    suggestion = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ExerciseError(f"there is no exercise {name!r}{suggestion}; there are: {', '.join(EXERCISES)}")

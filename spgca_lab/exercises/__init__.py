"""The notebooks' "your turn": write an equation, have it checked against the package."""

from typing import Any

from spgca_lab.exercises import basics, practice, proposed
from spgca_lab.exercises.base import Exercise, ExerciseError, Mistake, Verdict, find

__all__ = ["EXERCISES", "Exercise", "ExerciseError", "Mistake", "Verdict", "check", "judge"]

EXERCISES: dict[str, Exercise] = basics.EXERCISES | proposed.EXERCISES | practice.EXERCISES


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


def check(name: str, function: Any) -> None:
    """Print what `judge` finds.

    Args:
        name: of the exercise, one of `EXERCISES`.
        function: the reader's.

    Raises:
        ExerciseError: for an unknown exercise, with near names.

    Example:
        >>> def l2_sp(parameters, start):
        ...     return sum((w - start[name]).square().sum() for name, w in parameters.items())
        >>> check("l2_sp", l2_sp)
        Not right yet: the factor ½ is missing.
    """
    print(judge(name, function))

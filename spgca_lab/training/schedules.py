"""Learning-rate schedules by name: each is one function from the position in a run to a factor."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Position:
    """A step's position in its stage and in the run.

    Args:
        step: number of the step in the run, from 0.
        start: first step of the stage.
        end: first step after the stage.
        iterations: steps of the whole run.
        warmup: steps of the stage that warm up.
        milestones: fractions of the run, for `steps`.
    """

    step: int
    start: int
    end: int
    iterations: int
    warmup: int = 0
    milestones: tuple[float, ...] = ()


def constant(position: Position) -> float:
    """Return 1 at every step."""
    return 1.0


def steps(position: Position) -> float:
    """Return 1, divided by 10 at each milestone: 3,000 and 7,500 of 9,000 in the paper (Sec. 4.2)."""
    return float(0.1 ** sum(position.step >= round(m * position.iterations) for m in position.milestones))


def cosine(position: Position) -> float:
    """Return half a cosine from 1 to 0 over the stage, after its warm-up (Loshchilov and Hutter 2017)."""
    first = position.start + position.warmup
    done = (position.step - first) / max(1, position.end - first)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))


SCHEDULES: dict[str, Callable[[Position], float]] = {"constant": constant, "steps": steps, "cosine": cosine}


def learning_rate_factor(schedule: str, position: Position) -> float:
    """Return the factor on the learning rate: the schedule's, times a linear warm-up at the stage's start.

    Args:
        schedule: a name from `SCHEDULES`.
        position: of the step.

    Example:
        >>> [round(learning_rate_factor("cosine", Position(k, 0, 8, 8, warmup=4)), 2) for k in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    done = position.step - position.start + 1
    warm = min(1.0, done / position.warmup) if position.warmup else 1.0
    return warm * SCHEDULES[schedule](position)

"""What an exercise is: a reader's function, checked on random inputs, with hints for usual mistakes."""

import copy
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Exercise", "ExerciseError", "Mistake", "Verdict", "find"]

TRIALS = 3
TOLERANCE = 1e-4

Function = Callable[..., Any]
Rule = Callable[[Function, tuple[Any, ...], Any], str | None]


class ExerciseError(ValueError):
    """An exercise that does not exist, or something that cannot be checked."""


@dataclass(frozen=True)
class Mistake:
    """A usual wrong answer and what to tell the one who gave it.

    Args:
        hint: what is wrong, and what the equation says instead.
        wrong: the wrong answer, a function of the exercise's inputs; it may raise, as the reader's then does.
    """

    hint: str
    wrong: Function


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Args:
        right: the answer agrees with the package.
        message: what to tell the reader.
        attempted: something was written in place of the `...`.
    """

    right: bool
    message: str
    attempted: bool = True

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Exercise:
    """One "your turn": what is asked, on which inputs, the right answer and the usual wrong ones.

    Args:
        name: of the function that the reader writes.
        about: what it computes, with its equation's number.
        right: the answer; tensors in float64.
        inputs: random inputs from a generator; sizes should differ between calls.
        mistakes: usual wrong answers, the most specific first.
        gradient: the result must carry a gradient (it is a loss).
        rules: further demands, `(function, inputs it was given, its result) -> complaint or None`.

    Example:
        >>> half = Exercise("half", "x / 2", lambda x: x / 2, lambda g: (torch.rand(3, generator=g),))
        >>> half.judge(lambda x: 0.5 * x).right
        True
        >>> print(half.judge(lambda x: x).message.splitlines()[0])
        Not right yet: your result is always 2 times the right one.
    """

    name: str
    about: str
    right: Function
    inputs: Callable[[torch.Generator], tuple[Any, ...]]
    mistakes: Sequence[Mistake] = ()
    gradient: bool = False
    rules: Sequence[Rule] = ()

    def judge(self, function: Any) -> Verdict:
        """Compare a function with the right answer on a few random inputs.

        Args:
            function: the reader's.

        Returns:
            the verdict; an error that the function raises becomes a part of it.
        """
        if not callable(function) or isinstance(function, type):
            return _wrong(f"give the function itself, without calling it, not {_shape(function)}")
        trials = [self.inputs(torch.Generator().manual_seed(seed)) for seed in range(TRIALS)]
        given = [copy.deepcopy(trial) for trial in trials]
        results = [_call(function, one) for one in given]
        if all(_is_blank(result) for result in results):
            told = (
                f'Not attempted yet: replace the ... by {self.about}. A hint: exercises.hint("{self.name}")'
            )
            return Verdict(False, told, attempted=False)
        answers = [self.right(*copy.deepcopy(trial)) for trial in trials]
        complaint = self._complaint(function, trials, given, results, answers)
        if complaint:
            return _wrong(complaint)
        return Verdict(True, f"Right: on {TRIALS} random inputs {self.name} agrees with the package.")

    def _complaint(
        self,
        function: Function,
        trials: list[tuple[Any, ...]],
        given: list[tuple[Any, ...]],
        results: list[Any],
        answers: list[Any],
    ) -> str | None:
        if not all(map(_agree, results, answers)):
            for mistake in self.mistakes:
                wrong = [_call(mistake.wrong, copy.deepcopy(trial)) for trial in trials]
                if all(map(_agree, results, wrong)):
                    return mistake.hint
            first = [_agree(*pair) for pair in zip(results, answers, strict=True)].index(False)
            return _general(trials[first], results[first:], answers[first:])
        if not all(map(_unchanged, given, trials)):
            return "the result is right, but the inputs are changed: avoid in-place operations such as -="
        if self.gradient and not all(t.requires_grad for t in _tensors(results[0])):
            return (
                "the value is right, but it carries no gradient, so nothing would train: compute it with "
                "tensors only, without .item(), .detach(), float() or no_grad()"
            )
        pairs = zip(given, results, strict=True)
        complaints = (rule(function, one, result) for one, result in pairs for rule in self.rules)
        return next((complaint for complaint in complaints if complaint), None)


def find(name: str, known: Mapping[str, Exercise]) -> Exercise:
    """An exercise by name.

    Args:
        name: of the function to write.
        known: all exercises.

    Raises:
        ExerciseError: when there is none; near names are listed.

    Example:
        >>> find("half", {})
        Traceback (most recent call last):
        ...
        spgca_lab.exercises.base.ExerciseError: there is no exercise 'half'; there are: none yet
    """
    if name in known:
        return known[name]
    near = difflib.get_close_matches(str(name), known, n=2, cutoff=0.4)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ExerciseError(f"there is no exercise {name!r}{hint}; there are: {', '.join(known) or 'none yet'}")


def _wrong(complaint: str) -> Verdict:
    return Verdict(False, f"Not right yet: {complaint.rstrip('.')}.")


def _call(function: Function, inputs: tuple[Any, ...]) -> Any:
    """The function's result, or the error that it raised."""
    try:
        return function(*inputs)
    except Exception as error:
        return error


def _is_blank(result: Any) -> bool:
    return result is None or result is Ellipsis or isinstance(result, NotImplementedError)


def _agree(result: Any, other: Any) -> bool:
    """Whether two results are the same: equal errors, or tensors of one shape with equal values."""
    if isinstance(result, Exception) or isinstance(other, Exception):
        return type(result) is type(other) and str(result) == str(other)
    if isinstance(other, Mapping):
        same = isinstance(result, Mapping) and list(result) == list(other)
        return same and all(_agree(result[key], other[key]) for key in other)
    if not isinstance(result, Tensor) or not isinstance(other, Tensor) or result.shape != other.shape:
        return False
    return torch.allclose(result.detach().double(), other.detach().double(), rtol=TOLERANCE, atol=1e-9)


def _tensors(result: Any) -> list[Tensor]:
    return list(result.values()) if isinstance(result, Mapping) else [result]


def _unchanged(after: Any, before: Any) -> bool:
    if isinstance(before, Tensor):
        return torch.equal(after, before)
    if isinstance(before, Mapping):
        return list(after) == list(before) and all(_unchanged(after[key], before[key]) for key in before)
    if isinstance(before, tuple):
        return all(map(_unchanged, after, before))
    return True


def _general(inputs: tuple[Any, ...], results: list[Any], answers: list[Any]) -> str:
    """What can be said of a wrong result that no mistake explains."""
    result, answer = results[0], answers[0]
    given = f"\nThe first input was {', '.join(map(_shape, inputs))}."
    if isinstance(result, Exception):
        return f"it raises {type(result).__name__}: {str(result).rstrip('.')}.{given}"
    if type(result) in (int, float):
        return f"it returns a Python number; return the tensor, without .item(), to keep the gradient{given}"
    if not isinstance(result, Tensor) or not isinstance(answer, Tensor):
        return f"it returns {_shape(result)}, {_shape(answer)} is wanted{given}"
    pairs = [(r, a) for r, a in zip(results, answers, strict=True) if isinstance(r, Tensor)]
    if result.shape != answer.shape:
        if all(r.numel() == a.numel() and _agree(r.reshape(a.shape), a) for r, a in pairs):
            return f"the numbers are right, their shape is not: {_shape(result)} instead of {_shape(answer)}"
        return f"it returns {_shape(result)}, {_shape(answer)} is wanted{given}"
    if not bool(torch.isfinite(result).all()):
        return f"the result is not finite (NaN or infinite){given}"
    ratio = _ratio([pair for pair in pairs if pair[0].shape == pair[1].shape])
    if ratio is not None:
        return f"your result is always {ratio:.4g} times the right one"
    first, wanted = (float(x.detach().reshape(-1)[0]) for x in (result, answer))
    element = "" if answer.ndim == 0 else f" (first element of {_shape(answer)})"
    return f"on a random input it gives {first:.4g} where {wanted:.4g} is right{element}{given}"


def _ratio(pairs: list[tuple[Tensor, Tensor]]) -> float | None:
    """The one factor between wrong and right numbers, None if there is no such factor."""
    wrong, right = (
        torch.cat([x.detach().double().reshape(-1) for x in side]) for side in zip(*pairs, strict=True)
    )
    ratios = wrong / right
    same = (ratios - ratios[0]).abs() < TOLERANCE * ratios[0].abs()
    return float(ratios[0]) if bool(same.all()) else None


def _shape(value: Any) -> str:
    """A value in a few words: tensors by their shape."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}" if value.ndim else "a scalar tensor"
    if isinstance(value, nn.Module):
        return f"a {type(value).__name__} module"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_shape(item)}" for key, item in value.items()) + "}"
    return repr(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"

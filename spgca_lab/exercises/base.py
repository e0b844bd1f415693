"""An exercise: a reader's function, checked on random inputs, with a message for each usual mistake."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TRIALS = 3
TOLERANCE = 1e-4

Function = Callable[..., Any]
Rule = Callable[[Function, tuple[Any, ...], Any], str | None]


class ExerciseError(ValueError):
    """An exercise or a hint that does not exist."""


@dataclass(frozen=True)
class Mistake:
    """A usual mistake: its message, and a function of the exercise's inputs with it, which may raise."""

    hint: str
    wrong: Function


@dataclass(frozen=True)
class Verdict:
    """The result of a check, with the text for the reader; `attempted` is False while the `...` is there."""

    right: bool
    message: str
    attempted: bool = True

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Exercise:
    """One "your turn": the task, random inputs, hints, the right function and the usual mistakes.

    Args:
        name: name of the function that the reader writes.
        about: what the function computes, with its equation's number.
        right: the right function; its tensors are float64.
        inputs: draws inputs from a generator; sizes should differ between calls.
        hints: three, from a nudge to nearly the line of code.
        mistakes: usual mistakes, the most specific first.
        gradient: whether the result must carry a gradient, as a loss does.
        rules: further checks, `(function, its inputs, its result) -> complaint or None`.

    Example:
        >>> half = Exercise("half", "x / 2", lambda x: x / 2, lambda g: (torch.rand(3, generator=g),))
        >>> print(half.judge(lambda x: x))
        Not right yet: your result is always 2 times the right one.
    """

    name: str
    about: str
    right: Function
    inputs: Callable[[torch.Generator], tuple[Any, ...]]
    hints: Sequence[str] = ()
    mistakes: Sequence[Mistake] = ()
    gradient: bool = False
    rules: Sequence[Rule] = ()

    def judge(self, function: Any) -> Verdict:
        """Compare the reader's function, errors included, with the right one on a few random inputs."""
        if not callable(function) or isinstance(function, type):
            return _wrong(f"give the function itself, without calling it, not {_shape(function)}")
        trials = [self.inputs(torch.Generator().manual_seed(seed)) for seed in range(TRIALS)]
        given = [copy.deepcopy(trial) for trial in trials]
        results = [_call(function, one) for one in given]
        if all(r is None or r is ... or isinstance(r, NotImplementedError) for r in results):
            hint = f'exercises.hint("{self.name}")'
            return Verdict(
                False, f"Not attempted yet: replace the ... by {self.about}. A hint: {hint}", False
            )
        complaint = self._complaint(function, trials, given, results)
        if complaint:
            return _wrong(complaint)
        return Verdict(True, f"Right: on {TRIALS} random inputs {self.name} agrees with the package.")

    def _complaint(
        self,
        function: Function,
        trials: list[tuple[Any, ...]],
        given: list[tuple[Any, ...]],
        results: list[Any],
    ) -> str | None:
        expected = [self.right(*copy.deepcopy(trial)) for trial in trials]
        agree = list(map(_agree, results, expected))
        if not all(agree):
            for mistake in self.mistakes:
                wrong = [_call(mistake.wrong, copy.deepcopy(trial)) for trial in trials]
                if all(map(_agree, results, wrong)):
                    return mistake.hint
            first = agree.index(False)
            return _general(trials[first], results[first:], expected[first:])
        if not all(map(_unchanged, given, trials)):
            return "the result is right, but the inputs are changed: avoid in-place operations such as -="
        tensors = results[0].values() if isinstance(results[0], Mapping) else [results[0]]
        if self.gradient and not all(t.requires_grad for t in tensors):
            return (
                "the value is right, but it carries no gradient, so nothing would train: compute it with tensors only, "
                "without .item(), .detach(), float() or no_grad()"
            )
        pairs = zip(given, results, strict=True)
        complaints = (rule(function, one, result) for one, result in pairs for rule in self.rules)
        return next((complaint for complaint in complaints if complaint), None)


def _wrong(complaint: str) -> Verdict:
    return Verdict(False, f"Not right yet: {complaint.rstrip('.')}.")


def _call(function: Function, inputs: tuple[Any, ...]) -> Any:
    """Return the function's result, or the error that it raises."""
    try:
        return function(*inputs)
    except Exception as error:
        return error


def _agree(result: Any, other: Any) -> bool:
    """Compare two results: equal errors, or tensors of one shape with equal values."""
    if isinstance(result, Exception) or isinstance(other, Exception):
        return type(result) is type(other) and str(result) == str(other)
    if isinstance(other, Mapping):
        same = isinstance(result, Mapping) and list(result) == list(other)
        return same and all(_agree(result[key], other[key]) for key in other)
    if not isinstance(result, Tensor) or not isinstance(other, Tensor) or result.shape != other.shape:
        return False
    return torch.allclose(result.detach().double(), other.detach().double(), rtol=TOLERANCE, atol=1e-9)


def _unchanged(after: Any, before: Any) -> bool:
    if isinstance(before, Tensor):
        return torch.equal(after, before)
    if isinstance(before, Mapping):
        return list(after) == list(before) and all(_unchanged(after[key], before[key]) for key in before)
    return all(map(_unchanged, after, before)) if isinstance(before, tuple) else True


def _general(inputs: tuple[Any, ...], results: list[Any], expected: list[Any]) -> str:
    """Describe a wrong result that no usual mistake explains."""
    result, right = results[0], expected[0]
    given = f"\nThe first input was {', '.join(map(_shape, inputs))}."
    if isinstance(result, Exception):
        return f"it raises {type(result).__name__}: {str(result).rstrip('.')}.{given}"
    if type(result) in (int, float):
        return f"it returns a Python number; return the tensor, without .item(), to keep the gradient{given}"
    mismatch = f"it returns {_shape(result)}, but {_shape(right)} is expected{given}"
    if not isinstance(result, Tensor) or not isinstance(right, Tensor):
        return mismatch
    pairs = [(r, a) for r, a in zip(results, expected, strict=True) if isinstance(r, Tensor)]
    if result.shape != right.shape:
        if all(r.numel() == a.numel() and _agree(r.reshape(a.shape), a) for r, a in pairs):
            return f"the numbers are right, their shape is not: {_shape(result)} instead of {_shape(right)}"
        return mismatch
    if not bool(torch.isfinite(result).all()):
        return f"the result is not finite (NaN or infinite){given}"
    ratio = _ratio([pair for pair in pairs if pair[0].shape == pair[1].shape])
    if ratio is not None:
        return f"your result is always {ratio:.4g} times the right one"
    first, wanted = (float(x.detach().reshape(-1)[0]) for x in (result, right))
    element = "" if right.ndim == 0 else f" (first element of {_shape(right)})"
    return f"on a random input it gives {first:.4g} where {wanted:.4g} is right{element}{given}"


def _ratio(pairs: list[tuple[Tensor, Tensor]]) -> float | None:
    """Return the one factor between wrong and right numbers, or None if there is no such factor."""
    wrong, right = (
        torch.cat([x.detach().double().reshape(-1) for x in side]) for side in zip(*pairs, strict=True)
    )
    ratios = wrong / right
    same = (ratios - ratios[0]).abs() < TOLERANCE * ratios[0].abs()
    return float(ratios[0]) if bool(same.all()) else None


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}" if value.ndim else "a scalar tensor"
    if isinstance(value, nn.Module):
        return f"a {type(value).__name__} module"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_shape(item)}" for key, item in value.items()) + "}"
    return repr(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"

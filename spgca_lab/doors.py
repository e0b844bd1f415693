"""What a public function takes, looked at before it does anything: arguments of another kind are quoted and refused."""

import collections.abc
import functools
import inspect
import numbers
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec, TypeVar

import numpy as np

from spgca_lab.quoting import quote

__all__ = ["Array", "door", "door_but"]

# What NumPy makes an array of numbers of, tensors included.
Array = Annotated[Any, "array"]
P = ParamSpec("P")
R = TypeVar("R")

_WORDS = {
    "NoneType": "None",
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "Sequence": "a sequence",
    "Iterable": "an iterable",
    "Mapping": "a mapping",
    "Path": "a path",
    "ndarray": "an array",
    "Tensor": "a tensor",
}


def door(function: Callable[P, R]) -> Callable[P, R]:
    """Check the kinds of a function's arguments against its annotations whenever it is called.

    `bool` is no number, NumPy's numbers are numbers, a text is no sequence, a list does for a tuple, and a text with a
    zero byte is no name of anything. Lists, tuples and dicts are looked into; of an iterator nothing is taken.

    Args:
        function: with annotations; or an `__init__`.

    Raises:
        TypeError: when called with an argument of another kind, naming function, argument, kinds and value.
        ValueError: for a zero byte.

    Example:
        >>> @door
        ... def half(number: float) -> float:
        ...     return number / 2
        >>> half(3)
        1.5
        >>> half("3")
        Traceback (most recent call last):
        ...
        TypeError: half: number must be a number, got '3' (str)
    """
    return door_but()(function)


def door_but(*own: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """`door`, except for arguments at which the function looks itself, with errors that say more.

    Arrays, tensors, tables and bytes are refused there too, where they are not asked for.

    Args:
        own: their names.

    Example:
        >>> @door_but("number")
        ... def half(number: float, words: str = "") -> float:
        ...     return number / 2
        >>> half(True)
        0.5
    """
    return lambda function: _door(function, own)


def _door(function: Callable[P, R], own: tuple[str, ...]) -> Callable[P, R]:
    signature = inspect.signature(function)
    names = [n for n, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    name = function.__qualname__.removesuffix(".__init__")

    @functools.cache
    def kinds() -> dict[str, Any]:
        # Late: an annotation may name what is not imported yet; one that is a text for good is not looked at.
        try:
            return typing.get_type_hints(function, include_extras=True)
        except NameError:
            told = {n: p.annotation for n, p in signature.parameters.items()}
            return {
                n: kind
                for n, kind in told.items()
                if not isinstance(kind, str) and kind is not inspect.Parameter.empty
            }

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        known = kinds()
        for which, value in [*zip(names, args, strict=False), *kwargs.items()]:
            kind = known.get(which)
            if kind is None or (which in own and not _outlandish(value)):
                continue
            if not _is(value, kind):
                raise TypeError(
                    f"{name}: {which} must be {_said(kind)}, got {quote(value)} ({type(value).__name__})"
                )
            if isinstance(value, str) and "\0" in value:
                raise ValueError(f"{name}: {which} has a zero byte: {quote(value)}")
        return function(*args, **kwargs)

    return checked


def _is(value: object, kind: Any) -> bool:
    if kind is Any or isinstance(kind, TypeVar) or kind is object:
        return True
    if kind is Array:
        return _is_array(value)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_is(value, each) for each in parts)
    if origin is typing.Literal:
        return value in typing.get_args(kind)
    if origin is type:
        return isinstance(value, type)
    base = origin or kind
    if base in (None, type(None)):
        return value is None
    if base is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if base is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if base in (collections.abc.Sequence, collections.abc.Iterable) and _has_rows(value):
        return False
    if base is tuple and parts:
        if not isinstance(value, tuple | list):
            return False
        if parts[-1] is Ellipsis:
            return all(_is(each, parts[0]) for each in value)
        return len(value) == len(parts) and all(map(_is, value, parts))
    if not isinstance(base, type):
        return True
    if not isinstance(value, base):
        return False
    if isinstance(value, dict) and len(parts) == 2:
        return all(_is(k, parts[0]) and _is(v, parts[1]) for k, v in value.items())
    # Of an iterator nothing is taken.
    return not (isinstance(value, list | tuple) and len(parts) == 1) or all(
        _is(each, parts[0]) for each in value
    )


def _outlandish(value: object) -> bool:
    """Whether it answers `==` otherwise than with True or False, or in numbers: nothing to be looked up with."""
    return isinstance(value, bytes) or hasattr(value, "__array__")


def _has_rows(value: object) -> bool:
    """Whether there is something in it to go through, but seldom what was meant: letters, names, rows or columns."""
    kinds = isinstance(value, str | bytes | np.ndarray | dict)
    return kinds or hasattr(value, "detach") or hasattr(value, "columns")


def _is_array(value: object) -> bool:
    """Whether it holds numbers along one axis or more."""
    if hasattr(value, "detach"):
        return bool(getattr(value, "ndim", 0))
    if isinstance(value, str | bytes | dict) or value is None:
        return False
    try:
        found = np.asarray(value)
    except (ValueError, TypeError):
        return False
    return found.ndim > 0 and found.dtype.kind in "biuf"


def _said(kind: Any) -> str:
    if kind is Array:
        return "an array of numbers"
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        said = list(dict.fromkeys(_said(each) for each in typing.get_args(kind)))
        return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} or {said[-1]}"
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    base, parts = typing.get_origin(kind) or kind, typing.get_args(kind)
    name = getattr(base, "__name__", str(base))
    if base is type:
        return "a class"
    if base is tuple and parts:
        return f"a tuple of {_said(parts[0])} each" if parts[-1] is Ellipsis else f"a tuple of {len(parts)}"
    if name in ("Sequence", "Iterable", "list") and parts and parts[0] is not Any:
        return f"a sequence, each {_said(parts[0])}"
    if name in ("Mapping", "dict") and len(parts) == 2 and parts[1] is not Any:
        return f"a mapping, each {_said(parts[1])}"
    return _WORDS.get(name, f"{'an' if name[0] in 'AEIOU' else 'a'} {name}")

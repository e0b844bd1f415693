"""Methods as sequences of stages: those of the paper, their stages in any order, and penalties of your own."""

import difflib
import hashlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spgca_lab._checks import quote
from spgca_lab.regularizers.attention import (
    ChannelAttention,
    GlobalChannelAttention,
    SelfPixelAttention,
    SpatialAttention,
    SquaredChannelAttention,
)
from spgca_lab.regularizers.base import Penalty
from spgca_lab.regularizers.baselines import Distillation, StartingPoint, UniformFeatures, WeightDecay
from spgca_lab.regularizers.delta import FilterImportance


class MethodError(ValueError):
    """A method that is neither known nor loadable."""


@dataclass(frozen=True)
class Stage:
    """A stretch of training under one penalty.

    Args:
        name: short name, e.g. `"spa"`.
        penalty: the class that is built when the stage begins; None trains with cross-entropy and β alone.
        trains: `"all"` of T, its `"head"`, or its head and some modules, `"layer3,layer4"`.
        alpha: default weight of the penalty; where it is `scaled`, under `scale="relative"`.
        scaled: the penalty depends on `scale`: true for feature maps, false for weights and outputs.
        summary: one plain sentence.
    """

    name: str
    penalty: type[Penalty] | None
    trains: str = "all"
    alpha: float = 3.0
    scaled: bool = True
    summary: str = ""


@dataclass(frozen=True)
class Method:
    """A name, the stages in order, which have equal length, and one plain sentence."""

    name: str
    stages: tuple[Stage, ...]
    summary: str = ""


STAGES = {
    stage.name: stage
    for stage in (
        Stage("l2", WeightDecay, "all", 1e-4, False, "Fine-tune the whole network with weight decay."),
        Stage("l2_fe", None, "head", 0.0, False, "Train the head alone, on frozen features."),
        Stage("l2_sp", StartingPoint, "all", 0.1, False, "Keep the weights close to the source's."),
        Stage(
            "delta", FilterImportance, summary="Keep feature maps close, by the importance of each filter."
        ),
        Stage("lwf", Distillation, "all", 1.0, False, "Keep the predictions in the source's classes."),
        Stage("uniform", UniformFeatures, summary="Keep feature maps close, with uniform weights."),
        Stage("ast", SpatialAttention, summary="Keep feature maps close where the source attends."),
        Stage("act", ChannelAttention, summary="Keep feature maps close, channels weighted per layer."),
        Stage("spa", SelfPixelAttention, summary="Keep feature maps close where both networks attend."),
        Stage("gca", GlobalChannelAttention, summary="Keep feature maps close, channels weighted globally."),
        Stage("gca_squared", SquaredChannelAttention, summary="As gca, with the weights squared."),
    )
}
METHODS = {
    **{name: Method(name, (stage,), stage.summary) for name, stage in STAGES.items()},
    "afa": Method("afa", (STAGES["ast"], STAGES["act"]), "AST, then ACT: the method before the paper."),
    "spgca": Method("spgca", (STAGES["spa"], STAGES["gca"]), "SPA, then GCA: the paper's method."),
}
_IN_SESSION: dict[str, type[Penalty]] = {}


def method_name(method: str | type[Penalty]) -> str:
    """Return the string that stands for `method` in a recipe.

    A class in a file becomes `"path/to/file.py:Class"`, so that other processes find it. A class from a notebook cell
    goes by its name, which only this session resolves. Names of `METHODS` may be in any case.

    Args:
        method: a name, or a subclass of `Penalty`, e.g. of `Attention`.

    Raises:
        MethodError: when it is neither.

    Example:
        >>> method_name("Spa->GCA")
        'spa->gca'
    """
    if isinstance(method, str):
        return "->".join(map(_known_name, method.split("->")))
    if not (isinstance(method, type) and issubclass(method, Penalty)):
        raise MethodError(
            f"method must be a name or a subclass of lab.Attention or lab.Penalty, got {quote(method)}"
        )
    if is_built_in(method):
        return next(name for name, stage in STAGES.items() if stage.penalty is method)
    file = _file_of(method)
    name = f"{file}:{method.__qualname__}" if file and file.suffix == ".py" else method.__qualname__
    # This very class is trained, even where its file could be imported a second time.
    _IN_SESSION[name] = method
    return name


def resolve_method(name: str) -> Method:
    """Return the method with this name.

    Args:
        name: one of `METHODS` in any case, stages joined by `->` (`"gca->spa"`), `"file.py:Class"`, or a class of this
            session.

    Raises:
        MethodError: with the unknown part and near names, or with the reason why a file's class cannot be used.

    Example:
        >>> [stage.name for stage in resolve_method("gca->spa").stages]
        ['gca', 'spa']
    """
    name = method_name(name)
    if name in METHODS:
        return METHODS[name]
    stages: list[Stage] = []
    for part in (p.strip() for p in name.split("->")):
        if part in METHODS:
            stages.extend(METHODS[part].stages)
        elif part in _IN_SESSION:
            stages.append(Stage(_IN_SESSION[part].__name__, _IN_SESSION[part]))
        elif ":" in part:
            own = _load_class(part)
            stages.append(Stage(own.__name__, own))
        else:
            near = difflib.get_close_matches(part.lower(), METHODS, n=3, cutoff=0.4)
            raise MethodError(
                f"unknown method {quote(part)}"
                + (f"; did you mean {' or '.join(map(repr, near))}?" if near else "")
                + f" Known: {', '.join(METHODS)}; or join stages as 'gca->spa', or name your own class 'file.py:Class'"
            )
    return Method(name, tuple(stages))


def _known_name(part: str) -> str:
    return part.strip().lower() if part.strip().lower() in METHODS and part not in _IN_SESSION else part


def is_built_in(penalty: type[Penalty]) -> bool:
    """Return True for the penalties of `METHODS`, False for those of a reader, subclasses of built-in ones too."""
    return any(stage.penalty is penalty for stage in STAGES.values())


def describe_class(cls: type) -> str:
    """Return the name of a class with its place for error messages: `MyPenalty (mine.py, line 12)`."""
    # Python does not find the source of a class from a notebook cell, but that of its functions.
    things: list[Any] = [cls, *filter(inspect.isfunction, vars(cls).values())]
    for thing in things:
        try:
            file, line = inspect.getsourcefile(thing) or "", inspect.getsourcelines(thing)[1]
        except (OSError, TypeError):
            continue
        place = "notebook cell" if "ipykernel" in file or file.startswith("<") else Path(file).name
        return f"{cls.__name__} ({place}, line {line})"
    return cls.__name__


def code_digest(name: str) -> str | None:
    """Return the digest of a method's code outside the package, None for built-in methods.

    A recipe stores it, so that a run with an earlier version of a class is not mistaken for one with the present.
    """
    own = [s.penalty for s in resolve_method(name).stages if s.penalty and not is_built_in(s.penalty)]
    if not own:
        return None
    return hashlib.sha256("".join(_source(cls) for cls in own).encode()).hexdigest()[:12]


def _file_of(cls: type) -> Path | None:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return Path(file) if file and Path(file).is_file() and cls.__module__ != "__main__" else None


def _source(cls: type) -> str:
    if file := _file_of(cls):
        return file.read_text(encoding="utf-8")
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return cls.__qualname__


def _load_class(spec: str) -> type[Penalty]:
    file, class_name = spec.rsplit(":", 1)
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise MethodError(f"method {quote(spec)}: there is no file {quote(file)}")
    module_name = f"_spgca_lab_own_{hashlib.sha256(path.read_bytes() + str(path).encode()).hexdigest()[:12]}"
    if module_name not in sys.modules:
        found = importlib.util.spec_from_file_location(module_name, path)
        if found is None or found.loader is None:
            raise MethodError(f"method {quote(spec)}: {file!r} is not a Python file")
        module = importlib.util.module_from_spec(found)
        sys.modules[module_name] = module
        try:
            found.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise MethodError(
                f"method {quote(spec)}: {file!r} does not import: {type(error).__name__}: {error}"
            ) from error
    cls = getattr(sys.modules[module_name], class_name, None)
    if cls is None:
        names = [n for n, v in vars(sys.modules[module_name]).items() if isinstance(v, type)]
        raise MethodError(
            f"method {quote(spec)}: {file!r} has no class {quote(class_name)}, it has {', '.join(names) or 'none'}"
        )
    if not (isinstance(cls, type) and issubclass(cls, Penalty)):
        raise MethodError(
            f"method {quote(spec)}: {class_name} must subclass spgca_lab.Attention or spgca_lab.Penalty"
        )
    return cls

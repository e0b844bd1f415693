"""Methods as lists of stages: Table 4's six, Table 5's four modules, either order of Table 7, more, and your own."""

import difflib
import hashlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path

from spgca_lab._checks import quote
from spgca_lab.regularizers.attention import (
    ChannelAttention,
    GlobalChannelAttention,
    SelfPixelAttention,
    SpatialAttention,
)
from spgca_lab.regularizers.base import Penalty
from spgca_lab.regularizers.baselines import Distillation, StartingPoint, UniformFeatures, WeightDecay
from spgca_lab.regularizers.delta import FilterImportance
from spgca_lab.regularizers.remedy import SquaredChannelAttention

__all__ = ["METHODS", "MethodError", "Method", "Stage", "code_digest", "method_name", "resolve_method"]


class MethodError(ValueError):
    """A method that is neither known nor loadable."""


@dataclass(frozen=True)
class Stage:
    """One stretch of training under one penalty.

    Args:
        name: the module's name, e.g. `"spa"`.
        penalty: the class that is built when the stage begins; None trains with cross-entropy and β alone.
        trains: `"all"` of T, or only its `"head"` (the backbone stays in eval mode).
        alpha: default weight of the penalty; where it is `scaled`, under `scale="relative"`.
        scaled: whether `scale` changes the penalty (feature maps: yes; weights and outputs: no).
    """

    name: str
    penalty: type[Penalty] | None
    trains: str = "all"
    alpha: float = 3.0
    scaled: bool = True


@dataclass(frozen=True)
class Method:
    """A name and its stages, of equal length, with a hand-over between them."""

    name: str
    stages: tuple[Stage, ...]


STAGES = {
    stage.name: stage
    for stage in (
        Stage("l2", WeightDecay, alpha=1e-4, scaled=False),
        Stage("l2_fe", None, trains="head", alpha=0.0, scaled=False),
        Stage("l2_sp", StartingPoint, alpha=0.1, scaled=False),
        Stage("delta", FilterImportance),
        Stage("lwf", Distillation, alpha=1.0, scaled=False),
        Stage("uniform", UniformFeatures),
        Stage("ast", SpatialAttention),
        Stage("act", ChannelAttention),
        Stage("spa", SelfPixelAttention),
        Stage("gca", GlobalChannelAttention),
        Stage("gca_squared", SquaredChannelAttention),
    )
}
METHODS = {
    **{name: Method(name, (stage,)) for name, stage in STAGES.items()},
    "afa": Method("afa", (STAGES["ast"], STAGES["act"])),
    "spgca": Method("spgca", (STAGES["spa"], STAGES["gca"])),
}
_IN_SESSION: dict[str, type[Penalty]] = {}


def method_name(method: str | type[Penalty]) -> str:
    """The string that stands for `method` in a recipe.

    A class in a file becomes `"path/to/file.py:Class"`, so that other processes find it; a class typed into a
    notebook goes by its name and is known to this session only.

    Args:
        method: a name or a `Penalty` subclass (an `Attention`, say).

    Raises:
        MethodError: when it is neither.

    Example:
        >>> method_name("spgca")
        'spgca'
    """
    if isinstance(method, str):
        return method
    if not (isinstance(method, type) and issubclass(method, Penalty)):
        raise MethodError(
            f"method must be a name or a subclass of lab.Attention or lab.Penalty, got {quote(method)}"
        )
    built_in = [name for name, stage in STAGES.items() if stage.penalty is method]
    if built_in:
        return built_in[0]
    try:
        file = inspect.getsourcefile(method)
    except (OSError, TypeError):
        file = None
    if file and Path(file).suffix == ".py" and Path(file).is_file() and method.__module__ != "__main__":
        name = f"{file}:{method.__qualname__}"
    else:
        name = method.__qualname__
    # The class at hand is the one to train, even where its file could be imported a second time.
    _IN_SESSION[name] = method
    return name


def resolve_method(name: str) -> Method:
    """Find the method of a recipe.

    Args:
        name: one of `METHODS`, stages joined by `->` (`"gca->spa"`), `"file.py:Class"`, or a class of this session.

    Raises:
        MethodError: quoting the part that is unknown, with near names, or saying why a file's class cannot be used.

    Example:
        >>> [stage.name for stage in resolve_method("gca->spa").stages]
        ['gca', 'spa']
    """
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
            near = difflib.get_close_matches(part, METHODS, n=3, cutoff=0.4)
            raise MethodError(
                f"unknown method {quote(part)}"
                + (f"; did you mean {' or '.join(map(repr, near))}?" if near else "")
                + f" Known: {', '.join(METHODS)}; or join stages as 'gca->spa', or name your own class 'file.py:Class'"
            )
    return Method(name, tuple(stages))


def code_digest(name: str) -> str | None:
    """Digest of the readers' code that a method consists of, None for built-in methods.

    A recipe keeps it, so that a run made with an earlier version of a class is never taken for one of the present.

    Example:
        >>> code_digest("spgca") is None
        True
    """
    own = [
        s.penalty
        for s in resolve_method(name).stages
        if s.penalty and not s.penalty.__module__.startswith("spgca_lab.")
    ]
    if not own:
        return None
    return hashlib.sha256("".join(_source(cls) for cls in own).encode()).hexdigest()[:12]


def _source(cls: type) -> str:
    file = sys.modules[cls.__module__].__dict__.get("__file__") if cls.__module__ in sys.modules else None
    if file and Path(file).is_file() and cls.__module__ != "__main__":
        return Path(file).read_text(encoding="utf-8")
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

"""Methods by their stages: either order of two, the name that stands for both, and whether they know r."""

from functools import lru_cache

from spgca_lab.regularizers.attention import Attention
from spgca_lab.regularizers.registry import METHODS, Stage, resolve_method

__all__ = ["attends", "family", "method_of", "orders", "reduces", "scaled"]


@lru_cache(maxsize=256)
def orders(method: str) -> tuple[str, ...]:
    """Both orders of a method of two stages, as given and turned around; nothing for the others.

    Example:
        >>> orders("spgca"), orders("gca->spa"), orders("spa")
        (('spa->gca', 'gca->spa'), ('gca->spa', 'spa->gca'), ())
    """
    stages = METHODS[method].stages if method in METHODS else ()
    parts = [stage.name for stage in stages] or [part.strip() for part in method.split("->")]
    if len(parts) != 2 or parts[0] == parts[1] or len(_stages(method)) != 2:
        return ()
    return f"{parts[0]}->{parts[1]}", f"{parts[1]}->{parts[0]}"


@lru_cache(maxsize=256)
def method_of(method: str, order: str = "") -> str:
    """The canonical name of a method in an order of its stages: the paper's where it has one.

    Example:
        >>> method_of("spa->gca"), method_of("spgca", "gca->spa")
        ('spgca', 'gca->spa')
    """
    wanted = order or method
    return next((name for name, known in METHODS.items() if known.stages == _stages(wanted)), wanted)


@lru_cache(maxsize=256)
def family(method: str) -> str:
    """The name that stands for both orders of a method's stages.

    Example:
        >>> family("gca->spa"), family("act->ast"), family("l2")
        ('spgca', 'afa', 'l2')
    """
    both = sorted(method_of(order) for order in orders(method))
    return next((name for name in both if name in METHODS), both[0] if both else method_of(method))


@lru_cache(maxsize=256)
def reduces(method: str) -> bool:
    """Whether r means something: some stage's penalty takes it (GCA does)."""

    def takes(stage: Stage) -> bool:
        penalty = stage.penalty
        if penalty is None or "r" in getattr(penalty, "options", ()):
            return penalty is not None
        # A reader's own penalty may ask for r while it is built: nothing says that it does not.
        return not penalty.__module__.startswith("spgca_lab.") and not issubclass(penalty, Attention)

    return any(takes(stage) for stage in _stages(method))


@lru_cache(maxsize=256)
def attends(method: str) -> bool:
    """Whether some stage has an attention."""
    return any(
        stage.penalty is not None and issubclass(stage.penalty, Attention) for stage in _stages(method)
    )


@lru_cache(maxsize=256)
def scaled(method: str) -> bool:
    """Whether all stages' penalties are of feature maps; α of weights and outputs is on another scale."""
    return all(stage.scaled for stage in _stages(method))


def _stages(method: str) -> tuple[Stage, ...]:
    return resolve_method(method).stages

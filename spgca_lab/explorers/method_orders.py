"""Methods by their stages: both orders of two, the name that stands for both, and the options that they use."""

from functools import lru_cache

from spgca_lab.regularizers.attention import Attention
from spgca_lab.regularizers.registry import METHODS, Stage, is_built_in, resolve_method


@lru_cache(maxsize=256)
def stage_orders(method: str) -> tuple[str, ...]:
    """Return both orders of a method of two stages, the given one first: "spa->gca" and "gca->spa" for "spgca".

    A method of one stage, or of two equal ones, has none.
    """
    known = [stage.name for stage in METHODS[method].stages] if method in METHODS else []
    parts = known or [part.strip() for part in method.split("->")]
    if len(parts) != 2 or parts[0] == parts[1] or len(_stages(method)) != 2:
        return ()
    return "->".join(parts), "->".join(parts[::-1])


@lru_cache(maxsize=256)
def method_of(method: str, order: str = "") -> str:
    """Return the name of a method in an order of its stages, the paper's if it has one: "spgca" for "spa->gca"."""
    wanted = order or method
    return next((name for name, known in METHODS.items() if known.stages == _stages(wanted)), wanted)


@lru_cache(maxsize=256)
def order_family(method: str) -> str:
    """Return the name that stands for both orders of a method's stages: "spgca" for "gca->spa"."""
    both = sorted(method_of(order) for order in stage_orders(method))
    return next((name for name in both if name in METHODS), both[0] if both else method_of(method))


@lru_cache(maxsize=256)
def uses_reduction(method: str) -> bool:
    """Return True if some stage's penalty takes r (GCA, or a reader's own, which may take it)."""
    penalties = [stage.penalty for stage in _stages(method) if stage.penalty is not None]
    return any(
        "r" in getattr(penalty, "options", ())
        or (not is_built_in(penalty) and not issubclass(penalty, Attention))
        for penalty in penalties
    )


@lru_cache(maxsize=256)
def has_attention(method: str) -> bool:
    """Return True if some stage has an attention."""
    penalties = [stage.penalty for stage in _stages(method)]
    return any(penalty is not None and issubclass(penalty, Attention) for penalty in penalties)


@lru_cache(maxsize=256)
def compares_maps(method: str) -> bool:
    """Return True if all penalties compare feature maps; α of weights and outputs is on another scale."""
    return all(stage.scaled for stage in _stages(method))


def _stages(method: str) -> tuple[Stage, ...]:
    return resolve_method(method).stages

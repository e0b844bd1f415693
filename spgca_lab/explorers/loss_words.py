"""What LossExplorer says: sentences, notes and a table on the terms of a stage."""

import math
from collections.abc import Sequence
from typing import Any

from spgca_lab.analysis.gradients import Pull, StageTerms
from spgca_lab.plots.panels.loss import percent, short_number
from spgca_lab.plots.style import method_label
from spgca_lab.regularizers.registry import METHODS, STAGES, Stage, resolve_method

__all__ = [
    "MUCH",
    "NOTHING",
    "TABLE_HEAD",
    "method_words",
    "note_on",
    "sentence",
    "stage_label",
    "table_rows",
]

NOTHING, MUCH = 0.01, 3.0
WAYS = {"across": "across it", "together": "along with it", "against": "against it"}
TABLE_HEAD = (
    "stage",
    "at",
    "‖g_CE‖",
    "α‖g_penalty‖",
    "own term",
    "β‖g_decay‖",
    "÷ task's",
    "cosine",
    "‖g_loss‖",
    "equal pull at",
)


def stage_label(name: str) -> str:
    """A stage's name as the field writes it; a reader's own class keeps its name.

    Example:
        >>> stage_label("spa"), stage_label("Loudness")
        ('SPA', 'Loudness')
    """
    return method_label(name) if name in STAGES else name


def method_words(method: str) -> str:
    """A method and the order of its stages.

    Example:
        >>> method_words("afa"), method_words("act->ast"), method_words("l2_sp")
        ('AFA: AST→ACT', 'ACT→AST', 'L2-SP')
    """
    order = "→".join(stage_label(stage.name) for stage in resolve_method(method).stages)
    name = method_label(method)
    return order if method not in METHODS or name == order else f"{name}: {order}"


def sentence(stage: Stage, terms: StageTerms, alpha: float, beta: float, scale: str) -> str:
    """What one stage's terms do, in a clause: how hard the penalty pulls, which way, and its share of the loss.

    Args:
        stage: whose terms they are.
        terms: as measured.
        alpha: α.
        beta: β.
        scale: of the penalty.

    Example:
        >>> pull = Pull("a", ((1.0, -2.0, 0.0), (-2.0, 16.0, 0.0), (0.0,) * 3), (True, True, False))
        >>> terms = StageTerms("ast", 3.0, 1.0, 0.0, (pull, pull), 50.0)
        >>> sentence(STAGES["ast"], terms, 3.0, 0.0, "relative")
        'AST drowns the task: it pulls 12 × as hard (layer 1, against it) and is 50 % of the loss'
    """
    name, parts = stage_label(stage.name), terms.parts(alpha, beta)
    loss = math.fsum(parts)
    share, decay = (percent(part / loss if loss else 0.0) for part in parts[1:])
    if stage.penalty is None:
        pull = short_number(terms.head.ratio(alpha, beta))
        return f"{name} trains the head alone: there β·decay, {decay} of the loss, pulls {pull} × as hard as the task"
    if alpha == 0:
        return f"{name} is off (α = 0): at the taps the task alone pulls"
    if not any(pull.acts[1] for pull in terms.taps):
        return f"{name}, {share} of the loss, acts on T's weights: at the taps the task alone pulls"
    ratios = [pull.ratio(alpha, beta) for pull in terms.taps]
    known = [ratio for ratio in ratios if not math.isnan(ratio)]
    if not any(known):
        return f"{name} is exactly 0: at the taps the task alone pulls"
    hardest = ratios.index(max(known))
    ratio, layer = ratios[hardest], f"layer {hardest + 1}"
    under = f"under {scale}, " if stage.scaled else ""
    if ratio < NOTHING:
        return (
            f"{under}{name} does nothing: at its strongest ({layer}) it pulls {short_number(1 / ratio)} × more "
            f"weakly than the task, {share} of the loss"
        )
    where = f"{layer}, {WAYS[_direction(terms.taps[hardest].cosine(alpha, beta))]}"
    if ratio >= MUCH:
        return f"{name} drowns the task: it pulls {short_number(ratio)} × as hard ({where}) and is {share} of the loss"
    own = [pull.own_ratio(alpha) for pull in terms.taps]
    weakest = min((value, i) for i, value in enumerate([*own, math.inf]) if not math.isnan(value))
    if 0 < weakest[0] < NOTHING / 10:
        return (
            f"{under}{name}'s own term does nothing in layer {weakest[1] + 1} ({short_number(1 / weakest[0])} × weaker "
            f"than the task; in all at most {short_number(ratio)} ×)"
        )
    return f"{name} pulls at most {short_number(ratio)} × as hard as the task ({where}) and is {share} of the loss"


def note_on(stage: Stage, terms: StageTerms, index: int, target: str, target_bn: str) -> str:
    """Why bars are missing, or what is left of a difference between S and T; empty where nothing needs saying.

    Args:
        stage: which.
        terms: as measured.
        index: of the stage, from 0.
        target: `"start"` or `"trained"`.
        target_bn: mode of T's BatchNorm.

    Example:
        >>> note_on(STAGES["l2_fe"], StageTerms("l2_fe", 1.0, 0.0, 1.0, (), 0.0), 0, "start", "train")
        'only the head is trained: no gradient is taken at the taps'
    """
    if stage.trains == "head":
        return "only the head is trained: no gradient is taken at the taps"
    if stage.penalty is not None and not any(pull.acts[1] for pull in terms.taps):
        return "this penalty acts on T's weights directly: it has no gradient at the maps"
    if index == 0 and target == "trained":
        return ""
    here = "as it begins" if index else "at the start"
    if target_bn == "eval":
        return f"{here} T has S's weights and S's BatchNorm mode: FM_S = FM_T"
    return f"{here} T has S's weights: only BatchNorm differs, eval in S, train in T"


def table_rows(
    label: str, places: Sequence[str], terms: StageTerms, alpha: float, beta: float
) -> list[list[Any]]:
    """One row a tap and one for the head, under `TABLE_HEAD`.

    Args:
        label: of the stage.
        places: names of the taps, then of the head.
        terms: as measured.
        alpha: α.
        beta: β.
    """
    rows: list[list[Any]] = []
    for place, pull in zip(places, terms.pulls, strict=True):
        ce, weighed, decay = pull.norms(alpha, beta)
        ce_acts, penalty_acts, decay_acts = pull.acts
        cells = (
            (ce, ce_acts),
            (weighed, penalty_acts),
            (alpha * pull.own, not math.isnan(pull.own)),
            (decay, decay_acts),
        )
        cosine = pull.cosine(alpha, beta)
        rows.append(
            [
                label,
                place,
                *(short_number(value) if acts else "–" for value, acts in cells),
                short_number(pull.ratio(alpha, beta)),
                "–" if math.isnan(cosine) else f"{cosine:+.3f}".replace("-", "−"),
                short_number(pull.total(alpha, beta)),
                _equal(pull, "β" if pull is terms.head and not penalty_acts else "α"),
            ]
        )
    return rows


def _equal(pull: Pull, name: str) -> str:
    value = pull.crossing("αβ".index(name) + 1)
    return "–" if math.isnan(value) else f"{name} = {short_number(value)}"


def _direction(cosine: float) -> str:
    # By the cosine as it is printed, with two decimals.
    rounded = round(cosine, 2)
    return "across" if math.isnan(cosine) or abs(rounded) < 0.1 else ("together" if cosine > 0 else "against")

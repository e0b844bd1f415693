"""Sentences that the intervals force: what is above or below its baseline, and what cannot be told apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spgca_lab.analysis.statistics import PairedDifference
from spgca_lab.experiments.paper import Claim
from spgca_lab.experiments.report.layout import percent
from spgca_lab.experiments.report.published import label

if TYPE_CHECKING:
    from spgca_lab.experiments.report.build import Report

__all__ = ["claimed_pairs", "findings"]

_GROUPS = {
    "above": "above",
    "below": "below",
    "open": "not told apart",
    "equal": "the same difference with every seed, so that its interval says nothing",
    "single": "one shared seed, so no interval",
    "none": "no shared seed",
}


def findings(report: Report) -> str:
    """The section "What the numbers say" of a report, empty where nothing was run.

    Args:
        report: from `report`.

    Example:
        >>> from spgca_lab.experiments.report import report
        >>> findings(report("table6", "no/such/folder"))
        ''
    """
    if not any(cell.top1 for cell in report.cells):
        return ""
    lines, gaps = [], {}
    for dataset in dict.fromkeys(report.shown["dataset"]):
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        for cell in report.cells:
            reference = report.references[cell.column]
            if cell.dataset != dataset or not cell.top1 or reference == cell.column:
                continue
            gap = report.difference(dataset, cell.column, reference)
            kind = _kind(gap)
            groups[reference, kind].append(label(cell.column) + (f" ({gap:+.2f})" if gap.n > 1 else ""))
            if kind in ("above", "below", "open"):
                gaps[dataset, cell.column] = gap
        for reference in dict.fromkeys(reference for reference, _ in groups):
            told = [
                f"{words}: {', '.join(groups[reference, kind])}"
                for kind, words in _GROUPS.items()
                if (reference, kind) in groups
            ]
            lines.append(f"- {dataset}, against {label(reference)}: {'; '.join(told)}.")
    lines += _steps(report)
    text = "\n".join(lines) if lines else "No column has a finished run beside its baseline yet."
    return f"## What the numbers say\n\n{text}\n\n{_multiplicity(report, gaps)}".rstrip()


def _steps(report: Report) -> list[str]:
    """For Figure 2: which targets a module reaches earlier or later than its partner."""
    lines = []
    keys = ["dataset", "column", "reference"]
    for (dataset, column, reference), rows in report.convergence.groupby(keys, sort=False):
        groups: dict[str, list[str]] = defaultdict(list)
        for row in rows.itertuples():
            if row.diff_n < 2:
                kind = "too few seeds with which both reach it"
            elif row.diff_half == 0:
                kind = f"{row.diff:+.0f} with every seed, so that an interval says nothing"
            elif abs(row.diff) <= row.diff_half:
                kind = "not told apart"
            else:
                kind = "earlier" if row.diff < 0 else "later"
            groups[kind].append(str(row.target))
        told = "; ".join(f"{kind}: {', '.join(targets)}" for kind, targets in groups.items())
        lines.append(f"- {dataset}, steps of {label(str(column))} against {label(str(reference))}: {told}.")
    return lines


def _kind(gap: PairedDifference) -> str:
    if gap.n < 2:
        return "single" if gap.n else "none"
    if len({round(value, 9) for value in gap.gaps}) == 1:
        return "equal"
    if not gap.excludes():
        return "open"
    return "above" if gap.mean > 0 else "below"


def _multiplicity(report: Report, gaps: dict[tuple[str, str], PairedDifference]) -> str:
    """How many comparisons there were, and which survive a correction for that."""
    if not gaps:
        return ""
    count, level = len(gaps), percent(report.level)
    apart = {key: gap for key, gap in gaps.items() if gap.excludes()}
    if count == 1:
        text = f"1 comparison at {level}."
    else:
        text = (
            f"{count} comparisons at {level}: were no column different from its baseline, about "
            f"{count * (1 - report.level):.2g} of them would still exclude 0 by chance."
        )
        stricter = 1 - (1 - report.level) / count
        lost = [
            f"{label(column)} on {dataset}"
            for dataset, column in apart
            if not report.difference(dataset, column, report.references[column], level=stricter).excludes()
        ]
        if apart:
            text += f" Of the {len(apart)} that do, {len(apart) - len(lost)} do so with Bonferroni's correction, too"
            text += f"; not {', '.join(lost)}." if lost else "."
    if not report.convergence.empty:
        text += f" The {len(report.convergence)} comparisons of steps come on top of that."
    if any(not cell.comparable for cell in report.cells):
        text += (
            " This is about the runs in the store; where they are marked †, not about the paper's experiment."
        )
    return text


def claimed_pairs(claims: Sequence[Claim], dataset: str) -> dict[tuple[str, str], str]:
    """Pairs of columns that claims compare, each in the order in which it is first named, and what is claimed.

    Args:
        claims: of one table.
        dataset: whose claims are quoted; pairs are those of any data set.

    Returns:
        `{(a, b): claimed difference a − b}`: points, the sign, or "—" where the text says nothing of this data set.

    Example:
        >>> from spgca_lab.experiments.paper import CLAIMS
        >>> claimed_pairs([c for c in CLAIMS if c.table == 5], "MIT Indoor 67")[("spa", "ast")]
        '-0.18'
    """
    found: dict[tuple[str, str], list[str]] = {}
    for claim in claims:
        for name, ahead, behind in claim.pairs:
            turned = (behind, ahead) in found
            told = found.setdefault((behind, ahead) if turned else (ahead, behind), [])
            if name == dataset:
                sign = -1 if turned else 1
                told.append(f"{sign * claim.points:+.2f}" if claim.points else f"{'<' if turned else '>'} 0")
    return {pair: _strongest(told) for pair, told in found.items()}


def _strongest(told: list[str]) -> str:
    points = [text for text in told if text[0] in "+-"]
    return " and ".join(dict.fromkeys(points or told)) or "—"

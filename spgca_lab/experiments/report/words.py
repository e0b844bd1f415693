"""The report as Markdown: tables, what sets the runs apart from the paper's, and what the paper and others say."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

import pandas as pd

from spgca_lab.experiments import paper
from spgca_lab.experiments.grid import GRIDS
from spgca_lab.experiments.report.findings import claimed_pairs, findings
from spgca_lab.experiments.report.layout import lay_out, percent, plus_minus
from spgca_lab.experiments.report.published import (
    label,
    number_of,
    paper_columns,
    published,
    published_difference,
)

if TYPE_CHECKING:
    from spgca_lab.experiments.report.build import Report

__all__ = ["markdown"]

_INTERVALS = (
    "Ours: x̄ ± t s/√n over n seeds, s with n − 1, and for a difference the same of the n differences between runs "
    "of one seed, which share head, batches and crops. Published: ā − b̄ ± t_ν √((s_a² + s_b²)/5) with Welch's "
    "ν = 4 (s_a² + s_b²)²/(s_a⁴ + s_b⁴), because the paper prints means and standard deviations of 5 runs and says "
    "nothing of shared seeds. It rounds to 0.01: behind a printed sd of 0.01 there may be 0.005 or 0.015."
)


def markdown(report: Report) -> str:
    """The whole report.

    Args:
        report: from `report`.

    Example:
        >>> from spgca_lab.experiments.report import report
        >>> print(markdown(report("table6", "no/such/folder")).splitlines()[0])
        # Table 6: reduction rate r of GCA
    """
    parts = [_head(report), *(_dataset(report, name) for name in dict.fromkeys(report.shown["dataset"]))]
    if report.table == "fig2":
        parts.append(_convergence(report))
    parts += [
        _elsewhere_in_the_table(report),
        _apart(report),
        _alphas(report),
        findings(report),
        _claims(report),
    ]
    parts += [_contradictions(report), _others(report), f"## How the intervals are computed\n\n{_INTERVALS}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(report: Report) -> str:
    spec = GRIDS[report.table]
    number = number_of(report.table)
    title = "Figure 2: convergence" if report.table == "fig2" else f"Table {number}: {spec.title}"
    seeds = sorted({seed for cell in report.cells for seed in cell.seeds})
    lines = [f"# {title}"]
    if not report.planned:
        lines.append(
            f"Nothing of this is planned in `{report.store}` yet: below are the paper's figures alone. Begin with\n\n"
            f"    spgca-lab grid {report.table} --store {report.store}"
        )
    else:
        lines.append(f"Runs in `{report.store}`, seeds {', '.join(map(str, seeds))}, at their last iterate.")
    lines.append(
        "Top-1 accuracy on the test pictures in percent. Ours: mean ± standard deviation over the finished seeds, with "
        f"the {percent(report.level)} interval of the mean. Published: mean ± standard deviation of {paper.RUNS} runs, "
        f"{'Table 5' if report.table == 'fig2' else f'Table {number}'} of {paper.SOURCE}."
    )
    if report.table == "fig2":
        lines.append(
            "Figure 2 shows the modules of Table 5, whose figures stand beside ours here; the values of its curves are "
            "not printed, so that its claim can be compared, and not its steps."
        )
    if report.table == "table5":
        lines.append(
            "L2's published figures are Table 4's; “uniform” (equal weights) is a control of this project."
        )
    elif "uniform" in spec.columns:
        lines.append(
            "“uniform” (equal weights, features aligned without attention) is a control of this project."
        )
    return "\n\n".join(lines)


def _dataset(report: Report, name: str) -> str:
    rows = report.shown[report.shown["dataset"] == name]
    model = rows["model"].iloc[0]
    against = report.baseline
    versus = f"− {label(against)}" if against else "− its partner"
    header = ["method", "α", "ours", percent(report.level), "n", versus, "published", f"published {versus}"]
    planned = {(cell.dataset, cell.column): len(cell.seeds) for cell in report.cells}
    table = []
    for row in rows.itertuples():
        mark = "" if row.comparable else " †"
        of = planned[name, row.column]
        if row.n:
            ours = plus_minus(row.mean, row.sd)
            interval = f"{row.mean - row.half:.2f} to {row.mean + row.half:.2f}" if row.n > 1 else "—"
            count = f"{row.n}" if row.n == of else f"{row.n} of {of}"
        else:
            ours, interval, count = "not run" if row.note in ("", "not run") else "not finished", "—", "0"
        theirs = plus_minus(row.published_mean, row.published_sd)
        gap = plus_minus(row.diff, row.diff_half, "+.2f", row.diff_n)
        printed = plus_minus(row.published_diff, row.published_diff_half, "+.2f")
        marked = theirs if theirs == "—" else theirs + mark
        table.append([label(row.column), _alpha(row.alpha), ours, interval, count, gap, marked, printed])
    lines = [f"## {name}, {model}", lay_out(header, table)]
    notes: dict[str, list[str]] = defaultdict(list)
    for row in rows.itertuples():
        if row.note not in ("", "not run"):
            notes[row.note].append(label(row.column))
    every = len(rows[rows["n"] > 0])
    told = [
        f"- {'all' if len(names) == every > 1 else ', '.join(names)}: {note}" for note, names in notes.items()
    ]
    return "\n\n".join([*lines, "\n".join(told)] if told else lines)


def _alpha(text: str) -> str:
    return "—" if text in ("", "0") else text.replace(" ", ", ")


def _elsewhere_in_the_table(report: Report) -> str:
    """The paper's data sets that the grid leaves out, in one table."""
    left = report.frame[~report.frame["dataset"].isin(report.shown["dataset"])]
    if left.empty:
        return ""
    columns = paper_columns(report.table)
    rows = []
    for (dataset, model), part in left.groupby(["dataset", "model"], sort=False):
        by = part.set_index("column")
        cells = (by.loc[[c]].iloc[0] for c in columns)
        rows.append(
            [
                f"{dataset}, {model}",
                *(plus_minus(cell["published_mean"], cell["published_sd"]) for cell in cells),
            ]
        )
    table = lay_out(["published", *map(label, columns)], rows)
    return f"## Not run: the paper's other data sets\n\nNot in this grid; published figures only.\n\n{table}"


def _apart(report: Report) -> str:
    """What makes the runs another experiment than the paper's, each difference once."""
    with_runs = [cell for cell in report.cells if cell.top1]
    found: dict[str, list[str]] = defaultdict(list)
    for cell in with_runs:
        for difference in cell.differs:
            found[difference].append(f"{label(cell.column)} on {cell.dataset}")
    pictures = [cell for cell in with_runs if cell.pictures]
    if not found and not pictures:
        return ""
    lines = [
        "## † Not the paper's experiment",
        "A published figure marked † stands beside runs that are not a repeat.",
    ]
    if found:
        told = [
            text if len(where) == len(with_runs) else f"{text} ({_some(where)})"
            for text, where in found.items()
        ]
        lines.append("Recipe differs from the paper's: " + "; ".join(told) + ".")
    if pictures:
        sets = dict.fromkeys(cell.dataset for cell in pictures)
        lines.append(f"Other pictures than those of Table 1, as noted there: {', '.join(sets)}.")
    return "\n\n".join(lines)


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"


def _alphas(report: Report) -> str:
    chosen: dict[str, list[str]] = defaultdict(list)
    given = []
    for cell in report.cells:
        if not cell.planned or _alpha(_text(cell.alpha)) == "—":
            continue
        where = f"{label(cell.column)} on {cell.dataset}"
        if cell.alpha_from is None:
            given.append(where)
        else:
            chosen[cell.alpha_from].append(where)
    lines = [f"- {_some(where)}: {text}" for text, where in chosen.items()]
    if given:
        lines.append(
            f"- {_some(given) if chosen else 'everywhere'}: set by hand, not chosen on held-out pictures"
        )
    return "## How α was chosen\n\n" + "\n".join(lines) if lines else ""


def _text(alpha: float | tuple[float, ...] | None) -> str:
    values = alpha if isinstance(alpha, tuple) else (alpha,)
    return " ".join(f"{a:g}" for a in values if a is not None)


def _convergence(report: Report) -> str:
    if report.convergence.empty:
        return "## Steps to a target\n\nNot run."
    rows = []
    for row in report.convergence.itertuples():
        rows.append(
            [
                row.dataset,
                row.target,
                f"{label(row.column)} against {label(row.reference)}",
                _steps(row.steps, row.reached, row.n),
                _steps(row.reference_steps, row.reference_reached, row.reference_n),
                _gap_in_steps(row.diff, row.diff_half, row.diff_n),
                str(row.diff_n),
            ]
        )
    header = [
        "data set",
        "target",
        "pair",
        "steps",
        "of its partner",
        f"difference ({percent(report.level)})",
        "n",
    ]
    every = _rasters(report.curves)
    return (
        "## Steps to a target\n\n"
        "The first evaluation at which a run has the target's accuracy or more, mean over the seeds that reach it; "
        f"differences are paired over seeds with which both do. {every}A share of a run's own final accuracy is a "
        "lower target for the module that ends lower; the partner's final accuracy is one target for both.\n\n"
        + lay_out(header, rows, left=3)
    )


def _rasters(curves: pd.DataFrame) -> str:
    gaps = curves.groupby(["dataset", "column", "seed"])["step"].diff().dropna()
    if gaps.empty:
        return ""
    return f"Runs were tested every {gaps.median():.0f} steps, and no step is known more finely. "


def _steps(mean: float, reached: int, n: int) -> str:
    if not n:
        return "not run"
    if not reached:
        return "not reached"
    return f"{mean:.0f}" if reached == n else f"{mean:.0f} ({reached} of {n})"


def _gap_in_steps(mean: float, half: float, n: int) -> str:
    # Runs tested every so many steps often differ by one and the same number of them: no interval comes of that.
    return f"{mean:+.0f} with each" if n > 1 and half == 0 else plus_minus(mean, half, "+.0f", n)


def _claims(report: Report) -> str:
    """The pairs that the text compares: claimed, printed and ours."""
    claims = [c for c in paper.CLAIMS if report.table == "fig2" and c.table is None]
    if report.table != "fig2":
        claims = [c for c in paper.CLAIMS if c.table == number_of(report.table)]
    rows = []
    for dataset in dict.fromkeys(report.shown["dataset"]):
        for (a, b), told in claimed_pairs(claims, dataset).items():
            cells = [published(report.table, dataset, name) for name in (a, b)]
            printed = "—"
            if cells[0] and cells[1]:
                gap = published_difference(cells[0], cells[1], level=report.level)
                printed = f"{gap:+.2f}"
            ours = report.difference(dataset, a, b)
            seen = plus_minus(ours.mean, ours.half, "+.2f", ours.n) if ours.n else "not run"
            rows.append([dataset, f"{label(a)} − {label(b)}", told, printed, seen])
    sentences = [f"- “{c.sentence}” ({c.where}): {_verdict(c)}" for c in claims]
    lines = ["## What the text claims"]
    if rows:
        header = ["data set", "difference", "claimed", "published", "ours"]
        lines.append(lay_out(header, rows, left=2))
    return "\n\n".join([*lines, "\n".join(sentences)]) if claims else ""


def _verdict(claim: paper.Claim) -> str:
    if claim.holds is None:
        return "the paper prints no numbers for it."
    if not claim.fails:
        return "so in the printed means."
    where = ", ".join(dict.fromkeys(f"{label(a)} over {label(b)} on {d}" for d, a, b in claim.fails))
    return f"{'so in most' if claim.holds else 'not so everywhere'}; the printed means do not have {where}."


def _contradictions(report: Report) -> str:
    number = "Figure 2" if report.table == "fig2" else str(number_of(report.table))
    notes = [
        f"- {note.where}. The paper: {note.says} Its numbers: {note.found}"
        for note in paper.NOTES
        if number in _tables(note.where)
    ]
    return "## Where the paper contradicts itself\n\n" + "\n".join(notes) if notes else ""


def _tables(where: str) -> list[str]:
    return [n for group in re.findall(r"Tables? (\d(?:, \d)*)\b", where) for n in group.split(", ")]


def _others(report: Report) -> str:
    lines = []
    for other in paper.ELSEWHERE if report.table in ("table4", "table5") else ():
        cell = published(report.table, other.dataset, other.method)
        if other.dataset in set(report.frame["dataset"]) and cell is not None:
            lines.append(
                f"- {other.dataset}, {label(other.method)}: the paper {plus_minus(*cell)}; {other.source}: {other} "
                f"({other.model}, {other.iterate}). {other.why[0].upper()}{other.why[1:]}."
            )
    return "## What others publish for these cells\n\n" + "\n".join(lines) if lines else ""

"""The paper's Tables 4 and 5 as they are printed, with ours above them: methods are columns."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spgca_lab.analysis.statistics import mean_interval, paired_difference
from spgca_lab.explorers.comparison_data import Entry, Setting, paper_datasets, paper_values
from spgca_lab.explorers.parts import paragraph
from spgca_lab.plots.panels.comparison import MethodRow

__all__ = ["method_table"]

LINE = "1px solid var(--jp-border-color1, #bdbdbd)"
OURS = "Ours: top-1 in % of the last iterate over seeds, and below it the paired difference with its interval"
PAPER = (
    "The paper's: mean ± sd of five runs on other pictures with other networks. "
    "The order can be compared, the level cannot."
)
PICTURES = (
    "The interval and McNemar's p over test pictures say what hangs on which pictures were drawn, for two runs as "
    "they are; what hangs on the seed is in the intervals over seeds alone."
)
MOST_WIDE = 7


@dataclass(frozen=True)
class _Line:
    name: str
    cells: Sequence[str]
    chosen: bool = False
    before: str = ""


def method_table(
    columns: Sequence[MethodRow],
    settings: Mapping[str, Setting],
    chosen: str,
    baseline: str,
    baseline_label: str,
    paper: str,
) -> str:
    """Accuracies as HTML, every cell escaped, in the colours of the page.

    Args:
        columns: the methods from left to right.
        settings: ours; two rows each.
        chosen: the setting that the picture shows, in bold.
        baseline: key of the method that the others are compared with.
        baseline_label: its name.
        paper: the data set that the picture shows, in bold.

    Returns:
        a table; in narrow columns "± …" stands on a line of its own.
    """
    lines: list[_Line] = []
    for setting in settings.values():
        found = [setting.entries.get(c.key) for c in columns]
        before = "" if lines else OURS
        counts = {len(e.runs) for e in found if e is not None}
        every = f", n = {min(counts)}" if len(counts) == 1 else " (n)"
        ours = [_ours(e, count=len(counts) > 1) for e in found]
        lines.append(_Line(f"{setting.name}: mean ± sd{every}", ours, setting.name == chosen, before))
        base = setting.entries.get(baseline)
        lines.append(_Line(f"− {baseline_label} (95 %)", [_gap(e, base) for e in found]))
    for i, (dataset, model) in enumerate(paper_datasets().items()):
        values = [paper_values(dataset).get(c.method) for c in columns]
        cells = [f"{v[0]:.2f} ± {v[1]:.2f}" if v else "–" for v in values]
        lines.append(_Line(f"{dataset}, {model}", cells, dataset == paper, "" if i else PAPER))
    heads = [c.label + (" (baseline)" if c.baseline else "") for c in columns]
    return _html(heads, lines)


def _ours(entry: Entry | None, *, count: bool) -> str:
    if entry is None:
        return "not trained"
    found = mean_interval(list(entry.top1.values()))
    value = found.spread() if found.n > 1 else f"{found.mean:.1f}"
    return f"{value} ({found.n})" if count else value


def _gap(entry: Entry | None, base: Entry | None) -> str:
    if entry is None or base is None:
        return "" if entry is None else "no baseline"
    if entry.key == base.key:
        return "baseline"
    gap = paired_difference(entry.top1, base.top1)
    if gap.n > 1:
        return f"{gap:+.1f}"
    return f"{gap.mean:+.1f}, one seed" if gap.n else "no shared seed"


def _html(heads: Sequence[str], lines: Sequence[_Line]) -> str:
    narrow = len(heads) > MOST_WIDE
    look = "padding:1px 0.5em;vertical-align:top;color:inherit;text-align"
    cell = f"{look}:right;white-space:{'normal' if narrow else 'nowrap'}"

    def written(text: str) -> str:
        safe = html.escape(text)
        return safe.replace(" ± ", "<br>±&nbsp;") if narrow else safe

    head = "".join(f'<th style="{cell}">{html.escape(h)}</th>' for h in heads)
    rows = [f"<tr><th></th>{head}</tr>"]
    for line in lines:
        if line.before:
            style = f"{look}:left;padding-top:0.6em;font-style:italic;border-bottom:{LINE}"
            span = len(heads) + 1
            rows.append(f'<tr><td colspan="{span}" style="{style}">{html.escape(line.before)}</td></tr>')
        name = (
            f'<td style="{look}:left;font-weight:{600 if line.chosen else 400}">{html.escape(line.name)}</td>'
        )
        rows.append(f"<tr>{name}{''.join(f'<td style={cell!r}>{written(c)}</td>' for c in line.cells)}</tr>")
    style = "line-height:1.25;font-size:90%;background:none;border-collapse:collapse"
    return f'<table style="{style}">{"".join(rows)}</table>{paragraph(PICTURES)}'

"""Tables 4–7 and Figure 2 with ours beside the paper's: printed, and written with a figure."""

import argparse
import sys
from pathlib import Path
from typing import Any

from spgca_lab._files import replace_file
from spgca_lab.experiments.report import Report, report

__all__ = ["add_commands", "figure_of"]


def add_commands(commands: Any) -> None:
    """Add `report` to the command line."""
    parser = commands.add_parser(
        "report", help="a table of the paper: ours beside the published, and what is missing"
    )
    parser.add_argument("tables", nargs="+", metavar="TABLE", help="table4, table5, table6, table7 or fig2")
    parser.add_argument("--store", type=Path, default="runs", help="folder of runs (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, help="folder for Markdown, CSV and figure (default: STORE/reports)"
    )
    parser.add_argument(
        "--baseline", metavar="COLUMN", help="what differences are taken to (default: the grid's own)"
    )
    parser.add_argument("--level", type=float, default=0.95, help="of confidence (default: %(default)s)")
    parser.set_defaults(run=_report)


def figure_of(found: Report) -> Any:
    """The figure of a report: dots and intervals, or for Figure 2 the curves.

    Args:
        found: from `spgca_lab.experiments.report.report`.

    Example:
        >>> len(figure_of(report("table6", "no/such/folder")).axes)
        1
    """
    from spgca_lab.plots.report import convergence_curves, report_dots

    if found.table != "fig2":
        title = f"Table {found.table.removeprefix('table')}: ours beside the paper's"
        return report_dots(found.shown, found.references, level=found.level, title=title)
    columns = list(dict.fromkeys(found.shown["column"]))
    pairs = [(b, a) for a, b in found.references.items() if a != b and a in columns]
    return convergence_curves(
        found.mean_curves(),
        pairs,
        level=found.level,
        title="Figure 2: convergence",
        datasets=list(dict.fromkeys(found.shown["dataset"])),
    )


def _report(options: argparse.Namespace) -> None:
    # All of them first: an unknown name must not leave half of the files.
    reports = [
        report(table, options.store, baseline=options.baseline, level=options.level)
        for table in dict.fromkeys(options.tables)
    ]
    folder = options.out or options.store / "reports"
    for found in reports:
        print(found.markdown())
        files = found.write(folder)
        picture = folder / f"{found.table}.png"
        replace_file(picture, _png(found))
        # Not on standard output, which is then a Markdown file if it is sent to one.
        print("\n".join(f"wrote {file}" for file in [*files, picture]), file=sys.stderr)


def _png(found: Report) -> bytes:
    from spgca_lab.plots import to_png

    return to_png(figure_of(found), dpi=150)

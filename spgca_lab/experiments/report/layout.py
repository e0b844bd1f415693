"""Numbers and tables in Markdown that lines up in a terminal, too."""

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["lay_out", "percent", "plus_minus"]


def lay_out(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table with columns of equal width.

    Args:
        header: names of the columns.
        rows: cells as text; a bar in a cell is escaped.
        left: how many columns are words, set to the left; the others are numbers, set to the right.

    Example:
        >>> print(lay_out(["method", "top-1"], [["L2", "78.40"]]))
        | method | top-1 |
        | ------ | ----: |
        | L2     | 78.40 |
    """
    cells = [[str(cell).replace("|", r"\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        set_out = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(set_out)} |"

    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(cells[0]), f"| {' | '.join(rule)} |", *map(line, cells[1:])])


def plus_minus(value: Any, width: Any, spec: str = ".2f", n: int | None = None) -> str:
    """A number with its width, where there are any.

    Args:
        value: NaN or None for none.
        width: NaN or None for none.
        spec: format of the value; the width has it without a sign.
        n: how many values; says so where there is one.

    Example:
        >>> plus_minus(0.321, 0.1, "+.2f"), plus_minus(80.0, math.nan, n=1), plus_minus(None, None)
        ('+0.32 ± 0.10', '80.00 (n = 1)', '—')
    """
    if value is None or math.isnan(value):
        return "—"
    if width is None or math.isnan(width):
        return f"{value:{spec}}" + (" (n = 1)" if n == 1 else "")
    return f"{value:{spec}} ± {width:{spec.lstrip('+')}}"


def percent(level: float) -> str:
    """A level of confidence in percent.

    Example:
        >>> percent(0.95), percent(0.995)
        ('95 %', '99.5 %')
    """
    return f"{100 * level:.10g} %"

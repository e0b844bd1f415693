"""pytest plugin beside nbval: says what was compared and how long it took, and catches a swallowed time-out.

A cell that runs past its limit is interrupted; if it catches the interrupt, nbval counts it as passed, and
every cell after it as an expected failure. With this plugin such a cell fails.
"""

from collections import Counter

import pytest
from nbval.plugin import IPyNbCell


def _is_compared(item: IPyNbCell) -> bool:
    return bool(item.options["check"]) and item.cell.execution_count is not None and not item.options["skip"]


class NotebookReport:
    """Counts the cells of one pytest run and sums their time by notebook."""

    def __init__(self) -> None:
        self.compared = 0
        self.ignored = 0
        self.seconds: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Count what nbval collected, by the rule that it will use itself."""
        cells = [item for item in items if isinstance(item, IPyNbCell) and item.cell.source.strip()]
        self.compared = sum(map(_is_compared, cells))
        self.ignored = len(cells) - self.compared

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item):
        """Fail a cell that passed although it ran past its time limit."""
        timed_out_before = isinstance(item, IPyNbCell) and item.parent.timed_out
        result = yield
        if isinstance(item, IPyNbCell) and item.parent.timed_out and not timed_out_before:
            limit = item.config.option.nbval_cell_timeout
            pytest.fail(
                f"Cell {item.cell_num} ran past its {limit:g} s and caught the interrupt", pytrace=False
            )
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up the time of each notebook."""
        self.seconds[report.nodeid.split("::")[0]] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the counts and the times."""
        if not self.compared and not self.ignored:
            return
        terminalreporter.section("notebooks")
        for name, seconds in sorted(self.seconds.items()):
            terminalreporter.write_line(f"{seconds:6.1f} s  {name}")
        terminalreporter.write_line(f"{sum(self.seconds.values()):6.1f} s  in all")
        terminalreporter.write_line(
            f"nbval cells: {self.compared} compared, {self.ignored} ignored (run only)"
        )


def pytest_configure(config: pytest.Config) -> None:
    """Register the report."""
    config.pluginmanager.register(NotebookReport(), "notebook-report")

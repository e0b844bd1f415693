"""Memory stays flat: 200 moves of every slider of every explorer, in a real kernel.

What is compared is resident memory after a warm-up, in which caches fill and the allocator finds its size, and the
number of living widgets, which must not grow at all. Measured: nothing is left (less than 0.3 MB). That running a cell
again leaves nothing is tested where cells run, in `tests/browser/test_notebooks.py`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

from tests.resident import HELD, MALLOC, parsed

REPO = Path(__file__).resolve().parents[1]
MOVES = 3.0  # MB

HELPERS = """
import itertools
import ipywidgets as widgets
import spgca_lab as lab
from tests.explorers import every_widget

SLIDERS = (widgets.IntSlider, widgets.FloatSlider, widgets.SelectionSlider)

def stops(slider):
    if isinstance(slider, widgets.SelectionSlider):
        return range(len(slider.options))
    return [slider.min + i * slider.step for i in range(round((slider.max - slider.min) / slider.step) + 1)]

def move(slider, stop):
    setattr(slider, "index" if isinstance(slider, widgets.SelectionSlider) else "value", stop)

def sliders(explorer):
    return [w for w in every_widget(explorer) if isinstance(w, SLIDERS) and not w.disabled and len(stops(w)) > 1]

def walk(explorer, moves, most, end):
    # Up and down over `most` stops of one slider, the others at one end of theirs: each end shows states of its own.
    for slider in sliders(explorer):
        move(slider, stops(slider)[end])
    for slider in sliders(explorer):
        there = list(stops(slider))[:most]
        for stop in itertools.islice(itertools.cycle([*there, *there[-2:0:-1]]), moves):
            move(slider, stop)
        move(slider, stops(slider)[end])
        assert "Cannot show" not in explorer.status_line.value, (slider.description, explorer.status_line.value)
    return len(sliders(explorer))
"""

EXPLORERS = {
    "FeatureMapExplorer": "lab.explorers.FeatureMapExplorer('mini', state=lab.explorers.FeatureMapState(layer=3))",
    "AttentionExplorer": "lab.explorers.AttentionExplorer('mini')",
    "AttentionExplorer of a run": (
        "lab.explorers.AttentionExplorer(lab.RunStore(lab.data_dir() / 'runs').find(method='spgca', alpha=3.0, r=4)[0])"
    ),
    "RunExplorer": "lab.explorers.RunExplorer(lab.data_dir() / 'runs')",
    "LossExplorer": "lab.explorers.LossExplorer()",
    "MethodComparison": "lab.explorers.MethodComparison(lab.data_dir() / 'comparison')",
    "TrainingMonitor": "lab.explorers.TrainingMonitor(lab.data_dir() / 'runs' / 'spgca-ec3591435c4f')",
}


class Kernel:
    """A kernel that runs cells as JupyterLab asks for them."""

    def __init__(self, folder: Path):
        environment = os.environ | MALLOC | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
        self.manager, self.client = start_new_kernel(startup_timeout=120, env=environment, cwd=str(folder))
        self.run(HELPERS)

    def run(self, code: str, cell: str = "driver", timeout: float = 120) -> str:
        """What a cell prints.

        Raises:
            RuntimeError: when it ends in an error.
        """
        session, content = self.client.session, {"code": code, "silent": False, "store_history": True}
        content |= {"user_expressions": {}, "allow_stdin": False, "stop_on_error": True}
        message = session.msg("execute_request", content, metadata={"cellId": cell})
        self.client.shell_channel.send(message)
        printed, wanted = "", message["header"]["msg_id"]
        while True:
            heard = self.client.get_iopub_msg(timeout=timeout)
            if heard["parent_header"].get("msg_id") != wanted:
                continue
            kind, said = heard["msg_type"], heard["content"]
            if kind == "stream" and said["name"] == "stdout":
                printed += said["text"]
            elif kind == "error":
                raise RuntimeError(f"{said['ename']}: {said['evalue']}")
            elif kind == "status" and said["execution_state"] == "idle":
                return printed

    def held(self) -> tuple[float, float, int]:
        """MB of memory, MB on a graphics card, and living widgets."""
        return parsed(self.run(HELD))


@contextmanager
def kernel(folder: Path) -> Iterator[Kernel]:
    made = Kernel(folder)
    try:
        yield made
    finally:
        made.client.stop_channels()
        made.manager.shutdown_kernel(now=True)


def moved(kernel: Kernel, code: str, most: int) -> tuple[float, float, int]:
    """What 200 moves of every slider, over its first `most` stops, leave behind: 100 at either end of the others."""
    kernel.run(f"explorer = {code}\nexplorer", cell="moved")
    # Caches keep as many batches and maps as ever, but larger ones at one end than at the other.
    for end in (0, -1, 0):
        kernel.run(f"walk(explorer, {2 * most}, {most}, {end})")
    before = kernel.held()
    for end in (-1, 0):
        sliders = kernel.run(f"print(walk(explorer, 100, {most}, {end}))")
        assert int(sliders) > 0
    after = kernel.held()
    kernel.run("explorer.close(); del explorer")
    return after[0] - before[0], after[1] - before[1], after[2] - before[2]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with kernel(tmp_path_factory.mktemp("memory")) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPLORERS)
def test_moves_leave_memory_flat(shared: Kernel, name: str):
    """The explorers of the notebooks, as their cells make them."""
    code = EXPLORERS[name]
    memory, card, living = moved(shared, code, most=4 if name == "LossExplorer" else 12)
    assert living == 0
    assert memory < MOVES
    assert card < 1
    print(f"{name}: {memory:+.1f} MB")

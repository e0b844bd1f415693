"""Time from releasing a slider to the new figure on screen: `make latency`, or `python -m benchmarks.latency --help`.

Drives the machine's Chromium on a JupyterLab of its own. Every move goes to a value that was not shown before, since
an explorer caches its last figures; then the same moves are made back, to values it has. The clock of the page itself
runs from the key (or the choice in a list) to the frame that is painted after the new <img> is in the page.
"""

import argparse
import platform
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path

import nbformat
from playwright.sync_api import TimeoutError, sync_playwright

from tests.browser.conftest import FLAGS
from tests.browser.lab import LabPage, serve
from tools import chromium

REPO = Path(__file__).resolve().parents[1]
TARGETS = {"cached": 150, "forward pass": 400}  # milliseconds
PATIENCE = 10_000  # milliseconds until a move counts as one that changed no picture
PAUSE = 150  # milliseconds between moves, in which kernel and page come to rest
PACKAGES = ("torch", "matplotlib", "ipywidgets", "jupyterlab", "playwright")
COLUMNS = (
    "explorer",
    "control",
    "kind",
    "target, ms",
    "median, ms",
    "p90, ms",
    "of it kernel",
    "seen before",
    "n",
)

# The kernel's own share: from the call that a control makes to the last message that it sends.
TIMED = """
import time
import spgca_lab as lab
from spgca_lab.explorers import Explorer

def timed(show):
    def run(self, **values):
        begun = time.perf_counter()
        try:
            return show(self, **values)
        finally:
            seconds.append(time.perf_counter() - begun)
    return run

seconds, Explorer.show = [], timed(Explorer.show)
"""
# A key acts when it goes down, a choice in a list when the list changes: neither comes after the release.
CLOCK = """
(root) => {
    const clock = window.spgcaClock = {begun: null, took: null, src: root.querySelector('.spgca-picture img').src};
    for (const kind of ['keydown', 'pointerup', 'change'])
        root.addEventListener(kind, () => { if (clock.took === null) clock.begun = performance.now(); }, true);
    new MutationObserver(() => {
        const image = root.querySelector('.spgca-picture img');
        if (clock.begun === null || clock.took !== null || !image || image.src === clock.src) return;
        clock.src = image.src;
        clock.took = -1;
        requestAnimationFrame(() => { clock.took = performance.now() - clock.begun; });
    }).observe(root.querySelector('.spgca-picture'), {childList: true, subtree: true, attributes: true});
}
"""
READY = "() => { spgcaClock.begun = spgcaClock.took = null; }"


@dataclass(frozen=True)
class Scene:
    """A place to start from, and how far to go.

    Args:
        start: arguments of `explorer.show`, as Python.
        moves: to the next value, and the next.
    """

    start: str
    moves: int


@dataclass(frozen=True)
class Control:
    """One control of one explorer.

    Args:
        title: of the explorer, in the table.
        code: makes it.
        name: the control's description.
        kind: what a move costs, `"cached"` or `"forward pass"`.
        scenes: together at least 15 moves.
        afresh: make the explorer anew for every scene.
        dropdown: a list to choose from, not a slider.
    """

    title: str
    code: str
    name: str
    kind: str
    scenes: Sequence[Scene]
    afresh: bool = False
    dropdown: bool = False


@dataclass
class Times:
    """Milliseconds of a control's moves: to new figures, the kernel's share of these, and to cached figures.

    `missed` counts the moves that changed no figure.
    """

    new: list[float] = field(default_factory=list)
    kernel: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    missed: int = 0


def controls() -> Iterator[Control]:
    """Yield the controls to measure: every explorer with shipped data, networks with `lite0` at 224 px."""
    code, title = 'lab.explorers.FeatureMapExplorer("lite0")', "FeatureMapExplorer, `lite0`, 224 px"
    yield Control(title, code, "layer", "cached", [Scene(f"layer=1, channel={c}", 3) for c in range(6)])
    yield Control(title, code, "channel", "cached", [Scene("layer=2, channel=0", 20)])
    yield Control(title, code, "image", "forward pass", [Scene("picture=0", 8)] * 2, afresh=True)

    code, title = "lab.explorers.AttentionExplorer()", "AttentionExplorer, `lite0`, 224 px"
    yield Control(title, code, "opacity", "cached", [Scene("picture=1, opacity=0", 18)])
    yield Control(title, code, "image", "forward pass", [Scene("picture=0", 8)] * 2, afresh=True)
    found = 'lab.RunStore(lab.data_dir() / "runs").find(method="spgca", alpha=3.0, r=4)[0]'
    code, title = f"lab.explorers.AttentionExplorer({found})", "AttentionExplorer, a run"
    yield Control(title, code, "step", "cached", [Scene(f"picture={p}, step=0", 8) for p in (1, 2)])

    code, title = 'lab.explorers.RunExplorer(lab.data_dir() / "runs")', "RunExplorer, shipped runs"
    yield Control(title, code, "α", "cached", [Scene(f"alpha=0.3, r=8, picture={p}", 3) for p in range(6)])
    yield Control(title, code, "layer", "cached", [Scene(f"layer=1, picture={p}", 3) for p in range(6)])
    yield Control(title, code, "step", "cached", [Scene(f"step=0, picture={p}", 8) for p in (1, 2)])

    code, title = "lab.explorers.LossExplorer()", "LossExplorer, `mini`, 16 pictures"
    yield Control(title, code, "α", "cached", [Scene(f"alpha=0, beta={b}", 11) for b in (0.1, 1)])
    scenes = [Scene(f'scale="literal", batch={b}', 2) for b in range(8)]
    yield Control(title, code, "scale", "forward pass", scenes, dropdown=True)
    yield Control(title, code, "r", "forward pass", [Scene(f"r=1, batch={b}", 5) for b in range(10, 13)])

    code, title = 'lab.explorers.LossExplorer("lite0")', "LossExplorer, `lite0`, 224 px, 4 pictures"
    yield Control(title, code, "α", "cached", [Scene(f"alpha=0, beta={b}", 11) for b in (0.1, 1)])
    yield Control(title, code, "scale", "forward pass", scenes, dropdown=True)
    yield Control(title, code, "batch", "forward pass", [Scene("batch=0", 8)] * 2, afresh=True)

    code, title = (
        'lab.explorers.MethodComparison(lab.data_dir() / "comparison")',
        "MethodComparison, shipped runs",
    )
    scenes = [Scene(f'baseline="act", table={t!r}', 9) for t in ("Table 4", "all")]
    yield Control(title, code, "baseline", "cached", scenes, dropdown=True)
    far = "mini → stickers far, 2 a class, 150 steps"
    scenes = [Scene(f'setting={far!r}, a={a!r}, b="l2", page=1', 9) for a in ("spgca", "act")]
    yield Control(title, code, "page", "cached", scenes)


def measure(lab: LabPage, control: Control, number: int) -> Times:
    """All scenes of a control, in a notebook and a kernel of its own."""
    cells = [nbformat.v4.new_code_cell(c) for c in (TIMED, f"explorer = {control.code}\nexplorer")]
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, lab.server.root / f"{number:02}.ipynb")
    lab.open(f"{number:02}.ipynb")
    lab.run_all()
    times = Times()
    try:
        for place, scene in enumerate(control.scenes):
            if place and control.afresh:
                lab.run_all()
            picture = lab.page.locator(".spgca-picture img")
            picture.wait_for(timeout=120_000)
            lab.kernel(f"explorer.show({scene.start}); seconds.clear()")
            picture.scroll_into_view_if_needed()
            lab.page.wait_for_timeout(500)
            lab.page.locator(".spgca-explorer").evaluate(CLOCK)
            times.new += _moves(lab, control, scene.moves, +1, times)
            times.kernel += [1000 * float(s) for s in lab.kernel("print(*seconds)").split()]
            times.again += _moves(lab, control, scene.moves, -1, times)
    finally:
        lab.screenshot(f"latency_{number:02}")
        lab.server.stop_kernels()
    return times


def _moves(lab: LabPage, control: Control, count: int, way: int, times: Times) -> list[float]:
    """Go forth (`way` 1) or back (-1), one value at a time; milliseconds of each."""
    took = []
    for _ in range(count):
        lab.page.evaluate(READY)
        if control.dropdown:
            chosen = lab.dropdown(control.name)
            chosen.select_option(index=int(chosen.evaluate("e => e.selectedIndex")) + way)
        else:
            lab.press(lab.slider(control.name), "ArrowRight" if way > 0 else "ArrowLeft")
        try:
            lab.page.wait_for_function("() => spgcaClock.took > 0", timeout=PATIENCE)
        except TimeoutError:
            times.missed += 1
        else:
            took.append(float(lab.page.evaluate("() => spgcaClock.took")))
        lab.page.wait_for_timeout(PAUSE)
    return took


def line(control: Control, times: Times) -> str:
    """One row of the table."""
    goal = TARGETS[control.kind]
    cells = [control.title, control.name, control.kind, f"{goal}"]
    if len(times.new) < 2:
        cells += ["–"] * 4
    else:
        median = statistics.median(times.new)
        tail = statistics.quantiles(times.new, n=10, method="inclusive")[-1]
        cells += [f"{median:.0f}{' (over)' if median > goal else ''}", f"{tail:.0f}"]
        cells += [f"{statistics.median(some):.0f}" if some else "–" for some in (times.kernel, times.again)]
    note = f"; {times.missed} moves changed no picture" if times.missed else ""
    return f"| {' | '.join([*cells, f'{len(times.new)}{note}'])} |"


def machine(browser: str) -> str:
    """On what, with what, and when."""
    info = Path("/proc/cpuinfo")
    names = [r for r in info.read_text().splitlines() if r.startswith("model name")] if info.exists() else []
    name = names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return (
        f"{name}, {len(names) or '?'} cores; Python {platform.python_version()}, {versions}, "
        f"Chromium {browser}; {date.today()}"
    )


@contextmanager
def laboratory(screenshots: Path | None) -> Iterator[tuple[LabPage, str]]:
    """A page on a JupyterLab of its own, and the browser's version.

    Raises:
        SystemExit: without a Chromium.
    """
    path = chromium.find() if chromium.driver_runs() else None
    if path is None:
        raise SystemExit("no Chromium that Playwright can drive: try `python -m tools.chromium --install`")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        root, shots = Path(folder) / "root", screenshots or Path(folder) / "shots"
        for made in (root, shots):
            made.mkdir(parents=True, exist_ok=True)
        with serve(root, Path(folder) / "home", REPO) as server:
            browser = driver.chromium.launch(executable_path=path, args=FLAGS)
            context = browser.new_context(viewport={"width": 1400, "height": 1300}, reduced_motion="reduce")
            yield LabPage(context.new_page(), server, shots), browser.version
            browser.close()


def main() -> None:
    """Measure, and print the table row by row."""
    parser = argparse.ArgumentParser(description="Milliseconds from a slider's release to the new picture.")
    parser.add_argument("--only", default="", help="explorers whose title contains this")
    parser.add_argument("--screenshots", type=Path, help="keep a picture of every page in this folder")
    options = parser.parse_args()
    with laboratory(options.screenshots) as (lab, browser):
        print(machine(browser), end="\n\n")
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
        for number, control in enumerate(controls()):
            if options.only in control.title:
                print(line(control, measure(lab, control, number)), flush=True)


if __name__ == "__main__":
    main()

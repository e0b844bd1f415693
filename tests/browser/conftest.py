"""Fixtures of the browser tests: one JupyterLab and one Chromium a session, a fresh page a test."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.lab import LabPage, LabServer, serve
from tools import chromium

REPO = Path(__file__).resolve().parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is a browser test, and comes after all others."""

    def here(item: pytest.Item) -> bool:
        return Path(__file__).parent in item.path.parents

    for item in filter(here, items):
        item.add_marker(pytest.mark.browser)
    # While Playwright lives its event loop counts as running: a test after it could run none of its own.
    items.sort(key=here)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The machine's own Chromium, headless; without one the test is skipped, or fails where CI is set."""
    path = chromium.find() if chromium.driver_runs() else None
    if path is None:
        message = (
            "no Chromium that Playwright can drive: try `python -m tools.chromium --install`, or set CHROMIUM"
        )
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as driver:
        instance = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield instance
        instance.close()


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """JupyterLab over a copy of notebooks/; a test may write notebooks of its own into `.root`."""
    folder = tmp_path_factory.mktemp("lab")
    root = folder / "notebooks"
    if (REPO / "notebooks").is_dir():
        shutil.copytree(REPO / "notebooks", root, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "runs"))
    root.mkdir(exist_ok=True)
    with serve(root, folder / "home", REPO) as server:
        yield server


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures go: SPGCA_LAB_SCREENSHOTS, else a temporary folder."""
    wanted = os.environ.get("SPGCA_LAB_SCREENSHOTS")
    folder = Path(wanted) if wanted else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def lab(browser: Browser, lab_server: LabServer, screenshots: Path) -> Iterator[LabPage]:
    """A fresh page on the server; after the test no widget may have failed to show."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, reduced_motion="reduce")
    page = LabPage(context.new_page(), lab_server, screenshots)
    try:
        yield page
        page.check()
    finally:
        context.close()
        lab_server.stop_kernels()


@pytest.fixture
def write_notebook(lab_server: LabServer) -> Callable[..., str]:
    """`write_notebook(name, *cells)`: a notebook of code cells in the server's root; returns its name."""

    def write(name: str, *cells: str) -> str:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, lab_server.root / name)
        return name

    return write

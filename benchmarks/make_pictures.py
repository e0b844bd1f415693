"""Take the README's pictures of the explorers in a real JupyterLab: `python -m benchmarks.make_pictures`."""

import sys
import tempfile
from pathlib import Path

import nbformat
from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser.conftest import FLAGS
from tests.browser.lab import LabPage, serve
from tools import chromium

REPO = Path(__file__).resolve().parents[1]
FOLDER = REPO / "docs" / "images"
RUN = "lab.RunStore(lab.data_dir() / 'runs').find(method='spgca', alpha=3.0, r=4)[0]"
EXPLORERS = {
    "attention_explorer": f"explorer = lab.widgets.AttentionExplorer({RUN})\nexplorer.show(picture=4)\nexplorer",
    "run_explorer": "lab.widgets.RunExplorer(lab.data_dir() / 'runs')",
    "feature_map_explorer": f"lab.widgets.FeatureMapExplorer(target={RUN})",
}


def main() -> None:
    """Write one PNG an explorer into docs/images/.

    Raises:
        SystemExit: when there is no Chromium, or an explorer does not show.
    """
    browser_path = chromium.find()
    if browser_path is None:
        sys.exit("no Chromium was found: install one, or give its path as CHROMIUM")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        root = Path(folder) / "notebooks"
        root.mkdir()
        with serve(root, Path(folder) / "home", REPO) as server:
            browser = driver.chromium.launch(executable_path=browser_path, args=FLAGS)
            for name, code in EXPLORERS.items():
                cell = nbformat.v4.new_code_cell(f"import spgca_lab as lab\n{code}")
                book = nbformat.v4.new_notebook(cells=[cell])
                book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
                nbformat.write(book, root / f"{name}.ipynb")
                context = browser.new_context(
                    viewport={"width": 1320, "height": 1500}, reduced_motion="reduce"
                )
                lab = LabPage(context.new_page(), server, Path(folder))
                lab.open(f"{name}.ipynb", timeout=180)
                lab.run_all(timeout=300)
                explorer = lab.page.locator(".spgca-explorer").first
                explorer.locator(".widget-image").first.wait_for(timeout=60_000)
                lab.page.wait_for_timeout(2000)
                lab.check()
                shrink(lab.screenshot(name, explorer), FOLDER / f"{name}.png")
                context.close()
                server.stop_kernels()
            browser.close()


def shrink(source: Path, path: Path) -> None:
    """Cut to what the explorer uses and pack it well."""
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    picture = picture.crop((0, 0, min(picture.width, 930), picture.height))
    picture.save(path, optimize=True)


if __name__ == "__main__":
    main()

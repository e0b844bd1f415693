"""Take the README's screenshots of the explorers from the browser suite: `python -m benchmarks.make_pictures`.

The tests photograph every explorer as they use it, in JupyterLab's light and dark theme; what they saw is packed into
docs/images/explorers/, one image per explorer and theme. When a test fails, no image is replaced.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

REPO = Path(__file__).resolve().parents[1]
FOLDER = REPO / "docs" / "images" / "explorers"
TESTS = "tests/browser/test_explorers_in_lab.py::test_explorer_follows_hand_and_keyboard"
THEMES = ("light", "dark")
MOST = 200_000


def main() -> None:
    """Run the tests that take the screenshots, then pack these.

    Raises:
        SystemExit: when a test fails or is skipped, or an image stays too large.
    """
    with tempfile.TemporaryDirectory() as folder:
        # CI: without a Chromium the tests must fail, not be skipped.
        environment = os.environ | {"SPGCA_LAB_SCREENSHOTS": folder, "CI": "true"}
        command = [sys.executable, "-m", "pytest", "-q", TESTS]
        if subprocess.run(command, cwd=REPO, env=environment, check=False).returncode != 0:
            sys.exit("the browser tests failed, so no picture was replaced")
        taken = sorted(p for p in Path(folder).glob("*.png") if p.stem.rpartition("-")[2] in THEMES)
        if not taken:
            sys.exit(f"{TESTS} took no picture")
        FOLDER.mkdir(parents=True, exist_ok=True)
        for path in taken:
            size = pack(path, FOLDER / path.name)
            print(f"{(FOLDER / path.name).relative_to(REPO)}: {size / 1000:.0f} kB")


def pack(source: Path, path: Path) -> int:
    """Store an image with as many of 256 colours as keep it small, and return its size in bytes.

    Args:
        source: a PNG.
        path: where the packed one goes.

    Raises:
        SystemExit: when 32 colours are still too many.
    """
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    for colours in (256, 128, 64, 32):
        # Without dithering: flat areas of a page stay flat, and small.
        packed = picture.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        packed.save(path, optimize=True)
        if path.stat().st_size < MOST:
            return path.stat().st_size
    sys.exit(f"{path.name} has {path.stat().st_size} bytes, more than {MOST}")


if __name__ == "__main__":
    main()

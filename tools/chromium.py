"""Find a Chromium for the browser tests, or install one: `python -m tools.chromium [--install]`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC_APPS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)


def find() -> str | None:
    """Path of a Chromium: `CHROMIUM` if set, else an installed one, else Playwright's own, else None.

    Raises:
        FileNotFoundError: if `CHROMIUM` names no executable file.
    """
    wanted = os.environ.get("CHROMIUM")
    if wanted:
        path = shutil.which(wanted)
        if path is None:
            raise FileNotFoundError(f"CHROMIUM={wanted!r} is not an executable file")
        return path
    for name in (*NAMES, *MAC_APPS):
        path = shutil.which(name)
        if path is not None:
            return path
    return _playwrights_own()


def driver_runs() -> bool:
    """Return True if Playwright's own program starts; a bare Debian lacks a library that it needs (libatomic1)."""
    command = [sys.executable, "-m", "playwright", "--version"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def _playwrights_own() -> str | None:
    if not driver_runs():
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        path = driver.chromium.executable_path
    return path if Path(path).is_file() else None


def _attempts() -> list[list[list[str]]]:
    download = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if shutil.which("apt-get") and os.geteuid() == 0:
        packages = ["chromium", "fonts-dejavu-core", "libatomic1"]
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
        return [[["apt-get", "update", "-qq"], install], download]
    return [download]


def install() -> str | None:
    """Install a Chromium (Debian's as root, else Playwright's); its path, or None if no way worked."""
    for commands in _attempts():
        for command in commands:
            print("Installing a Chromium for the browser tests:", " ".join(command), flush=True)
            if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode != 0:
                break
        path = find()
        if path is not None and driver_runs():
            return path
    return None


if __name__ == "__main__":
    found = find() if driver_runs() else None
    if found is None and "--install" in sys.argv[1:]:
        found = install()
    print(f"Chromium: {found or 'none; the browser tests will be skipped (set CHROMIUM to use your own)'}")

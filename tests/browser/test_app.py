"""`make app`: the exploration notebook as a classroom page, without its code, on the loopback address alone."""

import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, ConsoleMessage

from tools import app


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    log = tmp_path_factory.mktemp("app") / "voila.log"
    with app.serve(app.NOTEBOOK, app.free_port(0), log) as (address, _):
        yield address


def test_classroom_page_follows_the_alpha_slider(browser: Browser, served: str, screenshots: Path):
    context = browser.new_context(viewport={"width": 1280, "height": 1200}, reduced_motion="reduce")
    page, errors, foreign = context.new_page(), [], []

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request",
        lambda r: foreign.append(r.url) if re.match(r"(http|ws)s?://(?!127\.0\.0\.1)", r.url) else None,
    )
    try:
        page.goto(served)
        explorer = page.locator(".spgca-explorer").first
        image = explorer.locator(".spgca-picture img")
        image.wait_for(timeout=120_000)
        page.locator("text=Error displaying widget").wait_for(state="detached")
        assert page.locator(".jp-CodeCell .jp-InputArea-editor:visible").count() == 0, "the page shows code"
        assert page.locator("text=Traceback").count() == 0
        image.scroll_into_view_if_needed()
        at = "e => { const b = e.getBoundingClientRect(); return document.elementFromPoint(b.x + 9, b.y + 9) === e; }"
        assert image.evaluate(at), "something hides the picture"
        before, tall = image.get_attribute("src"), explorer.evaluate("e => e.offsetHeight")
        label = page.locator(".widget-label", has_text=re.compile(r"^\s*α\s*$"))
        slider = explorer.locator(".widget-slider").filter(has=label).first
        handle, readout = slider.locator(".noUi-handle"), slider.locator(".widget-readout")
        shown = readout.inner_text()
        handle.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            "([old, root]) => root.querySelector('.spgca-picture img').src !== old",
            arg=[before, explorer.element_handle()],
            timeout=30_000,
        )
        alpha = readout.inner_text()
        assert alpha != shown
        explorer.locator(".widget-html-content", has_text=f"α = {alpha}").first.wait_for()
        assert f"α = {alpha}" in (image.get_attribute("alt") or "")
        assert explorer.evaluate("e => e.offsetHeight") == tall
        page.screenshot(path=screenshots / "classroom.png")
        assert errors == []
        assert foreign == []
    finally:
        context.close()


def test_page_needs_its_token_and_listens_on_loopback_alone(served: str):
    port = int(served.split(":")[2].split("/")[0])
    for path, answer in (
        ("", 200),
        ("voila/files/07_explore_alpha_and_r.ipynb", 403),
        ("api/kernels/0-0-0-0-0", 403),
    ):
        assert _asked(f"http://127.0.0.1:{port}/{path}") == (answer, answer == 200), path
    listening = {
        c.laddr.ip
        for c in psutil.net_connections("tcp")
        if c.laddr and c.laddr.port == port and c.status == "LISTEN"
    }
    assert listening == {"127.0.0.1"}


def _asked(url: str) -> tuple[int, bool]:
    """Without the token: the answer's number, and whether it is the page that asks for it."""
    try:
        with urllib.request.urlopen(url, timeout=10) as page:
            return page.status, page.url.split("?")[0].endswith("/login")
    except urllib.error.HTTPError as error:
        return error.code, False


def test_what_goes_wrong_is_said_in_one_line(tmp_path: Path):
    command = [sys.executable, "-m", "tools.app", str(tmp_path / "none.ipynb"), "--no-browser"]
    answer = subprocess.run(command, cwd=app.REPO, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert answer.stderr == f"there is no notebook '{tmp_path / 'none.ipynb'}'\n"
    with socket.socket() as taken:
        taken.bind((app.HOST, 0))
        assert app.free_port(taken.getsockname()[1]) != taken.getsockname()[1]
    assert json.loads((app.REPO / "tools/classroom/voila/templates/classroom/conf.json").read_text())

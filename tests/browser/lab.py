"""A JupyterLab of its own for the browser tests, and a page that drives it."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import ConsoleMessage, Locator, Page, Request

from tests.resident import MALLOC
from tools.app import end

BROKEN_WIDGET = re.compile(
    r"Error displaying widget|model not found|Failed to load model class", re.IGNORECASE
)
# What JupyterLab itself complains of here, widgets or not: a notebook opened for the first time has no stored
# workspace or checkpoint yet, which it asks for and is told 404.
HARMLESS = ("/lab/api/workspaces", "/checkpoints")
SHOWN_BROKEN = re.compile(BROKEN_WIDGET.pattern + "|Loading widget", re.IGNORECASE)
SETTINGS = {
    # No question about news on the first start, and every cell in the page, also those out of sight.
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}


@dataclass(frozen=True)
class LabServer:
    """A running JupyterLab that serves `root`."""

    url: str
    token: str
    root: Path

    def request(self, method: str, path: str) -> str:
        """One call of the server's REST interface."""
        headers = {"Authorization": f"token {self.token}"}
        call = urllib.request.Request(f"{self.url}{path}", method=method, headers=headers)
        with urllib.request.urlopen(call, timeout=10) as answer:
            return answer.read().decode()

    def stop_kernels(self) -> None:
        """End every kernel, so that one test's memory is free for the next."""
        for session in json.loads(self.request("GET", "/api/sessions")):
            self.request("DELETE", f"/api/sessions/{session['id']}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment(home: Path, repo: Path) -> dict[str, str]:
    """The user's own Jupyter settings must not matter: every folder of it lies in `home`."""
    for plugin, values in SETTINGS.items():
        path = home / "settings" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    folders = {
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": home / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
        "IPYTHONDIR": home / "ipython",
        "PYTHONPATH": repo,
    }
    return {**os.environ, **MALLOC, **{name: str(folder) for name, folder in folders.items()}}


@contextmanager
def serve(root: Path, home: Path, repo: Path) -> Iterator[LabServer]:
    """JupyterLab on a free loopback port, with a token, until the block ends.

    Args:
        root: the folder it serves.
        home: where its settings, sockets and log go.
        repo: the checkout that its kernels import `spgca_lab` from.

    Raises:
        RuntimeError: if it does not answer within a minute; the end of its log is quoted.
    """
    server = LabServer(f"http://127.0.0.1:{_free_port()}", secrets.token_hex(16), root)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={server.url.rsplit(':', 1)[1]}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={server.token}", f"--ServerApp.root_dir={root}"]
    command += ["--LabApp.expose_app_in_browser=True", "--ServerApp.terminals_enabled=False"]
    home.mkdir(parents=True, exist_ok=True)
    log = home / "jupyter.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=_environment(home, repo),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        try:
            _await(server, process, log)
            yield server
            server.stop_kernels()
        finally:
            end(process)


def _await(server: LabServer, process: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            server.request("GET", "/api/status")
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
    raise RuntimeError(f"JupyterLab did not start within {seconds:g} s. The end of its log:\n{tail}")


class LabPage:
    """One browser page on a `LabServer`: open a notebook, run it, use its widgets, see what went wrong.

    Example:
        lab.open("07_explore_alpha_and_r.ipynb")
        lab.run_all()
        lab.press(lab.slider("α"), "ArrowRight")
        lab.expect_text(".widget-html", "α = 2")
    """

    def __init__(self, page: Page, server: LabServer, screenshots: Path) -> None:
        self.page = page
        self.server = server
        self.screenshots = screenshots
        self.broken: list[str] = []
        self.foreign: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.broken.append(f"uncaught: {error}"))
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        harmless = any(words in f"{message.text} {message.location.get('url', '')}" for words in HARMLESS)
        if BROKEN_WIDGET.search(message.text) or (message.type == "error" and not harmless):
            self.broken.append(f"{message.text} ({message.location.get('url', '')})")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith(
            (self.server.url, "data:", "blob:", self.server.url.replace("http", "ws", 1))
        ):
            self.foreign.append(request.url)

    def open(self, notebook: str, timeout: float = 60) -> None:
        """Open a notebook of the server's root in a fresh workspace and wait for its kernel."""
        self.page.goto(f"{self.server.url}/lab/tree/{notebook}?reset&token={self.server.token}")
        self._wait(
            """() => {
                const panel = window.jupyterapp?.shell?.currentWidget;
                const kernel = panel?.sessionContext?.session?.kernel;
                return panel?.content?.model?.cells?.length > 0 && kernel?.status === 'idle';
            }""",
            timeout,
            f"{notebook} did not open with an idle kernel",
        )

    def run_all(self, timeout: float = 180) -> None:
        """Run every cell and wait for the last.

        Raises:
            AssertionError: if it takes longer, or a cell ends in an error.
        """
        self.page.evaluate(
            """() => {
                window.labRan = false;
                const run = window.jupyterapp.commands.execute('notebook:run-all-cells');
                run.finally(() => { window.labRan = true; });
            }"""
        )
        self._wait("() => window.labRan", timeout, "the cells did not all run")
        errors = self.errors()
        assert errors == [], f"cells ended in errors: {errors}"

    def run_again(self, cell: int, times: int, timeout: float = 60) -> None:
        """Run one cell (by its place among all cells) so many times, as its reader would."""
        for _ in range(times):
            self.page.evaluate(
                """async (cell) => {
                    const notebook = window.jupyterapp.shell.currentWidget.content;
                    notebook.activeCellIndex = cell;
                    notebook.deselectAll();
                    await window.jupyterapp.commands.execute('notebook:run-cell');
                }""",
                cell,
            )
            self._wait(
                "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'",
                timeout,
                f"cell {cell} did not end",
            )
        errors = self.errors()
        assert errors == [], f"cells ended in errors: {errors}"

    def explorer_cells(self) -> list[int]:
        """Places of the cells that show an explorer."""
        return self.page.evaluate(
            """() => window.jupyterapp.shell.currentWidget.content.widgets.map(
                (cell, i) => cell.node.querySelector('.spgca-explorer') ? i : -1).filter(i => i >= 0)"""
        )

    def errors(self) -> list[str]:
        """`name: message` of every error among the outputs of the open notebook."""
        return self.page.evaluate(
            """() => {
                const cells = [...window.jupyterapp.shell.currentWidget.content.model.cells];
                const outputs = cells.filter(c => c.type === 'code').flatMap(c => c.outputs.toJSON());
                return outputs.filter(o => o.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`);
            }"""
        )

    def widget(self, kind: str, description: str) -> Locator:
        """The core widget of a CSS class (`widget-slider`, `widget-dropdown` ...) with this description."""
        label = self.page.locator(".widget-label", has_text=re.compile(rf"^\s*{re.escape(description)}\s*$"))
        # A slider over options lacks the class jupyter-widgets that all others have.
        return self.page.locator(f".{kind}").filter(has=label).first

    def slider(self, description: str, handle: int = 0) -> Locator:
        """The handle of a slider, to be moved with `press`."""
        return self.widget("widget-slider", description).locator(".noUi-handle").nth(handle)

    def dropdown(self, description: str) -> Locator:
        """The <select> of a dropdown, for `.select_option(label=...)`."""
        return self.widget("widget-dropdown", description).locator("select")

    def button(self, text: str) -> Locator:
        """A button by its text."""
        return self.page.locator("button.jupyter-button", has_text=text)

    def press(self, target: Locator, key: str, times: int = 1) -> None:
        """Put the keyboard focus on a widget and press a key."""
        target.scroll_into_view_if_needed()
        target.focus()
        for _ in range(times):
            self.page.keyboard.press(key)

    def drag(self, target: Locator, share: float, moves: int = 12, pause: float = 15) -> None:
        """Take a slider's handle by the mouse and drag it to a share (0–1) of its track, in several moves.

        Args:
            target: the handle, as `slider` gives it.
            share: where to let it go.
            moves: mouse events on the way.
            pause: milliseconds between them.
        """
        target.scroll_into_view_if_needed()
        handle = target.bounding_box()
        track = target.locator("xpath=ancestor::*[contains(@class, 'noUi-base')]").bounding_box()
        assert handle is not None
        assert track is not None
        x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        goal = track["x"] + share * track["width"]
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for i in range(1, moves + 1):
            self.page.mouse.move(x + (goal - x) * i / moves, y)
            self.page.wait_for_timeout(pause)
        self.page.mouse.up()

    def kernel(self, code: str) -> str:
        """What code prints when the open notebook's kernel runs it, outside of any cell."""
        return self.page.evaluate(
            """async (code) => {
                const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
                const future = kernel.requestExecute({code});
                let text = '';
                future.onIOPub = (m) => {
                    if (m.header.msg_type === 'stream') text += m.content.text;
                    if (m.header.msg_type === 'error') text += m.content.ename + ': ' + m.content.evalue;
                };
                await future.done;
                return text;
            }""",
            code,
        )

    def restart_kernel(self, timeout: float = 60) -> None:
        """Restart the open notebook's kernel, as the menu does after its question."""
        self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
        )
        self._wait(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'",
            timeout,
            "the kernel did not come back",
        )

    def theme(self, name: str) -> None:
        """Switch JupyterLab's theme: `"JupyterLab Dark"` or `"JupyterLab Light"`."""
        self.page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})", name
        )
        shade = "false" if "Dark" in name else "true"
        self.page.locator(f"body[data-jp-theme-light='{shade}']").wait_for(state="attached")
        self.page.wait_for_timeout(300)

    def expect_text(self, selector: str, text: str, timeout: float = 30) -> None:
        """Wait until an element matching `selector` shows `text`."""
        self.page.locator(selector, has_text=text).first.wait_for(state="visible", timeout=timeout * 1000)

    def image_source(self, target: Locator) -> str:
        """The `src` of a widget's <img>; it changes when the picture does."""
        return target.get_attribute("src") or ""

    def expect_new_image(self, target: Locator, before: str, timeout: float = 60) -> str:
        """Wait until the `src` of an <img> is no longer `before`; the new one."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            source = self.image_source(target)
            if source and source != before:
                return source
            self.page.wait_for_timeout(100)
        raise AssertionError(f"the picture did not change within {timeout:g} s")

    def screenshot(self, name: str, target: Locator | None = None) -> Path:
        """Save the page, or one element, as `name`.png in the folder for screenshots."""
        path = self.screenshots / f"{name}.png"
        (target or self.page).screenshot(path=path)
        return path

    def check(self) -> None:
        """Assert that every widget is shown within ten seconds, and nothing was asked of another host."""
        outputs = self.page.locator(".jp-OutputArea-output")
        for _ in range(100):
            if outputs.filter(has_text="Loading widget").count() == 0:
                break
            self.page.wait_for_timeout(100)
        shown = [text for text in outputs.all_inner_texts() if SHOWN_BROKEN.search(text)]
        assert self.broken + shown == [], "a widget could not be shown"
        assert self.foreign == [], "the page asked another host"

    def _wait(self, condition: str, timeout: float, otherwise: str) -> None:
        try:
            self.page.wait_for_function(condition, timeout=timeout * 1000)
        except Exception as error:
            shot = self.screenshot("failed_" + re.sub(r"\W+", "_", otherwise))
            raise AssertionError(f"{otherwise} within {timeout:g} s (screenshot: {shot})") from error

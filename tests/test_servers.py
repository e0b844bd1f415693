"""What `make lab` and `make app` open: the loopback address alone, and only to who has the token.

The user's own Jupyter settings are as careless here as can be: they open everything to everybody.
"""

import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import psutil
import pytest

from tools import app, lab

REPO = Path(__file__).resolve().parents[1]
CARELESS = """
c.ServerApp.ip = "0.0.0.0"
c.ServerApp.allow_remote_access = True
c.ServerApp.allow_origin = "*"
c.ServerApp.disable_check_xsrf = True
c.ServerApp.identity_provider_class = "jupyter_server.auth.identity.IdentityProvider"
c.ServerApp.token = c.IdentityProvider.token = c.PasswordIdentityProvider.token = ""
c.ServerApp.password = ""
c.AsyncMappingKernelManager.kernel_manager_class = "jupyter_client.ioloop.AsyncIOLoopKernelManager"
c.KernelManager.ip = c.AsyncIOLoopKernelManager.ip = c.ServerKernelManager.ip = "0.0.0.0"
c.ServerApp.open_browser = False
"""
CARELESS_PAGE = """
c.Voila.ip = "0.0.0.0"
c.Voila.token = c.IdentityProvider.token = c.PasswordIdentityProvider.token = ""
c.KernelManager.ip = c.AsyncKernelManager.ip = "0.0.0.0"
"""
KERNEL_SOCKETS = 5  # shell, iopub, stdin, control, heartbeat


@pytest.fixture(scope="module")
def careless(tmp_path_factory) -> dict[str, str]:
    """The environment of a user whose settings let everybody in."""
    home = tmp_path_factory.mktemp("careless")
    folders = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    config = home / "config"
    config.mkdir()
    for name in ("jupyter_config", "jupyter_server_config", "jupyter_lab_config"):
        (config / f"{name}.py").write_text(CARELESS, encoding="utf-8")
    (config / "voila.py").write_text(CARELESS_PAGE, encoding="utf-8")
    profile = home / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_kernel_config.py").write_text("c.IPKernelApp.ip = '0.0.0.0'\n", encoding="utf-8")
    return folders | {"IPYTHONDIR": str(home / "ipython")}


@contextmanager
def started(command, environment):
    process = subprocess.Popen(
        command,
        cwd=REPO,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        app.end(process)
        process.stderr.close()


def listening(pid: int) -> dict[tuple[str, int], int]:
    """Address and port of every socket on which a process or one that it started listens, and whose it is."""
    found = {}
    top = psutil.Process(pid)
    for process in [top, *top.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found[connection.laddr.ip, connection.laddr.port] = process.pid
    return found


def wait_for(found, what: str, seconds: float = 60):
    """What `found()` gives once it gives something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = found()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError(f"within {seconds:g} s there was no {what}")


def with_kernel(pid: int) -> dict[tuple[str, int], int]:
    """What listens, once a kernel does."""

    def there():
        sockets = listening(pid)
        owners = list(sockets.values())
        return sockets if any(o != pid and owners.count(o) >= KERNEL_SOCKETS for o in owners) else None

    return wait_for(there, "kernel that listens")


def pending_request(
    url: str, *, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, str, dict]:
    """Number of the answer, the address that it came from, and its head."""
    request = urllib.request.Request(
        url, data=body, method=method, headers={n.replace("_", "-"): v for n, v in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.url, dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, url, dict(error.headers)


def answers(url: str) -> bool:
    with suppress(OSError):
        pending_request(url)
        return True
    return False


def command_of(target: str) -> list[str]:
    """What make runs last for a target."""
    make = ["make", "--no-print-directory", "-n", "-o", "setup", target]
    # `make unit` hands its own flags down.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")}
    said = subprocess.run(make, cwd=REPO, env=environment, capture_output=True, text=True, check=True).stdout
    command = shlex.split(said.strip().splitlines()[-1])
    assert command[:2] == [".venv/bin/python", "-m"], said
    return [sys.executable, *command[1:]]


@pytest.fixture(scope="module")
def laboratory(careless):
    """JupyterLab as `make lab` starts it: its address, its token, what listens with a kernel, its command line."""
    token, port = secrets.token_hex(8), app.free_port(0)
    environment = os.environ | careless | {"JUPYTER_TOKEN": token}
    command = [*command_of("lab"), f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    url = f"http://127.0.0.1:{port}"
    with started(command, environment) as process:
        wait_for(lambda: process.poll() is not None or answers(f"{url}/api"), "answer")
        assert process.poll() is None, process.stderr.read().decode()
        code, _, _ = pending_request(
            f"{url}/api/kernels", method="POST", body=b"{}", Authorization=f"token {token}"
        )
        assert code == 201
        yield url, token, with_kernel(process.pid), psutil.Process(process.pid).cmdline()


def test_make_lab_and_its_kernels_listen_on_the_loopback_address_alone(laboratory):
    url, _, sockets, _ = laboratory
    assert ("127.0.0.1", int(url.rsplit(":", 1)[1])) in sockets
    assert {address for address, _ in sockets} <= {"127.0.0.1", "::1"}, sockets


def test_make_lab_lets_nobody_in_without_the_token(laboratory):
    url, token, _, command = laboratory
    for path in ("api/kernels", "api/contents", "api/terminals", "api/sessions"):
        assert pending_request(f"{url}/{path}")[0] == 403, path
        assert pending_request(f"{url}/{path}", Authorization="token ")[0] == 403, path
        assert pending_request(f"{url}/{path}?token=")[0] == 403, path
        assert pending_request(f"{url}/{path}", Authorization=f"token {token}")[0] == 200, path
    code, where, _ = pending_request(f"{url}/lab")
    assert (code, where.split("?")[0]) == (200, f"{url}/login")
    assert not any(token in word for word in command), "everybody on this computer can read a command line"


def test_make_lab_answers_no_page_of_another_host(laboratory):
    url, token, _, _ = laboratory
    assert (
        pending_request(f"{url}/api/kernels", Authorization=f"token {token}", Host="elsewhere.example")[0]
        == 403
    )
    # A browser that has been let in sends its cookie whoever asks; a page of another host learns nothing by it, and
    # gets nothing done.
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    browser.open(f"{url}/lab?token={token}", timeout=20).close()
    with browser.open(f"{url}/api/kernels", timeout=20) as answer:
        kernels = answer.read()
    browser.addheaders = [("Origin", "http://elsewhere.example")]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        browser.open(f"{url}/api/kernels", timeout=20)
    browser.addheaders = []
    with pytest.raises(urllib.error.HTTPError, match="403"):
        browser.open(f"{url}/api/kernels", data=b"{}", timeout=20)
    with browser.open(f"{url}/api/kernels", timeout=20) as answer:
        assert len(answer.read()) == len(kernels)


def test_make_lab_opens_the_first_notebook(laboratory):
    url, token, _, _ = laboratory
    code, where, _ = pending_request(f"{url}/?token={token}")
    assert (code, where.split("?")[0]) == (200, f"{url}/lab/tree/notebooks/00_start_here.ipynb")


def test_make_lab_makes_a_token_where_the_user_gives_none(careless):
    environment = {**os.environ, **careless, "JUPYTER_TOKEN": ""}
    with started([*command_of("lab"), f"--ServerApp.port={app.free_port(0)}"], environment) as process:
        # What Jupyter prints is the only way to learn it.
        said = b""
        while not (found := re.search(rb"http://127\.0\.0\.1:\d+/\S*\?token=([0-9a-f]+)", said)):
            line = process.stderr.readline()
            assert line, said.decode()
            said += line
        assert len(found[1]) == 48


@pytest.mark.parametrize(
    "argument",
    [
        "--ServerApp.ip=0.0.0.0",
        "--ip=0.0.0.0",
        "--PasswordIdentityProvider.token=",
        "--ServerApp.allow_origin=*",
    ],
)
def test_an_argument_that_would_open_the_laboratory_is_refused(argument):
    with pytest.raises(ValueError, match=re.escape(repr(argument))):
        lab.prepare(["--allow-root", argument])


def test_an_empty_token_is_refused():
    with pytest.raises(ValueError, match="the token is empty"):
        lab.pinned("")


def test_make_app_and_its_kernels_listen_on_the_loopback_address_alone(careless, monkeypatch, tmp_path):
    for name, value in careless.items():
        monkeypatch.setenv(name, value)
    notebook = tmp_path / "page.ipynb"
    cells = [nbformat.v4.new_code_cell("print('shown')")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), notebook)
    with app.serve(notebook, app.free_port(0), tmp_path / "log") as (address, server):
        plain, token = address.split("?token=")
        code, where, _ = pending_request(plain)
        assert (code, where.split("?")[0]) == (200, f"{plain}login")
        assert pending_request(f"{plain}?token=")[1].split("?")[0] == f"{plain}login"
        assert pending_request(f"{plain}api/kernels/0-0-0-0-0")[0] == 403
        assert pending_request(address)[:2] == (200, address)
        sockets = with_kernel(server.pid)
        assert {ip for ip, _ in sockets} <= {"127.0.0.1", "::1"}, sockets
        assert not any(token in word for word in psutil.Process(server.pid).cmdline())


def test_a_socket_on_every_address_would_be_seen():
    code = "import socket; s = socket.create_server(('0.0.0.0', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        port = int(child.stdout.readline())
        mine = listening(os.getpid())
        child.stdin.close()
    assert mine["0.0.0.0", port] == child.pid
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert listening(os.getpid())["127.0.0.1", server.getsockname()[1]] == os.getpid()

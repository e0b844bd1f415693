"""Serve a notebook as a classroom page, without its code, on this computer: `python -m tools.app [NOTEBOOK]`.

Voilà runs the notebook anew for everybody who opens the page. It listens on the loopback address alone, and only the
address with the token opens it. Stop it with Ctrl+C.
"""

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
NOTEBOOK = REPO / "notebooks" / "07_explore_alpha_and_r.ipynb"
HOST = "127.0.0.1"
PORT = 8866
IDLE = 1800  # seconds after which a kernel whose page is gone ends


@contextmanager
def serve(
    notebook: Path, port: int, log: Path | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A notebook as a page, until the block ends.

    Args:
        notebook: its cells run in its own folder.
        port: on the loopback address.
        log: where what Voilà says goes; None shows it.

    Yields:
        the address, with its token, and the server.

    Raises:
        FileNotFoundError: when there is no such notebook.
        RuntimeError: when Voilà does not answer within a minute.
    """
    if not notebook.is_file():
        raise FileNotFoundError(f"there is no notebook {str(notebook)!r}")
    token = secrets.token_hex(16)
    paths = [str(REPO / "tools" / "classroom"), os.environ.get("JUPYTER_PATH", "")]
    # By the environment: what stands on a command line can be read by everybody on this computer.
    environment = os.environ | {
        "JUPYTER_TOKEN": token,
        "JUPYTER_PATH": os.pathsep.join(path for path in paths if path),
    }
    command = [sys.executable, "-m", "voila", str(notebook), "--no-browser", "--template=classroom"]
    command += [
        f"--Voila.ip={HOST}",
        f"--Voila.port={port}",
        "--Voila.port_retries=0",
        "--Voila.auto_token=True",
    ]
    # The user's own settings for Voilà may open it to everybody.
    command += ["--Voila.config_file_paths=[]", "--Voila.token=None"]
    command += ["--Voila.log_level=WARN", "--VoilaConfiguration.show_tracebacks=True"]
    command += [f"--MappingKernelManager.cull_idle_timeout={IDLE}"]
    sink = None if log is None else log.open("wb")
    server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
    try:
        _await(server, port)
        yield f"http://{HOST}:{port}/?token={token}", server
    finally:
        end(server)
        if sink is not None:
            sink.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and after twenty seconds make it."""
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port(first: int) -> int:
    """`first` if nobody listens there, else any port that is free.

    Example:
        >>> free_port(0) > 0
        True
    """
    for port in (first, 0):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(f"no port of {HOST} is free")


def _await(server: subprocess.Popen[bytes], port: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            # The page for who has no token; the notebook's own would already run it.
            urllib.request.urlopen(f"http://{HOST}:{port}/login", timeout=5).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"Voilà did not answer on port {port} within {seconds:g} s")


def _has_screen() -> bool:
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def main() -> None:
    """Serve until Ctrl+C; open a browser where there is a screen.

    Raises:
        SystemExit: when Voilà is not installed, or does not start.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.app", description=__doc__)
    parser.add_argument("notebook", nargs="?", type=Path, default=NOTEBOOK)
    parser.add_argument(
        "--port", type=int, default=PORT, help="another one if it is taken (default: %(default)s)"
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    options = parser.parse_args()
    if find_spec("voila") is None:
        sys.exit("Voilà is not installed: `make app` installs it, or `pip install voila`")
    # As Ctrl+C: otherwise the server would outlive this program.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with serve(options.notebook, free_port(options.port)) as (address, server):
            print(
                f"{options.notebook.name} is served at\n\n    {address}\n\nStop it with Ctrl+C.", flush=True
            )
            if not options.no_browser and _has_screen():
                webbrowser.open(address)
            server.wait()
    except (OSError, RuntimeError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()

"""JupyterLab for this computer alone: `python -m tools.lab [ARGUMENT OF JUPYTERLAB ...]`.

It listens on the loopback address, and only the address with the token opens it, whatever the settings in the user's
own Jupyter folders say: those may open another server to a network, and were not written with this one in mind.
"""

import os
import secrets
import sys
from collections.abc import Sequence
from typing import Any

HOST = "127.0.0.1"
PROVIDER = "jupyter_server.auth.identity.PasswordIdentityProvider"

SHORT = ("ip", "sock", "transport")  # Jupyter's other names for what is pinned


def pinned(token: str) -> dict[str, str]:
    """Settings that no file may change, each under the class that has the last word on it.

    Args:
        token: that opens the page.

    Raises:
        ValueError: when it is empty, which means to Jupyter that everybody may come in.

    Example:
        >>> pinned("secret")["ServerApp.ip"]
        '127.0.0.1'
    """
    if not token:
        raise ValueError("the token is empty; give one, or none at all to have one made")
    return {
        "ServerApp.ip": HOST,
        "ServerApp.sock": "",
        "ServerApp.identity_provider_class": PROVIDER,
        "PasswordIdentityProvider.token": token,
        # Pages of other hosts, and names that lead here from elsewhere.
        "ServerApp.allow_remote_access": "False",
        "ServerApp.allow_origin": "",
        "ServerApp.allow_origin_pat": "",
        "ServerApp.disable_check_xsrf": "False",
        # A kernel runs any code that reaches its own sockets.
        "ServerApp.kernel_manager_class": "jupyter_server.services.kernels.kernelmanager.AsyncMappingKernelManager",
        "AsyncMappingKernelManager.kernel_manager_class": (
            "jupyter_server.services.kernels.kernelmanager.ServerKernelManager"
        ),
        "ServerKernelManager.transport": "tcp",
        "ServerKernelManager.ip": HOST,
    }


def prepare(arguments: Sequence[str]) -> Any:
    """A server that listens once it is started.

    Args:
        arguments: of JupyterLab, but for those that are `pinned`.

    Returns:
        Jupyter's `ServerApp`.

    Raises:
        ValueError: when an argument is pinned, or the server would be open all the same.
    """
    given = os.environ.get("JUPYTER_TOKEN", "")
    settings = pinned(given or secrets.token_hex(24))
    for argument in arguments:
        name = argument.lstrip("-").split("=")[0]
        if name in settings or name in SHORT:
            raise ValueError(
                f"{argument!r} cannot be chosen here: this JupyterLab is for this computer alone; "
                "start `python -m jupyterlab` for another"
            )
    from jupyterlab.labapp import LabApp  # type: ignore[import-untyped]

    # As arguments they stand above every file; not on a command line, which everybody on this computer can read.
    fixed = [f"--{name}={value}" for name, value in settings.items()]
    server = LabApp.initialize_server(argv=[*arguments, *fixed])
    if (server.ip, server.sock) != (HOST, "") or not server.identity_provider.token:
        raise ValueError(
            f"would listen on {server.ip!r} {server.sock!r}: the settings of Jupyter forbid {HOST}"
        )
    # So that the address which Jupyter prints has the token in it.
    server.identity_provider.token_generated = not given
    return server


def main() -> None:
    """Serve until Ctrl+C.

    Raises:
        SystemExit: when the arguments would open it.
    """
    try:
        server = prepare(sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
    server.start()


if __name__ == "__main__":
    main()

"""The command line: the same recipes and the same trainer as notebooks and widgets."""

import argparse
import sys
from collections.abc import Sequence

import spgca_lab as lab
from spgca_lab.cli import catalogue, data, fit, grid, report, tune

__all__ = ["main"]

# Each adds its commands; in the order of `spgca-lab --help`.
_GROUPS = (catalogue, data, fit, tune, grid, report)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words after the program's name; None takes the process's own.

    Returns:
        0, 2 after an error, which is one line on standard error, or 128 and the signal's number after a signal.

    Example:
        >>> main(["methods"])  # doctest: +ELLIPSIS
        l2        l2
        ...
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except (ValueError, LookupError, RuntimeError, OSError, ImportError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"spgca-lab: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("spgca-lab: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spgca-lab",
        description="Attention-based regularisation for transfer learning: run it, see it, question it.",
    )
    parser.add_argument("--version", action="version", version=f"spgca-lab {lab.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in _GROUPS:
        group.add_commands(commands)
    return parser

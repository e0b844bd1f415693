"""Checkpoints from the network: fetched once into torch's cache, checked, and opened without running code."""

import hashlib
import pickle
import re
from pathlib import Path
from typing import Any

import torch

__all__ = ["BackboneUnavailable", "check_hash", "checkpoint", "hash_in", "open_pickle"]

OFFLINE = (
    "Without a network, load_backbone('lite0') and load_backbone('mini') work: their weights are installed."
)


class BackboneUnavailable(RuntimeError):
    """Pretrained weights that are not on this machine and could not be fetched, or are damaged."""


def checkpoint(url: str, backbone: str, sha256: str | None = None) -> Any:
    """What a published checkpoint holds; downloaded on first use into `torch.hub.get_dir()/checkpoints`.

    The file's SHA-256 must begin with the one expected, also when it was put there by hand.

    Args:
        url: where it is published; its last part names the file in the cache.
        backbone: name of the backbone, for errors.
        sha256: what the file's hash begins with; None reads it from the name (`resnet50-0676ba61.pth`).

    Raises:
        BackboneUnavailable: when it cannot be fetched, has the wrong hash, or cannot be opened safely.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    expected = sha256 or hash_in(path.name)
    fetched = not path.exists()
    if fetched:
        _fetch(url, path, expected, backbone)
    try:
        check_hash(path, expected)
        return open_pickle(path)
    except BackboneUnavailable:
        if fetched:
            # A connection that breaks off leaves a short file; kept, it would stand in for the real one.
            path.unlink()
        raise


def open_pickle(path: Path, remedy: str = "Delete it and load again.") -> Any:
    """`torch.load` that only ever builds tensors and plain containers, on the CPU.

    Args:
        path: of the checkpoint.
        remedy: what the error advises.

    Raises:
        BackboneUnavailable: when the file is damaged, or holds anything that would run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError, OSError) as error:
        raise BackboneUnavailable(
            f"{str(path)!r} is damaged or is no plain checkpoint of tensors (nothing in it was run): "
            f"{(str(error) or type(error).__name__).splitlines()[0]} {remedy}"
        ) from error


def _fetch(url: str, path: Path, expected: str | None, backbone: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=expected, progress=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise BackboneUnavailable(
            f"The weights of {backbone!r} are not on this machine, and {path.name} could not be fetched "
            f"from {url}: {error}. Fetch that file where there is a network and put it at {str(path)!r}. "
            + OFFLINE
        ) from error


def hash_in(name: str) -> str | None:
    """What a file's hash begins with, as PyTorch's names tell it.

    Example:
        >>> hash_in("resnet50-0676ba61.pth"), hash_in("weights.pth")
        ('0676ba61', None)
    """
    found = re.search(r"-([0-9a-f]{8,64})\.", name)
    return found.group(1) if found else None


def check_hash(path: Path, expected: str | None, remedy: str = "Delete it and load again.") -> None:
    """Compare a file's SHA-256 with what it should begin with; PyTorch reads flipped bits without a word.

    Args:
        path: of the file.
        expected: the beginning; None compares nothing.
        remedy: what the error advises.

    Raises:
        BackboneUnavailable: with both.
    """
    if expected is None:
        return
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if not actual.startswith(expected):
        raise BackboneUnavailable(
            f"{str(path)!r} is damaged: its SHA-256 begins with {actual[: len(expected)]}, "
            f"not with {expected}. {remedy}"
        )

"""Checkpoints from the network: downloaded once into torch's cache, checked, and read without running code."""

import hashlib
import pickle
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch

OFFLINE = "Without a network, load_backbone('lite0') and ('mini') work: their weights are installed."


class BackboneUnavailable(RuntimeError):
    """Pretrained weights that are missing on this machine and cannot be downloaded, or are damaged."""


def download_checkpoint(url: str, backbone: str, sha256: str | None = None) -> Any:
    """Return the content of a published checkpoint, downloaded on first use into torch's cache.

    `sha256` is the expected beginning of the file's hash, also of a copy that a user made; None reads it from the name.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    expected = sha256 or hash_in(path.name)
    new = not path.exists()
    if new:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=expected, progress=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise BackboneUnavailable(
                f"The weights of {backbone!r} are not on this machine, and {path.name} could not be downloaded from "
                f"{url}: {error}. Download that file where there is a network and put it at {str(path)!r}. {OFFLINE}"
            ) from error
    try:
        check_hash(path, expected)
        return read_checkpoint(path)
    except BackboneUnavailable:
        if new:
            # A broken connection leaves a short file, which would later pass for the real one.
            path.unlink()
        raise


def read_checkpoint(path: Path, remedy: str = "Delete it and load again.") -> Any:
    """Read a checkpoint of tensors and plain containers onto the CPU; one that would run code is refused."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError, OSError) as error:
        raise BackboneUnavailable(
            f"{str(path)!r} is damaged or is no plain checkpoint of tensors (nothing in it was run): "
            f"{(str(error) or type(error).__name__).splitlines()[0]} {remedy}"
        ) from error


def hash_in(name: str) -> str | None:
    """Return the beginning of a file's hash from a name such as `resnet50-0676ba61.pth`, or None."""
    found = re.search(r"-([0-9a-f]{8,64})\.", name)
    return found.group(1) if found else None


def check_hash(path: Path, expected: str | None, remedy: str = "Delete it and load again.") -> None:
    """Compare a file's SHA-256 with its expected beginning; PyTorch reads flipped bits without an error."""
    if expected is None:
        return
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if not actual.startswith(expected):
        raise BackboneUnavailable(
            f"{str(path)!r} is damaged: its SHA-256 begins with {actual[: len(expected)]}, "
            f"not with {expected}. {remedy}"
        )


def is_reachable(url: str) -> bool:
    """Return whether a server responds within five seconds, through a proxy where one is set."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5).close()
    except OSError as error:
        return isinstance(error, urllib.error.HTTPError)
    return True

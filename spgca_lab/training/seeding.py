"""Seeds per purpose and step, so that a run repeats itself bit for bit."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *keys: object) -> int:
    """Return an unrelated seed for every purpose and step.

    A resumed run then needs no stored generator state, and methods with the same seed see the same batches and crops,
    so that their differences are paired.
    """
    return int.from_bytes(hashlib.sha256(repr((seed, *keys)).encode()).digest()[:7], "big")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's global generator (and a GPU's) inside the block, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield

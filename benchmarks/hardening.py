"""Behaviour of a training on this machine's device when it is killed, interrupted, or out of memory.

python benchmarks/hardening.py                 # on a GPU if there is one
python benchmarks/hardening.py --parts killed  # or ctrl-c, room; the last needs a GPU

Killed: differences of losses and weights between a run that was killed and resumed and one that was not, beside those
between two undisturbed runs. Out of memory: the error for a batch that cannot fit, the memory held afterwards, and a
training with the batch size that the error names.
"""

import argparse
import gc
import multiprocessing
import os
import platform
import re
import signal
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch

import spgca_lab as lab
from spgca_lab.runs.fit import cpu_name

RECIPE = lab.Recipe(
    method="spgca", per_class=2, test_per_class=1, iterations=40, batch_size=32, evaluations=4, snapshots=4
)
KILLS: tuple[tuple[int, ...], ...] = ((), (11,), (20,), (31,), (11, 31))
# Maps of a random ResNet-101 in eval mode are of the order of 1e13, so only the relative scale stays finite.
LARGE = RECIPE.replace(backbone="resnet101", weights="random", image_size=224, alpha=1e-6, lr=1e-6)
TOO_LARGE = 2048


def train(recipe: lab.Recipe, store: Path, device: str, stop: int | None = None) -> None:
    """Train, and kill this process after step number `stop`."""
    for event in lab.fit(recipe, store, device=device):
        if isinstance(event, lab.Step) and event.step == stop:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(device: str, folder: Path) -> list[str]:
    """Return a table of runs that were killed and resumed, compared with an undisturbed one."""
    child = multiprocessing.get_context("spawn")

    def trained(name: str, kills: tuple[int, ...]) -> tuple[list[float], dict[str, torch.Tensor]]:
        for stop in kills:
            process = child.Process(target=train, args=(RECIPE, folder / name, device, stop))
            process.start()
            process.join()
            if process.exitcode != -signal.SIGKILL:
                raise RuntimeError(f"{name} ended with exit code {process.exitcode}, not by SIGKILL")
        train(RECIPE, folder / name, device)
        run = lab.RunStore(folder / name)[RECIPE]
        return run.steps["loss"].tolist(), run.weights()

    losses, weights = trained("reference", ())
    rows = ["| killed at steps | largest relative difference of a loss | of a weight |", "|---|---|---|"]
    for number, kills in enumerate(KILLS):
        other, theirs = trained(f"run {number}", kills)
        loss = max(abs(a - b) / abs(a) for a, b in zip(losses, other, strict=True))
        weight = max(float((weights[name] - theirs[name]).abs().max()) for name in weights)
        rows.append(f"| {', '.join(map(str, kills)) or 'none'} | {loss:.1e} | {weight:.1e} |")
    return rows


def interrupted(device: str, folder: Path) -> list[str]:
    """Return the tensor memory before a training and after Ctrl-C in it, and the steps that were left."""
    before = tensor_bytes(device)
    events = lab.fit(RECIPE, folder / "ctrl-c", device=device)
    try:
        for event in events:
            if isinstance(event, lab.Step) and event.step == 12:
                signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        events.close()
    del event, events
    after = tensor_bytes(device)
    steps = sum(isinstance(event, lab.Step) for event in lab.fit(RECIPE, folder / "ctrl-c", device=device))
    return [f"{before / 1e6:.1f} MB of tensors before, {after / 1e6:.1f} MB after; {steps} steps were left."]


def room(device: str, folder: Path) -> list[str]:
    """Return the error for a batch that cannot fit, and the peak of a training with the size that it names."""
    recipe = LARGE.replace(per_class=TOO_LARGE // 48 + 1, iterations=2, evaluations=1, batch_size=TOO_LARGE)
    before = tensor_bytes(device)
    try:
        train(recipe, folder / "too large", device)
    except lab.OutOfMemory as error:
        text = str(error)
    lines = [f"- {text}. Held afterwards: {(tensor_bytes(device) - before) / 1e6:.1f} MB."]
    if found := re.search(r"batch_size=(\d+) would fit", text):
        torch.cuda.reset_peak_memory_stats()
        train(recipe.replace(batch_size=int(found[1])), folder / "named", device)
        lines.append(
            f"- batch {found[1]} as named: trained, peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB."
        )
    return lines


def tensor_bytes(device: str) -> int:
    """Return the bytes that tensors occupy."""
    gc.collect()
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated()
    return sum(t.untyped_storage().nbytes() for t in gc.get_objects() if type(t) is torch.Tensor)


PARTS: dict[str, Any] = {"killed": killed, "ctrl-c": interrupted, "room": room}


def main() -> None:
    """Run the chosen parts and print what they measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS)[: 3 if gpu else 2])
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else cpu_name()
    print(
        f"{name}; Python {platform.python_version()}, torch {torch.__version__}; {date.today().isoformat()}."
    )
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            print("\n".join(["", f"### {part}", "", *PARTS[part](options.device, Path(folder))]), flush=True)


if __name__ == "__main__":
    main()

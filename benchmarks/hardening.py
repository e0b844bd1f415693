"""What a training keeps and gives back on this machine's device: killed, interrupted, out of memory.

python benchmarks/hardening.py              # on a GPU if there is one
python benchmarks/hardening.py --device cpu # without the memory of ResNet-101, which the allocator of a GPU counts

Killed: how far losses and weights of a run that was killed and resumed lie from those of one that was not, beside how
far two runs that nobody disturbed lie apart. Memory: what is predicted against what PyTorch's allocator had at most.
Out of memory: a batch that cannot fit, what is said, and what is held afterwards; then the size that was named.
"""

import argparse
import gc
import itertools
import multiprocessing
import os
import platform
import re
import signal
import tempfile
import warnings
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import torch

import spgca_lab as lab
from spgca_lab.runs import fit as training
from spgca_lab.training import footprint, staging
from spgca_lab.training.processes import Processes
from spgca_lab.training.seeding import processor
from spgca_lab.training.stage import StageSteps, Training

KILLED = lab.Recipe(
    method="spgca", per_class=2, test_per_class=1, iterations=40, batch_size=32, evaluations=4, snapshots=4
)
KILLS = (11, 20, 31)
# The largest batch that is tried where memory must run out.
TOO_LARGE = 2048
# Maps of a random ResNet-101 in eval mode are of the order of 1e13: only their ratio is fit to be computed with.
RANDOM: dict[str, Any] = {"weights": "random", "scale": "relative", "alpha": 1e-6, "lr": 1e-6}


def curve(recipe: lab.Recipe, store: Path, device: str, stop: int | None = None) -> None:
    """Train, and be killed after the event of step number `stop`."""
    for event in lab.fit(recipe, store, device=device):
        if isinstance(event, lab.Step) and event.step == stop:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(device: str, folder: Path) -> list[str]:
    """Rows of the table of killed runs."""
    child = multiprocessing.get_context("spawn")
    found: dict[str, tuple[list[float], dict[str, torch.Tensor], float]] = {}

    def trained(name: str, kills: tuple[int, ...] = ()) -> None:
        for stop in kills:
            process = child.Process(target=curve, args=(KILLED, folder / name, device, stop))
            process.start()
            process.join()
            if process.exitcode != -signal.SIGKILL:
                raise RuntimeError(f"{name} ended with {process.exitcode}, not by SIGKILL")
        curve(KILLED, folder / name, device)
        run = lab.RunStore(folder / name)[KILLED]
        assert run.result is not None
        found[name] = run.steps["loss"].tolist(), run.weights(), run.result["top1"]

    trained("first")
    trained("second")
    for stop in KILLS:
        trained(f"killed at {stop}", (stop,))
    trained("killed at 11 and 31", (11, 31))
    losses, weights, top1 = found["first"]
    rows = ["| run | largest difference of a loss | of a weight | top-1, points |", "|---|---|---|---|"]
    for name, (other, theirs, score) in list(found.items())[1:]:
        loss = max(abs(a - b) / abs(a) for a, b in zip(losses, other, strict=True))
        weight = max(float((weights[n] - theirs[n]).abs().max()) for n in weights)
        rows.append(f"| {name} | {loss:.1e} | {weight:.1e} | {score - top1:+.2f} |")
    return rows


def interrupted(device: str, folder: Path) -> str:
    """Bytes on the device before a training, and after Ctrl-C in it, its error kept."""
    before = held(device)
    kept: list[BaseException] = []
    events = lab.fit(KILLED, folder / "ctrl-c", device=device)
    for _ in itertools.islice(events, 12):
        pass
    original = StageSteps.step

    def pressed(self: StageSteps, number: int) -> None:
        original(self, number)
        signal.raise_signal(signal.SIGINT)

    StageSteps.step = pressed  # type: ignore[method-assign]
    try:
        list(events)
    except KeyboardInterrupt as error:
        kept.append(error)
    finally:
        StageSteps.step = original  # type: ignore[method-assign]
    after = held(device)
    del events
    steps = sum(isinstance(event, lab.Step) for event in lab.fit(KILLED, folder / "ctrl-c", device=device))
    return (
        f"Ctrl-C, the error kept ({len(kept)}): {before / 1e6:.1f} MB held before, {after / 1e6:.1f} after; "
        f"{steps} steps when it went on."
    )


def held(device: str) -> int:
    """Bytes that tensors hold."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    return sum(t.untyped_storage().nbytes() for t in gc.get_objects() if type(t) is torch.Tensor)


def memory(device: str, cases: list[dict[str, Any]]) -> list[str]:
    """Rows of predicted and measured memory of two steps of every stage, nothing compiled."""
    rows = [
        "| training | predicted, GB | measured, GB | measured / predicted |",
        "|---|---|---|---|",
    ]
    for case in cases:
        recipe = lab.Recipe(**RANDOM, per_class=2, test_per_class=1, **case)
        taken = held(device)
        with footprint._measured(recipe, Processes(device)) as run:
            told = footprint._footprint(run, largest=False)
            torch.cuda.reset_peak_memory_stats()
            for index in range(len(recipe.stages().stages)):
                stage = StageSteps(run, index)
                for number in range(3):
                    stage.step(number)
                stage.read()
            measured = torch.cuda.max_memory_allocated() - taken
        del run, stage
        name = ", ".join(f"{value}" for value in case.values())
        rows.append(
            f"| {name} | {told.bytes / 1e9:.2f} | {measured / 1e9:.2f} | {measured / told.bytes:.2f} |"
        )
        footprint.give_back(device)
    return rows


def out_of_memory(device: str, folder: Path, case: dict[str, Any]) -> list[str]:
    """What is said of a batch that cannot fit, refused and run out, and how the size that was named does."""
    recipe = lab.Recipe(
        **RANDOM,
        per_class=TOO_LARGE // 48 + 1,
        test_per_class=1,
        iterations=2,
        evaluations=1,
        snapshots=0,
        batch_size=TOO_LARGE,
        **case,
    )
    lines = []
    before = held(device)
    kept: list[Exception] = []
    look = training.check_room
    for blind in (False, True):
        if blind:
            training.check_room = unseen
        try:
            list(lab.fit(recipe, folder / f"room {blind}", device=device))
        except lab.OutOfMemory as error:
            kept.append(error)
        lines.append(
            f"- {'ran out' if blind else 'refused'}: {kept[-1]}. Held: {(held(device) - before) / 1e6:.1f} MB."
        )
    training.check_room = look
    for said in map(str, kept):
        if found := re.search(r"batch_size=(\d+) would fit", said):
            size = int(found[1])
            torch.cuda.reset_peak_memory_stats()
            list(lab.fit(recipe.replace(batch_size=size), folder / f"named {size}", device=device))
            peak = torch.cuda.max_memory_allocated() / 1e9
            lines.append(f"- {size} pictures a step, as named: trained, at most {peak:.1f} GB.")
    return lines


def unseen(training: Training) -> int:
    """In place of `check_room`: memory is not looked at."""
    return footprint.EVAL_BATCH


def auto(device: str, case: dict[str, Any]) -> list[str]:
    """What "auto" settles on, with the whole card and with shares of it that only a real step notices."""
    recipe = lab.Recipe(
        weights="random", per_class=2, test_per_class=1, batch_size="auto", alpha=1e-6, **case
    )
    lines = [f"- whole: {lab.settle_batch_size(recipe, device).batch_size}"]
    for share in (0.1, 0.05) if device.startswith("cuda") else ():
        footprint.give_back(device)
        torch.cuda.set_per_process_memory_fraction(share)
        size = lab.settle_batch_size(recipe, device).batch_size
        lines.append(f"- {share * torch.cuda.get_device_properties(0).total_memory / 1e9:.1f} GB: {size}")
    if device.startswith("cuda"):
        torch.cuda.set_per_process_memory_fraction(1.0)
    return lines


def _data_of(recipe: lab.Recipe) -> lab.Recipe:
    """The recipe that is equal for all that see the same pictures."""
    return lab.Recipe(per_class=recipe.per_class, test_per_class=recipe.test_per_class)


def main() -> None:
    """Measure, print, and keep the text where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--output", type=Path, help="keep the text in this file")
    parser.add_argument("--parts", nargs="+", default=["killed", "ctrl-c", "memory", "auto", "room"])
    options = parser.parse_args()
    device = options.device
    warnings.simplefilter("ignore", UserWarning)
    large = device.startswith("cuda")
    case = {"method": "spgca", "backbone": "resnet101", "image_size": 224}
    cases = [
        {**case, "batch_size": 64},
        {**case, "method": "l2", "batch_size": 64},
        {**case, "batch_size": 16},
    ]
    cases += [{**cases[0], "engine": "plain"}, {**case, "backbone": "lite0", "batch_size": 64}]
    parts = options.parts if large else [part for part in options.parts if part in ("ctrl-c", "killed")]
    name = torch.cuda.get_device_name() if large else processor()
    text = [
        f"{name}; Python {platform.python_version()}, torch {torch.__version__}; {date.today().isoformat()}."
    ]

    def show(title: str, lines: list[str]) -> None:
        text.extend(["", f"### {title}", "", *lines])
        print("\n".join(["", title, *lines]), flush=True)
        if options.output:
            options.output.write_text("\n".join(text) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # Pictures are made once for all trainings of one recipe's data.
        once = cache(staging.load_data)
        training.load_data = lambda recipe, image_size: once(_data_of(recipe), image_size)
        footprint.load_data = training.load_data
        if "memory" in parts:
            show("Memory", memory(device, cases))
        if "auto" in parts:
            show('batch_size="auto"', auto(device, case))
        if "room" in parts:
            show("Out of memory", out_of_memory(device, folder, case))
        if "ctrl-c" in parts:
            show("Ctrl-C", [interrupted(device, folder)])
        if "killed" in parts:
            show("Killed and resumed", killed(device, folder))


if __name__ == "__main__":
    main()

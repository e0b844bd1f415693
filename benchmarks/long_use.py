"""Hours of use in minutes: explorers moved, runs started, stopped and resumed; then leaks and memory.

python benchmarks/long_use.py                 # 2,000 moves and 50 runs in 10 rounds
python benchmarks/long_use.py --rounds 2 --moves 20 --runs 2

Prints after every round: memory of this process in MB after garbage collection, threads, open files, hooks on the
networks, child processes, and files in the temporary folder. A column that grows from round to round is a leak; the
last line has the slope of memory over the second half of the rounds.
"""

import argparse
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

import spgca_lab as lab
from spgca_lab.explorers import (
    AttentionExplorer,
    FeatureMapExplorer,
    LossExplorer,
    MethodComparison,
    RunExplorer,
)
from spgca_lab.runs.background import RunHandle
from spgca_lab.runs.memory import release_memory

SMALL: dict[str, Any] = {
    "backbone": "mini",
    "image_size": 32,
    "per_class": 1,
    "test_per_class": 1,
    "batch_size": 8,
    "iterations": 12,
    "evaluations": 2,
    "snapshots": 4,
}
COLUMNS = ("MB", "threads", "files", "hooks", "children", "temporary")


class Session:
    """The explorers and the store that a reader has open for an afternoon.

    Args:
        folder: where runs are stored.
    """

    def __init__(self, folder: Path):
        self.random = random.Random(0)
        self.store = lab.RunStore(folder / "runs")
        self.started = 0
        self.mini = lab.load_backbone("mini")
        train, test = lab.load_dataset("stickers", per_class=1, test_per_class=1, image_size=64)
        shipped = lab.RunStore(lab.data_dir() / "runs")
        comparison = lab.RunStore(lab.data_dir() / "comparison")
        weighed = next(run for run in shipped if (run.path / "weights.safetensors").exists())
        self.begin_one()
        self.explorers: list[Any] = [
            FeatureMapExplorer(self.mini, test),
            AttentionExplorer(weighed),
            LossExplorer(self.mini, train),
            RunExplorer(shipped),
            RunExplorer(self.store),
            MethodComparison(comparison),
        ]

    def begin_one(self) -> None:
        """Train one run, so that there is one to explore."""
        for _ in lab.fit(lab.Recipe(method="spgca", **SMALL), self.store, device="cpu"):
            pass

    def move(self) -> None:
        """Change one control of one explorer, draw it, and print its code."""
        explorer = self.random.choice(self.explorers)
        controls = [c for c in _controls(explorer) if not c.disabled]
        control = self.random.choice(controls)
        if hasattr(control, "options"):
            if len(control.options):
                control.index = self.random.randrange(len(control.options))
        elif isinstance(control.value, bool):
            control.value = not control.value
        elif hasattr(control, "max"):
            share = self.random.random()
            value = control.min + share * (control.max - control.min)
            control.value = type(control.value)(round(value) if isinstance(control.value, int) else value)
        explorer.figure()
        explorer.code(explorer.state)

    def run(self) -> None:
        """Launch a run, perhaps stop and resume it; begin another one here, leave it and finish it."""
        self.started += 1
        method = self.random.choice(["spa", "gca", "afa", "spgca", "l2"])
        recipe = lab.Recipe(method=method, seed=self.started, **SMALL)
        handle = lab.launch(recipe, self.store, device="cpu")
        if self.random.random() < 0.5:
            for event in handle.events():
                if isinstance(event, lab.Step) and event.step >= 3:
                    break
            handle.stop()
            handle = RunHandle(handle.path)
            handle.start()
        handle.wait()
        if handle.status != "finished":
            raise RuntimeError(f"{handle} ended as {handle.status}: {handle.failure}")
        events = lab.fit(recipe.replace(seed=10_000 + self.started), self.store, device="cpu")
        for event in events:
            if isinstance(event, lab.Step) and event.step >= self.random.randrange(1, 10):
                break
        events.close()
        for _ in lab.fit(recipe.replace(seed=10_000 + self.started), self.store, device="cpu"):
            pass
        with lab.FeatureTaps(self.mini.model, self.mini.taps) as taps:
            self.mini.model(torch.zeros(1, 3, 64, 64))
            if len(taps.maps) != len(self.mini.taps):
                raise RuntimeError("a tap recorded no map")
        for explorer in self.explorers:
            if hasattr(explorer, "poll"):
                explorer.poll()

    def left(self) -> dict[str, int]:
        """Return the present figures, by `COLUMNS`."""
        release_memory()
        me = psutil.Process()
        return {
            "MB": round(me.memory_info().rss / 1e6),
            "threads": threading.active_count(),
            "files": me.num_fds(),
            "hooks": sum(
                len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.mini.model.modules()
            ),
            "children": len(me.children()),
            "temporary": sum(1 for _ in Path(tempfile.gettempdir()).iterdir()),
        }

    def close(self) -> None:
        """Close the explorers."""
        for explorer in self.explorers:
            explorer.close()


def _controls(explorer: Any) -> list[Any]:
    found, left = [], [explorer]
    while left:
        widget = left.pop()
        left += list(getattr(widget, "children", ()))
        name = type(widget).__name__
        if "Slider" in name or name in ("Dropdown", "ToggleButtons", "Checkbox", "ToggleButton"):
            found.append(widget)
    return found


def slope(rounds: list[dict[str, int]]) -> float:
    """Return MB per round, by least squares over the second half."""
    half = [each["MB"] for each in rounds[len(rounds) // 2 :]]
    return float(np.polyfit(range(len(half)), half, 1)[0]) if len(half) > 1 else 0.0


def use(session: Session, rounds: int, moves: int, runs: int) -> list[dict[str, int]]:
    """Return the figures after every round, and print them.

    Args:
        session: the open explorers.
        rounds: number of rounds.
        moves: moves of explorers, over all rounds.
        runs: background runs, over all rounds.
    """
    found = []
    print("| round | seconds | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (2 + len(COLUMNS)), flush=True)
    for number in range(rounds):
        began = time.perf_counter()
        for _ in range(runs // rounds):
            session.run()
        for _ in range(moves // rounds):
            session.move()
        found.append(session.left())
        cells = " | ".join(str(found[-1][name]) for name in COLUMNS)
        print(f"| {number + 1} | {time.perf_counter() - began:.0f} | {cells} |", flush=True)
    return found


def main() -> None:
    """Run all rounds and print the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--moves", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Path(folder))
        found = use(session, options.rounds, options.moves, options.runs)
        parts = [file.name for file in Path(folder).rglob("*") if file.suffix in (".part", ".next")]
        runs = [run.status for run in session.store]
        session.close()
    print(
        f"\n{options.moves} moves, {options.runs} background runs and as many begun here, left and resumed: "
        f"{runs.count('finished')} of {len(runs)} runs finished, {len(parts)} partial files left, "
        f"{slope(found):+.1f} MB per round over the second half."
    )


if __name__ == "__main__":
    main()

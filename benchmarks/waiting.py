"""Waiting times of a learner: the import, the images, two quick trainings.

    python benchmarks/waiting.py                # medians of 5, trainings of 3; two threads as on two cores
    python benchmarks/waiting.py --repeats 3 --trainings 1

Every import is a process of its own, and takes turns with one that imports torch alone. Images are drawn anew each
time. A training is `fit` from its first line to its last event, with S, evaluation and files.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date

import torch

import spgca_lab as lab
from spgca_lab.data import sticker_classes
from spgca_lab.runs.fit import cpu_name

TRAININGS = {
    "`fit`: `spgca` on `mini`, 64 px, batch 32, 200 steps": (
        30.0,
        {"backbone": "mini", "image_size": 64, "iterations": 200},
    ),
    "`fit`: `spgca` on `lite0`, 112 px, batch 32, 300 steps": (
        100.0,
        {"backbone": "lite0", "image_size": 112, "iterations": 300},
    ),
}


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that a function takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def importing(repeats: int) -> float:
    """Return the seconds that `import spgca_lab` takes beyond `import torch`."""
    both = {
        code: lambda code=code: subprocess.run([sys.executable, "-c", code], check=True)  # type: ignore[misc]
        for code in ("import torch", "import torch, spgca_lab")
    }
    for run in both.values():
        run()
    extra = []
    for _ in range(repeats):
        alone, together = (seconds(run) for run in both.values())
        extra.append(together - alone)
    return statistics.median(extra)


def load_images() -> None:
    """Load `stickers` near: every class, 8 images per class."""
    lab.load_dataset("stickers", preset="near", per_class=8, test_per_class=1)


def train(fields: dict[str, object]) -> None:
    """Train one recipe in a store of its own."""
    with tempfile.TemporaryDirectory() as store:
        for _ in lab.fit(lab.Recipe.from_dict({"method": "spgca", **fields}), store=store):
            pass


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="of imports and images (default %(default)s)")
    parser.add_argument("--trainings", type=int, default=3, help="of each training (default %(default)s)")
    options = parser.parse_args(given)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    lines = [
        f"{device}, {torch.get_num_threads()} threads; Python {platform.python_version()}, torch {torch.__version__}; "
        f"{date.today().isoformat()}; medians of {options.repeats}, trainings of {options.trainings}",
        "",
        "| waiting for | seconds | goal |",
        "|---|---|---|",
        f"| `import spgca_lab`, beyond torch | {importing(options.repeats):.2f} | 0.15 |",
    ]
    load_images()
    drawn = statistics.median(seconds(load_images) for _ in range(options.repeats))
    classes = len(sticker_classes())
    lines.append(
        f"| `stickers` near, {classes} classes × 8 and one test image per class | {drawn:.2f} | 1.5 |"
    )
    for title, (goal, fields) in TRAININGS.items():
        if options.trainings:
            took = statistics.median(seconds(lambda f=fields: train(f)) for _ in range(options.trainings))  # type: ignore[misc]
            lines.append(f"| {title} | {took:.1f} | {goal:.0f} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

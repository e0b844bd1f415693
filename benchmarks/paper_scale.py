"""Time of the paper's experiments on this machine: synthetic JPEGs of CUB's number and size, fetched and trained.

python benchmarks/paper_scale.py                 # ResNet-101, batch 64, 300 steps per method; bfloat16 on a GPU
python benchmarks/paper_scale.py --engine plain  # eager, single precision
python benchmarks/paper_scale.py --images 40 --backbone resnet50 --image-size 64 --batch-size 4 --iterations 8

The weights are random and the images are noise: time and memory are measured, not accuracy. One run is
projected as 9,000 steps at the median of its stages plus 18 tests of the data set; Table 4 as its six methods on five
data sets with five seeds, on one such device. What a projection leaves out (start of a process, loading, the weighing
of filters by DELTA) is measured and listed beside it.
"""

import argparse
import io
import json
import os
import platform
import statistics
import tarfile
import tempfile
import time
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import spgca_lab as lab
from spgca_lab.data.install import import_archives
from spgca_lab.data.published import PUBLISHED
from spgca_lab.runs.fit import cpu_name
from spgca_lab.training.speed import ENGINES, SpeedOptions

METHODS = ("l2", "l2_fe", "l2_sp", "delta", "afa", "spgca")
SIDES = ((500, 375), (375, 500), (500, 333), (500, 400), (333, 500), (500, 500))
CLASSES = 200
SKIPPED = 20  # steps of a stage that allocate and choose kernels
PAPER = {"iterations": 9000, "seeds": 5, "tests": 18}


def synthetic_cub(folder: Path, images: int) -> float:
    """Write images in the layout of CUB-200-2011, half of them for training, and return their mean size in bytes."""
    random = np.random.RandomState(0)
    base = folder / "CUB_200_2011"
    classes = min(CLASSES, max(2, images // 8))
    names = [f"{c + 1:03d}.Noise_{c + 1:03d}" for c in range(classes)]
    noise = [_jpeg(random, side) for side in SIDES for _ in range(4)]
    lines: dict[str, list[str]] = defaultdict(list)
    for number in range(images):
        c, place = number % classes, number // classes
        file = f"{names[c]}/Noise_{place:04d}_{number}.jpg"
        path = base / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise[number % len(noise)])
        lines["images.txt"].append(f"{number + 1} {file}")
        lines["image_class_labels.txt"].append(f"{number + 1} {c + 1}")
        lines["train_test_split.txt"].append(f"{number + 1} {(place + 1) % 2}")
    lines["classes.txt"] = [f"{c + 1} {name}" for c, name in enumerate(names)]
    for name, rows in lines.items():
        (base / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return float(np.mean([len(body) for body in noise]))


def _jpeg(random: np.random.RandomState, side: tuple[int, int]) -> bytes:
    """Return noise at two scales, which compresses to about 100 kB, as CUB's photographs do."""
    width, height = side
    coarse = random.randint(0, 256, (height // 16 + 1, width // 16 + 1, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(side, Image.Resampling.BICUBIC)).astype(int)
    pixels = np.clip(smooth + random.randint(-24, 25, (height, width, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def measure(recipe: lab.Recipe, device: str) -> dict[str, Any]:
    """Train one recipe; return median seconds per step by stage, test speed, other seconds, and peak memory."""
    here = torch.device(device)
    steps: dict[str, list[float]] = defaultdict(list)
    test = 0.0
    if here.type == "cuda":
        torch.cuda.reset_peak_memory_stats(here)
    with tempfile.TemporaryDirectory() as store:
        began = before = time.perf_counter()
        for event in lab.fit(recipe, store=store, device=device, resume=False):
            now = time.perf_counter()
            if isinstance(event, lab.Step):
                steps[event.stage].append(now - before)
            elif isinstance(event, lab.Done):
                # The last test pass, which `fit` makes once more for the result.
                test, tested = now - before, event.result["test_pictures"]
            before = now
        whole = time.perf_counter() - began
    together = SpeedOptions.of(recipe.engine, here).read_every
    medians = {
        stage: by_step(values[min(SKIPPED, len(values) // 2) :], together) for stage, values in steps.items()
    }
    spent = sum(sum(values) for values in steps.values())
    peak = torch.cuda.max_memory_allocated(here) / 2**30 if here.type == "cuda" else None
    return {
        "method": recipe.method,
        "step": medians,
        "images_s": recipe.batch / statistics.mean(medians.values()),
        "test_images_s": tested / test,
        "rest_s": whole - spent - 2 * test,
        "peak_gib": peak,
    }


def by_step(seconds: list[float], together: int) -> float:
    """Return median seconds per step, where the events of `together` steps arrive at once."""
    groups = [seconds[i : i + together] for i in range(0, len(seconds), together)]
    return statistics.median(sum(group) / len(group) for group in groups)


def projected(row: dict[str, Any], test_images: int) -> float:
    """Return the hours of one run of the paper: 9,000 steps, and 18 tests of a data set."""
    step = statistics.mean(row["step"].values())
    tests = PAPER["tests"] * test_images / row["test_images_s"]
    return (PAPER["iterations"] * step + tests) / 3600


def text(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    plain = statistics.mean(rows[0]["step"].values())
    sizes = [PUBLISHED[name] for name in PUBLISHED if name != "ants_bees"]
    lines = [
        f"{facts['device']}; Python {facts['python']}, torch {facts['torch']}; {facts['date']}. "
        f"`{facts['backbone']}` with random weights, {facts['engine']} engine in {facts['precision']}, "
        f"batch {facts['batch_size']}, {facts['image_size']} px, "
        f"{facts['iterations']} steps per method; {facts['images']:,} synthetic JPEGs of {facts['kilobytes']:.0f} kB, "
        f"decoded once in {facts['decode_s']:.0f} s.",
        "",
        f"| method | ms per step | × {rows[0]['method']} | images/s | tested images/s | other, s | peak, GiB | "
        "one run of CUB, h |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        stages = ", ".join(f"{stage} {1000 * seconds:.0f}" for stage, seconds in row["step"].items())
        ratio = statistics.mean(row["step"].values()) / plain
        peak = "" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
        lines.append(
            f"| `{row['method']}` | {stages} | {ratio:.2f} | {row['images_s']:.0f} | {row['test_images_s']:.0f} | "
            f"{row['rest_s']:.0f} | {peak} | {projected(row, PUBLISHED['cub200'].test):.2f} |"
        )
    if {row["method"] for row in rows} >= set(METHODS):
        of_paper = [row for row in rows if row["method"] in METHODS]
        hours = PAPER["seeds"] * sum(projected(row, each.test) for row in of_paper for each in sizes)
        runs = PAPER["seeds"] * len(of_paper) * len(sizes)
        lines += [
            "",
            f"Table 4 whole, projected: {runs} runs, {hours:.0f} h on one such device, all of them taken as "
            f"`{facts['backbone']}` (MIT Indoor 67 has the smaller ResNet-50).",
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print the tables, and write the figures where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--images", type=int, default=11_788, help="default: the number of images of CUB")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=300, help="steps per method, over its stages")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument(
        "--engine", choices=ENGINES, default="auto", help="of the recipe (default %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPGCA_LAB_DATA"] = str(Path(folder) / "home")
        kilobytes = synthetic_cub(Path(folder) / "made", options.images) / 1000
        archive = Path(folder) / "CUB_200_2011.tgz"
        with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
            packed.add(Path(folder) / "made" / "CUB_200_2011", "CUB_200_2011")
        import_archives("cub200", [archive], unverified=True)
        began = time.perf_counter()
        train, _ = lab.load_dataset("cub200", image_size=options.image_size)
        decode = time.perf_counter() - began
        engine = SpeedOptions.of(options.engine, torch.device(options.device))
        facts = {
            "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else cpu_name(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "date": date.today().isoformat(),
            "decode_s": decode,
            "kilobytes": kilobytes,
            "engine": engine.name,
            "precision": engine.precision,
            **{
                name: getattr(options, name)
                for name in ("backbone", "batch_size", "image_size", "iterations", "images")
            },
        }
        if len(train) < options.batch_size:
            parser.error(
                f"--images {options.images}: half of them are fewer than --batch-size {options.batch_size}"
            )
        rows = []
        for method in options.methods:
            recipe = lab.Recipe.paper(
                dataset="cub200",
                method=method,
                backbone=options.backbone,
                weights="random",
                image_size=options.image_size,
                batch_size=options.batch_size,
                iterations=options.iterations,
                evaluations=1,
                snapshots=0,
                engine=options.engine,
                # Maps of a random network in eval mode are about 1e13: only the relative scale stays finite.
                scale="relative",
                alpha=1e-6 if method != "l2_fe" else 0.0,
                lr=1e-6,
            )
            rows.append(measure(recipe, options.device))
            print(
                f"{method}: {1000 * statistics.mean(rows[-1]['step'].values()):.0f} ms per step", flush=True
            )
    print("\n" + text(rows, facts))
    if options.json:
        options.json.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

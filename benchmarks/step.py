"""Time of a training step by method and speed option: `make bench`, or `python benchmarks/step.py --help`.

    python benchmarks/step.py                       # a GPU: ResNet-50 and -101, 224 px, batch 64; a CPU: lite0, 128 px
    python benchmarks/step.py --ablation spa gca    # and what each speed option buys
    python benchmarks/step.py --compile-target      # and T compiled, which takes a minute or more per method

All variants are built in one process and warmed up. Then they take turns, one step untimed and a few timed, in a new
order every round. A row gives the median step of the method, and the median over rounds of its ratio to plain
fine-tuning in the same round: cross-entropy and the head's decay alone, in the engine in which it is fastest, and in
the plain engine (eager, single precision).
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch

import spgca_lab as lab
from spgca_lab.backbones import Backbone
from spgca_lab.data import ImageSet, stored_size
from spgca_lab.regularizers.penalties import squared_distances
from spgca_lab.regularizers.registry import Stage
from spgca_lab.runs.fit import cpu_name
from spgca_lab.training.loop import Training
from spgca_lab.training.speed import PLAIN, SpeedOptions
from spgca_lab.training.stage import StageTrainer

CLASSES = 40
BASELINE = "plain fine-tuning"
# Method and stage; AFA with both of its stages, whose attentions differ.
METHODS = [(BASELINE, 0)]
METHODS += [(name, 0) for name in ("l2_sp", "delta", "afa", "uniform", "spa", "gca")]
METHODS.insert(4, ("afa", 1))
# Each is compared with the fast engine where it differs from it.
CHANGES: dict[str, dict[str, Any]] = {
    "channels first": {"channels_last": False},
    "single precision": {"precision": "float32"},
    "bfloat16": {"precision": "bfloat16"},
    "S not compiled": {"compile_source": False},
    "S compiled": {"compile_source": True},
    "T compiled": {"compile_target": True},
    "cuDNN does not search": {"cudnn_benchmark": False},
    "SGD not fused": {"fused_optimiser": False},
    "SGD fused": {"fused_optimiser": True},
    "losses read at every step": {"read_every": 1},
}

Rows = list[dict[str, Any]]


@dataclass
class Variant:
    """One method's stage with one set of speed options, ready to step."""

    name: str
    training: Training
    stage: StageTrainer
    done: int = 0
    rounds: list[float] = field(default_factory=list)
    peak: float | None = None

    def measure(self, count: int) -> float:
        """Return seconds per step over `count` steps, losses read as in a training, after one untimed step."""
        self._step()
        self.wait()
        began = time.perf_counter()
        for _ in range(count):
            self._step()
        self.wait()
        return (time.perf_counter() - began) / count

    def wait(self) -> None:
        """Wait until the device has finished."""
        synchronize(self.training.networks.device)

    def _step(self) -> None:
        self.stage.step(self.done)
        self.done += 1
        if self.stage.must_read:
            self.stage.read()

    @property
    def speed(self) -> SpeedOptions:
        """The speed options."""
        return self.training.networks.speed

    @property
    def engine(self) -> str:
        """Name of the engine: `plain`, `fast`, or `fast, T compiled`."""
        return self.speed.name + (", T compiled" if self.speed.compile_target else "")

    @property
    def median(self) -> float:
        """Median seconds per step."""
        return statistics.median(self.rounds)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def noise_images(image_size: int, batch_size: int) -> ImageSet:
    """Return noise of a data set's shape; time does not depend on the content."""
    side, count = stored_size(image_size), max(8 * CLASSES, 2 * batch_size)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    names = [f"class {number}" for number in range(CLASSES)]
    return ImageSet(images, torch.arange(count) % CLASSES, names, image_size, name="noise")


def build(
    method: str,
    index: int,
    speed: SpeedOptions,
    backbone: Backbone,
    train: ImageSet,
    options: argparse.Namespace,
) -> Variant:
    """Build the stage of a method; α and the learning rate are tiny, so that training on noise cannot diverge."""
    recipe = lab.Recipe(
        method="l2" if method == BASELINE else method,
        backbone=backbone.name,
        weights=backbone.weights,
        image_size=options.image_size,
        batch_size=options.batch_size,
        iterations=10**6,
        milestones=(),
        lr=1e-5,
        alpha=1e-9,
        engine=speed.name,
    )
    training = Training(recipe, backbone, train, train, device=options.device, speed=speed)
    stages = recipe.stages().stages
    stage = Stage("plain", None) if method == BASELINE else stages[index]
    name = f"{method} ({stage.name})" if len(stages) > 1 else method
    return Variant(name, training, StageTrainer(recipe, index, training.networks, stage))


def build_all(makers: Iterable[Callable[[], Variant]], options: argparse.Namespace) -> list[Variant]:
    """Build and warm up all variants; on a GPU record the peak of each one's own memory."""
    variants, device = [], torch.device(options.device)
    for make in makers:
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        variant = make()
        variant.measure(options.warm_up)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            variant.measure(2)
            variant.peak = float(torch.cuda.max_memory_allocated(device) - before)
        variants.append(variant)
        print(f"  ready: {variant.name}, {variant.engine}", flush=True)
    return variants


def take_turns(variants: list[Variant], options: argparse.Namespace) -> None:
    """Measure all variants in turns, in a new order every round."""
    order = random.Random(0)
    for _ in range(options.rounds):
        for variant in order.sample(variants, len(variants)):
            variant.rounds.append(variant.measure(options.steps))


def ratio(one: Variant, other: Variant) -> float:
    """Return the median over rounds of one variant's time divided by the other's."""
    return statistics.median(a / b for a, b in zip(one.rounds, other.rounds, strict=True))


def repeat(work: Callable[[], Any], device: torch.device, times: int = 15) -> float:
    """Return the median seconds of `work`, after two runs to warm up."""
    seconds = []
    for _ in range(times + 2):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])


def method_rows(variants: list[Variant], options: argparse.Namespace) -> Rows:
    """Return one row per method and engine."""
    plain = min((v for v in variants if v.name == BASELINE), key=lambda v: v.median)
    eager = next(v for v in variants if v.name == BASELINE and v.engine == "plain")
    rows = []
    for variant in variants:
        row = {
            "method": variant.name,
            "engine": variant.engine,
            "ms": 1000 * variant.median,
            "x_plain": ratio(variant, plain),
            "x_eager": ratio(variant, eager),
            "images_s": options.batch_size / variant.median,
        }
        if variant.peak is not None and plain.peak is not None:
            row |= {"peak_gib": variant.peak / 2**30, "peak_x_plain": variant.peak / plain.peak}
        rows.append(row)
    return rows


# Column of a row: its heading and its format.
COLUMNS = {
    "method": ("method", "{}"),
    "engine": ("engine", "{}"),
    "change": ("fast engine, but", "{}"),
    "part": ("part of a step", "{}"),
    "share": ("share of plain fine-tuning", "{:.1%}"),
    "over": ("sums over", "{}"),
    "ms": ("ms per step", "{:.1f}"),
    "x_fast": ("× fast", "{:.3f}"),
    "x_plain": ("× plain fine-tuning", "{:.2f}"),
    "x_eager": ("× the same, eager", "{:.2f}"),
    "images_s": ("images/s", "{:.0f}"),
    "peak_gib": ("peak, GiB", "{:.1f}"),
    "peak_x_plain": ("× plain", "{:.2f}"),
}


def markdown(rows: Rows) -> str:
    """Return rows as a Markdown table."""
    heads, formats = zip(*(COLUMNS[name] for name in rows[0]), strict=True)
    cells = [heads, ("---",) * len(heads)]
    cells += [tuple(f.format(v) for f, v in zip(formats, row.values(), strict=True)) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def methods(backbone: Backbone, train: ImageSet, options: argparse.Namespace) -> Rows:
    """Measure every method with the plain and the fast engine, and where asked with T compiled."""
    fast = SpeedOptions.of("fast", torch.device(options.device))
    speeds = [PLAIN, fast, replace(fast, compile_target=True)][: 3 if options.compile_target else 2]
    chosen = [pair for pair in METHODS if pair[0] in (BASELINE, *options.methods)]
    makers = [partial(build, m, i, s, backbone, train, options) for m, i in chosen for s in speeds]
    variants = build_all(makers, options)
    take_turns(variants, options)
    return method_rows(variants, options)


def ablation(method: str, backbone: Backbone, train: ImageSet, options: argparse.Namespace) -> Rows:
    """Measure the fast engine with each of its options off, and with each that it leaves out on."""
    fast = SpeedOptions.of("fast", torch.device(options.device))
    speeds = {"none": fast}
    for title, change in CHANGES.items():
        speed = replace(fast, **change)
        if speed != fast and (options.compile_target or not speed.compile_target):
            speeds[title] = speed
    makers = [partial(build, method, 0, speed, backbone, train, options) for speed in speeds.values()]
    variants = build_all(makers, options)
    take_turns(variants, options)
    return [
        {"method": method, "change": title, "ms": 1000 * v.median, "x_fast": ratio(v, variants[0])}
        for title, v in zip(speeds, variants, strict=True)
    ]


def parts(backbone: Backbone, train: ImageSet, options: argparse.Namespace) -> Rows:
    """Measure the shares of batches, S, and the attention with its loss, in units of plain fine-tuning."""
    device = torch.device(options.device)
    fast = SpeedOptions.of("fast", device)
    names = [BASELINE, BASELINE, "uniform", *(name for name in ("spa", "gca") if name in options.methods)]
    variants = build_all([partial(build, n, 0, fast, backbone, train, options) for n in names], options)
    plain, still, uniform, *attentions = variants
    batch = still.training.networks.batches(0)
    still.stage.networks = replace(still.stage.networks, batches=lambda step: batch)  # type: ignore[arg-type]

    @torch.no_grad()
    def run_source() -> None:
        with fast.autocast(device):
            uniform.training.networks.run_source(batch[0])

    source = []
    for _ in range(options.rounds):
        for variant in (plain, still, *attentions):
            variant.rounds.append(variant.measure(options.steps))
        source.append(repeat(run_source, device, times=options.steps))
    found = {
        "cropping, mirroring and waiting for images": [
            1 - s / p for s, p in zip(still.rounds, plain.rounds, strict=True)
        ],
        "S's forward pass by itself": [s / p for s, p in zip(source, plain.rounds, strict=True)],
    }
    for variant in attentions:
        found[f"`{variant.name}` beyond S: attention nets and loss"] = [
            (a - p - s) / p for a, p, s in zip(variant.rounds, plain.rounds, source, strict=True)
        ]
    return [{"part": part, "share": statistics.median(shares)} for part, shares in found.items()]


def penalty(backbone: Backbone, options: argparse.Namespace) -> Rows:
    """Measure the penalty alone, forward and backward."""
    device = torch.device(options.device)
    dtype = getattr(torch, SpeedOptions.of("fast", device).precision)
    pairs = [
        [torch.randn(options.batch_size, *shape, device=device, dtype=dtype) for _ in range(2)]
        for shape in backbone.tap_shapes(options.image_size).values()
    ]
    pairs = [[m.contiguous(memory_format=torch.channels_last) for m in pair] for pair in pairs]
    rows = []
    for over in ("channels", "positions"):

        def work(over: Any = over) -> None:
            for s, t in pairs:
                squared = squared_distances(s, t.requires_grad_(), over)
                torch.autograd.grad(squared.mean() / s.float().var(correction=0), t)

        rows.append({"over": over, "ms": 1000 * repeat(work, device)})
    return rows


def parse(given: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    names = sorted({method for method, _ in METHODS if method != BASELINE})
    add = parser.add_argument
    add("--device", default="cuda" if gpu else "cpu")
    add("--backbones", nargs="+", default=["resnet50", "resnet101"] if gpu else ["lite0"])
    add("--methods", nargs="*", choices=names, default=names)
    add("--image-size", type=int, default=224 if gpu else 128)
    add("--batch-size", type=int, default=64 if gpu else 32)
    add("--rounds", type=int, default=15, help="turns of each variant (default %(default)s)")
    add("--steps", type=int, default=20 if gpu else 1, help="steps per turn (default %(default)s)")
    add("--warm-up", type=int, default=20 if gpu else 3, help="untimed steps first (default %(default)s)")
    add("--compile-target", action="store_true", help="also measure with T compiled")
    add("--ablation", nargs="*", default=[], choices=names, metavar="METHOD")
    add("--json", type=Path, help="write the figures to this file")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write the figures where asked."""
    options = parse(given)
    device = torch.device(options.device)
    facts = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "fast": repr(SpeedOptions.of("fast", device)),
    }
    figures: dict[str, Any] = {"facts": facts, "backbones": {}}
    for name in options.backbones:
        weights = "pretrained" if name in ("mini", "lite0") else "random"
        backbone, train = (
            lab.load_backbone(name, weights=weights),
            noise_images(options.image_size, options.batch_size),
        )
        print(
            f"\n`{name}`, {weights} weights, {options.image_size} px, batch {options.batch_size}; {facts['device']}, "
            f"{facts['threads']} threads; Python {facts['python']}, torch {facts['torch']}; {facts['date']}; "
            f"rounds: {options.rounds}, steps per round: {options.steps}\n",
            flush=True,
        )
        found: dict[str, Rows] = {}

        def show(title: str, rows: Rows, found: dict[str, Rows] = found) -> None:
            found[title] = rows
            print(f"\n{markdown(rows)}\n", flush=True)

        show("methods", methods(backbone, train, options))
        show("parts", parts(backbone, train, options))
        show("penalty", penalty(backbone, options))
        for method in options.ablation:
            show(f"ablation {method}", ablation(method, backbone, train, options))
        figures["backbones"][name] = found
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

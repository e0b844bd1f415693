"""What a training step costs, method by method and trick by trick: `make bench`, or `python benchmarks/step.py --help`.

    python benchmarks/step.py                       # a GPU: ResNet-50 and -101, 224 px, batch 64; a CPU: lite0, 128 px
    python benchmarks/step.py --ablation spa gca    # and what each trick buys
    python benchmarks/step.py --compile-target      # and T compiled, which takes a minute or more a method

All variants are built in one process and warmed up; then they take turns, one step untimed and a few timed, in an order
drawn anew every round. A row gives the median step of the method, and the median of what it was in each round as a
multiple of plain fine-tuning in that round: cross-entropy and the head's decay alone, in the engine in which it is
fastest. The multiple of plain fine-tuning in the plain engine (eager, single precision) stands beside it.

Two floors: the floating-point operations of the step's convolutions and matrix products at the rate of one large matrix
product, and the bytes that these layers, the penalty and SGD must move at the least, at the rate of one large copy. A
share of 100 % would be a step that does nothing else, without a pause.
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import spgca_lab as lab
from spgca_lab.backbones import Backbone
from spgca_lab.data import ImageSet, stored_size
from spgca_lab.regularizers.distances import Kernels, compare, eager_kernels, fused
from spgca_lab.regularizers.registry import Stage
from spgca_lab.training.memory import kept
from spgca_lab.training.processes import Processes
from spgca_lab.training.seeding import processor
from spgca_lab.training.speed import PLAIN, Engine
from spgca_lab.training.stage import StageSteps, Training

CLASSES = 40
# Method and stage; both stages of AFA, whose second has other attention.
PLAIN_NAME = "plain fine-tuning"
METHODS = (
    (PLAIN_NAME, 0),
    ("l2_sp", 0),
    ("delta", 0),
    ("afa", 0),
    ("afa", 1),
    ("uniform", 0),
    ("spa", 0),
    ("gca", 0),
)
# Turned off one by one in the ablation; the last three are extras, turned on.
OFF: dict[str, dict[str, Any]] = {
    "BatchNorm not folded": {"fold": False},
    "penalty not fused": {"fuse": False},
    "penalty not compiled": {"compile_penalty": False},
    "S not compiled": {"compile_source": False},
    "no stream of its own": {"overlap": False},
    "single precision": {"precision": "float32"},
    "channels first": {"channels_last": False},
    "cutting not compiled": {"compile_data": False},
    "SGD not fused": {"fused_optimiser": False},
    "cuDNN does not search": {"cudnn_benchmark": False},
    "memory not kept": {"keep_memory": False},
    "losses read at every step": {"read_every": 1},
}
ON: dict[str, dict[str, Any]] = {
    "S compiled": {"compile_source": True},
    "S as a CUDA graph": {"cuda_graph": True, "compile_source": True},
    "penalty compiled": {"compile_penalty": True},
    "bfloat16": {"precision": "bfloat16"},
    "T compiled": {"compile_target": True},
    "SGD fused": {"fused_optimiser": True},
}


@dataclass
class Variant:
    """One method's stage under one engine, ready to step."""

    name: str
    engine: Engine
    steps: StageSteps
    keeps: bool = False
    done: int = 0
    rounds: list[float] = field(default_factory=list)
    peak: float | None = None

    def take(self, count: int, device: torch.device) -> float:
        """Seconds a step over `count` steps, losses read as in a training, after one that is not timed."""
        # Memory is the whole process', so it is kept in this variant's turns only.
        with kept() if self.keeps else nullcontext():
            self._step()
            wait(device)
            began = time.perf_counter()
            for _ in range(count):
                self._step()
            wait(device)
            return (time.perf_counter() - began) / count

    def _step(self) -> None:
        self.steps.step(self.done)
        self.done += 1
        if self.steps.due:
            self.steps.read()

    @property
    def label(self) -> str:
        """`plain`, `fast`, or `fast, T compiled`."""
        return self.engine.name + (", T compiled" if self.engine.compile_target else "")

    @property
    def median(self) -> float:
        """Seconds a step."""
        return statistics.median(self.rounds)


def wait(device: torch.device) -> None:
    """For a GPU to have done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pictures(image_size: int, batch_size: int) -> ImageSet:
    """Noise of a data set's shape; time does not depend on what is seen."""
    side, count = stored_size(image_size), max(8 * CLASSES, 2 * batch_size)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    names = [f"class {number}" for number in range(CLASSES)]
    return ImageSet(images, torch.arange(count) % CLASSES, names, image_size, name="noise")


def build(
    method: str, index: int, engine: Engine, backbone: Backbone, train: ImageSet, options: argparse.Namespace
) -> Variant:
    """The stage of a method that trains on noise, without an effect that could diverge: α is next to nothing."""
    recipe = lab.Recipe(
        method="l2" if method == PLAIN_NAME else method,
        backbone=backbone.name,
        weights=backbone.weights,
        image_size=options.image_size,
        batch_size=options.batch_size,
        iterations=10**6,
        milestones=(),
        lr=1e-5,
        alpha=1e-9,
        engine=engine.name,
    )
    keeps, engine = engine.keep_memory, replace(engine, keep_memory=False)
    training = Training(recipe, backbone, train, options.image_size, Processes(options.device), engine)
    stage = Stage("plain", None) if method == PLAIN_NAME else recipe.stages().stages[index]
    name = f"{method} ({stage.name})" if len(recipe.stages().stages) > 1 else method
    return Variant(name, engine, StageSteps(training, index, stage), keeps)


def ready(variant: Variant, options: argparse.Namespace) -> Variant:
    """Warm up, and note the peak of its own memory on a GPU."""
    device = torch.device(options.device)
    variant.take(options.warm_up, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        variant.take(2, device)
        variant.peak = torch.cuda.max_memory_allocated(device) - before
    return variant


def built(wanted: Sequence[Callable[[], Variant]], options: argparse.Namespace) -> list[Variant]:
    """All variants, each warmed up; on a GPU each one's memory counts with what it holds between steps."""
    device = torch.device(options.device)
    variants = []
    for make in wanted:
        wait(device)
        held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        variant = ready(make(), options)
        if variant.peak is not None:
            variant.peak += torch.cuda.memory_allocated(device) - held
        variants.append(variant)
        print(f"  ready: {variant.name}, {variant.label}", flush=True)
    return variants


def interleave(variants: list[Variant], options: argparse.Namespace) -> None:
    """Let all variants take turns, in a new order every round."""
    device, order = torch.device(options.device), random.Random(0)
    for _ in range(options.rounds):
        for variant in order.sample(variants, len(variants)):
            variant.rounds.append(variant.take(options.steps, device))


def ratio(one: Variant, other: Variant) -> float:
    """The median over rounds of one's time in units of the other's."""
    return statistics.median(a / b for a, b in zip(one.rounds, other.rounds, strict=True))


def matmul_rate(device: torch.device, half: bool) -> float:
    """Floating-point operations a second of a large matrix product."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if half else torch.float32)
    return 2 * side**3 / repeat(lambda: a @ a, device)


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes."""
    size = 2**30 if device.type == "cuda" else 2**28
    a = torch.zeros(size, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * size / repeat(lambda: b.copy_(a), device)


def repeat(work: Callable[[], Any], device: torch.device, times: int = 15) -> float:
    """Median seconds of `work`, after two runs to warm up."""
    seconds = []
    for _ in range(times + 2):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])


def floors(variant: Variant) -> tuple[float, float]:
    """Floating-point operations and bytes that a step cannot do without.

    A convolution or linear layer multiplies, reads its input and writes its output, and where it is trained does as
    much twice more; all else is taken as done in passing. The penalty reads both maps forward and backward and writes
    a gradient of T's. SGD reads weight, gradient and momentum and writes weight and momentum; the gradient has been
    written before.
    """
    training, objective = variant.steps.training, replace(variant.steps.objective, passes=None)
    item = 2 if training.engine.half else 4
    work, moved = 0, 0

    def watch(times: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal work, moved
            weight = getattr(module, "weight")  # noqa: B009 - convolutions and linear layers have one
            work += times * 2 * output.numel() * weight[0].numel()
            moved += times * item * (inputs[0].numel() + output.numel())

        return hook

    models: list[tuple[int, nn.Module]] = [(1, training.source), (3, training.target)]
    if objective.penalty is not None:
        models.append((3, objective.penalty))
    hooks = [
        module.register_forward_hook(watch(times))
        for times, model in models
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.no_grad():
            x, y = training.batches(0)
            objective(x, y)
    finally:
        for hook in hooks:
            hook.remove()
    with torch.no_grad():
        maps = sum(m.numel() for m in objective.forward(x)[1].maps_t.values())
    weights = sum(p.numel() for group in variant.steps.optimiser.param_groups for p in group["params"])
    return float(work), float(moved + item * 5 * maps + 4 * 6 * weights)


def rows(variants: list[Variant], options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a method and engine, for the table and the file."""
    device = torch.device(options.device)
    copy, rates = copy_rate(device), {}
    plain = min((v for v in variants if v.name == PLAIN_NAME), key=lambda v: v.median)
    eager = next(v for v in variants if v.name == PLAIN_NAME and v.label == "plain")
    table = []
    for variant in variants:
        half = variant.engine.half
        if half not in rates:
            rates[half] = matmul_rate(device, half)
        work, moved = floors(variant)
        peak = None if variant.peak is None or plain.peak is None else variant.peak / plain.peak
        table.append(
            {
                "method": variant.name,
                "engine": variant.label,
                "ms": 1000 * variant.median,
                "x_plain": ratio(variant, plain),
                "x_eager": ratio(variant, eager),
                "images_s": options.batch_size / variant.median,
                "arithmetic": work / rates[half] / variant.median,
                "bytes": moved / copy / variant.median,
                "peak_gib": None if variant.peak is None else variant.peak / 2**30,
                "peak_x_plain": peak,
            }
        )
    return table


def engines(options: argparse.Namespace) -> list[Engine]:
    """Plain, fast, and where asked fast with T compiled."""
    fast = Engine.of("fast", torch.device(options.device))
    compiled = replace(fast, compile_target=True)
    return [PLAIN, fast, compiled] if options.compile_target else [PLAIN, fast]


def whole_table(
    backbone: Backbone, train: ImageSet, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[str]]:
    """Every method under every engine."""
    wanted = [
        lambda method=method, index=index, engine=engine: build(
            method, index, engine, backbone, train, options
        )
        for method, index in METHODS
        if method == PLAIN_NAME or method in options.methods
        for engine in engines(options)
    ]
    variants = built(wanted, options)
    interleave(variants, options)
    found = rows(variants, options)
    memory = any(row["peak_gib"] for row in found)
    lines = [
        "| method | engine | ms a step | × plain fine-tuning | × the same, eager | images/s | of arithmetic floor | "
        "of bytes floor |" + (" peak, GiB | × plain |" if memory else ""),
        "|---|---|---|---|---|---|---|---|" + ("---|---|" if memory else ""),
    ]
    for row in found:
        cells = [
            row["method"],
            row["engine"],
            f"{row['ms']:.1f}",
            f"{row['x_plain']:.2f}",
            f"{row['x_eager']:.2f}",
            f"{row['images_s']:.0f}",
            f"{row['arithmetic']:.0%}",
            f"{row['bytes']:.0%}",
        ]
        if memory:
            cells += [f"{row['peak_gib']:.1f}", f"{row['peak_x_plain']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return found, lines


def ablation(
    method: str, backbone: Backbone, train: ImageSet, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[str]]:
    """The fast engine with each trick off by itself, and with each that it does not use turned on."""
    fast = Engine.of("fast", torch.device(options.device))
    changes = {"": fast}
    for title, change in {**OFF, **ON}.items():
        engine = replace(fast, **change)
        graph_there = not engine.cuda_graph or options.device.startswith("cuda")
        if engine != fast and graph_there and (options.compile_target or not engine.compile_target):
            changes[title] = engine
    wanted = [
        lambda engine=engine: build(method, 0, engine, backbone, train, options)
        for engine in changes.values()
    ]
    variants = built(wanted, options)
    interleave(variants, options)
    found = [
        {
            "method": method,
            "change": title or "the fast engine",
            "ms": 1000 * v.median,
            "x_fast": ratio(v, variants[0]),
        }
        for title, v in zip(changes, variants, strict=True)
    ]
    lines = [f"| `{method}`, fast engine, but | ms a step | × fast |", "|---|---|---|"]
    lines += [f"| {row['change']} | {row['ms']:.1f} | {row['x_fast']:.3f} |" for row in found]
    return found, lines


def parts(
    backbone: Backbone, train: ImageSet, options: argparse.Namespace
) -> tuple[dict[str, float], list[str]]:
    """What S, the attention with its loss, and the pictures cost a fast step, each in shares of plain fine-tuning."""
    device = torch.device(options.device)
    fast = Engine.of("fast", device)
    found: dict[str, float] = {}
    plain = build(PLAIN_NAME, 0, fast, backbone, train, options)
    uniform = build("uniform", 0, fast, backbone, train, options)
    still = build(PLAIN_NAME, 0, fast, backbone, train, options)
    batch = still.steps.training.batches(0)
    still.steps.training.batches = lambda step: batch  # type: ignore[assignment,misc]
    passes = uniform.steps.training.passes
    assert passes is not None

    def source() -> None:
        with fast.autocast(device):
            passes._run_source(batch[0])

    def of_source() -> float:
        with kept() if plain.keeps else nullcontext():
            return repeat(source, device, times=options.steps)

    seconds: dict[str, list[float]] = {"plain": [], "still": [], "source": []}
    timed = {
        name: build(name, 0, fast, backbone, train, options)
        for name in ("spa", "gca")
        if name in options.methods
    }
    for variant in (plain, still, uniform, *timed.values()):
        variant.take(options.warm_up, device)
    for _ in range(options.rounds):
        seconds["plain"].append(plain.take(options.steps, device))
        seconds["still"].append(still.take(options.steps, device))
        seconds["source"].append(of_source())
        for variant in timed.values():
            variant.rounds.append(variant.take(options.steps, device))
    base = seconds["plain"]
    found["waiting"] = statistics.median(1 - s / p for s, p in zip(seconds["still"], base, strict=True))
    found["source"] = statistics.median(s / p for s, p in zip(seconds["source"], base, strict=True))
    for name, variant in timed.items():
        found[name] = statistics.median(
            (all_ - p - s) / p for all_, p, s in zip(variant.rounds, base, seconds["source"], strict=True)
        )
    lines = [
        "| part of a step | share of plain fine-tuning |",
        "|---|---|",
        f"| cutting, mirroring and waiting for pictures | {found['waiting']:.1%} |",
        f"| S's forward pass by itself | {found['source']:.1%} |",
    ]
    lines += [f"| `{name}` beyond S: attention nets and loss | {found[name]:.1%} |" for name in timed]
    return found, lines


def penalty(backbone: Backbone, options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """Forward and backward of the penalty alone, against the bytes of reading both maps once each way."""
    device = torch.device(options.device)
    dtype = torch.bfloat16 if Engine.of("fast", device).half else torch.float32
    maps = [
        [
            torch.randn(options.batch_size, *shape, device=device, dtype=dtype).contiguous(
                memory_format=torch.channels_last
            )
            for _ in range(2)
        ]
        for shape in backbone.tap_shapes(options.image_size).values()
    ]
    # Forward reads two maps; backward reads them again and writes a gradient.
    floor = sum(5 * s.nbytes for s, _ in maps) / copy_rate(device)
    kinds: dict[str, Kernels | None] = {"plain": None, "fused": eager_kernels}
    if options.compile_penalty:
        kinds["fused, compiled"] = Kernels.compiled()
    found = []
    for over in ("channels", "positions"):
        for name, kernels in kinds.items():

            def work(over: Any = over, kernels: Kernels | None = kernels) -> None:
                with fused(kernels):
                    for s, t in maps:
                        looked = compare(s, t.requires_grad_(), over, spread=True)
                        torch.autograd.grad((looked.squared.mean() / looked.variance), t)

            seconds = repeat(work, device)
            found.append({"over": over, "kernels": name, "ms": 1000 * seconds, "floor": floor / seconds})
    lines = ["| sums over | kernels | ms, forward and backward | of bytes floor |", "|---|---|---|---|"]
    lines += [f"| {r['over']} | {r['kernels']} | {r['ms']:.2f} | {r['floor']:.0%} |" for r in found]
    return found, lines


def options_of(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    names = [method for method, _ in METHODS if method != PLAIN_NAME]
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--backbones", nargs="+", default=["resnet50", "resnet101"] if gpu else ["lite0"])
    parser.add_argument("--methods", nargs="*", choices=sorted(set(names)), default=names)
    parser.add_argument("--image-size", type=int, default=224 if gpu else 128)
    parser.add_argument("--batch-size", type=int, default=64 if gpu else 32)
    parser.add_argument(
        "--rounds", type=int, default=15, help="turns that each variant has (default %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=20 if gpu else 1, help="steps a turn (default %(default)s)"
    )
    parser.add_argument(
        "--warm-up", type=int, default=20 if gpu else 3, help="steps before (default %(default)s)"
    )
    parser.add_argument("--compile-target", action="store_true", help="also measure with T compiled")
    parser.add_argument(
        "--compile-penalty", action="store_true", default=gpu, help="also time it compiled alone"
    )
    parser.add_argument("--ablation", nargs="*", default=[], choices=sorted(set(names)), metavar="METHOD")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and keep the figures where asked."""
    options = options_of(given)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    facts = {
        "device": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "fast": repr(Engine.of("fast", device)),
    }
    kept: dict[str, Any] = {"facts": facts, "backbones": {}}
    for which in options.backbones:
        weights = "pretrained" if which in ("mini", "lite0") else "random"
        backbone = lab.load_backbone(which, weights=weights)
        train = pictures(options.image_size, options.batch_size)
        print(
            f"\n`{which}`, {weights} weights, {options.image_size} px, batch {options.batch_size}; {name}, "
            f"{facts['threads']} threads; Python {facts['python']}, torch {facts['torch']}; {facts['date']}; "
            f"{options.rounds} rounds of {options.steps} step{'s' if options.steps > 1 else ''}\n",
            flush=True,
        )
        found: dict[str, Any] = {}
        jobs: list[tuple[str, Callable[[], tuple[Any, list[str]]]]] = [
            ("methods", lambda b=backbone, t=train: whole_table(b, t, options)),  # type: ignore[misc]
            ("parts", lambda b=backbone, t=train: parts(b, t, options)),  # type: ignore[misc]
            ("penalty", lambda b=backbone: penalty(b, options)),  # type: ignore[misc]
        ]
        jobs += [
            (f"ablation {method}", lambda m=method, b=backbone, t=train: ablation(m, b, t, options))  # type: ignore[misc]
            for method in options.ablation
        ]
        for title, job in jobs:
            found[title], lines = job()
            print("\n" + "\n".join(lines) + "\n", flush=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()
        kept["backbones"][which] = found
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Cost of DELTA's filter weights by backbone: one forward pass per filter against many filters per pass.

python benchmarks/delta_cost.py                                              # mini and lite0, 64 images
python benchmarks/delta_cost.py --backbones resnet50 resnet101 --images 4 --sample 4
python benchmarks/delta_cost.py --backbones mini --budget 16                 # MiB per pass
python benchmarks/delta_cost.py --backbones resnet101 --device cuda --skip-naive

Prints a Markdown table. The images are noise: time does not depend on the content. "One per filter" runs
the whole network once for every filter, with a hook that zeroes the filter's map; with `--sample` only so many filters
of each tap are run, and the time is scaled to all. The two ways take turns, tap by tap, in the same process.
"""

import argparse
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spgca_lab.backbones import load_backbone
from spgca_lab.regularizers.delta import filter_importance
from spgca_lab.runs.fit import cpu_name

SIZES = {"mini": 64, "lite0": 128}
CLASSES = 10


def timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Return the result of a function and the seconds that it takes, work on a GPU included."""
    _wait(device)
    begin = time.perf_counter()
    result = work()
    _wait(device)
    return result, time.perf_counter() - begin


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def one_per_filter(model: nn.Module, tap: str, x: Tensor, labels: Tensor, filters: int) -> Tensor:
    """Return the rise of the loss without each of a tap's first filters `[filters]`, by one whole forward pass each."""
    zeroed: list[int] = []  # the filters that the hook silences

    def silence(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, zeroed] = 0
        return output

    handle = model.get_submodule(tap).register_forward_hook(silence)
    try:
        losses = [F.cross_entropy(model(x), labels)]
        for channel in range(filters):
            zeroed[:] = [channel]
            losses.append(F.cross_entropy(model(x), labels))
    finally:
        handle.remove()
    return torch.stack(losses[1:]) - losses[0]


def measure(
    name: str,
    *,
    image_size: int | None = None,
    images: int = 64,
    sample: int | None = None,
    skip_naive: bool = False,
    budget: int | None = None,
    device: str = "cpu",
    weights: str = "random",
) -> dict[str, Any]:
    """Return one row of the table.

    Args:
        name: a backbone's name.
        image_size: side in pixels; None takes `SIZES`, or the backbone's own.
        images: number of images over which the loss is averaged.
        sample: filters per tap that are run one by one; None takes all.
        skip_naive: run no filter by itself.
        budget: bytes per pass, as in `filter_importance`.
        device: where the network runs.
        weights: `"random"` or `"pretrained"`.
    """
    backbone = load_backbone(name, weights=weights)
    model = backbone.to_target(CLASSES, seed=0).requires_grad_(False).to(device)
    size = image_size or SIZES.get(name, backbone.image_size)
    x = torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.arange(images, device=device) % CLASSES
    rows: list[int] = []
    filters, naive, batched, off, sampled = 0, 0.0, 0.0, 0.0, False
    with torch.no_grad():
        model(x[:1])  # chooses kernels
    for tap in backbone.taps:
        # Every pass ends at the head.
        head = model.get_submodule(backbone.head)
        count = head.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
        found, taken = timed(partial(filter_importance, model, [tap], x, labels, budget=budget), x.device)
        count.remove()
        channels = len(found[tap])
        filters, batched = filters + channels, batched + taken
        if not skip_naive:
            some = min(sample or channels, channels)
            rises, taken = timed(partial(one_per_filter, model, tap, x, labels, some), x.device)
            # The intact network's pass is one more.
            naive += taken * (channels + 1) / (some + 1)
            off = max(off, float((rises - found[tap][:some]).abs().max()))
            sampled = sampled or some < channels
    line: dict[str, Any] = {"backbone": name, "px": size, "images": images, "filters": filters}
    line |= {"passes, one per filter": filters + len(backbone.taps), "passes, batched": len(rows)}
    line["most rows per pass"] = max(rows)
    if not skip_naive:
        note = f" (scaled from {sample} filters per tap)" if sampled else ""
        line["s, one per filter"] = f"{naive:.1f}{note}"
    line["s, batched"] = f"{batched:.1f}"
    if not skip_naive:
        line |= {"times faster": f"{naive / batched:.1f}", "largest difference, nats": f"{off:.0e}"}
    return line


def markdown(lines: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    head = list(lines[0])
    body = [head, ["---"] * len(head), *([str(line[key]) for key in head] for line in lines)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in body)


def main(arguments: list[str] | None = None) -> None:
    """Print the table and the machine."""
    parser = argparse.ArgumentParser(description="Measure the cost of DELTA's filter weights by backbone.")
    parser.add_argument("--backbones", nargs="+", default=["mini", "lite0"])
    parser.add_argument(
        "--image-size", type=int, help="default: 64 px for mini, 128 for lite0, else the backbone's"
    )
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument(
        "--sample", type=int, help="run only so many filters of each tap one by one, and scale"
    )
    parser.add_argument("--skip-naive", action="store_true", help="do not run one per filter")
    parser.add_argument("--budget", type=int, help="MiB that one pass may take up; default: the package's")
    parser.add_argument("--weights", choices=("pretrained", "random"), default="random")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = vars(parser.parse_args(arguments))
    for key in ("image_size", "images", "sample", "budget"):
        if options[key] is not None and options[key] < 1:
            parser.error(f"--{key.replace('_', '-')} {options[key]}: a positive whole number is needed")
    names, megabytes = options.pop("backbones"), options.pop("budget")
    options["budget"] = None if megabytes is None else megabytes * 2**20
    lines = [measure(name, **options) for name in names]
    cuda = options["device"].startswith("cuda")
    machine = torch.cuda.get_device_name() if cuda else f"{cpu_name()}, {torch.get_num_threads()} threads"
    print(f"{machine}, torch {torch.__version__}, {date.today()}; weights {options['weights']}\n")
    print(markdown(lines))


if __name__ == "__main__":
    main()

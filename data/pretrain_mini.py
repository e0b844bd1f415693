"""Pretrains `mini` on the concepts of the sticker bank that are not targets, drawn by Fluent and Noto.

    python data/pretrain_mini.py --out mini-work --minutes 46      # cosine over a time budget
    python data/pretrain_mini.py --out mini-work --epochs 18       # the same numbers on every run

The composites are made once, in parallel, into `--out`; a stopped run goes on from its checkpoint when
started again with the same folder. Writes `log.csv`, `checkpoint.pt`, `report.json` and `mini.safetensors`
(half precision) there.
"""

import argparse
import csv
import json
import math
import multiprocessing
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from spgca_lab.backbones.mini import mini_resnet
from spgca_lab.data.augment import center_crop, random_crop_flip, stored_size
from spgca_lab.data.sticker_bank import load_bank
from spgca_lab.data.stickers import SPLITS, compose_sticker

ARTISTS = ("fluent", "noto")
IMAGE_SIZE = 64
MEAN, STD = 127.5, 64.0
HELDOUT_PER_CLASS = 4
FIELDS = ("epoch", "images_seen", "lr", "loss", "train_top1", "heldout_top1", "heldout_top5", "seconds")


def compose_block(job):
    """Pictures `index` of classes `first` … `last`, written to a place of the shared array."""
    file, shape, seed, split, first, last = job
    bank = load_bank()
    pictures = np.memmap(file, dtype=np.uint8, mode="r+", shape=shape)
    for label in range(first, last):
        for index in range(shape[1]):
            random = np.random.RandomState([seed, SPLITS[split], label, index])
            artist = ARTISTS[index % len(ARTISTS)]
            picture, _ = compose_sticker(bank, random, bank.others[label], artist, shape[-1])
            pictures[label, index] = picture.transpose(2, 0, 1)


def composites(out, split, per_class, classes, seed, workers):
    """uint8 tensor [classes · per_class, 3, s, s] and labels; made once and kept in `out`."""
    size = stored_size(IMAGE_SIZE)
    shape = (classes, per_class, 3, size, size)
    file = out / f"{split}-{classes}x{per_class}-{seed}.uint8"
    if not file.exists():
        started, part = time.time(), file.with_suffix(".part")
        np.memmap(part, dtype=np.uint8, mode="w+", shape=shape).flush()
        jobs = [(part, shape, seed, split, k, min(k + 8, shape[0])) for k in range(0, shape[0], 8)]
        if workers == 1:
            for job in jobs:
                compose_block(job)
        else:
            with multiprocessing.get_context("spawn").Pool(workers) as pool:
                pool.map(compose_block, jobs, chunksize=1)
        part.replace(file)
        print(f"{shape[0] * per_class} {split} composites in {time.time() - started:.0f} s", flush=True)
    pictures = torch.from_numpy(np.fromfile(file, dtype=np.uint8)).reshape(-1, *shape[2:])
    return pictures, torch.arange(shape[0]).repeat_interleave(per_class)


def prepare(images):
    """Normalised network input."""
    images = images.to(torch.float32).sub_(MEAN).div_(STD)
    return images.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(model, pictures, labels, bf16):
    """Top-1 and top-5 on centre crops, in percent."""
    model.eval()
    top1 = top5 = 0
    for start in range(0, len(pictures), 256):
        batch = prepare(center_crop(pictures[start : start + 256], IMAGE_SIZE))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            best = model(batch).float().topk(5).indices
        hits = best == labels[start : start + 256, None]
        top1, top5 = top1 + int(hits[:, 0].sum()), top5 + int(hits.sum())
    model.train()
    return 100 * top1 / len(pictures), 100 * top5 / len(pictures)


def learning_rate(progress, peak):
    """Linear warm-up over the first 5 %, then cosine to zero."""
    warm = 0.05
    if progress < warm:
        return peak * (0.02 + 0.98 * progress / warm)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warm) / (1 - warm))))


def write_atomically(file, write):
    """Write beside the file, then put it in its place."""
    part = file.with_name(file.name + ".part")
    write(part)
    part.replace(file)


def export(out, model, heldout, report):
    """`mini.safetensors` in half precision and `report.json`, with the accuracy of the rounded weights."""
    half = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    rounded = mini_resnet(len(report["classes"]))
    rounded.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in half.items()})
    rounded = rounded.to(memory_format=torch.channels_last)
    top1, top5 = accuracy(rounded, *heldout, bf16=False)
    report = {**report, "heldout_top1": round(top1, 2), "heldout_top5": round(top5, 2)}
    half = {name: value.contiguous() for name, value in half.items()}
    write_atomically(out / "mini.safetensors", lambda part: (save_file(half, part), part.chmod(0o644)))
    text = json.dumps(report, indent=1) + "\n"
    write_atomically(out / "report.json", lambda part: part.write_text(text))
    return report


def cpu_name():
    """The processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def one_epoch(model, optimiser, data, args, epoch, clock):
    """One pass; returns summed loss, hits, pictures, last learning rate and the share of the budget spent."""
    pictures, labels = data
    steps = len(pictures) // args.batch
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(args.seed * 4093 + epoch))
    places = torch.Generator().manual_seed(args.seed * 8191 + epoch)
    total, hits, count, lr, progress = 0.0, 0, 0, 0.0, 0.0
    for step in range(steps):
        progress = clock() / (60 * args.minutes) if args.minutes else (epoch + step / steps) / args.epochs
        if progress >= 1:
            break
        lr = learning_rate(progress, args.lr)
        for group in optimiser.param_groups:
            group["lr"] = lr
        chosen = order[step * args.batch : (step + 1) * args.batch]
        batch, truth = prepare(random_crop_flip(pictures[chosen], IMAGE_SIZE, places)), labels[chosen]
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            logits = model(batch)
        loss = functional.cross_entropy(logits.float(), truth, label_smoothing=args.smoothing)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total, count = total + loss.item() * len(chosen), count + len(chosen)
        hits += int((logits.detach().argmax(1) == truth).sum())
        if step % 100 == 99:
            print(
                f"{clock():6.0f} s  epoch {epoch}  {total / count:.3f}  {100 * hits / count:.1f} %",
                flush=True,
            )
    return total, hits, count, lr, progress


def settings(args, model, classes, composites):
    """What the report says of the run whatever its results."""
    return {
        "composites": composites,
        "seed": args.seed,
        "batch": args.batch,
        "peak_lr": args.lr,
        "weight_decay": args.decay,
        "label_smoothing": args.smoothing,
        "budget": f"{args.minutes} minutes" if args.minutes else f"{args.epochs} epochs",
        "precision": "bfloat16 autocast" if args.bf16 else "float32",
        "artists": list(ARTISTS),
        "image_size": IMAGE_SIZE,
        "mean": [MEAN] * 3,
        "std": [STD] * 3,
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "threads": args.threads,
        "classes": classes,
    }


def write_log(file, rows):
    """All epochs so far."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows([int(row[0]), int(row[1]), *row[2:]] for row in rows)


def run(args):
    """Train until the budget is spent; returns the report."""
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    classes = [concept.name for concept in load_bank().others[: args.classes]]
    heldout = composites(out, "heldout", HELDOUT_PER_CLASS, len(classes), args.seed, args.threads)
    data = composites(out, "pretrain", args.per_class, len(classes), args.seed, args.threads)
    model = mini_resnet(len(classes)).to(memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.SGD(
        [{"params": decayed, "weight_decay": args.decay}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr,
        momentum=0.9,
        nesterov=True,
    )
    epoch, seen, spent, rows = 0, 0, 0.0, []
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        epoch, seen, spent, rows = state["epoch"], state["seen"], state["spent"], state["rows"]
        print(f"going on after epoch {epoch}", flush=True)
    started = time.time() - spent
    ended = spent >= 60 * args.minutes if args.minutes else epoch >= args.epochs
    if ended:
        return json.loads((out / "report.json").read_text())
    while not ended:
        total, hits, count, lr, progress = one_epoch(
            model, optimiser, data, args, epoch, lambda: time.time() - started
        )
        epoch, seen = epoch + 1, seen + count
        ended = progress >= 1 or (not args.minutes and epoch >= args.epochs)
        top1, top5 = accuracy(model, *heldout, bf16=args.bf16)
        spent = time.time() - started
        loss, hit = total / max(count, 1), 100 * hits / max(count, 1)
        rows.append([round(float(v), 5) for v in (epoch, seen, lr, loss, hit, top1, top5, spent)])
        write_log(out / "log.csv", rows)
        print(f"epoch {epoch}: held-out top-1 {top1:.2f} %, top-5 {top5:.2f} %, {spent:.0f} s", flush=True)
        report = {
            "state": "finished" if ended else "running",
            "heldout_top1": None,
            "heldout_top5": None,
            "heldout_pictures": len(heldout[0]),
            "train_top1": round(hit, 2),
            "train_loss": round(loss, 4),
            "epochs": epoch,
            "images_seen": seen,
            "wall_seconds": round(spent),
        }
        report = export(out, model, heldout, report | settings(args, model, classes, len(data[0])))
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
        state |= {"epoch": epoch, "seen": seen, "spent": spent, "rows": rows}
        write_atomically(checkpoint, lambda part, state=state: torch.save(state, part))
    return report


def main(argv=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="working folder; give it again to go on")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, default=0.0, help="time for training")
    budget.add_argument("--epochs", type=int, default=0, help="passes over the composites")
    parser.add_argument("--per-class", type=int, default=72, help="composites a class")
    parser.add_argument(
        "--classes", type=int, default=None, help="the first N concepts only, for a quick try"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.1, help="peak learning rate")
    parser.add_argument(
        "--decay", type=float, default=1e-4, help="weight decay of weights, not of biases and norms"
    )
    parser.add_argument("--smoothing", type=float, default=0.1, help="label smoothing")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    report = run(parser.parse_args(argv))
    shown = ("state", "heldout_top1", "heldout_top5", "train_top1", "images_seen", "wall_seconds")
    print({name: report[name] for name in shown})


if __name__ == "__main__":
    main()

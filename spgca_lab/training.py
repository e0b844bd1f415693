"""fit: train T under a method's stages, one event at a time, into a run folder."""

import copy
import hashlib
import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spgca_lab.backbones import Backbone, load_backbone
from spgca_lab.datasets import ImageSet, center_crop, load_dataset, random_crop_flip
from spgca_lab.events import Done, Evaluation, Event, HandOver, Snapshot, Step
from spgca_lab.features import FeatureTaps
from spgca_lab.methods import Stage
from spgca_lab.objective import Objective, TrainingError
from spgca_lab.protocol import Setup
from spgca_lab.recipe import Recipe
from spgca_lab.runs import RunStore, RunWriter

__all__ = ["TrainingError", "fit", "hand_over", "load_data", "stage_of"]

PROBE = 6
EVAL_BATCH = 100
CHECKPOINTS = 4


def fit(
    recipe: Recipe, store: str | Path | RunStore = "runs", *, device: str | None = None, resume: bool = True
) -> Iterator[Event]:
    r"""Train by `recipe`, yielding what happens and writing a run folder.

    $$L_{Total} = L_{CE}(f(x, W_T), y) + \alpha \cdot L_{penalty} + \beta \cdot WD \qquad (6), (11), (12)$$

    SGD with momentum on T and, where they learn, the attention nets; S frozen in eval mode. Between two stages T's
    backbone becomes the source, with BatchNorm buffers and without its head; T keeps its head, the attention of the
    next stage starts anew and so does the momentum. Accuracies are those of the last iterate.

    Args:
        recipe: what to train.
        store: folder of runs; the run's own folder in it is named after the recipe's hash.
        device: `"cpu"`, `"cuda"`, …; None takes a GPU if there is one.
        resume: go on from the checkpoint of an interrupted run (to the same numbers, bit for bit, on a CPU), and
            answer at once with a finished one. False starts over.

    Yields:
        `Step` after each step, `Evaluation`, `Snapshot`, `HandOver` and at last `Done`.

    Raises:
        TrainingError: when the recipe does not fit the data, or the loss stops being finite.
        AttentionError: when an attention gives weights that are none, naming its class and the tap.

    Source:
        Sec. 3.3 and 4.2 of the paper; details that it leaves open as in the AFA release, see `docs/paper_notes.md`.

    Example:
        >>> for event in fit(Recipe(method="spgca", iterations=4, snapshots=0), store="runs"):  # doctest: +SKIP
        ...     print(event)
    """
    store = store if isinstance(store, RunStore) else RunStore(store)
    writer = RunWriter(store.folder(recipe), recipe)
    if resume and (writer.path / "result.json").exists():
        yield Done(json.loads((writer.path / "result.json").read_text(encoding="utf-8")), writer.path)
        return
    if not resume:
        writer.clear()
    yield from _Run(
        recipe, writer, torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    ).events()


def load_data(recipe: Recipe, image_size: int) -> tuple[ImageSet, ImageSet]:
    """The training and test pictures that a recipe names, for an input of `image_size` pixels.

    Example:
        >>> train, test = load_data(Recipe(per_class=1, test_per_class=1), image_size=64)
        >>> len(train) == len(train.classes)
        True
    """
    return load_dataset(
        recipe.dataset,
        preset=recipe.preset,
        per_class=recipe.per_class,
        test_per_class=recipe.test_per_class,
        image_size=image_size,
        clutter=recipe.clutter,
        seed=recipe.data_seed,
    )


def stage_of(step: int, iterations: int, stages: int) -> int:
    """Index of the stage that step number `step` (from 0) belongs to; stages are of equal length.

    Example:
        >>> [stage_of(step, 9000, 2) for step in (0, 4499, 4500, 8999)]
        [0, 0, 1, 1]
    """
    return step * stages // iterations


def hand_over(target: nn.Module, source: nn.Module, head_t: str, head_s: str) -> None:
    """Send T's weights and BatchNorm buffers back to S, its head excepted (Sec. 3.3).

    Example:
        >>> t, s = (nn.ModuleDict({"body": nn.Linear(2, 2), "fc": nn.Linear(2, n)}) for n in (5, 3))
        >>> hand_over(t, s, "fc", "fc")
        >>> torch.equal(s["body"].weight, t["body"].weight)
        True
    """
    kept = {name: value for name, value in source.state_dict().items() if name.startswith(head_s + ".")}
    sent = {name: value for name, value in target.state_dict().items() if not name.startswith(head_t + ".")}
    source.load_state_dict(sent | kept)


def processor() -> str:
    """What the processor calls itself: equal recipes give equal bits on equal processors.

    Example:
        >>> processor() != ""
        True
    """
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    words = [told[key] for key in ("model name", "cpu family", "model", "stepping") if key in told]
    return " ".join(words) or f"{platform.processor()} {platform.machine()}".strip()


@dataclass
class _Parts:
    """What lives for one stage."""

    index: int
    stage: Stage
    objective: Objective
    optimiser: torch.optim.SGD

    def penalty_state(self) -> dict[str, Tensor]:
        return self.objective.penalty.state_dict() if self.objective.penalty is not None else {}


class _Run:
    def __init__(self, recipe: Recipe, writer: RunWriter, device: torch.device):
        self.recipe, self.writer, self.device = recipe, writer, device
        self.backbone: Backbone = load_backbone(recipe.backbone, weights=recipe.weights)
        self.size = recipe.image_size or self.backbone.image_size
        self.train, self.test = load_data(recipe, self.size)
        if len(self.train) < recipe.batch_size:
            raise TrainingError(
                f"batch_size is {recipe.batch_size}, but {recipe.dataset!r} has only {len(self.train)} training "
                f"pictures: use batch_size={len(self.train)} or less"
            )
        # Channels last is the faster layout for convolutions on CPUs and GPUs alike.
        layout = torch.channels_last
        self.source = (
            copy.deepcopy(self.backbone.model)
            .eval()
            .requires_grad_(False)
            .to(device)
            .to(memory_format=layout)
        )
        head_seed = _derive(recipe.seed, "head")
        self.target = (
            self.backbone.to_target(len(self.train.classes), seed=head_seed)
            .to(device)
            .to(memory_format=layout)
        )
        self.head = self.backbone.head
        self.images, self.labels = self.train.images.to(device), self.train.labels.to(device)
        self.stages = recipe.stages().stages
        self.steps: list[Step] = []
        self.evaluations: list[Evaluation] = []
        self.done = 0
        self.seconds = 0.0
        rows = np.unique(np.linspace(0, len(self.test) - 1, PROBE).round().astype(int))
        self.probe_rows = torch.from_numpy(rows)

    def events(self) -> Iterator[Event]:
        recipe, count = self.recipe, len(self.stages)
        checkpoint = self.writer.read_checkpoint()
        first = 0
        if checkpoint:
            self.done, self.seconds = checkpoint["step"], checkpoint["seconds"]
            first = stage_of(self.done, recipe.iterations, count)
            self.source.load_state_dict(checkpoint["source"])
            self.steps = [Step(**row) for row in json.loads(checkpoint["steps"])]
            self.evaluations = [Evaluation(**row) for row in json.loads(checkpoint["evaluations"])]
            # The stage's penalty is built from T as it was when the stage began: the source's weights.
            hand_over(self.source, self.target, self.head, self.head)
            self.target.get_submodule(self.head).load_state_dict(checkpoint["stage_head"])
        else:
            self._write_probe()
        self.began = time.perf_counter() - self.seconds
        for index in range(first, count):
            start, end = (-(-i * recipe.iterations // count) for i in (index, index + 1))
            if index > 0 and self.done == start:
                hand_over(self.target, self.source, self.head, self.head)
                yield HandOver(start, self.stages[index - 1].name, self.stages[index].name)
            stage_head = copy.deepcopy(self.target.get_submodule(self.head).state_dict())
            parts = self._begin_stage(index)
            if checkpoint and index == first:
                self._restore(parts, checkpoint)
            yield from self._run_stage(parts, start, end, stage_head)
        yield self._finish(parts)

    def _run_stage(
        self, parts: _Parts, start: int, end: int, stage_head: dict[str, Tensor]
    ) -> Iterator[Event]:
        recipe = self.recipe
        evaluate_at = {
            round((k + 1) * recipe.iterations / recipe.evaluations) for k in range(recipe.evaluations)
        }
        save_at = {round((k + 1) * recipe.iterations / CHECKPOINTS) for k in range(CHECKPOINTS)} - {
            recipe.iterations
        }
        kept = max(2, recipe.snapshots // len(self.stages)) if recipe.snapshots else 0
        snap_at = set(np.linspace(start, end, kept).round().astype(int).tolist())
        if start in snap_at and self.done == start:
            yield from self._snapshot(parts)
        while self.done < end:
            event = self._step(parts, first=self.done == start)
            self.done += 1
            self.steps.append(event)
            yield event
            if self.done in snap_at:
                yield from self._snapshot(parts)
            if self.done in evaluate_at:
                evaluation = self._evaluate(parts.stage.name)[0]
                self.evaluations.append(evaluation)
                yield evaluation
            # At a stage's end the next stage's beginning is saved instead, by its own first checkpoint.
            if self.done in save_at and self.done < end:
                self._save(parts, stage_head)

    def _begin_stage(self, index: int) -> _Parts:
        recipe, stage = self.recipe, self.stages[index]
        head = self.target.get_submodule(self.head)
        if stage.trains == "head":
            self.target.requires_grad_(False)
            head.requires_grad_(True)
        else:
            self.target.requires_grad_(True)
        penalty = None
        if stage.penalty is not None:
            x = self._inputs(center_crop(self.images[:2], self.size))
            with torch.no_grad(), FeatureTaps(self.source, self.backbone.taps) as taps:
                self.source(x)
                maps = taps.maps
            setup = Setup(
                maps=maps,
                source=self.source,
                target=self.target,
                head_s=self.head,
                head_t=self.head,
                taps=self.backbone.taps,
                train=self.train,
                preprocess=self.backbone.preprocess,
                image_size=self.size,
                options=recipe.to_dict(),
            )
            with _seeded(_derive(recipe.seed, "attention", index), self.device):
                penalty = stage.penalty.build(setup).to(self.device)
        trained = [p for p in self.target.parameters() if p.requires_grad]
        if penalty is not None:
            trained += [p for p in penalty.parameters() if p.requires_grad]
        optimiser = torch.optim.SGD(trained, lr=recipe.lr, momentum=recipe.momentum)
        objective = Objective(
            source=self.source,
            target=self.target,
            head=self.head,
            taps=self.backbone.taps,
            penalty=penalty,
            alpha=recipe.alphas[index],
            beta=recipe.beta,
            scale=str(recipe.scale),
        )
        return _Parts(index, stage, objective, optimiser)

    def _step(self, parts: _Parts, first: bool) -> Step:
        recipe, step = self.recipe, self.done
        lr = recipe.lr * 0.1 ** sum(step >= round(m * recipe.iterations) for m in recipe.milestones)
        for group in parts.optimiser.param_groups:
            group["lr"] = lr
        rows = self._rows(step).to(self.device)
        generator = torch.Generator().manual_seed(_derive(recipe.seed, "crop", step))
        x = self._inputs(random_crop_flip(self.images[rows], self.size, generator))
        y = self.labels[rows]
        self._train_mode(parts.stage)
        with _seeded(_derive(recipe.seed, "model", step), self.device):
            terms = parts.objective(x, y)
            parts.optimiser.zero_grad(set_to_none=True)
            terms.loss.backward()
        accuracy = 100 * (terms.logits.argmax(dim=1) == y).float().mean()
        scalars = (
            terms.loss,
            terms.cross_entropy,
            terms.penalty,
            terms.decay,
            accuracy,
            *terms.summary.values(),
        )
        values = [float(v) for v in torch.stack([t.detach().float() for t in scalars]).tolist()]
        if not np.isfinite(values[0]):
            raise TrainingError(
                f"the loss is {values[0]} at step {step + 1} of {recipe.iterations} (stage {parts.stage.name!r}): "
                + parts.objective.diverged(terms, scaled=parts.stage.scaled)
            )
        if first:
            parts.objective.check_gradients()
        parts.optimiser.step()
        extra = dict(zip(terms.summary, values[5:], strict=True))
        return Step(
            step=step + 1,
            stage=parts.stage.name,
            loss=values[0],
            cross_entropy=values[1],
            penalty=values[2],
            decay=values[3],
            accuracy=values[4],
            lr=lr,
            extra=extra,
        )

    def _inputs(self, pictures: Tensor) -> Tensor:
        return self.backbone.preprocess(pictures).contiguous(memory_format=torch.channels_last)

    def _train_mode(self, stage: Stage) -> None:
        self.source.eval()
        self.target.train(stage.trains == "all")
        if self.recipe.target_bn == "eval":
            for module in self.target.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _rows(self, step: int) -> Tensor:
        size = self.recipe.batch_size
        epoch, place = divmod(step, len(self.train) // size)
        generator = torch.Generator().manual_seed(_derive(self.recipe.seed, "epoch", epoch))
        return torch.randperm(len(self.train), generator=generator)[place * size : (place + 1) * size]

    @torch.no_grad()
    def _evaluate(self, stage: str) -> tuple[Evaluation, np.ndarray]:
        self.target.eval()
        logits = []
        for batch in self.test.images.split(EVAL_BATCH):
            crops = center_crop(batch.to(self.device), self.size)
            logits.append(self.target(self._inputs(crops)).float().cpu())
        scores, labels = torch.cat(logits), self.test.labels
        predicted = scores.argmax(dim=1)
        top1 = 100 * float((predicted == labels).double().mean())
        return Evaluation(self.done, stage, top1, float(F.cross_entropy(scores, labels))), predicted.numpy()

    @torch.no_grad()
    def _snapshot(self, parts: _Parts) -> Iterator[Snapshot]:
        penalty = parts.objective.penalty
        if penalty is None or not penalty.needs_source:
            return
        self.target.eval()
        crops = center_crop(self.test.images[self.probe_rows].to(self.device), self.size)
        _, state = parts.objective.forward(self._inputs(crops))
        weights = {tap: w.float().cpu().numpy() for tap, w in penalty.weights(state).items()}
        if weights:
            snapshot = Snapshot(self.done, parts.stage.name, penalty.kind, weights)
            self.writer.snapshot(snapshot, parts.index)
            self.writer.rows(self.steps, self.evaluations)
            yield snapshot

    def _write_probe(self) -> None:
        chosen = self.test.subset(self.probe_rows)
        arrays = {
            "images": center_crop(chosen.images, self.size).numpy(),
            "labels": chosen.labels.numpy(),
            "rows": self.probe_rows.numpy(),
            "classes": np.array(self.test.classes),
        }
        if chosen.masks is not None:
            arrays["masks"] = center_crop(chosen.masks[:, None], self.size)[:, 0].numpy()
        self.writer.probe(**arrays)

    def _save(self, parts: _Parts, stage_head: dict[str, Tensor]) -> None:
        self.writer.rows(self.steps, self.evaluations)
        self.writer.checkpoint(
            {
                "step": self.done,
                "seconds": time.perf_counter() - self.began,
                "source": self.source.state_dict(),
                "target": self.target.state_dict(),
                "stage_head": stage_head,
                "penalty": parts.penalty_state(),
                "optimiser": parts.optimiser.state_dict(),
                "steps": json.dumps([asdict(s) for s in self.steps]),
                "evaluations": json.dumps([asdict(e) for e in self.evaluations]),
            }
        )

    def _restore(self, parts: _Parts, checkpoint: dict[str, Any]) -> None:
        self.target.load_state_dict(checkpoint["target"])
        if parts.objective.penalty is not None:
            parts.objective.penalty.load_state_dict(checkpoint["penalty"])
        parts.optimiser.load_state_dict(checkpoint["optimiser"])

    def _finish(self, parts: _Parts) -> Done:
        last, predicted = self._evaluate(parts.stage.name)
        result = {
            "top1": last.top1,
            "cross_entropy": last.cross_entropy,
            "iterations": self.done,
            "train_pictures": len(self.train),
            "test_pictures": len(self.test),
            "classes": len(self.train.classes),
            "image_size": self.size,
            "seconds": round(time.perf_counter() - self.began, 2),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "cpu": processor(),
        }
        self.writer.rows(self.steps, self.evaluations)
        self.writer.predictions(self.test.labels.numpy(), predicted)
        weights = {f"target.{k}": v for k, v in self.target.state_dict().items()}
        weights |= {f"penalty.{k}": v for k, v in parts.penalty_state().items()}
        self.writer.finish(result, weights)
        return Done(result, self.writer.path)


def _derive(seed: int, *keys: object) -> int:
    # A new, unrelated stream for every purpose and step: resuming needs no stored generator state, and methods that
    # share a seed see the same batches and crops, so that their differences are paired.
    return int.from_bytes(hashlib.sha256(repr((seed, *keys)).encode()).digest()[:7], "big")


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    # Dropout and initialisation draw from torch's global generator: use it under a seed, then give it back.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield

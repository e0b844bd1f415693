"""The training loop: a recipe's stages, step by step, as a generator of events that touches no files."""

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from spgca_lab.backbones import Backbone
from spgca_lab.data import ImageSet
from spgca_lab.training.batches import Batches, check_batch, on_device_if_it_fits
from spgca_lab.training.evaluate import EVAL_BATCH, Evaluator
from spgca_lab.training.events import Event, HandOver
from spgca_lab.training.networks import TappedNetwork, hand_over
from spgca_lab.training.recipe import Recipe
from spgca_lab.training.seeding import derive_seed
from spgca_lab.training.speed import SpeedOptions
from spgca_lab.training.stage import Networks, StageTrainer, stage_bounds


def train(
    recipe: Recipe,
    backbone: Backbone,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    device: str | torch.device | None = None,
) -> Iterator[Event]:
    r"""Train T under the recipe's stages and yield events; no file, clock, lock or signal is touched.

    $$L_{Total} = L_{CE}(f(x, W_T), y) + \alpha \cdot L_{penalty} + \beta \cdot WD \qquad (6), (11), (12)$$

    S is frozen in eval mode. Between two stages T becomes the source (see `Training.begin_stage`).

    Args:
        recipe: the run's options; `batch_size` is a number.
        backbone: the source model; a copy is taken.
        train_set: the training images.
        test_set: the images on which accuracy is measured.
        device: where to train; None takes a GPU if there is one.

    Yields:
        `HandOver` between stages, `Snapshot` and `Step`, then `Evaluation` where the recipe asks for it.

    Raises:
        TrainingError: when the recipe does not fit the data, or the loss is no longer finite.
        AttentionError: when an attention returns invalid weights.

    Source:
        Sec. 3.3 and 4.2 of the paper; details that it leaves open as in the AFA release, see `docs/paper_notes.md`.

    Example:
        >>> from spgca_lab import load_backbone, load_dataset
        >>> recipe = Recipe(method="afa", iterations=2, batch_size=8, per_class=1, snapshots=0, evaluations=1)
        >>> train_set, test_set = load_dataset("stickers", per_class=1, test_per_class=1)
        >>> events = list(train(recipe, load_backbone("mini"), train_set, test_set, device="cpu"))
        >>> [type(event).__name__ for event in events]
        ['Step', 'HandOver', 'Step', 'Evaluation']
    """
    training = Training(recipe, backbone, train_set, test_set, device=device)
    try:
        for events in training.moments():
            yield from events
    finally:
        training.close()


class Training:
    """The state of one training, which advances in moments: events after which it can be stopped and saved.

    Args:
        recipe: the run's options; `batch_size` is a number.
        backbone: the source model; a copy is taken.
        train_set: the training images.
        test_set: the images on which accuracy is measured.
        device: where to train; None takes a GPU if there is one.
        speed: how steps are computed; None takes the recipe's `engine`.
        pauses: steps after which a moment must end, beside those of evaluations and snapshots.

    Attributes:
        step: steps taken so far.
        stage: the stage at work, None before the first.
        failed: whether the last step's loss was not finite: T cannot be saved any more.
    """

    def __init__(
        self,
        recipe: Recipe,
        backbone: Backbone,
        train_set: ImageSet,
        test_set: ImageSet,
        *,
        device: str | torch.device | None = None,
        speed: SpeedOptions | None = None,
        pauses: Collection[int] = (),
    ):
        check_batch(recipe, train_set, str(recipe.dataset))
        self.recipe = recipe
        self.networks = _networks(recipe, backbone, train_set, device, speed)
        self.evaluator = Evaluator(
            backbone, test_set, self.networks.image_size, self.networks.device, recipe.probe, EVAL_BATCH
        )
        self.bounds = stage_bounds(recipe.iterations, len(recipe.stages().stages))
        self.step = 0
        self.stage: StageTrainer | None = None
        self.failed = False
        self._evaluations = {
            round((k + 1) * recipe.iterations / recipe.evaluations) for k in range(recipe.evaluations)
        }
        self._pauses = self._evaluations | set(pauses)

    def moments(self) -> Iterator[list[Event]]:
        """Take all steps that are left, and yield the events of one moment after the other.

        Raises:
            TrainingError: when the loss is no longer finite, after the events of the steps before.
        """
        first = self.stage.index if self.stage is not None else 0
        for index in range(first, len(self.bounds) - 1):
            if self.stage is None or self.stage.index < index:
                yield self.begin_stage(index)
            assert self.stage is not None
            while self.step < self.bounds[index + 1]:
                yield from self._advance(self.stage)

    def begin_stage(self, index: int) -> list[Event]:
        """Begin stage number `index`: all that happens at the hand-over, in order (Sec. 3.3).

        1. T's weights and BatchNorm buffers are copied into S; S keeps its own head.
        2. T goes on as it is, head included.
        3. The attention nets start anew, from the recipe's seed.
        4. The optimisers start anew: no momentum is carried over.

        Returns:
            The hand-over, and a snapshot of the attention where one is due.
        """
        events: list[Event] = []
        if index > 0:
            hand_over(self.networks.target, self.networks.source, self.networks.backbone.head)
            names = [stage.name for stage in self.recipe.stages().stages]
            events.append(HandOver(self.step, names[index - 1], names[index]))
        self.stage = StageTrainer(self.recipe, index, self.networks)
        return events + self._snapshot(self.stage)

    def state(self) -> dict[str, Any]:
        """Return all that a resumed training needs; valid between two moments."""
        assert self.stage is not None
        return {
            "step": self.step,
            "stage": self.stage.index,
            "source": self.networks.source.state_dict(),
            **self.stage.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state` before the first moment; the numbers go on bit for bit, on a CPU."""
        source, target, head = self.networks.source, self.networks.target, self.networks.backbone.head
        self.step = state["step"]
        source.load_state_dict(state["source"])
        # The penalty is built from T as the stage began, which is S with T's head of that moment.
        hand_over(source, target, head)
        target.get_submodule(head).load_state_dict(state["stage_head"])
        self.stage = StageTrainer(self.recipe, state["stage"], self.networks)
        self.stage.load_state(dict(state))

    def predictions(self) -> np.ndarray:
        """Return the predictions `[n]` of T on the test images as it is now."""
        assert self.stage is not None
        return self.evaluator.accuracy(self.networks.target, self.step, self.stage.stage.name)[1]

    def close(self) -> None:
        """Remove the hooks from S and T."""
        self.networks.run_source.close()
        self.networks.run_target.close()

    def _advance(self, stage: StageTrainer) -> Iterator[list[Event]]:
        pauses = self._pauses | self._snapshots(stage.index) | {stage.end}
        while True:
            stage.step(self.step)
            self.step += 1
            if stage.must_read or self.step in pauses:
                break
        steps, error = stage.read()
        events: list[Event] = [*steps]
        if error is not None:
            self.failed = True
            if events:
                yield events
            raise error
        events += self._snapshot(stage)
        if self.step in self._evaluations:
            name = stage.stage.name
            events.append(self.evaluator.accuracy(self.networks.target, self.step, name)[0])
        yield events

    def _snapshot(self, stage: StageTrainer) -> list[Event]:
        if self.step not in self._snapshots(stage.index):
            return []
        found = self.evaluator.attention(stage.objective, self.step, stage.stage.name)
        return [] if found is None else [found]

    def _snapshots(self, index: int) -> set[int]:
        if not self.recipe.snapshots:
            return set()
        count = max(2, self.recipe.snapshots // (len(self.bounds) - 1))
        start, end = self.bounds[index : index + 2]
        return set(np.linspace(start, end, count).round().astype(int).tolist())


def _networks(
    recipe: Recipe,
    backbone: Backbone,
    train_set: ImageSet,
    device: str | torch.device | None,
    speed: SpeedOptions | None,
) -> Networks:
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    speed = speed or SpeedOptions.of(recipe.engine, where)
    size = recipe.image_size or backbone.image_size
    source = copy.deepcopy(backbone.model).eval().requires_grad_(False)
    source = source.to(where).to(memory_format=speed.layout)  # type: ignore[call-overload]
    target = backbone.to_target(len(train_set.classes), seed=derive_seed(recipe.seed, "head"))
    target = target.to(where).to(memory_format=speed.layout)  # type: ignore[call-overload]
    head, taps = backbone.head, backbone.taps
    return Networks(
        backbone=backbone,
        source=source,
        target=target,
        train=train_set,
        image_size=size,
        device=where,
        speed=speed,
        batches=Batches(recipe, on_device_if_it_fits(train_set, where), backbone, size, where, speed.layout),
        run_source=TappedNetwork(source, taps, head, compiled=speed.compile_source),
        run_target=TappedNetwork(target, taps, head, compiled=speed.compile_target),
    )

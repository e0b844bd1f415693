"""What LossExplorer measures: its state, the pictures and networks behind it, and numbers that are kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from spgca_lab.analysis.gradients import StageTerms
from spgca_lab.analysis.loss_terms import Networks, StageStart
from spgca_lab.backbones import Backbone, load_backbone
from spgca_lab.data import ImageSet, load_dataset
from spgca_lab.data.location import data_dir
from spgca_lab.explorers.base import State
from spgca_lab.explorers.method_orders import reduces
from spgca_lab.explorers.nets import one_thread
from spgca_lab.explorers.parts import ExplorerError
from spgca_lab.plots.style import method_label
from spgca_lab.regularizers.delta import FilterImportance
from spgca_lab.regularizers.registry import Stage, resolve_method
from spgca_lab.regularizers.taps import FeatureTaps
from spgca_lab.runs.fit import load_data
from spgca_lab.runs.load import load_run
from spgca_lab.runs.store import Run, RunStore
from spgca_lab.training.batches import network_inputs, training_batch
from spgca_lab.training.recipe import Recipe
from spgca_lab.training.seeding import derive

__all__ = ["DELTA_PICTURES", "SMALL", "LossData", "LossState", "needs_filters"]

SMALL = 100  # pixels of an input on which a batch of 16 still answers at once
DELTA_PICTURES = 4


@dataclass(frozen=True)
class LossState(State):
    """Method (stages in their order), α, β, r, scale, mode of T's BatchNorm, T, and the batch.

    `alpha` is None for what a `Recipe` of this method and scale takes by itself, so it follows them when they
    change. As soon as the reader sets a number (or one a stage), that number stays; None gives the recipe's back.
    `scale`, `target` (`"start"`: S with a fresh head, `"trained"`) and `batch_size` of None are the explorer's
    choice at the beginning. `place` is where the pictures come from: `""` or a folder. `batch` is the number of
    the step, `seed` a recipe's: of head, attention nets, order and crops.
    """

    method: str = "spgca"
    alpha: float | tuple[float, ...] | None = None
    beta: float = 0.01
    r: int = 4
    scale: str | None = None
    target_bn: str = "train"
    target: str | None = None
    place: str = ""
    batch_size: int | None = None
    batch: int = 0
    seed: int = 0


class LossData:
    """Networks, pictures and measurements for any `LossState`; what was measured lately is kept.

    Args:
        backbone: S, or its name; with a run the run's.
        dataset: a name, a folder, an `ImageSet`, or None for the run's, else the stickers.
        target: a trained T, or the finished run that made it. Without one, on `mini` and stickers, the shipped run.

    Raises:
        BackboneError: for an unknown backbone.
        RunError: when the run has no weights.
        TapError: when `target` lacks a tap.
        ExplorerError: when it lacks the head.

    Example:
        >>> data = LossData("mini", None, None)
        >>> data.unfit(data.pictures("")), data.run.recipe.method
        ('', 'spgca')
    """

    def __init__(
        self,
        backbone: str | Backbone,
        dataset: str | Path | ImageSet | None,
        target: nn.Module | Run | None,
    ):
        own_run = target if isinstance(target, Run) else None
        run = own_run
        if target is None and backbone == "mini" and dataset in (None, "stickers"):
            run = _shipped()
        self.dataset, self.run = dataset, run
        self.target: nn.Module | None = None
        self.target_classes: list[str] | None = None
        if run is not None:
            trained = load_run(run)
            self.backbone, self.target, self.target_classes = (
                trained.backbone,
                trained.target,
                trained.classes,
            )
        else:
            self.backbone = load_backbone(backbone) if isinstance(backbone, str) else backbone
            self.target = target if isinstance(target, nn.Module) else None
        if self.target is not None:
            _fits(self.target, self.backbone)
        size = run.recipe.image_size if run is not None else None
        if isinstance(dataset, ImageSet):
            size = dataset.image_size
        self.image_size = size or self.backbone.image_size
        plain = Recipe(backbone=self.backbone.name, weights=self.backbone.weights, image_size=size)
        self.base = own_run.recipe if own_run is not None else plain
        self.channels = sum(shape[0] for shape in self.backbone.tap_shapes(self.image_size).values())
        self.pictures = lru_cache(maxsize=3)(self._pictures)
        self._batch = lru_cache(maxsize=4)(self._new_batch)
        self._networks = lru_cache(maxsize=2)(self._new_networks)
        self._begun = lru_cache(maxsize=8)(self._begin)
        self._terms = lru_cache(maxsize=48)(self._measure)
        self.first = self.filled(_state_of(self.base))

    @property
    def measurements(self) -> int:
        """How often a batch was measured."""
        return self._terms.cache_info().misses

    def batch(self, state: LossState) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures uint8 `[b, 3, s, s]`, what the networks get of them, and labels `[b]`."""
        return self._batch(state.place, int(state.batch_size or 0), state.batch, state.seed)

    def terms(self, state: LossState) -> tuple[StageTerms, ...]:
        """Loss terms and gradients of the method's stages; α and β only rescale them, so they compute nothing."""
        return self._terms(replace(state, alpha=None, beta=LossState.beta))

    def forget(self) -> None:
        """Measure anew what is asked for next: a reader's class may have changed under its name."""
        self._begun.cache_clear()
        self._terms.cache_clear()

    def about_target(self, state: LossState) -> str:
        """Where T comes from, in words."""
        if state.target == "start":
            return f"{self.backbone.name} with a fresh head, as a training starts"
        if self.run is None:
            return "the module that was given"
        told = (self.run.result or {}).get("top1")
        top1 = f", top-1 {told:.1f} %" if told is not None else ""
        return f"trained by {method_label(str(self.run.recipe.method))} (run {self.run.path.name}{top1})"

    def recipe(self, state: LossState) -> Recipe:
        """What trains with the state's values.

        Raises:
            RecipeError: naming a value that no recipe has.
        """
        names = ("method", "alpha", "beta", "r", "scale", "target_bn", "batch_size", "seed")
        own: dict[str, Any] = {name: getattr(state, name) for name in names}
        where = state.place or ("" if isinstance(self.dataset, ImageSet) else self.dataset or "")
        if where:
            plain = {
                "preset": "near",
                "clutter": None,
                "per_class": None,
                "test_per_class": None,
                "data_seed": 0,
            }
            own |= {"dataset": str(where), **plain}
        return self.base.replace(**own)

    def filled(self, state: LossState) -> LossState:
        """A state with the explorer's choice of what is None: scale, T and batch size."""
        small = self.image_size <= SMALL
        size = state.batch_size
        if size is None:
            size = min(16 if small else 4, max(len(self.pictures(state.place)), 2))
        target = state.target or ("start" if self.unfit(self.pictures(state.place)) else "trained")
        return replace(state, scale=state.scale or self.base.scale, target=target, batch_size=size)

    def unfit(self, train: ImageSet) -> str:
        """Why the trained T does not answer in these pictures' classes; empty where it does."""
        if self.target is None:
            return "no trained T was given"
        if self.target_classes is not None:
            own = self.target_classes
            same = own == list(train.classes)
            return "" if same else f"it knows {len(own)} classes of its own, not those of {train.name!r}"
        outputs = len(next(self.target.get_submodule(self.backbone.head).parameters()))
        count = len(train.classes)
        return (
            "" if outputs == count else f"its head has {outputs} outputs, {train.name!r} has {count} classes"
        )

    def _pictures(self, place: str) -> ImageSet:
        size = self.image_size
        try:
            if place:
                train = load_dataset(place, test_per_class=1, image_size=size)[0]
            elif isinstance(self.dataset, ImageSet):
                train = self.dataset
            elif self.dataset is None:
                train = load_data(self.base.replace(test_per_class=1), size)[0]
            else:
                train = load_dataset(self.dataset, test_per_class=1, image_size=size)[0]
        except (ValueError, OSError) as error:
            raise ExplorerError(str(error)) from error
        if len(train.classes) < 2:
            raise ExplorerError(
                f"{place or train.name!r} has one class, {', '.join(map(repr, train.classes))}: cross-entropy (Eq. 6) "
                "needs at least two, so give a folder with a folder a class"
            )
        return train

    def _new_batch(self, place: str, size: int, number: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        recipe = Recipe(batch_size=size, seed=seed)
        pictures, labels = training_batch(recipe, self.pictures(place), self.image_size, number)
        return pictures, network_inputs(self.backbone, pictures), labels

    def _new_networks(self, target: str, place: str, seed: int, few: bool) -> Networks:
        train = self.pictures(place)
        if target == "trained" and self.target is not None:
            model = self.target
        else:
            model = self.backbone.to_target(len(train.classes), seed=derive(seed, "head"))
        if few:
            train = train.subset(np.linspace(0, len(train) - 1, DELTA_PICTURES).round().astype(int).tolist())
        return Networks(self.backbone, model, train, self.image_size)

    def _begin(self, state: LossState) -> tuple[Networks, list[StageStart]]:
        seed = state.seed if state.target == "start" else 0
        few = needs_filters(resolve_method(state.method).stages)
        networks = self._networks(str(state.target), state.place, seed, few)
        return networks, networks.begin(self.recipe(state))

    def _measure(self, state: LossState) -> tuple[StageTerms, ...]:
        _, x, y = self.batch(state)
        with one_thread():
            networks, starts = self._begun(_as_built(state))
            starts = [start.scaled(str(state.scale)) for start in starts]
            noise = derive(state.seed, "model", state.batch)
            return networks.measure(starts, x, y, target_bn=state.target_bn, seed=noise)


def _fits(target: nn.Module, backbone: Backbone) -> None:
    FeatureTaps(target, backbone.taps)  # names a tap that is missing, and near ones
    if backbone.head not in dict(target.named_modules()):
        raise ExplorerError(
            f"target has no module {backbone.head!r}, which is the head of {backbone.name!r}: "
            "make it with backbone.to_target(classes, seed)"
        )


def _shipped() -> Run | None:
    """The run that the lab was shipped with its weights, trained from `mini` on stickers."""
    runs = RunStore(data_dir() / "runs").find(method="spgca", backbone="mini", dataset="stickers")
    return next((run for run in runs if (run.path / "weights.safetensors").exists()), None)


def _state_of(recipe: Recipe) -> LossState:
    alpha = None if recipe.alpha == recipe.replace(alpha=None).alpha else recipe.alpha
    return LossState(
        method=str(recipe.method),
        alpha=alpha,
        beta=recipe.beta,
        r=recipe.r,
        scale=recipe.scale,
        target_bn=recipe.target_bn,
        seed=recipe.seed,
    )


def _as_built(state: LossState) -> LossState:
    # What the penalties are built from: of the built-in ones it is known, of a reader's it may be all.
    stages = resolve_method(state.method).stages
    if any(s.penalty is not None and not s.penalty.__module__.startswith("spgca_lab.") for s in stages):
        return replace(state, batch=0)
    return LossState(
        method=state.method,
        r=state.r if reduces(state.method) else LossState.r,
        scale="relative",
        target=state.target,
        place=state.place,
        batch_size=2,
        seed=state.seed,
    )


def needs_filters(stages: Sequence[Stage]) -> bool:
    """Whether DELTA is among the stages, which zeroes every filter before it begins.

    Example:
        >>> needs_filters(resolve_method("delta").stages), needs_filters(resolve_method("spgca").stages)
        (True, False)
    """
    return any(stage.penalty is FilterImportance for stage in stages)

"""Measurements of LossExplorer: its state, the images and networks behind it, and cached loss terms."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from spgca_lab.analysis.gradients import BatchProbe, StageStart, StageTerms
from spgca_lab.backbones import Backbone, load_backbone
from spgca_lab.data import ImageSet, load_dataset
from spgca_lab.data.shipped import data_dir
from spgca_lab.explorers.base import State
from spgca_lab.explorers.controls import ExplorerError
from spgca_lab.explorers.forward import one_thread
from spgca_lab.explorers.method_orders import uses_reduction
from spgca_lab.plots.style import method_label
from spgca_lab.regularizers.delta import FilterImportance
from spgca_lab.regularizers.registry import Stage, is_built_in, resolve_method
from spgca_lab.regularizers.taps import FeatureTaps
from spgca_lab.runs.inputs import load_data
from spgca_lab.runs.load import load_run
from spgca_lab.runs.store import Run, RunStore
from spgca_lab.training.batches import network_inputs, training_batch
from spgca_lab.training.recipe import Recipe
from spgca_lab.training.seeding import derive_seed

SMALL = 100  # pixels of an input on which a batch of 16 is measured without delay
DELTA_IMAGES = 4


@dataclass(frozen=True)
class LossState(State):
    """Method (stages in their order), α, β, r, scale, BatchNorm mode of T, T, and the batch.

    `alpha` is a number, or one per stage; None follows the default of a `Recipe` with this method and scale. `scale`,
    `target` (`"start"`: S with a fresh head, `"trained"`) and `batch_size` of None are chosen by the explorer. `place`
    is where images come from: `""` or a folder. `batch` is the number of the step, `seed` a recipe's: of head,
    attention nets, order and crops.
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
    """BatchProbe, images and cached measurements for any `LossState`, with arguments as in `LossExplorer`."""

    def __init__(
        self,
        backbone: str | Backbone,
        dataset: str | Path | ImageSet | None,
        target: nn.Module | Run | None,
    ):
        run = own_run = target if isinstance(target, Run) else None
        if target is None and backbone == "mini" and dataset in (None, "stickers"):
            run = _shipped_run()
        self.dataset, self.run = dataset, run
        self.target = target if isinstance(target, nn.Module) else None
        self.target_classes: list[str] | None = None
        if run is not None:
            nets = load_run(run)
            self.backbone, self.target, self.target_classes = nets.backbone, nets.target, nets.classes
        else:
            self.backbone = load_backbone(backbone) if isinstance(backbone, str) else backbone
        if self.target is not None:
            _check_target(self.target, self.backbone)
        size = run.recipe.image_size if run is not None else None
        if isinstance(dataset, ImageSet):
            size = dataset.image_size
        self.image_size = size or self.backbone.image_size
        plain = Recipe(backbone=self.backbone.name, weights=self.backbone.weights, image_size=size)
        self.base = own_run.recipe if own_run is not None else plain
        self.channels = sum(shape[0] for shape in self.backbone.tap_shapes(self.image_size).values())
        self.images = lru_cache(maxsize=3)(self._images)
        self._batch = lru_cache(maxsize=4)(self._new_batch)
        self._networks = lru_cache(maxsize=2)(self._new_networks)
        self._begun = lru_cache(maxsize=8)(self._begin)
        self._terms = lru_cache(maxsize=48)(self._measure)
        self.first = self.completed(_state_of(self.base))

    @property
    def measurements(self) -> int:
        """Number of batches measured so far."""
        return self._terms.cache_info().misses

    def batch(self, state: LossState) -> tuple[Tensor, Tensor, Tensor]:
        """Return images uint8 `[b, 3, s, s]`, the networks' inputs, and labels `[b]`."""
        return self._batch(state.place, int(state.batch_size or 0), state.batch, state.seed)

    def terms(self, state: LossState) -> tuple[StageTerms, ...]:
        """Return loss terms and gradients of the method's stages; α and β only rescale them, at no cost."""
        return self._terms(replace(state, alpha=None, beta=LossState.beta))

    def clear(self) -> None:
        """Empty the cache of measurements: a reader's class may have changed under its name."""
        self._begun.cache_clear()
        self._terms.cache_clear()

    def about_target(self, state: LossState) -> str:
        """Return the origin of T."""
        if state.target == "start":
            return f"{self.backbone.name} with a fresh head, as a training starts"
        if self.run is None:
            return "the module that was given"
        result, method = self.run.result, method_label(str(self.run.recipe.method))
        top1 = f", top-1 {result['top1']:.1f} %" if result and "top1" in result else ""
        return f"trained by {method} (run {self.run.path.name}{top1})"

    def recipe(self, state: LossState) -> Recipe:
        """Return the recipe with the state's values, or raise `RecipeError`."""
        names = ("method", "alpha", "beta", "r", "scale", "target_bn", "batch_size", "seed")
        fields: dict[str, Any] = {name: getattr(state, name) for name in names}
        where = state.place or ("" if isinstance(self.dataset, ImageSet) else self.dataset or "")
        if where:
            stickers = ("preset", "clutter", "per_class", "test_per_class", "data_seed")
            fields |= {name: Recipe.__dataclass_fields__[name].default for name in stickers}
            fields["dataset"] = str(where)
        return self.base.replace(**fields)

    def completed(self, state: LossState) -> LossState:
        """Return a state with scale, T and batch size chosen where they are None."""
        size = state.batch_size
        if size is None:
            usual = 16 if self.image_size <= SMALL else 4
            size = min(usual, max(len(self.images(state.place)), 2))
        target = state.target or ("start" if self.target_problem(state.place) else "trained")
        return replace(state, scale=state.scale or self.base.scale, target=target, batch_size=size)

    def target_problem(self, place: str) -> str:
        """Return why the trained T does not predict the classes of these images; empty where it does."""
        if self.target is None:
            return "no trained T was given"
        train = self.images(place)
        if self.target_classes is not None:
            count, same = len(self.target_classes), self.target_classes == list(train.classes)
            return "" if same else f"it predicts {count} classes of its own, not those of {train.name!r}"
        outputs = len(next(self.target.get_submodule(self.backbone.head).parameters()))
        given = f"its head has {outputs} outputs, {train.name!r} has {len(train.classes)} classes"
        return "" if outputs == len(train.classes) else given

    def _images(self, place: str) -> ImageSet:
        size, source = self.image_size, place or self.dataset
        try:
            if isinstance(source, ImageSet):
                train = source
            elif source is None:
                train = load_data(self.base.replace(test_per_class=1), size)[0]
            else:
                train = load_dataset(source, test_per_class=1, image_size=size)[0]
        except (ValueError, OSError) as error:
            raise ExplorerError(str(error)) from error
        if len(train.classes) < 2:
            raise ExplorerError(
                f"{place or train.name!r} has one class, {', '.join(map(repr, train.classes))}: cross-entropy (Eq. 6) "
                "needs at least two, so give a folder with one folder per class"
            )
        return train

    def _new_batch(self, place: str, size: int, number: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        recipe = Recipe(batch_size=size, seed=seed)
        images, labels = training_batch(recipe, self.images(place), self.image_size, number)
        return images, network_inputs(self.backbone, images), labels

    def _new_networks(self, target: str, place: str, seed: int, few: bool) -> BatchProbe:
        train, model = self.images(place), self.target
        if target != "trained" or model is None:
            model = self.backbone.to_target(len(train.classes), seed=derive_seed(seed, "head"))
        if few:
            train = train.subset(np.linspace(0, len(train) - 1, DELTA_IMAGES).round().astype(int).tolist())
        return BatchProbe(self.backbone, model, train, self.image_size)

    def _begin(self, state: LossState) -> tuple[BatchProbe, list[StageStart]]:
        seed = state.seed if state.target == "start" else 0
        few = needs_filters(resolve_method(state.method).stages)
        networks = self._networks(str(state.target), state.place, seed, few)
        return networks, networks.begin(self.recipe(state))

    def _measure(self, state: LossState) -> tuple[StageTerms, ...]:
        _, x, y = self.batch(state)
        with one_thread():
            networks, starts = self._begun(_build_state(state))
            starts = [start.scaled(str(state.scale)) for start in starts]
            noise = derive_seed(state.seed, "model", state.batch)
            return networks.measure(starts, x, y, target_bn=state.target_bn, seed=noise)


def needs_filters(stages: Sequence[Stage]) -> bool:
    """Return True if DELTA, which zeroes every filter before it begins, is among the stages."""
    return any(stage.penalty is FilterImportance for stage in stages)


def _check_target(target: nn.Module, backbone: Backbone) -> None:
    FeatureTaps(target, backbone.taps)  # raises TapError with the missing tap and near names
    if backbone.head not in dict(target.named_modules()):
        raise ExplorerError(
            f"target has no module {backbone.head!r}, which is the head of {backbone.name!r}: "
            "make it with backbone.to_target(classes, seed)"
        )


def _shipped_run() -> Run | None:
    runs = RunStore(data_dir() / "runs").find(method="spgca", backbone="mini", dataset="stickers")
    return next((run for run in runs if (run.path / "weights.safetensors").exists()), None)


def _state_of(recipe: Recipe) -> LossState:
    names = ("beta", "r", "scale", "target_bn", "seed")
    alpha = None if recipe.alpha == recipe.replace(alpha=None).alpha else recipe.alpha
    fields = {name: getattr(recipe, name) for name in names}
    return LossState(method=str(recipe.method), alpha=alpha, **fields)


def _build_state(state: LossState) -> LossState:
    """Return the part of a state that the penalties are built from; a reader's own may use all of it."""
    penalties = [stage.penalty for stage in resolve_method(state.method).stages]
    if any(penalty is not None and not is_built_in(penalty) for penalty in penalties):
        return replace(state, batch=0)
    r = state.r if uses_reduction(state.method) else LossState.r
    plain = LossState(state.method, r=r, scale="relative", batch_size=2)
    return replace(plain, target=state.target, place=state.place, seed=state.seed)

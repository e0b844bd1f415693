"""What a training is built from: its pictures, a stage's penalty, its networks' modes, and the hand-over."""

import torch
from torch import Tensor, nn

from spgca_lab.backbones import Backbone
from spgca_lab.data import ImageSet, center_crop, hold_out, load_dataset
from spgca_lab.regularizers.base import Penalty, Setup
from spgca_lab.regularizers.taps import FeatureTaps
from spgca_lab.training.batches import network_inputs
from spgca_lab.training.recipe import Recipe
from spgca_lab.training.seeding import derive, seeded

__all__ = [
    "build_penalty",
    "dry_maps",
    "hand_over",
    "load_data",
    "stage_of",
    "target_mode",
]


def load_data(recipe: Recipe, image_size: int) -> tuple[ImageSet, ImageSet]:
    """The pictures that a recipe trains on and those that it is measured on, for an input of `image_size` pixels.

    The second are the test pictures, or with `validation` what is held out of the training pictures in their place.

    Example:
        >>> train, test = load_data(Recipe(per_class=1, test_per_class=1), image_size=64)
        >>> len(train) == len(train.classes)
        True
    """
    train, test = load_dataset(
        recipe.dataset,
        preset=recipe.preset,
        per_class=recipe.per_class,
        test_per_class=recipe.test_per_class,
        image_size=image_size,
        clutter=recipe.clutter,
        seed=recipe.data_seed,
    )
    return hold_out(train, recipe.validation, recipe.data_seed) if recipe.validation else (train, test)


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


def target_mode(target: nn.Module, trains: str, target_bn: str) -> None:
    """Put T into the mode that a stage trains it in.

    Args:
        target: T.
        trains: `"all"` of T, or only its `"head"`, whose backbone then stays in eval mode.
        target_bn: `"train"`, or `"eval"` for all BatchNorm layers.

    Example:
        >>> t = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        >>> target_mode(t, "all", "eval")
        >>> t[0].training, t[1].training
        (True, False)
    """
    target.train(trains == "all")
    if target_bn == "eval":
        for module in target.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def dry_maps(backbone: Backbone, source: nn.Module, images: Tensor, image_size: int) -> dict[str, Tensor]:
    """FM_S of two pictures, which gives a penalty every size.

    Args:
        backbone: for taps and preprocessing.
        source: S of the stage.
        images: uint8 `[n, 3, h, w]`, on the device of S.
        image_size: side of the input in pixels.
    """
    with torch.no_grad(), FeatureTaps(source, backbone.taps) as taps:
        source(network_inputs(backbone, center_crop(images[:2], image_size)))
        return taps.maps


def build_penalty(
    cls: type[Penalty],
    recipe: Recipe,
    index: int,
    *,
    backbone: Backbone,
    source: nn.Module,
    target: nn.Module,
    train: ImageSet,
    image_size: int,
    maps: dict[str, Tensor],
    sketch: bool = False,
) -> Penalty:
    """A stage's penalty as training builds it: from the recipe's seed, on the device of T.

    Args:
        cls: the penalty's class.
        recipe: what is trained.
        index: of the stage, from 0.
        backbone: for head, taps and preprocessing.
        source: S of the stage.
        target: T as the stage begins.
        train: the training pictures.
        image_size: side of the input in pixels.
        maps: from `dry_maps`.
        sketch: build what takes the same memory, by `Penalty.sketch`.
    """
    setup = Setup(
        maps=maps,
        source=source,
        target=target,
        head_s=backbone.head,
        head_t=backbone.head,
        taps=backbone.taps,
        train=train,
        preprocess=backbone.preprocess,
        image_size=image_size,
        options=recipe.to_dict(),
    )
    with seeded(derive(recipe.seed, "attention", index), setup.device):
        return (cls.sketch if sketch else cls.build)(setup).to(setup.device)

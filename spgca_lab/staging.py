"""What a training is built from and steps on: its pictures and batches, a stage's penalty, its networks' modes."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from spgca_lab.backbones import Backbone
from spgca_lab.datasets import ImageSet, center_crop, hold_out, load_dataset, random_crop_flip
from spgca_lab.features import FeatureTaps
from spgca_lab.objective import TrainingError
from spgca_lab.protocol import Penalty, Setup
from spgca_lab.recipe import Recipe
from spgca_lab.repeat import derive, seeded

__all__ = [
    "build_penalty",
    "check_batch",
    "dry_maps",
    "hand_over",
    "load_data",
    "near",
    "network_inputs",
    "stage_of",
    "target_mode",
    "training_batch",
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


def network_inputs(backbone: Backbone, pictures: Tensor) -> Tensor:
    """Pictures `[b, 3, s, s]` of 0–255 as the networks take them.

    Example:
        >>> from spgca_lab import load_backbone
        >>> network_inputs(load_backbone("mini"), torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).dtype
        torch.float32
    """
    # Channels last is the faster layout for convolutions.
    return backbone.preprocess(pictures).contiguous(memory_format=torch.channels_last)


def check_batch(recipe: Recipe, train: ImageSet, name: str) -> None:
    """Raise `TrainingError` where a batch takes more pictures than there are.

    Example:
        >>> train = ImageSet(torch.zeros(4, 3, 37, 37, dtype=torch.uint8), torch.arange(4), list("abcd"), 32)
        >>> check_batch(Recipe(batch_size=4), train, "four")
    """
    if len(train) < recipe.batch_size:
        raise TrainingError(
            f"batch_size is {recipe.batch_size}, but {name!r} has only {len(train)} training pictures: "
            f"use batch_size={len(train)} or less"
        )


def near(train: ImageSet, device: torch.device) -> ImageSet:
    """The training pictures where batches are cut fastest: in a GPU's memory, if they take under half of what is free.

    Elsewhere they stay as they are, perhaps in a memory map that processes share, and every batch is cut on the CPU.
    Crops are the same either way.

    Args:
        train: the training pictures.
        device: of the models.

    Example:
        >>> train = ImageSet(torch.zeros(4, 3, 37, 37, dtype=torch.uint8), torch.arange(4), list("abcd"), 32)
        >>> near(train, torch.device("cpu")) is train
        True
    """
    if device.type != "cuda" or train.images.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return train
    return replace(train, images=train.images.to(device), labels=train.labels.to(device))


def training_batch(
    recipe: Recipe, train: ImageSet, image_size: int, step: int, part: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Crops and labels that a training by `recipe` sees at step number `step` (from 0).

    Args:
        recipe: for its seed and batch size.
        train: the training pictures, on any device.
        image_size: side of the crops in pixels.
        step: number of the batch.
        part: of the batch, which is drawn whole: together the parts are the batch of one process.

    Returns:
        uint8 `[b, 3, s, s]` and `[b]`.

    Raises:
        TrainingError: when there are fewer pictures than a batch takes.

    Example:
        >>> train = ImageSet(torch.zeros(4, 3, 37, 37, dtype=torch.uint8), torch.arange(4), list("abcd"), 32)
        >>> training_batch(Recipe(batch_size=2), train, 32, step=5)[1].shape
        torch.Size([2])
    """
    check_batch(recipe, train, train.name)
    size = recipe.batch_size
    epoch, place = divmod(step, len(train) // size)
    order = torch.Generator().manual_seed(derive(recipe.seed, "epoch", epoch))
    rows = torch.randperm(len(train), generator=order)[place * size : (place + 1) * size]
    rows = rows.to(train.images.device)
    crop = torch.Generator().manual_seed(derive(recipe.seed, "crop", step))
    return random_crop_flip(train.images[rows], image_size, crop)[part], train.labels[rows[part]]


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
        return cls.build(setup).to(setup.device)

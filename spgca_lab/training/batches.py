"""The batches of a training: which pictures, where they are cut, and how they reach the networks without a wait."""

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from spgca_lab.backbones import Backbone
from spgca_lab.backbones.base import standardise
from spgca_lab.data import ImageSet
from spgca_lab.data.augment import Crops, cut, gather
from spgca_lab.training.compiled import Compiled
from spgca_lab.training.objective import TrainingError
from spgca_lab.training.recipe import Recipe
from spgca_lab.training.seeding import derive

__all__ = ["Batches", "check_batch", "near", "network_inputs", "training_batch"]


def network_inputs(
    backbone: Backbone, pictures: Tensor, layout: torch.memory_format = torch.channels_last
) -> Tensor:
    """Pictures `[b, 3, s, s]` of 0–255 as the networks take them.

    Args:
        backbone: for its preprocessing.
        pictures: uint8, or floating point on the same scale.
        layout: memory format; channels last is the faster one for convolutions.

    Example:
        >>> from spgca_lab import load_backbone
        >>> network_inputs(load_backbone("mini"), torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).dtype
        torch.float32
    """
    return backbone.preprocess(pictures).contiguous(memory_format=layout)


def check_batch(recipe: Recipe, train: ImageSet, name: str) -> None:
    """Raise `TrainingError` where a batch takes more pictures than there are.

    Example:
        >>> train = ImageSet(torch.zeros(4, 3, 37, 37, dtype=torch.uint8), torch.arange(4), list("abcd"), 32)
        >>> check_batch(Recipe(batch_size=4), train, "four")
    """
    if len(train) < recipe.batch:
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
    rows, crops = _draw(recipe, train, image_size, step, part)
    device = train.images.device
    return cut(train.images, crops.to(device), rows.to(device)), train.labels[rows.to(train.labels.device)]


class Batches:
    """The batches that a training steps on, as the networks take them, on their device.

    What a step sees depends on the recipe alone. In a GPU's memory pictures are cut, mirrored and standardised in one
    go; the few numbers that say where are copied without a wait, as whole crops are where the pictures stay outside.

    Args:
        recipe: for its seed and batch size.
        train: the training pictures, perhaps from `near`.
        backbone: whose preprocessing the pictures take.
        image_size: side of the crops in pixels.
        device: of the networks.
        layout: memory format of the result.
        fused: compile the way from stored pictures to inputs, where they are in a GPU's memory.
        part: of each batch, for this process.

    Example:
        >>> from spgca_lab import load_backbone
        >>> train = ImageSet(torch.zeros(4, 3, 37, 37, dtype=torch.uint8), torch.arange(4), list("abcd"), 32)
        >>> batches = Batches(Recipe(batch_size=2), train, load_backbone("mini"), 32, torch.device("cpu"))
        >>> x, y = batches(step=5)
        >>> x.shape, x.dtype, y.shape
        (torch.Size([2, 3, 32, 32]), torch.float32, torch.Size([2]))
    """

    def __init__(
        self,
        recipe: Recipe,
        train: ImageSet,
        backbone: Backbone,
        image_size: int,
        device: torch.device,
        *,
        layout: torch.memory_format = torch.channels_last,
        fused: bool = False,
        part: slice = slice(None),
    ):
        self.recipe, self.train, self.backbone, self.image_size = recipe, train, backbone, image_size
        self.device, self.layout, self.part = device, layout, part
        self._constants = backbone.preprocess.constants(device)
        self._there = train.images.device.type != "cpu"
        self._cut = Compiled(self._cut_there, "the cutting of pictures") if fused else self._cut_there

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs `[b, 3, s, s]` and labels `[b]` of step number `step` (from 0)."""
        rows, crops = _draw(self.recipe, self.train, self.image_size, step, self.part)
        if not self._there:
            pictures = _send(cut(self.train.images, crops, rows), self.device)
            labels = _send(self.train.labels[rows], self.device)
            return network_inputs(self.backbone, pictures, self.layout), labels
        places = _send(torch.stack([rows, crops.down, crops.right, crops.flip.long()]), self.device)
        return self._cut(self.train.images, self.train.labels, places, *self._constants)

    def _cut_there(
        self, images: Tensor, labels: Tensor, places: Tensor, mean: Tensor, std: Tensor
    ) -> tuple[Tensor, Tensor]:
        rows, down, right, flip = places
        pictures = gather(images, Crops(self.image_size, down, right, flip.bool()), rows)
        return standardise(pictures, mean, std).contiguous(memory_format=self.layout), labels[rows]


def _draw(recipe: Recipe, train: ImageSet, image_size: int, step: int, part: slice) -> tuple[Tensor, Crops]:
    check_batch(recipe, train, train.name)
    size = recipe.batch
    epoch, place = divmod(step, len(train) // size)
    rows = _order(len(train), derive(recipe.seed, "epoch", epoch))[place * size : (place + 1) * size]
    crop = torch.Generator().manual_seed(derive(recipe.seed, "crop", step))
    height, width = train.images.shape[-2:]
    return rows[part], Crops.draw(size, height, width, image_size, crop).part(part)


# An epoch has one order; a step needs a few numbers of it.
@lru_cache(maxsize=8)
def _order(pictures: int, seed: int) -> Tensor:
    return torch.randperm(pictures, generator=torch.Generator().manual_seed(seed))


def _send(values: Tensor, device: torch.device) -> Tensor:
    # From pinned memory a GPU fetches by itself, while the CPU goes on.
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)

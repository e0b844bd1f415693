"""The batches of a training: the images of each step, their augmentation, and their way to the networks."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from spgca_lab.backbones import Backbone
from spgca_lab.data import ImageSet
from spgca_lab.data.augment import AUGMENTATIONS
from spgca_lab.training.objective import TrainingError
from spgca_lab.training.recipe import Recipe
from spgca_lab.training.seeding import derive_seed


def network_inputs(
    backbone: Backbone, images: Tensor, layout: torch.memory_format = torch.channels_last
) -> Tensor:
    """Return images `[b, 3, s, s]` of 0–255 as the networks take them; channels last is fastest for convolutions."""
    return backbone.preprocess(images).contiguous(memory_format=layout)


def check_batch(recipe: Recipe, train: ImageSet, name: str) -> None:
    """Raise `TrainingError` if a batch takes more images than the data set `name` has."""
    if len(train) < recipe.batch:
        raise TrainingError(
            f"batch_size is {recipe.batch_size}, but {name!r} has only {len(train)} training images: "
            f"use batch_size={len(train)} or less"
        )


def on_device_if_it_fits(train: ImageSet, device: torch.device) -> ImageSet:
    """Return the training images in a GPU's memory if they take less than half of what is free there."""
    if device.type != "cuda" or train.images.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return train
    return replace(train, images=train.images.to(device), labels=train.labels.to(device))


def training_batch(recipe: Recipe, train: ImageSet, image_size: int, step: int) -> tuple[Tensor, Tensor]:
    """Return the augmented images and the labels of one step; they depend on the recipe alone.

    Args:
        recipe: for seed, batch size and augmentation.
        train: the training images, on any device.
        image_size: side of the input in pixels.
        step: number of the step, from 0.

    Returns:
        uint8 `[b, 3, s, s]` and `[b]`.

    Raises:
        TrainingError: when there are fewer images than a batch takes.
    """
    check_batch(recipe, train, train.name)
    size = recipe.batch
    epoch, place = divmod(step, len(train) // size)
    order = _order(len(train), derive_seed(recipe.seed, "epoch", epoch))
    rows = send(order[place * size : (place + 1) * size], train.images.device)
    generator = torch.Generator().manual_seed(derive_seed(recipe.seed, "crop", step))
    images = AUGMENTATIONS[recipe.augmentation](train.images[rows], image_size, generator)
    return images, train.labels[rows]


@dataclass(frozen=True)
class Batches:
    """The batches of a run as its networks take them.

    Args:
        recipe: for seed, batch size and augmentation.
        train: the training images, perhaps from `on_device_if_it_fits`.
        backbone: for its preprocessing.
        image_size: side of the input in pixels.
        device: where the networks live.
        layout: memory format of the inputs.
    """

    recipe: Recipe
    train: ImageSet
    backbone: Backbone
    image_size: int
    device: torch.device
    layout: torch.memory_format = torch.channels_last

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs `[b, 3, s, s]` and labels `[b]` of step number `step` (from 0)."""
        images, labels = training_batch(self.recipe, self.train, self.image_size, step)
        images, labels = send(images, self.device), send(labels, self.device)
        return network_inputs(self.backbone, images, self.layout), labels


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; from pinned memory, so that the CPU does not wait for the GPU."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


# An epoch has one order, and a step needs only a few entries of it.
@lru_cache(maxsize=8)
def _order(images: int, seed: int) -> Tensor:
    return torch.randperm(images, generator=torch.Generator().manual_seed(seed))

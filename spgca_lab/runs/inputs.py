"""The inputs of a run: its source model and its images, by name or as objects, and the batch that memory holds."""

import hashlib
from dataclasses import dataclass, replace

import torch

from spgca_lab.backbones import Backbone, load_backbone
from spgca_lab.data import ImageSet, hold_out, load_dataset
from spgca_lab.runs.memory import SMALLEST, MemoryEstimate, OutOfMemory, estimate_memory, fits_on_device
from spgca_lab.training.objective import TrainingError
from spgca_lab.training.recipe import AUTO, Recipe, RecipeError

LARGEST = 64


@dataclass(frozen=True)
class Inputs:
    """The source model, the training images, and the images on which accuracy is measured."""

    backbone: Backbone
    train: ImageSet
    test: ImageSet


def load_data(recipe: Recipe, image_size: int) -> tuple[ImageSet, ImageSet]:
    """Load the images that a recipe trains on and those on which it is measured.

    The second are the test images, or with `validation` those held out of the training images. `image_size` is the side
    of the network's input in pixels.
    """
    if recipe.data_code is not None:
        raise RecipeError(
            f"the images of {recipe.dataset!r} were given as objects and cannot be loaded by name: give them again "
            "with data=(train, test)"
        )
    train, test = load_dataset(
        recipe.dataset,
        preset=recipe.preset,
        per_class=recipe.per_class,
        test_per_class=recipe.test_per_class,
        image_size=image_size,
        clutter=recipe.clutter,
        seed=recipe.data_seed,
    )
    return _held_out(recipe, train, test)


def load_source(recipe: Recipe, backbone: Backbone | None = None) -> Backbone:
    """Return `backbone`, or load the recipe's by name; raise `RecipeError` when it was given as an object."""
    if backbone is None and is_object(recipe):
        raise RecipeError(
            f"the backbone {recipe.backbone!r} was given as an object and cannot be loaded by name: give it again with "
            "backbone="
        )
    return backbone or load_backbone(recipe.backbone, weights=recipe.weights)


def load_inputs(
    recipe: Recipe, backbone: Backbone | None = None, data: tuple[ImageSet, ImageSet] | None = None
) -> Inputs:
    """Load a recipe's source model and images; objects, of which `describe` made the recipe, replace them."""
    backbone = load_source(recipe, backbone)
    if data is None:
        return Inputs(backbone, *load_data(recipe, recipe.image_size or backbone.image_size))
    return Inputs(backbone, *_held_out(recipe, *data))


def is_object(recipe: Recipe) -> bool:
    """Return whether the source model was given as an object, not by name or as a reader's file."""
    return recipe.backbone_code is not None and ".py:" not in recipe.backbone


def describe(
    recipe: Recipe, backbone: Backbone | None = None, data: tuple[ImageSet, ImageSet] | None = None
) -> Recipe:
    """Return the recipe with the names and digests of objects given in place of a backbone or a data set."""
    changes: dict[str, str] = {}
    if backbone is not None:
        # A recipe loads names such as `my_model.py:build` from the file.
        name = backbone.name.rsplit(".py:", 1)[-1]
        changes |= {"backbone": name, "backbone_code": _digest_of_model(backbone)}
    if data is not None:
        changes |= {"dataset": data[0].name or "images", "data_code": _digest_of_images(*data)}
    return recipe.replace(**changes) if changes else recipe


def predict_memory(recipe: Recipe, device: str | None = None) -> MemoryEstimate:
    """Estimate the memory of a training on `device` (None takes a GPU if there is one) from a step on a few images."""
    inputs = load_inputs(recipe)
    recipe = choose_batch_size(recipe, device, inputs)
    return estimate_memory(recipe, inputs.backbone, inputs.train, device)


def choose_batch_size(recipe: Recipe, device: str | None = None, inputs: Inputs | None = None) -> Recipe:
    """Return the recipe with a number for `batch_size="auto"`: 64, or as often halved as memory demands.

    It is at most the number of training images. On a GPU two real steps are taken with it, and half of it is tried if
    they fail. A recipe that has a number stays as it is.
    `OutOfMemory` is raised when not even the smallest batch fits.

    Args:
        recipe: any recipe.
        device: where to train; None takes a GPU if there is one.
        inputs: of the recipe, where they are loaded already.

    Example:
        >>> choose_batch_size(Recipe(method="spa", batch_size="auto", per_class=1), "cpu").batch_size
        48
    """
    if recipe.batch_size != AUTO:
        return recipe
    inputs = inputs or load_inputs(recipe)
    size = min(LARGEST, len(inputs.train))
    if size < SMALLEST:
        raise TrainingError(
            f"{len(inputs.train)} training images are fewer than the smallest batch, {SMALLEST}"
        )
    recipe = recipe.replace(batch_size=size)
    estimate = estimate_memory(recipe, inputs.backbone, inputs.train, device)
    most = size if estimate.largest_batch is None else estimate.largest_batch
    # On a CPU nothing is tried: the system would kill the process, where a GPU raises an error.
    tries = not estimate.device.startswith("cpu")
    while recipe.batch > most or (
        tries and not fits_on_device(recipe, inputs.backbone, inputs.train, device)
    ):
        if recipe.batch == SMALLEST:
            raise OutOfMemory(
                f"not even a batch of {SMALLEST} images of {recipe.backbone} fits "
                f"({replace(estimate, batch=SMALLEST)}): use a smaller image_size or backbone"
            )
        recipe = recipe.replace(batch_size=max(SMALLEST, recipe.batch // 2))
    return recipe


def _held_out(recipe: Recipe, train: ImageSet, test: ImageSet) -> tuple[ImageSet, ImageSet]:
    return hold_out(train, recipe.validation, recipe.data_seed) if recipe.validation else (train, test)


def _digest_of_model(backbone: Backbone) -> str:
    digest = hashlib.sha256(
        repr((backbone.name, tuple(backbone.taps), backbone.head, backbone.image_size)).encode()
    )
    digest.update(repr((backbone.preprocess, str(backbone.model))).encode())
    for name, tensor in backbone.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def _digest_of_images(*sets: ImageSet) -> str:
    digest = hashlib.sha256()
    for images in sets:
        digest.update(repr((tuple(images.images.shape), list(images.classes))).encode())
        digest.update(images.images.contiguous().numpy().tobytes())
        digest.update(images.labels.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]

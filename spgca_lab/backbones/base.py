"""What a source model is to this package: the model, its four taps, its preprocessing, its head."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from spgca_lab._checks import quote
from spgca_lab.backbones.shapes import BackboneError, tap_shapes

__all__ = [
    "IMAGENET",
    "Backbone",
    "Blueprint",
    "Preprocess",
    "Taps",
    "load_strictly",
    "seeded",
    "skeleton",
    "standardise",
]

Taps = tuple[str, str, str, str]


@dataclass(frozen=True)
class Preprocess:
    """Turn pictures of 0–255 into what a backbone was trained on: (x − mean) / std per channel.

    Args:
        mean: three channel means, in units of 0–255.
        std: three channel standard deviations, in the same units.

    Raises:
        BackboneError: when there are not three of each, or a std is not positive.

    Example:
        >>> lite0 = Preprocess(mean=(127.0,) * 3, std=(128.0,) * 3)
        >>> lite0(torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)).unique()
        tensor([1.])
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise BackboneError(
                f"Preprocess needs three means and three positive stds, got {self.mean!r} and {self.std!r}"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Standardise pictures on the device they are on.

        Args:
            images: uint8, or floating point on the same 0–255 scale, `[..., 3, h, w]`.

        Returns:
            float32 of the same shape.

        Raises:
            BackboneError: for another type or another number of channels.
        """
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise BackboneError(f"pictures must be uint8 or floating point (0–255), got {images.dtype}")
        if images.ndim < 3 or images.shape[-3] != 3:
            raise BackboneError(f"pictures must have shape [..., 3, height, width], got {list(images.shape)}")
        return standardise(images, *self.constants(images.device))

    def constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and std on a device, `[3, 1, 1]`, made once: sent anew they would hold up every step on a GPU."""
        return _by_channel(self.mean, device), _by_channel(self.std, device)


def standardise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x − mean) / std in single precision.

    Example:
        >>> standardise(torch.tensor([3], dtype=torch.uint8), torch.tensor(1.0), torch.tensor(2.0))
        tensor([1.])
    """
    return (images.to(torch.float32) - mean) / std


@lru_cache(maxsize=64)
def _by_channel(values: tuple[float, float, float], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(3, 1, 1)


IMAGENET = Preprocess(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


@dataclass(eq=False)
class Backbone:
    """A source model with all that transfer needs to know of it.

    Attributes:
        name: the name it was loaded by.
        model: the network with its own head, in eval mode.
        taps: the four modules whose outputs are the feature maps FM of Eq. 1 (Table 3).
        preprocess: what its pictures go through.
        image_size: default height and width of its input, in pixels.
        head: name of its classifier module, such as `"fc"`.
        weights: `"pretrained"` or `"random"`.
        classes: what the head's outputs mean, where that is known.

    Example:
        >>> from spgca_lab.backbones import load_backbone
        >>> source = load_backbone("lite0")
        >>> source.tap_shapes(128)["blocks.4.2.conv_pwl"]
        (112, 8, 8)
        >>> source.to_target(10, seed=0).classifier
        Linear(in_features=1280, out_features=10, bias=True)
    """

    name: str
    model: nn.Module
    taps: Taps
    preprocess: Preprocess
    image_size: int
    head: str
    weights: str
    classes: list[str] | None = None

    def tap_shapes(self, image_size: int | None = None) -> dict[str, tuple[int, int, int]]:
        """Channels, height and width of the four maps at an input size, without computing anything.

        Args:
            image_size: height and width of the input in pixels; None takes the backbone's own.

        Returns:
            `{tap: (c, h, w)}` in the order of `taps`.

        Raises:
            BackboneError: when the size is no positive integer, or too small for this network.
        """
        return tap_shapes(self.name, self.model, self.taps, self.image_size, image_size)

    def to_target(self, num_classes: int, seed: int) -> nn.Module:
        """The target's start: a deep copy of the source with a fresh head, everything trainable.

        The head keeps its kind and gets PyTorch's default initialisation from `seed` alone; the global
        random state stays as it is.

        Args:
            num_classes: outputs of the new head, at least 2.
            seed: of the head's weights.

        Returns:
            A module in eval mode that shares nothing with the source.

        Raises:
            BackboneError: for fewer than two classes, or a head that is not one linear map.
        """
        if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 2:
            raise BackboneError(f"a target needs num_classes >= 2 (an integer), got {num_classes!r}")
        target = copy.deepcopy(self.model)
        old = target.get_submodule(self.head)
        with seeded(seed):
            new = _same_kind(old, num_classes, self.name, self.head)
        like = next(old.parameters())
        target.set_submodule(self.head, new.to(device=like.device, dtype=like.dtype))
        if hasattr(target, "num_classes"):
            setattr(target, "num_classes", num_classes)  # noqa: B010 - timm's own record, unknown to nn.Module
        return target.requires_grad_(True).eval()


@dataclass(frozen=True)
class Blueprint:
    """How to make one backbone: everything but its weights, and where those come from.

    `build` returns the network with random weights from PyTorch's global generator; `weights` returns the
    pretrained tensors by the network's own names; `classes` the head's class names.
    """

    name: str
    about: str
    build: Callable[[], nn.Module]
    weights: Callable[[nn.Module], Mapping[str, Tensor]]
    taps: Taps
    preprocess: Preprocess
    image_size: int
    head: str
    classes: Callable[[], list[str] | None]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from PyTorch's CPU generator as seeded, building on the CPU, and put its state back afterwards.

    Raises:
        BackboneError: when the seed is not an integer.

    Example:
        >>> with seeded(0):
        ...     first = torch.rand(1)
        >>> with seeded(0):
        ...     assert torch.rand(1) == first
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise BackboneError(f"seed must be an integer, got {seed!r}")
    if not -(2**63) <= seed < 2**63:
        raise BackboneError(f"seed must have 64 bits, got {quote(seed)}")
    before = torch.get_rng_state()
    try:
        # torch.manual_seed would seed the CUDA generators too, which nobody here puts back.
        torch.default_generator.manual_seed(seed)
        with torch.device("cpu"):
            yield
    finally:
        torch.set_rng_state(before)


def skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """A network in eval mode whose weights take no memory, for looking at; nothing random is drawn globally.

    Example:
        >>> skeleton(lambda: nn.Linear(3, 2)).weight.device
        device(type='meta')
    """
    try:
        with torch.device("meta"):
            return build().eval()
    except (NotImplementedError, RuntimeError):
        # While being built, some networks of older timm read numbers off tensors; meta tensors hold none.
        with seeded(0):
            return build().eval()


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Fill a model from named tensors: every name and shape must agree, on both sides.

    Only BatchNorm's `num_batches_tracked` may be missing, as in checkpoints from before PyTorch 0.4.1: it is
    a counter, not a weight, and starts at 0.

    Args:
        model: what to fill.
        state: tensors by the model's own names; half precision becomes the model's precision.
        origin: where they come from, for the error.

    Raises:
        BackboneError: naming what is missing, what is left over and what has another shape.
    """
    wanted = model.state_dict()
    counters = {n: torch.zeros_like(t) for n, t in wanted.items() if n.endswith(".num_batches_tracked")}
    given = counters | dict(state)
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    shapes = [
        f"{name} {list(given[name].shape)} instead of {list(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    faults = [("missing", missing), ("left over", extra), ("of another shape", shapes)]
    if any(found for _, found in faults):
        text = "; ".join(f"{len(found)} {what}: {_shorten(found)}" for what, found in faults if found)
        raise BackboneError(f"The weights in {origin} do not fit {type(model).__name__}: {text}")
    model.load_state_dict(given)


def _shorten(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" … and {len(names) - most} more" if len(names) > most else "")


def _same_kind(old: nn.Module, num_classes: int, name: str, head: str) -> nn.Module:
    if isinstance(old, nn.Linear):
        return nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
    if isinstance(old, nn.Conv2d) and old.kernel_size == (1, 1) and old.groups == 1:
        return nn.Conv2d(old.in_channels, num_classes, 1, bias=old.bias is not None)
    raise BackboneError(
        f"The head {head!r} of {name!r} is a {type(old).__name__}; a Linear or 1×1 Conv2d is needed"
    )

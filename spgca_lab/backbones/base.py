"""A source model: the network, its taps, its preprocessing and its head."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import InitVar, dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from spgca_lab._checks import quote
from spgca_lab.backbones.calls import module_calls
from spgca_lab.backbones.tap import BackboneError, unknown_module


@dataclass(frozen=True)
class Preprocess:
    """Standardise images of 0–255 as a backbone's training did: (x − mean) / std per channel, in units of 0–255.

    Example:
        >>> lite0 = Preprocess(mean=(127.0,) * 3, std=(128.0,) * 3)
        >>> lite0(torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)).unique()
        tensor([1.])
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise BackboneError(f"Preprocess needs three means and three positive stds, got {self}")

    def __call__(self, images: Tensor) -> Tensor:
        """Return images `[..., 3, h, w]` of 0–255 as standardised float32."""
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise BackboneError(f"images must be uint8 or floating point (0–255), got {images.dtype}")
        if images.ndim < 3 or images.shape[-3] != 3:
            raise BackboneError(f"images must have shape [..., 3, height, width], got {list(images.shape)}")
        mean, std = _by_channel(self.mean, images.device), _by_channel(self.std, images.device)
        return (images.to(torch.float32) - mean) / std


# Cached, because a new copy would delay each step on a GPU.
@lru_cache(maxsize=64)
def _by_channel(values: tuple[float, float, float], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(3, 1, 1)


IMAGENET = Preprocess(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


@dataclass(eq=False)
class Backbone:
    """A source model with its taps, preprocessing and head; also around any `nn.Module` of your own.

    Args:
        model: the network with its own head, for images `[b, 3, h, w]`; it is put into eval mode.
        taps: at least one module, in order, whose outputs are the feature maps FM of Eq. 1 (Table 3): names, or
            `Tap` where a function makes the map, as for a ViT.
        preprocess: standardisation of its images; by default with ImageNet's means and stds.
        image_size: default height and width of its input, in pixels.
        head: name of its classifier, a Linear or 1×1 Conv2d, such as `"fc"`.
        weights: `"pretrained"` or `"random"` when loaded by name, `"custom"` otherwise.
        classes: class names of the head's outputs, where they are known.
        check: run the network once, without arithmetic, and refuse wrong taps or heads with a `BackboneError`.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
        >>> mine = Backbone("mine", net, taps=["0"], image_size=8, head="3")
        >>> mine.tap_shapes()
        {'0': (8, 6, 6)}
    """

    name: str
    model: nn.Module
    taps: tuple[str, ...]
    preprocess: Preprocess = IMAGENET
    image_size: int = 224
    head: str = "fc"
    weights: str = "custom"
    classes: list[str] | None = None
    check: InitVar[bool] = True

    def __post_init__(self, check: bool) -> None:
        given: object = self.taps  # one name and lists are welcome too
        self.taps = (given,) if isinstance(given, str) else tuple(self.taps)
        if not check:
            return
        if not isinstance(self.model, nn.Module) or not isinstance(self.preprocess, Preprocess):
            raise BackboneError(
                f"{self.name!r} needs a torch.nn.Module as model and a Preprocess(mean, std) as preprocess, got "
                f"{quote(self.model)} and {quote(self.preprocess)}"
            )
        if not self.taps or len(set(self.taps)) != len(self.taps):
            raise BackboneError(
                f"taps must name at least one module and each only once, got {list(self.taps)}"
            )
        modules = dict(self.model.named_modules())
        for module in (*self.taps, self.head):
            if not module or module not in modules:
                purpose = "for a head" if module == self.head else "to tap"
                raise BackboneError(unknown_module(module, self.model, purpose))
        with torch.device("meta"):
            _head_like(modules[self.head], 2, self.name, self.head)
        outputs = len(next(modules[self.head].parameters()))
        if self.classes is not None and len(self.classes) != outputs:
            raise BackboneError(
                f"{self.name!r} has {len(self.classes)} classes, but its head {self.head!r} has {outputs} outputs"
            )
        self.model.eval()
        self.tap_shapes()

    def tap_shapes(self, image_size: int | None = None) -> dict[str, tuple[int, int, int]]:
        """Return `{tap: (c, h, w)}`, the shape of each tap's map, at an input size (None: its own) in pixels.

        A `BackboneError` refuses a size so small that maps of different stages become equal.
        """
        size = self.image_size if image_size is None else image_size
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise BackboneError(f"image_size must be a positive integer (pixels), got {size!r}")
        usual = self._maps(self.image_size)
        smallest = math.ceil(self.image_size / usual[-1][1])
        hint = f"{self.name!r} is made for {self.image_size} pixels and needs at least about {smallest}"
        try:
            found = usual if size == self.image_size else self._maps(size)
        except Exception as error:
            raise BackboneError(f"image_size={size} does not work: {hint} ({error})") from error
        heights = [(u[1], f[1]) for u, f in zip(usual, found, strict=True)]
        if any(u0 > u1 and f0 <= f1 for (u0, f0), (u1, f1) in pairwise(heights)):
            sides = ", ".join(f"{h}×{w}" for _, h, w in found)
            raise BackboneError(f"image_size={size} is too small: the maps would be {sides}. {hint}")
        return dict(zip(map(str, self.taps), found, strict=True))

    def _maps(self, size: int) -> list[tuple[int, int, int]]:
        calls = module_calls(self.model, self.taps, size)
        maps = []
        for tap in self.taps:
            of_tap = [call for call in calls if call.name == tap]
            fault = of_tap[0].fault() if len(of_tap) == 1 else f"runs {len(of_tap)} times in a forward pass"
            if fault:
                raise BackboneError(
                    f"tap {str(tap)!r} of {self.name!r} {fault}; tap another module, or give this one a function that "
                    "makes a map of its output: Tap(name, to_map), with tokens_to_map for a ViT"
                )
            c, h, w = of_tap[0].shape
            maps.append((c, h, w))
        return maps

    def to_target(self, num_classes: int, seed: int) -> nn.Module:
        """Return the initial target T: a deep copy in eval mode with a fresh head, all parameters trainable.

        The head keeps its kind and gets PyTorch's default initialisation from `seed`; the global random state does
        not change.
        """
        if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 2:
            raise BackboneError(f"a target needs num_classes >= 2 (an integer), got {num_classes!r}")
        target = copy.deepcopy(self.model)
        old = target.get_submodule(self.head)
        with seeded(seed):
            new = _head_like(old, num_classes, self.name, self.head)
        like = next(old.parameters())
        target.set_submodule(self.head, new.to(device=like.device, dtype=like.dtype))
        if hasattr(target, "num_classes"):
            setattr(target, "num_classes", num_classes)  # noqa: B010 - timm's own record, unknown to nn.Module
        return target.requires_grad_(True).eval()


@dataclass(frozen=True)
class Blueprint:
    """A backbone before it is built.

    `build` uses PyTorch's global generator; `weights` returns the pretrained tensors by the network's own names.
    """

    build: Callable[[], nn.Module]
    weights: Callable[[nn.Module], Mapping[str, Tensor]]
    taps: tuple[str, ...]
    preprocess: Preprocess = IMAGENET
    image_size: int = 224
    head: str = "fc"
    classes: Callable[[], list[str] | None] = lambda: None

    def backbone(self, name: str, model: nn.Module, weights: str) -> Backbone:
        """Wrap the network that `build` has made."""
        classes = self.classes() if weights == "pretrained" else None
        args = (self.taps, self.preprocess, self.image_size, self.head, weights, classes)
        return Backbone(name, model.eval(), *args, check=False)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's CPU generator, build on the CPU, and restore the generator's state afterwards."""
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise BackboneError(f"seed must be an integer, got {seed!r}")
    if not -(2**63) <= seed < 2**63:
        raise BackboneError(f"seed must have 64 bits, got {quote(seed)}")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # torch.manual_seed would also seed the CUDA generators, whose state is not restored here.
        torch.default_generator.manual_seed(seed)
        yield


def skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """Return a network in eval mode whose weights take no memory; the global random state does not change."""
    try:
        with torch.device("meta"):
            return build().eval()
    except (NotImplementedError, RuntimeError):
        # Some networks of older timm read numbers from tensors in their constructor; meta tensors hold none.
        with seeded(0):
            return build().eval()


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load named tensors into a model; names and shapes must agree, but for counters that PyTorch 0.4 added."""
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        text = str(error) if len(str(error)) < 2000 else f"{str(error)[:2000]} …"
        raise BackboneError(f"The weights in {origin} do not fit. {text}") from error


def _head_like(old: nn.Module, num_classes: int, name: str, head: str) -> nn.Module:
    if isinstance(old, nn.Linear):
        return nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
    if isinstance(old, nn.Conv2d) and old.kernel_size == (1, 1) and old.groups == 1:
        return nn.Conv2d(old.in_channels, num_classes, 1, bias=old.bias is not None)
    raise BackboneError(
        f"The head {head!r} of {name!r} is a {type(old).__name__}; a Linear or 1×1 Conv2d is needed"
    )

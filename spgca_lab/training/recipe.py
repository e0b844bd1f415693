"""Recipe: everything that defines a run, validated, hashable, and the same after a trip through JSON."""

import dataclasses
import difflib
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from spgca_lab._checks import quote
from spgca_lab.backbones import BackboneError, backbone_code
from spgca_lab.data.augment import AUGMENTATIONS
from spgca_lab.regularizers.base import Penalty
from spgca_lab.regularizers.penalties import SCALES
from spgca_lab.regularizers.registry import Method, MethodError, code_digest, method_name, resolve_method
from spgca_lab.training.optimisers import OPTIMISERS
from spgca_lab.training.schedules import SCHEDULES
from spgca_lab.training.speed import ENGINES

__all__ = ["AUTO", "Recipe", "RecipeError", "StageOptions"]

PAPER_RESNETS = ("resnet50", "resnet101", "resnet50_places365")
AFA_ALPHA = 0.1
AUTO = "auto"
CHOICES: dict[str, tuple[str, ...]] = {
    "scale": SCALES,
    "attention": ("learned", "frozen", "uniform"),
    "target_bn": ("train", "eval"),
    "weights": ("pretrained", "random"),
    "engine": ENGINES,
    "augmentation": tuple(AUGMENTATIONS),
}


class RecipeError(ValueError):
    """A recipe that cannot be run; the message names the field and quotes the value."""


@dataclass(frozen=True)
class StageOptions:
    """The optimisation options of one stage, each with the meaning of the recipe's field of that name."""

    trains: str | None
    lr: float
    backbone_lr: float
    weight_decay: float
    optimiser: str
    schedule: str
    warmup: float
    attention_optimiser: str | None
    attention_lr: float | None


@dataclass(frozen=True)
class Recipe:
    r"""Everything that defines a run. Equal recipes give equal numbers on one kind of CPU.

    Fields marked "per stage" take one value, or a tuple with one value for each stage of the method.

    Args:
        method: a name from `METHODS` such as `"spgca"`, stages in another order as `"gca->spa"`, your own class, or
            `"file.py:Class"`.
        backbone: source model by name (see `list_backbones()`), or `"file.py:function"`.
        dataset: `"stickers"`, a published set such as `"cub200"` (see `spgca-lab data list`), or a folder of images.
        preset: distance of the stickers from the source's images: `"near"`, `"mid"`, `"far"`, or `"cross"`, tested on
            another artist than trained on.
        per_class: training images per class; None takes the data set's default.
        test_per_class: test images per class; None takes the data set's default.
        image_size: input size in pixels; None takes the backbone's.
        clutter: distractors per sticker image; None takes the default.
        data_seed: seed of the generated or drawn images.
        weights: `"pretrained"`, or `"random"` for a source without knowledge.
        alpha: α of Eq. 6, 11, 12, per stage; None takes the method's default.
        beta: β, weight of the decay of T's head.
        r: reduction rate of GCA's hidden layer (Table 6).
        scale: size of the softmax weights, `"literal"`, `"afa"` or `"relative"`; None takes `"afa"` for the paper's
            ResNets, else `"relative"`.
        attention: `"learned"`, or the ablations `"frozen"` (random nets) and `"uniform"` (uniform weights).
        attend_through_target: let the gradient reach T through SPA's input.
        target_bn: T's BatchNorm in `"train"` mode as in the references, or in `"eval"` mode.
        iterations: steps over all stages (the paper: 9,000).
        batch_size: images per step (the paper: 64); `"auto"` is settled to a number before the run starts.
        lr: learning rate, per stage.
        momentum: of SGD, without Nesterov.
        milestones: fractions of `iterations` at which `schedule="steps"` divides the learning rate by 10.
        evaluations: number of measurements of the test accuracy, the last iterate included.
        snapshots: number of snapshots of the probe batch's attention.
        probe: images of the probe batch, spread evenly over the test images; all of these where there are fewer.
        seed: of the head, the attention nets, the batches and the crops.
        validation: share of each class's training images that is held out and replaces the test images, so that α is
            never chosen on these; 0 holds out none.
        engine: how steps are computed: `"fast"`, `"plain"`, or `"auto"`, which is fast on CPUs and CUDA. Numbers
            are the same up to rounding, which on a GPU is bfloat16's (see `SpeedOptions`).
        trains: `"all"` of T, only its `"head"`, or the head and some modules, `"layer3,layer4"`, per stage; None takes
            the method's.
        backbone_lr: factor on the learning rate of T's backbone, per stage.
        weight_decay: of T in its optimiser, per stage; β comes on top of it.
        optimiser: `"sgd"`, `"adam"` or `"adamw"`, per stage.
        schedule: of the learning rate, `"constant"`, `"steps"` or `"cosine"`, per stage.
        warmup: share of a stage's steps over which its learning rate rises from 0, per stage.
        attention_optimiser: optimiser of the attention nets, per stage; None takes T's.
        attention_lr: learning rate of the attention nets, per stage, constant over the stage; None takes T's optimiser,
            rate and schedule, unless `attention_optimiser` is set.
        augmentation: of the training images, `"crop_flip"`, `"crop"`, `"flip"`, `"random_resized_crop"` or `"none"`.
        alpha_from: how α was chosen, in words; None where somebody set it. It changes no number: recipes that differ in
            nothing else are equal.
        method_code: digest of a reader's own class; filled in.
        backbone_code: digest of a reader's own backbone; filled in.
        data_code: digest of images that were given as an object; filled in.

    Raises:
        RecipeError: naming the field, quoting the value and saying what is allowed.

    Example:
        >>> recipe = Recipe(method="spgca", backbone="mini", dataset="stickers", alpha=3.0, seed=1)
        >>> Recipe.from_json(recipe.to_json()) == recipe
        True
        >>> recipe.replace(lr=(0.01, 0.001)).stage_options(1).lr
        0.001
    """

    method: str | type[Penalty] = "spgca"
    backbone: str = "mini"
    dataset: str | Path = "stickers"
    preset: str = "near"
    per_class: int | None = None
    test_per_class: int | None = None
    image_size: int | None = None
    clutter: int | None = None
    data_seed: int = 0
    weights: str = "pretrained"
    alpha: float | tuple[float, ...] | None = None
    beta: float = 0.01
    r: int = 4
    scale: str | None = None
    attention: str = "learned"
    attend_through_target: bool = False
    target_bn: str = "train"
    iterations: int = 200
    batch_size: int | str = 32
    lr: float | tuple[float, ...] = 0.01
    momentum: float = 0.9
    milestones: tuple[float, ...] = (1 / 3, 5 / 6)
    evaluations: int = 4
    snapshots: int = 8
    probe: int = 6
    seed: int = 0
    validation: float = 0.0
    engine: str = "auto"
    trains: str | tuple[str | None, ...] | None = None
    backbone_lr: float | tuple[float, ...] = 1.0
    weight_decay: float | tuple[float, ...] = 0.0
    optimiser: str | tuple[str, ...] = "sgd"
    schedule: str | tuple[str, ...] = "steps"
    warmup: float | tuple[float, ...] = 0.0
    attention_optimiser: str | tuple[str | None, ...] | None = None
    attention_lr: float | tuple[float | None, ...] | None = None
    augmentation: str = "crop_flip"
    alpha_from: str | None = field(default=None, compare=False)
    method_code: str | None = None
    backbone_code: str | None = None
    data_code: str | None = None

    def __post_init__(self) -> None:
        try:
            self._set("method", method_name(self.method))
            method = resolve_method(str(self.method))
            digest = code_digest(str(self.method))
        except MethodError as error:
            raise RecipeError(f"method: {error}") from error
        if self.method_code is not None and self.method_code != digest:
            raise RecipeError(
                f"method_code: {quote(self.method)} has changed since this recipe was made "
                f"(digest {quote(self.method_code)}, now {digest}); make a new recipe"
            )
        self._set("method_code", digest)
        self._settle_backbone()
        if isinstance(self.dataset, Path):
            self._set("dataset", str(self.dataset))
        for name in ("method", "backbone", "dataset", "preset"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise RecipeError(f"{name} must be a non-empty string, got {quote(getattr(self, name))}")
        for name, least in _COUNTS.items():
            if (name, getattr(self, name)) != ("batch_size", AUTO):
                self._check_count(name, least)
        for name in ("beta", "momentum", "validation"):
            self._set(name, _number(name, getattr(self, name)))
            if name != "beta" and getattr(self, name) >= 1:
                raise RecipeError(f"{name} must be at least 0 and below 1, got {quote(getattr(self, name))}")
        for name in ("alpha_from", "backbone_code", "data_code"):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), str):
                raise RecipeError(f"{name} must be a string or None, got {quote(getattr(self, name))}")
        if not isinstance(self.attend_through_target, bool):
            raise RecipeError(
                f"attend_through_target must be True or False, got {quote(self.attend_through_target)}"
            )
        if self.scale is None:
            self._set("scale", "afa" if self.backbone in PAPER_RESNETS else "relative")
        for name, allowed in CHOICES.items():
            _choice(name, getattr(self, name), allowed)
        self._settle_stages(method)
        self._settle_milestones()
        if self.iterations < len(method.stages):
            raise RecipeError(
                f"iterations must be at least one per stage ({len(method.stages)}), got {self.iterations}"
            )

    @classmethod
    def paper(cls, **fields: Any) -> Self:
        """Return the recipe of the paper's Sec. 4.2, with `fields` changed.

        SGD with momentum 0.9, 9,000 iterations of 64 images at 224 px, lr 0.01 divided by 10 at 3,000 and 7,500,
        r = 4, β = 0.01, AFA's scale; ResNet-101, or for MIT Indoor 67 the ResNet-50 of Places365, tapped as in Table 3.
        The paper does not say when it tested: here every 500 steps (Figure 2), and the last iterate counts.

        Args:
            fields: of a recipe; α is the paper's largest, 0.1, unless given.

        Raises:
            RecipeError: as the constructor.

        Source:
            Sec. 4.2 and Table 3 of the paper.

        Example:
            >>> recipe = Recipe.paper(dataset="cub200", method="spgca", seed=1)
            >>> recipe.backbone, recipe.iterations, recipe.batch_size, recipe.scale, recipe.alpha
            ('resnet101', 9000, 64, 'afa', 0.1)
        """
        indoor = str(fields.get("dataset")) == "mit_indoor67"
        preset: dict[str, Any] = {
            "dataset": "cub200",
            "backbone": "resnet50_places365" if indoor else "resnet101",
            "iterations": 9000,
            "batch_size": 64,
            "evaluations": 18,
        }
        return cls.from_dict(preset | fields)

    @property
    def alphas(self) -> tuple[float, ...]:
        """α by stage."""
        stages = len(self.stages().stages)
        return self.alpha if isinstance(self.alpha, tuple) else (float(self.alpha or 0.0),) * stages

    @property
    def batch(self) -> int:
        """`batch_size` as a number.

        Raises:
            RecipeError: when it is still `"auto"`.
        """
        if isinstance(self.batch_size, str):
            raise RecipeError(
                f"batch_size is {self.batch_size!r}, and a run needs a number: choose_batch_size(recipe) gives one"
            )
        return self.batch_size

    def stage_options(self, index: int) -> StageOptions:
        """Return how stage number `index` optimises."""
        values = {name: getattr(self, name) for name in _PER_STAGE}
        return StageOptions(**{n: v[index] if isinstance(v, tuple) else v for n, v in values.items()})

    def stages(self) -> Method:
        """Return the method with its stages."""
        return resolve_method(str(self.method))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; unknown names are an error.

        Raises:
            RecipeError: as the constructor.
        """
        for name, code in (
            ("method", "method_code"),
            ("backbone", "backbone_code"),
            ("dataset", "data_code"),
        ):
            if name in changes and code not in changes:
                changes[code] = None
        return self.from_dict(self.to_dict() | changes)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, with JSON's types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def to_json(self) -> str:
        """Return all fields as JSON text, keys in order."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Return a recipe from a mapping; unknown names are an error that lists near ones.

        Raises:
            RecipeError: as the constructor.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        unknown = [name for name in fields if name not in known]
        if unknown:
            near = difflib.get_close_matches(str(unknown[0]), known, n=3)
            raise RecipeError(
                f"a recipe has no field {', '.join(map(quote, unknown))}"
                + (f"; did you mean {' or '.join(near)}?" if near else "")
                + f" Its fields are {', '.join(known)}. An unknown field may be of a newer version of the lab"
            )
        return cls(**{name: _tuples(value) for name, value in fields.items()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return a recipe from JSON text.

        Raises:
            RecipeError: when it is not a JSON object, or as the constructor.
        """
        try:
            fields = json.loads(text)
        # A number may have too many digits, and brackets may be nested too deep.
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"not a recipe: invalid JSON ({error})") from error
        if not isinstance(fields, dict):
            raise RecipeError(f"not a recipe: expected a JSON object, got {type(fields).__name__}")
        return cls.from_dict(fields)

    def hash(self) -> str:
        """Return twelve hexadecimal digits that name the run: equal exactly when recipes are.

        A field that is None is left out, so that a field added later leaves the runs before it their names.

        Raises:
            RecipeError: while `batch_size` is `"auto"`.
        """
        fields = self.to_dict() | {"batch_size": self.batch, "alpha_from": None}
        fields = {name: value for name, value in fields.items() if value is not None}
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_count(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is None and name in _OPTIONAL:
            return
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
            hint = f"; {AUTO!r} finds one" if name == "batch_size" else ""
            raise RecipeError(f"{name} must be an integer of at least {least}, got {quote(value)}{hint}")

    def _settle_backbone(self) -> None:
        if not isinstance(self.backbone, str) or ".py:" not in self.backbone:
            return
        try:
            digest = backbone_code(self.backbone)
        except BackboneError as error:
            raise RecipeError(f"backbone: {error}") from error
        if self.backbone_code not in (None, digest):
            raise RecipeError(
                f"backbone_code: {quote(self.backbone)} has changed since this recipe was made "
                f"(digest {quote(self.backbone_code)}, now {digest}); make a new recipe"
            )
        self._set("backbone_code", digest)

    def _settle_stages(self, method: Method) -> None:
        stages = method.stages
        if self.alpha is None:
            # The stages' defaults are for "relative"; on the equations' own scales the paper's range applies.
            self._set(
                "alpha",
                tuple(AFA_ALPHA if s.scaled and self.scale != "relative" else s.alpha for s in stages),
            )
        for name, check in {"alpha": _number, **_PER_STAGE}.items():
            value = getattr(self, name)
            if not isinstance(value, tuple | list):
                self._set(name, check(name, value))
                continue
            if len(value) != len(stages):
                raise RecipeError(
                    f"{name} needs one value, or one per stage ({len(stages)}), got {quote(getattr(self, name))}"
                )
            settled = tuple(check(name, each) for each in value)
            self._set(name, settled[0] if len(set(settled)) == 1 else settled)

    def _settle_milestones(self) -> None:
        given: Any = self.milestones
        if not isinstance(given, tuple | list):
            raise RecipeError(
                f"milestones must be fractions of iterations such as (1/3, 5/6), got {quote(given)}"
            )
        settled = tuple(_number("milestones", m) for m in given)
        if any(not 0 < m < 1 for m in settled) or list(settled) != sorted(settled):
            raise RecipeError(f"milestones must rise and lie between 0 and 1, got {quote(given)}")
        self._set("milestones", settled)


# The least value of each count.
_COUNTS = dict.fromkeys(("clutter", "data_seed", "snapshots", "seed"), 0)
_COUNTS |= dict.fromkeys(("per_class", "test_per_class", "r", "iterations", "evaluations", "probe"), 1)
_COUNTS |= {"batch_size": 2, "image_size": 16}
_OPTIONAL = {"per_class", "test_per_class", "image_size", "clutter"}


def _number(name: str, value: Any, *, positive: bool = False, most: float = sys.float_info.max) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise RecipeError(f"{name} must be a finite number of at least 0, got {quote(value)}")
    if positive and value == 0:
        raise RecipeError(f"{name} must be above 0, got 0: nothing would train")
    if value > most:
        raise RecipeError(f"{name} must be between 0 and {most:g}, got {quote(value)}")
    return float(value)


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise RecipeError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {quote(value)}")
    return value


def _modules(name: str, value: Any) -> str:
    if not isinstance(value, str) or not all(part.strip() for part in value.split(",")):
        raise RecipeError(
            f"{name} must be 'all', 'head' or modules such as 'layer3,layer4', got {quote(value)}"
        )
    return value


def _optional(check: Callable[..., Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


_PER_STAGE: dict[str, Callable[[str, Any], Any]] = {
    "trains": _optional(_modules),
    "lr": partial(_number, positive=True),
    "backbone_lr": _number,
    "weight_decay": _number,
    "optimiser": partial(_choice, allowed=tuple(OPTIMISERS)),
    "schedule": partial(_choice, allowed=tuple(SCHEDULES)),
    "warmup": partial(_number, most=1.0),
    "attention_optimiser": _optional(partial(_choice, allowed=tuple(OPTIMISERS))),
    "attention_lr": _optional(partial(_number, positive=True)),
}

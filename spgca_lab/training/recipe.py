"""Recipe: everything that defines a run, validated, hashable, and the same after a trip through JSON."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from spgca_lab._checks import quote
from spgca_lab.regularizers.base import Penalty
from spgca_lab.regularizers.penalties import SCALES
from spgca_lab.regularizers.registry import Method, MethodError, code_digest, method_name, resolve_method
from spgca_lab.training.speed import ENGINES

__all__ = ["Recipe", "RecipeError"]

PAPER_RESNETS = ("resnet50", "resnet101", "resnet50_places365")
AFA_ALPHA = 0.1
AUTO = "auto"
CHOICES = {
    "scale": SCALES,
    "attention": ("learned", "frozen", "uniform"),
    "target_bn": ("train", "eval"),
    "weights": ("pretrained", "random"),
    "engine": ENGINES,
}


class RecipeError(ValueError):
    """A recipe that cannot be run; the message names the field and quotes the value."""


@dataclass(frozen=True)
class Recipe:
    r"""Everything that defines a run. Equal recipes give equal numbers on one kind of CPU.

    Args:
        method: `"spgca"`, `"afa"`, `"l2"`, `"l2_fe"`, `"l2_sp"`, `"delta"`, `"lwf"`, `"uniform"`, `"ast"`, `"act"`,
            `"spa"`, `"gca"`, `"gca_squared"`; stages in another order as `"gca->spa"`; your own as `"file.py:Class"` or
            the class.
        backbone: source by name, see `list_backbones()`.
        dataset: `"stickers"`, a published set such as `"cub200"` (see `spgca-lab data list`), or a folder of pictures.
        preset: distance between source and target of the stickers: `"near"`, `"mid"`, `"far"`, or `"cross"`, tested on
            another artist than trained on.
        per_class: training pictures a class (None: the data set's default).
        test_per_class: test pictures a class.
        image_size: input size in pixels (None: the backbone's).
        clutter: distractors a sticker picture (None: the default).
        data_seed: seed of the generated or chosen pictures.
        weights: `"pretrained"`, or `"random"` for a source that knows nothing.
        alpha: α of Eq. 6, 11, 12; one number, or one a stage (None: the method's default).
        beta: β, weight of the decay of T's head.
        r: reduction rate of GCA's hidden layer (Table 6).
        scale: size of the softmax weights, `"literal"`, `"afa"` or `"relative"` (None: `"afa"` for the paper's
            ResNets, else `"relative"`).
        attention: `"learned"`, or the ablations `"frozen"` (random nets) and `"uniform"` (equal weights).
        attend_through_target: let the gradient reach T through SPA's input.
        target_bn: T's BatchNorm in `"train"` mode as in the references, or in `"eval"` mode.
        iterations: steps over all stages (the paper: 9,000).
        batch_size: pictures a step (the paper: 64); or `"auto"`, which `fit` and `launch` settle before they start,
            by `settle_batch_size`: a run has a number.
        lr: learning rate at the start.
        momentum: of SGD, without Nesterov.
        milestones: where the learning rate falls to a tenth, as fractions of `iterations` (3,000 and 7,500 of 9,000).
        evaluations: how often the test accuracy is taken, the last iterate included.
        snapshots: how often the attention of the probe batch is kept.
        probe: pictures of that batch, spread evenly over the test pictures; all of these where there are fewer.
        seed: of the head, the attention nets, the batches and the crops.
        validation: share of each class's training pictures that is held out and takes the place of the test pictures,
            so that α is never chosen on these (0: none is; see `spgca-lab tune`).
        engine: how steps are computed: `"fast"`, `"plain"`, or `"auto"`, which is fast on CPUs and CUDA. Numbers
            are the same up to rounding, which on a GPU is bfloat16's (see `Engine`).
        alpha_from: how α was chosen, in words; None where somebody set it. It changes no number: recipes that differ in
            nothing else are equal, and one run, which keeps the words with which it was first trained.
        method_code: digest of a reader's own class; filled in.

    Raises:
        RecipeError: naming the field, quoting the value and saying what is allowed.

    Example:
        >>> recipe = Recipe(method="spgca", backbone="mini", dataset="stickers", alpha=3.0, seed=1)
        >>> Recipe.from_json(recipe.to_json()) == recipe
        True
        >>> recipe.replace(r=8).r
        8
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
    lr: float = 0.01
    momentum: float = 0.9
    milestones: tuple[float, ...] = (1 / 3, 5 / 6)
    evaluations: int = 4
    snapshots: int = 8
    probe: int = 6
    seed: int = 0
    validation: float = 0.0
    engine: str = "auto"
    alpha_from: str | None = field(default=None, compare=False)
    method_code: str | None = None

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
        if isinstance(self.dataset, Path):
            self._set("dataset", str(self.dataset))
        for name in ("method", "backbone", "dataset", "preset"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise RecipeError(f"{name} must be a non-empty string, got {quote(getattr(self, name))}")
        for name, least in _COUNTS.items():
            if (name, getattr(self, name)) != ("batch_size", AUTO):
                self._check_count(name, least)
        for name in ("beta", "lr", "momentum", "validation"):
            self._check_number(name)
        if self.validation >= 1:
            raise RecipeError(f"validation must be at least 0 and below 1, got {quote(self.validation)}")
        if self.alpha_from is not None and not isinstance(self.alpha_from, str):
            raise RecipeError(f"alpha_from must be a text or None, got {quote(self.alpha_from)}")
        if not 0 <= self.momentum < 1:
            raise RecipeError(f"momentum must be at least 0 and below 1, got {quote(self.momentum)}")
        if self.lr == 0:
            raise RecipeError("lr must be above 0, got 0: nothing would train")
        if not isinstance(self.attend_through_target, bool):
            raise RecipeError(
                f"attend_through_target must be True or False, got {quote(self.attend_through_target)}"
            )
        if self.scale is None:
            self._set("scale", "afa" if self.backbone in PAPER_RESNETS else "relative")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                listed = ", ".join(map(repr, allowed))
                raise RecipeError(f"{name} must be one of {listed}, got {quote(getattr(self, name))}")
        self._settle_alpha(method)
        self._settle_milestones()
        if self.iterations < len(method.stages):
            raise RecipeError(
                f"iterations must be at least one a stage ({len(method.stages)}), got {self.iterations}"
            )

    @classmethod
    def paper(cls, **fields: Any) -> Self:
        """The recipe of the paper's Sec. 4.2, with what `fields` change of it.

        SGD with momentum 0.9, 9,000 iterations of 64 pictures at 224 px, lr 0.01 falling to a tenth at 3,000 and 7,500,
        r = 4, β = 0.01, AFA's scale; ResNet-101, or for MIT Indoor 67 the ResNet-50 of Places365, tapped as in Table 3.
        The paper does not say when it tested: here every 500 steps (Figure 2), and what counts is the last iterate.

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
            >>> Recipe.paper(dataset="mit_indoor67").backbone
            'resnet50_places365'
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
        stages = len(resolve_method(str(self.method)).stages)
        return self.alpha if isinstance(self.alpha, tuple) else (float(self.alpha or 0.0),) * stages

    @property
    def batch(self) -> int:
        """`batch_size` as a number.

        Raises:
            RecipeError: when it is still `"auto"`.
        """
        if isinstance(self.batch_size, str):
            raise RecipeError(
                f"batch_size is {self.batch_size!r}, and a run needs a number: settle_batch_size(recipe) gives one"
            )
        return self.batch_size

    def stages(self) -> Method:
        """The method with its stages."""
        return resolve_method(str(self.method))

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; unknown names are an error.

        Raises:
            RecipeError: as the constructor.
        """
        if "method" in changes and "method_code" not in changes:
            changes["method_code"] = None
        return self.from_dict(self.to_dict() | changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields, with JSON's types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def to_json(self) -> str:
        """All fields as JSON text, keys in order."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """A recipe from a mapping; unknown names are an error that lists the known ones.

        Raises:
            RecipeError: as the constructor.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        unknown = [name for name in fields if name not in known]
        if unknown:
            raise RecipeError(
                f"a recipe has no field {', '.join(map(quote, unknown))}; its fields are {', '.join(known)}. A field "
                "that is unknown here may be of a newer version of the lab"
            )
        settled: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        return cls(**settled)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """A recipe from JSON text.

        Raises:
            RecipeError: when it is not a JSON object, or as the constructor.
        """
        try:
            fields = json.loads(text)
        # Also a number of too many digits, and brackets that are nested too deep.
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"not a recipe: invalid JSON ({error})") from error
        if not isinstance(fields, dict):
            raise RecipeError(f"not a recipe: expected a JSON object, got {type(fields).__name__}")
        return cls.from_dict(fields)

    def hash(self) -> str:
        """Twelve hexadecimal digits that name the run: equal exactly when recipes are.

        Raises:
            RecipeError: while `batch_size` is `"auto"`.
        """
        told = self.to_dict() | {"batch_size": self.batch}
        fields = {k: v for k, v in told.items() if k != "alpha_from" and _LATER.get(k, ...) != v}
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

    def _check_number(self, name: str) -> None:
        self._set(name, _number(name, getattr(self, name)))

    def _settle_alpha(self, method: Method) -> None:
        alpha: Any = self.alpha
        if alpha is None:
            # The stages' defaults are for "relative"; on the equations' own scales the paper's range applies.
            defaults = [
                AFA_ALPHA if s.scaled and self.scale != "relative" else s.alpha for s in method.stages
            ]
            alpha = defaults[0] if len(set(defaults)) == 1 else tuple(defaults)
        if isinstance(alpha, tuple | list):
            if len(alpha) != len(method.stages):
                raise RecipeError(
                    f"alpha needs one number, or one a stage ({len(method.stages)}), got {quote(alpha)}"
                )
            settled = tuple(_number("alpha", a) for a in alpha)
            self._set("alpha", settled[0] if len(set(settled)) == 1 else settled)
        else:
            self._set("alpha", _number("alpha", alpha))

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


_COUNTS = {
    "per_class": 1,
    "test_per_class": 1,
    "image_size": 16,
    "clutter": 0,
    "data_seed": 0,
    "r": 1,
    "iterations": 1,
    "batch_size": 2,
    "evaluations": 1,
    "snapshots": 0,
    "probe": 1,
    "seed": 0,
}
# Fields that came after runs had been shipped: at these values a recipe has the hash that it had without them.
_LATER = {"validation": 0.0, "engine": "auto", "probe": 6}
_OPTIONAL = {"per_class", "test_per_class", "image_size", "clutter"}


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise RecipeError(f"{name} must be a finite number of at least 0, got {quote(value)}")
    return float(value)

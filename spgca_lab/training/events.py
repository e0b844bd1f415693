"""The events of a training, in the order in which it yields them."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Step:
    """One optimiser step. Losses in nats; `loss = cross_entropy + α · penalty + β · decay` (Eq. 6, 11, 12).

    `iterations`, `alpha` and `beta` repeat the recipe's values, so that a step can print itself.

    Example:
        >>> print(Step(12, "spa", 2.31, 1.98, 0.11, 0.2, 40.0, 0.01, iterations=200, alpha=3.0, beta=0.01))
        step 12/200 · SPA · loss 2.31 = CE 1.98 + 3 · 0.11 + 0.01 · 0.2
    """

    step: int
    stage: str
    loss: float
    cross_entropy: float
    penalty: float
    decay: float
    accuracy: float
    lr: float
    extra: dict[str, float] = field(default_factory=dict)
    iterations: int = field(default=0, compare=False)
    alpha: float = field(default=0.0, compare=False)
    beta: float = field(default=0.0, compare=False)

    def row(self) -> dict[str, Any]:
        """Return the step as a row of a table, without the recipe's values."""
        return {name: getattr(self, name) for name in self.columns()} | self.extra

    @classmethod
    def columns(cls) -> list[str]:
        """Return the columns that every row has."""
        return [f.name for f in fields(cls) if f.compare and f.name != "extra"]

    def __str__(self) -> str:
        penalty = f" + {self.alpha:g} · {self.penalty:.3g}" if self.alpha else ""
        return (
            f"step {self.step}/{self.iterations} · {_title(self.stage)} · loss {self.loss:.3g} = "
            f"CE {self.cross_entropy:.3g}{penalty} + {self.beta:g} · {self.decay:.3g}"
        )


@dataclass(frozen=True)
class Evaluation:
    """Accuracy in percent and cross-entropy in nats on the test images after `step` steps."""

    step: int
    stage: str
    top1: float
    cross_entropy: float

    def __str__(self) -> str:
        return (
            f"step {self.step} · {_title(self.stage)} · top-1 {self.top1:.2f} %, CE {self.cross_entropy:.3g}"
        )


@dataclass(frozen=True)
class Snapshot:
    """Attention weights of the probe batch after `step` steps: `{tap: [images, positions or channels]}`."""

    step: int
    stage: str
    kind: str
    weights: dict[str, np.ndarray]

    def __str__(self) -> str:
        images = max((len(weights) for weights in self.weights.values()), default=0)
        return f"step {self.step} · {_title(self.stage)} · {self.kind} attention of {images} images"


@dataclass(frozen=True)
class HandOver:
    """The target's backbone, BatchNorm buffers included, has become the source of the next stage."""

    step: int
    ended: str
    begins: str

    def __str__(self) -> str:
        return f"step {self.step} · hand-over {_title(self.ended)}→{_title(self.begins)}: the target becomes the source"


@dataclass(frozen=True)
class Done:
    """The run has finished; `result` is the content of `result.json`."""

    result: dict[str, Any]
    path: Path

    def __str__(self) -> str:
        return f"done · top-1 {self.result['top1']:.2f} % in {self.result['seconds']:.0f} s · {self.path}"


Event = Step | Evaluation | Snapshot | HandOver | Done


def _title(stage: str) -> str:
    # A reader's own class keeps its capitals.
    return stage.upper().replace("_", "-") if stage.islower() else stage

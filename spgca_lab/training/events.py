"""What `fit` yields, in the order in which it happens."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Done", "Evaluation", "Event", "HandOver", "Snapshot", "Step"]


@dataclass(frozen=True)
class Step:
    """One optimiser step. Losses in nats; `loss = cross_entropy + α·penalty + β·decay` (Eq. 6, 11, 12)."""

    step: int
    stage: str
    loss: float
    cross_entropy: float
    penalty: float
    decay: float
    accuracy: float
    lr: float
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Test accuracy in percent and cross-entropy in nats after `step` steps."""

    step: int
    stage: str
    top1: float
    cross_entropy: float


@dataclass(frozen=True)
class Snapshot:
    """Attention of the probe batch after `step` steps: `{tap: [pictures, positions or channels]}`."""

    step: int
    stage: str
    kind: str
    weights: dict[str, np.ndarray]


@dataclass(frozen=True)
class HandOver:
    """T's backbone, BatchNorm buffers included, has become the source of the next stage."""

    step: int
    ended: str
    begins: str


@dataclass(frozen=True)
class Done:
    """The run is over; `result` is what `result.json` holds."""

    result: dict[str, Any]
    path: Path


Event = Step | Evaluation | Snapshot | HandOver | Done

"""What a run is measured by: test accuracy, the attention of a probe batch, and the pictures for both."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spgca_lab.backbones import Backbone
from spgca_lab.data import ImageSet, center_crop
from spgca_lab.training.batches import network_inputs
from spgca_lab.training.events import Evaluation, Snapshot
from spgca_lab.training.objective import Objective

__all__ = ["EVAL_BATCH", "Examiner"]

EVAL_BATCH = 100


@dataclass(frozen=True)
class Examiner:
    """Looks at T without changing its weights, and draws no random numbers: when it looks makes no difference.

    Args:
        backbone: whose preprocessing the pictures take.
        test: pictures, uint8 `[n, 3, h, w]`.
        size: of the centre crop in pixels.
        device: of the models.
        count: of the probe batch's pictures.
        at_once: pictures a forward pass, at most.
    """

    backbone: Backbone
    test: ImageSet
    size: int
    device: torch.device
    count: int = 6
    at_once: int = EVAL_BATCH

    @property
    def probe_rows(self) -> Tensor:
        """Rows of the test set that make up the probe batch, spread evenly over it."""
        rows = np.unique(np.linspace(0, len(self.test) - 1, self.count).round().astype(int))
        return torch.from_numpy(rows)

    @torch.no_grad()
    def accuracy(self, target: nn.Module, step: int, stage: str) -> tuple[Evaluation, np.ndarray]:
        """How T does on the test set, and its answers `[n]`."""
        target.eval()
        logits = []
        for batch in self.test.images.split(self.at_once):
            crops = center_crop(batch.to(self.device), self.size)
            logits.append(target(network_inputs(self.backbone, crops)).float().cpu())
        scores, labels = torch.cat(logits), self.test.labels
        predicted = scores.argmax(dim=1)
        top1 = 100 * float((predicted == labels).double().mean())
        return Evaluation(step, stage, top1, float(F.cross_entropy(scores, labels))), predicted.numpy()

    @torch.no_grad()
    def attention(self, objective: Objective, step: int, stage: str) -> Snapshot | None:
        """Attention of the probe batch, None where the penalty has none; rounded to the half precision that is kept."""
        penalty = objective.penalty
        if penalty is None or not penalty.needs_source:
            return None
        objective.target.eval()
        parts: dict[str, list[np.ndarray]] = {}
        for batch in self.test.images[self.probe_rows].split(self.at_once):
            crops = center_crop(batch.to(self.device), self.size)
            _, state = objective.forward(network_inputs(self.backbone, crops))
            for tap, w in penalty.weights(state).items():
                # A reader of the folder then sees the very numbers that a loop over `fit` does.
                parts.setdefault(tap, []).append(w.float().half().float().cpu().numpy())
        weights = {tap: np.concatenate(found) for tap, found in parts.items()}
        return Snapshot(step, stage, penalty.kind, weights) if weights else None

    def probe(self) -> dict[str, Any]:
        """The probe batch as `probe.npz` keeps it."""
        chosen = self.test.subset(self.probe_rows)
        arrays = {
            "images": center_crop(chosen.images, self.size).numpy(),
            "labels": chosen.labels.numpy(),
            "rows": self.probe_rows.numpy(),
            "classes": np.array(self.test.classes),
        }
        if chosen.masks is not None:
            arrays["masks"] = center_crop(chosen.masks[:, None], self.size)[:, 0].numpy()
        return arrays

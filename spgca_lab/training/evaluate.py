"""Measurements of the target during a training: test accuracy, and the attention of a probe batch."""

from dataclasses import dataclass, replace
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

EVAL_BATCH = 100


@dataclass(frozen=True)
class Evaluator:
    """Measures T without changing its weights or drawing random numbers: when it runs makes no difference.

    Args:
        backbone: for its preprocessing.
        test: the test images.
        image_size: side of the centre crop in pixels.
        device: where the networks live.
        probe_count: images of the probe batch.
        batch: images per forward pass, at most.
    """

    backbone: Backbone
    test: ImageSet
    image_size: int
    device: torch.device
    probe_count: int = 6
    batch: int = EVAL_BATCH

    @property
    def probe_rows(self) -> Tensor:
        """Rows of the test set in the probe batch, spread evenly over it."""
        rows = np.unique(np.linspace(0, len(self.test) - 1, self.probe_count).round().astype(int))
        return torch.from_numpy(rows)

    @torch.no_grad()
    def accuracy(self, target: nn.Module, step: int, stage: str) -> tuple[Evaluation, np.ndarray]:
        """Return accuracy and cross-entropy on the test images, and the predictions `[n]`."""
        target.eval()
        logits = [target(self._inputs(images)).float().cpu() for images in self.test.images.split(self.batch)]
        scores, labels = torch.cat(logits), self.test.labels
        predicted = scores.argmax(dim=1)
        top1 = 100 * float((predicted == labels).double().mean())
        return Evaluation(step, stage, top1, float(F.cross_entropy(scores, labels))), predicted.numpy()

    @torch.no_grad()
    def attention(self, objective: Objective, step: int, stage: str) -> Snapshot | None:
        """Return the attention of the probe batch in half precision, None where the penalty has none."""
        penalty = objective.penalty
        if penalty is None:
            return None
        objective.target.eval()
        # Compiled networks would be compiled anew for a batch of another size.
        eager = replace(objective, run_source=None, run_target=None)
        parts: dict[str, list[np.ndarray]] = {}
        for images in self.test.images[self.probe_rows].split(self.batch):
            for tap, w in penalty.weights(eager.forward(self._inputs(images))).items():
                # Rounded as in the run's files, so that their readers get the numbers of a loop over `fit`.
                parts.setdefault(tap, []).append(w.float().half().float().cpu().numpy())
        weights = {tap: np.concatenate(found) for tap, found in parts.items()}
        return Snapshot(step, stage, penalty.kind, weights) if weights else None

    def probe(self) -> dict[str, Any]:
        """Return the probe batch as arrays: `images`, `labels`, `rows`, `classes`, and `masks` where known."""
        chosen = self.test.subset(self.probe_rows)
        arrays = {
            "images": center_crop(chosen.images, self.image_size).numpy(),
            "labels": chosen.labels.numpy(),
            "rows": self.probe_rows.numpy(),
            "classes": np.array(self.test.classes),
        }
        if chosen.masks is not None:
            arrays["masks"] = center_crop(chosen.masks[:, None], self.image_size)[:, 0].numpy()
        return arrays

    def _inputs(self, images: Tensor) -> Tensor:
        return network_inputs(self.backbone, center_crop(images.to(self.device), self.image_size))

"""Notebook 05, Eq. 9."""

import torch


def gca_weights(maps_s, fc):
    pooled = torch.cat([m.mean(dim=(2, 3)) for m in maps_s.values()], dim=1)
    weights = fc(pooled).softmax(dim=1)
    pieces = weights.split([m.shape[1] for m in maps_s.values()], dim=1)
    return dict(zip(maps_s, pieces, strict=True))

"""Notebook 07, the interval of paired differences."""

import torch


def paired_interval(a, b, t):
    d = a - b
    half = t * d.std() / len(d) ** 0.5
    return torch.stack([d.mean() - half, d.mean() + half])

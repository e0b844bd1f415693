"""Notebook 06, Eq. 11 and 12."""

import torch


def total_loss(logits, labels, penalty, head, alpha, beta):
    decay = 0.5 * sum(p.square().sum() for p in head.parameters())
    return torch.nn.functional.cross_entropy(logits, labels) + alpha * penalty + beta * decay

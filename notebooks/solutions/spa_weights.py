"""Notebook 04, Eq. 7."""

import torch


def spa_weights(fm_s, fm_t, fc):
    both = torch.cat([fm_s, fm_t], dim=1)
    return fc(both.mean(dim=1).flatten(1)).softmax(dim=1)

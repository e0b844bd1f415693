"""Notebook 04, Eq. 8 for one layer, with no gradient to T through the attention."""

import torch


def spa_loss(fm_s, fm_t, fc):
    both = torch.cat([fm_s, fm_t.detach()], dim=1)
    a = fc(both.mean(dim=1).flatten(1)).softmax(dim=1)
    a = a.reshape(len(a), 1, *fm_s.shape[2:])
    return 0.5 * (a * (fm_s - fm_t)).square().sum() / len(fm_s)

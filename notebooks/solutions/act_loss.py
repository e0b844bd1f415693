"""Notebook 03, Eq. 5 for one layer."""


def act_loss(fm_s, fm_t, a):
    norms = (fm_s - fm_t).square().sum(dim=(2, 3))  # [b, c]
    return 0.5 * (a * norms).sum() / len(a)

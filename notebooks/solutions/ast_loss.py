"""Notebook 03, Eq. 3 for one layer."""


def ast_loss(fm_s, fm_t, a):
    b, _, h, w = fm_s.shape
    weighted = a.reshape(b, 1, h, w) * (fm_s - fm_t)
    return 0.5 * weighted.square().sum() / b

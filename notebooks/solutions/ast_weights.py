"""Notebook 03, Eq. 2."""


def ast_weights(fm_s, fc):
    pooled = fm_s.mean(dim=1).flatten(1)  # [b, h·w]
    return fc(pooled).softmax(dim=1)

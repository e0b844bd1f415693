"""Notebook 11, attention where the channels disagree."""


def contrast_weights(fm_s):
    return fm_s.std(dim=1, unbiased=False).flatten(1).softmax(dim=1)

"""Notebook 12, Spearman's rank correlation."""


def rank_correlation(a, b):
    n = len(a)
    r, s = (x.argsort().argsort().to(a.dtype) for x in (a, b))
    return 1 - 6 * (r - s).square().sum() / (n * (n**2 - 1))

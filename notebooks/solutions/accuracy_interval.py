"""Notebook 00, half the 95 % interval of an accuracy."""


def accuracy_interval(p, n):
    return 100 * 1.96 * (p * (1 - p) / n).sqrt()

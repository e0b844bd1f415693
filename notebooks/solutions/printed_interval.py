"""Notebook 10, the interval of a difference of two printed means."""


def printed_interval(sd_a, sd_b, n, t):
    return t * ((sd_a**2 + sd_b**2) / n).sqrt()

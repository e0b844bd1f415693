"""Notebook 05, Eq. 10."""


def gca_loss(maps_s, maps_t, weights):
    total = 0
    for tap, a in weights.items():
        squared = (maps_s[tap] - maps_t[tap]).square().sum(dim=(2, 3))
        total = total + 0.5 * (a * squared).sum() / len(a)
    return total

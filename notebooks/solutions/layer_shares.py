"""Notebook 05, what each layer gets of the whole."""


def layer_shares(weights):
    return {tap: w.sum(dim=1).mean() for tap, w in weights.items()}

"""Notebook 08, the share of a heatmap's mass on the object."""


def mass_inside(heat, mask):
    factor = len(mask) // len(heat)
    fine = heat.repeat_interleave(factor, dim=0).repeat_interleave(factor, dim=1)
    return fine[mask].sum() / fine.sum()

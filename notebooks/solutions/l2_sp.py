"""Notebook 02, L2-SP. Its gradient is w - w0: a spring that pulls every weight back to where it started."""


def l2_sp(parameters, start):
    return 0.5 * sum((w - start[name]).square().sum() for name, w in parameters.items())

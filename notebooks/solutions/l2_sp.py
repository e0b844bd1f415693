"""Notebook 02, L2-SP. Its gradient is w - w0: a spring that draws each weight back to its starting point."""


def l2_sp(parameters, start):
    return 0.5 * sum((w - start[name]).square().sum() for name, w in parameters.items())

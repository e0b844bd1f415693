"""Notebook 01, Eq. 1. Without the `finally` a hook stays on the model when the forward pass raises, and keeps maps."""


def feature_map(model, name, x):
    seen = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    try:
        model(x)
    finally:
        handle.remove()
    return seen[0]

"""Calls of a network's modules, recorded on PyTorch's meta device: shapes without arithmetic."""

import copy
from collections.abc import Collection
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.func import functional_call

from spgca_lab.backbones.tap import tapped_map


class ModuleCall(NamedTuple):
    """One call of a watched module; `output` is a `Tap`'s map, `node` its autograd operation if the image enters it.

    `version` counted the output's changes in place when the module returned.
    """

    name: str
    read: object
    output: object
    node: Node | None
    version: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The output's shape without its batch axis; empty when it is no tensor."""
        return tuple(self.output.shape[1:]) if isinstance(self.output, Tensor) else ()

    def fault(self) -> str:
        """Return why the output cannot be tapped, or an empty string."""
        if not isinstance(self.output, Tensor) or self.output.ndim != 4:
            given = ["b", *self.shape] if self.shape else type(self.output).__name__
            return f"gives {given} and no map [b, c, h, w]"
        if self.node is None:
            return "does not depend on the image"
        return "is overwritten in place by a later layer" if self.output._version != self.version else ""


def module_calls(model: nn.Module, names: Collection[str], image_size: int) -> list[ModuleCall]:
    """Return the calls of chosen modules, in order, in a forward pass of two images on the meta device.

    A model that cannot run there (because it reads numbers from tensors, say) runs as a copy on its own device.
    """
    state = {n: t.detach().to("meta") for n, t in chain(model.named_parameters(), model.named_buffers())}
    try:
        return _watch(model, names, image_size, state)
    except Exception:
        if all(tensor.is_meta for tensor in model.state_dict().values()):
            raise
        model = copy.deepcopy(model).eval().requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            return _watch(model, names, image_size, dict(model.named_parameters()))


def _watch(model: nn.Module, names: Collection[str], size: int, state: dict[str, Tensor]) -> list[ModuleCall]:
    calls: list[ModuleCall] = []

    def record(name: str, _module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        value = tapped_map(name, output)
        node, version = (value.grad_fn, value._version) if isinstance(value, Tensor) else (None, 0)
        calls.append(ModuleCall(name, inputs[0] if inputs else None, value, node, version))

    hooks = [model.get_submodule(name).register_forward_hook(partial(record, name)) for name in names]
    like = next((t for t in state.values() if t.is_floating_point()), torch.empty(0, device="meta"))
    try:
        with torch.inference_mode(False), torch.enable_grad():
            # Two images, because BatchNorm in training mode refuses one image with a 1×1 map. They alone need
            # gradients, so that autograd records which outputs depend on them.
            images = like.new_zeros((2, 3, size, size)).requires_grad_().clone()
            functional_call(model, state, (images,))
    finally:
        for handle in hooks:
            handle.remove()
    return calls

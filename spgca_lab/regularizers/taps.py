"""FeatureTaps: record the feature maps FM of Eq. 1 while a model runs."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

from spgca_lab.backbones.tap import tapped_map, unknown_module


class TapError(ValueError):
    """A tap that does not exist, did not run, or did not give a feature map."""


class FeatureTaps:
    r"""Record the feature maps that chosen modules output, as a context manager.

    $$FM^i = f(x, W^i) \qquad (1)$$

    Inside the `with` block each forward pass of `model` fills `maps` anew with the output of every tapped
    module, or with what the `to_map` of a `Tap` makes of it. At the block's end (also after an exception) all
    hooks and maps are gone and every training flag is restored. Maps that the caller has taken out stay valid.

    Tap the last convolution of a block *before* its BatchNorm (`conv3` of a ResNet, Table 3). torchvision
    adds the residual in place into `bn3`'s output, so a hook there would record the whole block's output
    instead.

    Args:
        model: any module; its forward does not change.
        taps: names of submodules, or `Tap`s, in the order in which `maps` lists them.
        training: train (True) or eval (False) mode of `model` inside the block; None leaves its mode.

    Raises:
        TapError: when a tap does not exist (near names are listed), appears twice in `taps`, or later, when
            `maps` is read but a tapped module has not run, ran twice, or gave no `[b, c, h, w]` tensor.

    Source:
        Eq. 1 and Table 3 of the paper; hooks on `conv3` as in the AFA and DELTA releases.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> with FeatureTaps(net, ["0", "2"]) as taps:
        ...     _ = net(torch.zeros(2, 3, 5, 5))
        ...     maps = taps.maps
        >>> {tap: tuple(m.shape) for tap, m in maps.items()}
        {'0': (2, 8, 5, 5), '2': (2, 4, 5, 5)}
    """

    def __init__(self, model: nn.Module, taps: Sequence[str], *, training: bool | None = None):
        names = [taps] if isinstance(taps, str) else list(taps)
        modules = dict(model.named_modules())
        for name in names:
            if name not in modules or name == "":
                raise TapError(unknown_module(name, model))
        if not names or len(set(names)) != len(names):
            raise TapError(f"taps must name at least one module and each only once, got {names!r}")
        self.model = model
        self.taps = tuple(map(str, names))
        self._tapped = [(name, modules[name]) for name in names]
        self._training = training
        self._flags: list[tuple[nn.Module, bool]] = []
        self._handles: list[Any] = []
        self._maps: dict[str, Tensor] = {}
        self._fault: str | None = None
        self._ran = False
        self._running = False

    def __enter__(self) -> Self:
        if self._handles:
            raise TapError("these FeatureTaps are already open; make a second one for a nested block")
        self._forget()
        if self._training is not None:
            self._flags = [(module, module.training) for module in self.model.modules()]
            self.model.train(self._training)
        self._handles.append(self.model.register_forward_pre_hook(self._begin))
        self._handles.append(self.model.register_forward_hook(self._end, always_call=True))
        for tap, module in self._tapped:
            self._handles.append(module.register_forward_hook(self._recorder(tap)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for module, flag in self._flags:
            module.training = flag
        self._flags = []
        self._forget()

    @property
    def maps(self) -> dict[str, Tensor]:
        """Return the maps of the last forward pass, `{tap: [b, c, h, w]}`, a new dict at each read.

        Raises:
            TapError: before the first forward pass, after the block, or when a tap has no usable map.
        """
        if not self._handles:
            raise TapError("these FeatureTaps are closed: read .maps inside the 'with' block")
        if not self._ran:
            raise TapError("no forward pass yet: call the model inside the 'with' block, then read .maps")
        if self._fault:
            raise TapError(self._fault)
        missing = [name for name in self.taps if name not in self._maps]
        if missing:
            raise TapError(f"the last forward pass never reached {missing}: it raised, or does not use them")
        return {name: self._maps[name] for name in self.taps}

    def _begin(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._forget()
        self._ran = self._running = True

    def _end(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._running = False

    def _forget(self) -> None:
        self._maps = {}
        self._fault = None
        self._ran = self._running = False

    def _recorder(self, tap: str) -> Any:
        name = str(tap)

        def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not self._running:  # a submodule called by itself is no forward pass of the model
                return
            made = tapped_map(tap, output)
            if not isinstance(made, Tensor) or made.ndim != 4:
                given = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
                self._fault = (
                    f"tap {name!r} must output a [b, c, h, w] tensor, it gave {given}; "
                    "Tap(name, to_map) makes a map of tokens or other outputs"
                )
            elif name in self._maps:
                self._fault = (
                    f"tap {name!r} ran more than once in a forward pass: tap a module that runs once"
                )
            else:
                self._maps[name] = made

        return record

"""Tiny seeded models and maps for the tests: random weights, no meaning, milliseconds to run."""

import torch
from hypothesis import strategies as st
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

BOTTLENECK_TAPS = ("layer1.0.conv3", "layer2.0.conv3", "layer3.0.conv3", "layer4.0.conv3")
BASIC_TAPS = ("layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2")

# Maps of torchvision's ResNet-101 (and -50) at 224 px, by the names of Table 3.
RESNET101_SHAPES = {
    "layer1.2.conv3": (256, 56, 56),
    "layer2.3.conv3": (512, 28, 28),
    "layer3.22.conv3": (1024, 14, 14),
    "layer4.2.conv3": (2048, 7, 7),
}


class ThinResNet(ResNet):
    """torchvision's ResNet with one block a stage and an eighth of the width."""

    def __init__(self, block, classes):
        super().__init__(block, [1, 1, 1, 1])
        self.fc = nn.Linear(512 // 8 * block.expansion, classes)

    def _make_layer(self, block, planes, *args, **kwargs):
        return super()._make_layer(block, planes // 8, *args, **kwargs)


def bottleneck_net(seed=0, classes=5):
    """Blocks as in ResNet-50 and -101: the residual is added in place to bn3's output."""
    return _seeded(seed, lambda: ThinResNet(Bottleneck, classes))


def basic_net(seed=0, classes=5):
    """Blocks as in ResNet-18."""
    return _seeded(seed, lambda: ThinResNet(BasicBlock, classes))


def pair(seed=0):
    """A frozen source in eval mode and a target of equal weights in train mode; BatchNorm has seen data."""
    source = basic_net(seed)
    with torch.no_grad():
        source.train()(images(8, seed=seed + 1))
    target = basic_net(seed)
    target.load_state_dict(source.state_dict())
    return source.eval().requires_grad_(False), target.train()


class TwoConvs(nn.Module):
    """Two convolutions (`first`, `second`) and a linear `head`; with `fail` the forward raises in between."""

    def __init__(self, seed=0, width=4):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.head = nn.Linear(2 * width, 3)
        self.fail = False
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 3)

    def forward(self, x):
        x = self.first(x).relu()
        if self.fail:
            raise RuntimeError("the second convolution is out of order")
        return self.head(self.second(x).mean(dim=(2, 3)))


def images(count=2, size=32, seed=0):
    """Noise pictures `[count, 3, size, size]`."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def random_maps(shapes, batch=2, seed=0, dtype=torch.float64):
    """`{tap: [batch, c, h, w]}` of standard normal numbers for `{tap: (c, h, w)}`."""
    generator = torch.Generator().manual_seed(seed)
    return {
        tap: torch.randn(batch, *shape, generator=generator, dtype=dtype) for tap, shape in shapes.items()
    }


def randomise(module, seed=0):
    """Fill every parameter with normal numbers, zero biases too, so that no bias goes untested."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


def simplex(shape, seed=0, sharpness=3.0):
    """Random distributions along the last dimension, float64: flat ones and nearly one-hot ones."""
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(shape, generator=generator, dtype=torch.float64)).softmax(dim=-1)


@st.composite
def map_shapes(draw, layers=3, side=4, channels=4):
    """`{tap: (c, h, w)}` of one to `layers` small layers, also rectangular; taps have dots as real ones."""
    sides = st.integers(1, side)
    count = draw(st.integers(1, layers))
    shape = st.tuples(st.integers(1, channels), sides, sides)
    return {f"layer{i + 1}.0.conv3": draw(shape) for i in range(count)}


seeds = st.integers(0, 2**31 - 1)
batches = st.integers(1, 3)


def _seeded(seed, build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()

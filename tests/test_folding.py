"""BatchNorm folded into convolutions: the same numbers on random statistics, and what must not be folded."""

import copy

import pytest
import timm
import torch
from torch import nn
from torchvision.models import resnet50

import spgca_lab as lab
from spgca_lab.regularizers.taps import FeatureTaps
from spgca_lab.training.folding import FoldedNetwork, FoldWarning, foldable
from tests.mock_models import BASIC_TAPS, BOTTLENECK_TAPS, basic_net, bottleneck_net


def stirred(model, seed=0, dtype=torch.float64):
    """A copy whose BatchNorm layers have random statistics, gains of both signs and shifts."""
    model, generator = copy.deepcopy(model).to(dtype).eval(), torch.Generator().manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (norm.running_mean, -1.0, 1.0),
                (norm.running_var, 0.1, 3.0),
                (norm.weight.data, -1.5, 1.5),
                (norm.bias.data, -1.0, 1.0),
            ):
                tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    return model


def seen(model, taps, x):
    """Logits and maps."""
    with torch.no_grad(), FeatureTaps(model, taps) as recorded:
        logits = model(x)
        return [logits, *recorded.maps.values()]


def lab_net(name):
    backbone = lab.load_backbone(name)
    return backbone.model, backbone.taps, 64


NETS = {
    "bottleneck": lambda: (bottleneck_net(), BOTTLENECK_TAPS, 32),
    "basic": lambda: (basic_net(), BASIC_TAPS, 32),
    "mini": lambda: lab_net("mini"),
    "lite0": lambda: lab_net("lite0"),
    "resnet50": lambda: (
        resnet50(),
        ("layer1.2.conv3", "layer2.3.conv3", "layer3.5.conv3", "layer4.2.conv3"),
        64,
    ),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_folded_networks_give_the_same_maps_and_logits_on_random_statistics(name, dtype, bound):
    net, taps, size = NETS[name]()
    model = stirred(net, dtype=dtype)
    folded = FoldedNetwork(model, taps)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype)
    for found, expected in zip(seen(folded.net, taps, x), seen(model, taps, x), strict=True):
        assert (found - expected).abs().max() <= bound * expected.abs().max()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(folded.pairs) == len(norms) - len(taps)
    assert not set(folded.pairs) & set(taps)


def test_the_model_itself_is_left_alone_and_a_copy_follows_it_when_told():
    model = stirred(bottleneck_net())
    before = copy.deepcopy(model.state_dict())
    folded, x = FoldedNetwork(model, BOTTLENECK_TAPS), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    tensors = {name: value.data_ptr() for name, value in folded.state_dict().items()}
    other = stirred(bottleneck_net(seed=5), seed=6)
    with torch.no_grad():
        assert not torch.allclose(folded(x), other(x))
        folded.refold(other)
        torch.testing.assert_close(folded(x), other(x), rtol=1e-10, atol=1e-10)
    # What is compiled or captured reads these very tensors.
    assert {name: value.data_ptr() for name, value in folded.state_dict().items()} == tensors
    assert not any(p.requires_grad for p in folded.parameters())


def test_a_convolution_that_something_else_reads_keeps_its_batchnorm():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    class Again(Twice):
        def forward(self, x):
            return self.norm(self.conv(self.norm(self.conv(x))))

    for model in (Twice(), Again()):
        model = stirred(model)
        assert foldable(model) == {}
        x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
        with torch.no_grad():
            assert torch.equal(FoldedNetwork(model)(x), model(x))


def test_a_convolution_that_does_not_follow_its_weights_keeps_its_batchnorm_and_it_is_said():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight / self.weight.std()
            return nn.functional.conv2d(x, weight, self.bias)

    model = stirred(
        nn.Sequential(Standardised(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    )
    with pytest.warns(
        FoldWarning, match="keeps the BatchNorm layers behind 0: these convolutions do not follow"
    ):
        folded = FoldedNetwork(model)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert folded.pairs == {"2": "3"}
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-10, atol=1e-10)


def test_a_network_that_cannot_be_traced_stays_as_it_is_and_it_is_said():
    class Doubts(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(self.conv(x)) if x.sum() > 0 else x

    model = stirred(Doubts())
    with pytest.warns(FoldWarning, match="Doubts keeps its BatchNorm layers, for it cannot be traced: "):
        folded = FoldedNetwork(model)
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(folded(x), model(x))


@pytest.mark.parametrize("name", ["regnety_002", "mobilenetv3_small_100", "convnext_atto"])
def test_other_networks_of_timm(name):
    """Layers with an activation of their own, squeeze-and-excitation, and a network without BatchNorm."""
    model = stirred(timm.create_model(name, num_classes=7))
    folded = FoldedNetwork(model)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        found, expected = folded(x), model(x)
    assert (found - expected).abs().max() <= 1e-11 * expected.abs().max()
    assert bool(folded.pairs) == (name != "convnext_atto")

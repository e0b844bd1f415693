"""Two remedies for GCA's concentration: uniform weights cost the same as in Eq. 10, and the optima are soft."""

import importlib.util
import math

import pytest
import torch

from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.attention import GlobalChannelAttention, SquaredChannelAttention
from spgca_lab.regularizers.registry import resolve_method

MAPS = {"a": (4, 6, 3, 3), "b": (4, 10, 2, 2)}


@pytest.fixture(scope="module")
def remedies(request):
    path = request.config.rootpath / "benchmarks" / "remedies.py"
    spec = importlib.util.spec_from_file_location("remedies", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def maps(generator):
    s, t = ({tap: torch.randn(shape, generator=generator) for tap, shape in MAPS.items()} for _ in range(2))
    return s, t


def test_equal_weights_cost_what_they_cost_in_eq_10(remedies, maps):
    s, t = maps
    for scale in penalties.SCALES:
        for cls in (SquaredChannelAttention, remedies.EntropyFloorGCA):
            attention = cls.for_maps(s)
            equal = attention.uniform(attention(s))
            expected = GlobalChannelAttention.loss(attention, s, t, equal, scale)
            assert attention.loss(s, t, equal, scale) == pytest.approx(expected.item(), rel=1e-5)


def learned(attention, s, t, steps=400):
    logits = torch.zeros(1, 16, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.05)
    for _ in range(steps):
        weights = dict(zip(MAPS, logits.softmax(dim=1).expand(4, -1).split([6, 10], dim=1), strict=True))
        optimiser.zero_grad()
        attention.loss(s, t, weights, "relative").backward()
        optimiser.step()
    return logits.softmax(dim=1)[0].detach()


def test_squared_weights_end_inversely_to_the_difference(maps):
    s, t = maps
    found = learned(SquaredChannelAttention.for_maps(s), s, t)
    # Under "relative" a layer is a mean over its channels and positions, in units of the variance of S's map.
    squared = [(s[k] - t[k]).square().mean(dim=(0, 2, 3)) / s[k].var(correction=0) / s[k].shape[1] for k in s]
    d = torch.cat(squared)
    expected = (1 / d) / (1 / d).sum()
    assert found.numpy() == pytest.approx(expected.numpy(), rel=0.1)


def test_the_floor_holds_the_entropy_and_eq_10_does_not(remedies, maps):
    s, t = maps
    entropy = {
        cls: torch.special.entr(learned(cls.for_maps(s), s, t)).sum().item()
        for cls in (GlobalChannelAttention, remedies.EntropyFloorGCA)
    }
    assert entropy[GlobalChannelAttention] < 0.2 * math.log(16)
    assert entropy[remedies.EntropyFloorGCA] > 0.7 * math.log(16)


def test_the_floor_does_not_pull_at_t(remedies, maps):
    s, t = maps
    t = {tap: m.requires_grad_(True) for tap, m in t.items()}
    attention = remedies.EntropyFloorGCA.for_maps(s)
    peaked = torch.zeros(4, 16)
    peaked[:, 0] = 1
    weights = dict(zip(MAPS, peaked.split([6, 10], dim=1), strict=True))
    with_floor = torch.autograd.grad(attention.loss(s, t, weights, "relative"), list(t.values()))
    plain = torch.autograd.grad(penalties.gca(s, t, weights), list(t.values()))
    assert all(torch.equal(a, b) for a, b in zip(with_floor, plain, strict=True))


def test_the_squared_form_is_a_method_by_name_and_the_papers_stays_the_default():
    (stage,) = resolve_method("gca_squared").stages
    assert stage.penalty is SquaredChannelAttention
    assert [s.name for s in resolve_method("spgca").stages] == ["spa", "gca"]
    assert [s.name for s in resolve_method("spa->gca_squared").stages] == ["spa", "gca_squared"]

"""L2, L2-SP, uniform features and LwF as penalties of a stage: their parameters and their inputs."""

from types import SimpleNamespace

import pytest
import reference
import torch
from mock_models import BASIC_TAPS, basic_net, random_maps

from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.base import ForwardState, Penalty
from spgca_lab.regularizers.baselines import (
    Distillation,
    StartingPoint,
    UniformFeatures,
    WeightDecay,
    backbone_parameters,
)
from spgca_lab.regularizers.penalties import PenaltyError


def setup():
    source, target = basic_net(0, classes=7).eval().requires_grad_(False), basic_net(0, classes=3)
    return SimpleNamespace(
        source=source, target=target, head_s="fc", head_t="fc", taps=BASIC_TAPS, device=torch.device("cpu")
    )


def state(maps_s=None, maps_t=None, logits_s=None, embedding=None, scale="relative"):
    nothing = torch.zeros(2, 1)
    embedding = nothing if embedding is None else embedding
    return ForwardState(maps_t or {}, embedding, nothing, maps_s or {}, logits_s, scale)


def flat(tensors):
    return [t.flatten().tolist() for t in tensors]


def test_the_backbone_is_everything_but_the_head():
    net = basic_net()
    names = set(backbone_parameters(net, "fc"))
    assert names == {n for n, _ in net.named_parameters()} - {"fc.weight", "fc.bias"}
    assert "layer1.0.conv1.weight" in set(backbone_parameters(net, "layer1.0.conv"))


def test_l2_decays_the_targets_backbone_and_leaves_the_head_to_beta():
    given = setup()
    decay = WeightDecay.build(given)
    held = [p for n, p in given.target.named_parameters() if not n.startswith("fc.")]
    torch.testing.assert_close(
        decay.penalty(state(), {}), torch.tensor(reference.l2(flat(held))), rtol=1e-5, atol=0
    )
    decay.penalty(state(), {}).backward()
    assert given.target.fc.weight.grad is None
    for p in held:
        torch.testing.assert_close(p.grad, p.detach())
    assert list(decay.parameters()) == []
    assert decay.state_dict() == {}


def test_l2_sp_is_the_distance_from_the_sources_weights():
    given = setup()
    anchor = StartingPoint.build(given)
    assert anchor.penalty(state(), {}) == 0
    start = flat(p for n, p in given.source.named_parameters() if not n.startswith("fc."))
    with torch.no_grad():
        for p in given.target.parameters():
            p.add_(0.1 * torch.randn_like(p))
    now = flat(p for n, p in given.target.named_parameters() if not n.startswith("fc."))
    torch.testing.assert_close(
        anchor.penalty(state(), {}), torch.tensor(reference.l2_sp(now, start)), rtol=1e-4, atol=0
    )
    with torch.no_grad():
        given.source.conv1.weight.zero_()  # a later change of the source moves no starting point
    torch.testing.assert_close(
        anchor.penalty(state(), {}), torch.tensor(reference.l2_sp(now, start)), rtol=1e-4, atol=0
    )


def test_l2_and_l2_sp_need_no_pass_through_the_source():
    assert not WeightDecay.needs_source
    assert not StartingPoint.needs_source
    assert UniformFeatures.needs_source
    assert Distillation.needs_source


@pytest.mark.parametrize("scale", penalties.SCALES)
def test_uniform_is_plain_feature_alignment(scale):
    shapes = {"a": (3, 2, 2), "b": (4, 1, 2)}
    maps_s, maps_t = random_maps(shapes), random_maps(shapes, seed=1)
    uniform = UniformFeatures.build(setup())
    at = state(maps_s, maps_t, scale=scale)
    expected = reference.feature_loss(
        *([m.tolist() for m in maps.values()] for maps in (maps_s, maps_t)), scale
    )
    torch.testing.assert_close(uniform.penalty(at, uniform.weights(at)).item(), expected)
    assert uniform.weights(at) == {}


def test_lwf_keeps_the_sources_answers_through_a_copy_of_its_head():
    given = setup()
    lwf = Distillation.build(given)
    embedding = torch.randn(2, 64)
    logits_s = given.source.fc(embedding)
    assert lwf.penalty(state(logits_s=logits_s, embedding=embedding), {}).item() == pytest.approx(0, abs=1e-6)
    moved = (embedding + 1).requires_grad_(True)
    loss = lwf.penalty(state(logits_s=logits_s, embedding=moved), {})
    expected = reference.distillation(logits_s.tolist(), given.source.fc(moved).tolist(), 2.0)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert moved.grad is not None
    assert all(p.grad is not None for p in lwf.parameters())
    assert given.source.fc.weight.grad is None
    assert lwf.head.weight is not given.source.fc.weight
    assert all(p.requires_grad for p in lwf.parameters())


def test_l2_sp_refuses_a_source_of_another_shape():
    given = setup()
    given.source.conv1 = torch.nn.Conv2d(3, 8, 1)
    with pytest.raises(
        PenaltyError, match=r"'conv1\.weight' is \(64, 3, 7, 7\), its starting point is \(8, 3, 1, 1\)"
    ):
        StartingPoint.build(given).penalty(state(), {})


def test_a_penalty_without_its_loss_says_what_to_write():
    with pytest.raises(TypeError, match=r"Penalty must define penalty\(self, state, weights\)"):
        Penalty().penalty(state(), {})

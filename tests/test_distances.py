"""Squared distances of two maps against loops in double precision, forward and backward."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.penalties import squared_distances


def maps(b, c, h, w, seed, dtype=torch.float64, layout=torch.contiguous_format):
    generator = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(b, c, h, w, generator=generator, dtype=torch.float64) for _ in range(2))
    # S with a mean that is large beside its spread, as unnormalised maps may have.
    return (
        (s + 30).to(dtype).to(memory_format=layout),
        t.to(dtype).to(memory_format=layout).requires_grad_(),
    )


def loops(s, t, over):
    s, t = s.tolist(), t.tolist()
    b, c, h, w = (range(n) for n in (len(s), len(s[0]), len(s[0][0]), len(s[0][0][0])))
    if over == "channels":
        sums = [[sum((s[i][k][y][x] - t[i][k][y][x]) ** 2 for k in c) for y in h for x in w] for i in b]
    else:
        sums = [[sum((s[i][k][y][x] - t[i][k][y][x]) ** 2 for y in h for x in w) for k in c] for i in b]
    return torch.tensor(sums, dtype=torch.float64)


@given(
    shape=st.tuples(st.integers(2, 3), st.integers(2, 5), st.integers(1, 4), st.integers(2, 4)),
    over=st.sampled_from(["channels", "positions"]),
    last=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_sums_and_gradient_equal_the_loops(shape, over, last, seed):
    s, t = maps(*shape, seed, layout=torch.channels_last if last else torch.contiguous_format)
    expected = loops(s, t, over)
    weights = torch.rand(expected.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = squared_distances(s.requires_grad_(), t, over)
    (weights * found).sum().backward()
    torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=1e-12)
    wide = weights.view(shape[0], 1, *shape[2:]) if over == "channels" else weights[:, :, None, None]
    torch.testing.assert_close(t.grad, 2 * wide * (t - s).detach(), rtol=1e-12, atol=1e-12)
    assert s.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_maps_are_summed_in_float32_and_get_gradients_of_their_own_type(dtype):
    s, t = maps(2, 300, 9, 9, seed=3, dtype=dtype)
    found = squared_distances(s, t, "positions")
    found.sum().backward()
    exact = (s.double() - t.detach().double()).square().sum(dim=(2, 3))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.detach().double(), exact, rtol=2e-6, atol=0)
    assert t.grad.dtype == dtype
    relative = penalties.features({"a": s}, {"a": t}, "relative")
    expected = 0.5 * exact.mean() / 81 / s.double().var(correction=0)
    torch.testing.assert_close(relative.detach().double(), expected, rtol=2e-5, atol=0)


def test_it_can_be_derived_twice():
    s, t = maps(2, 3, 4, 4, seed=0)
    (grad,) = torch.autograd.grad(squared_distances(s, t, "channels").sum(), t, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), t)
    assert (second == 2).all()

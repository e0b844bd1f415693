"""One look at both maps: every way of computing it against loops in double precision, forward and backward."""

import shutil
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.distances import Kernels, compare, eager_kernels, fused
from spgca_lab.training.compiled import Compiled, CompileWarning

KERNELS = {"plain": None, "eager": eager_kernels, "compiled": Kernels.compiled(backend="aot_eager")}
HAS_COMPILER = any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def maps(b, c, h, w, seed, dtype=torch.float64, layout=torch.contiguous_format):
    generator = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(b, c, h, w, generator=generator, dtype=torch.float64) for _ in range(2))
    # S with a mean that is large beside its spread, as unnormalised maps may have.
    return (
        (s + 30).to(dtype).to(memory_format=layout),
        t.to(dtype).to(memory_format=layout).requires_grad_(),
    )


def loops(s, t, over):
    """Sums written as loops, and the variance as its definition."""
    s, t = s.double(), t.detach().double()
    b, c, h, w = s.shape
    if over == "channels":
        sums = [
            [sum((s[i, k, y, x] - t[i, k, y, x]) ** 2 for k in range(c)) for y in range(h) for x in range(w)]
            for i in range(b)
        ]
    else:
        sums = [
            [sum((s[i, k, y, x] - t[i, k, y, x]) ** 2 for y in range(h) for x in range(w)) for k in range(c)]
            for i in range(b)
        ]
    values = s.flatten()
    return torch.tensor(sums), ((values - values.mean()) ** 2).sum() / len(values)


@pytest.mark.parametrize("kernels", KERNELS)
@given(
    shape=st.tuples(st.integers(2, 3), st.integers(2, 5), st.integers(1, 4), st.integers(2, 4)),
    over=st.sampled_from(["channels", "positions"]),
    last=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_sums_variance_and_gradient_equal_the_loops(kernels, shape, over, last, seed):
    s, t = maps(*shape, seed, layout=torch.channels_last if last else torch.contiguous_format)
    expected, variance = loops(s, t, over)
    weights = torch.rand(expected.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with fused(KERNELS[kernels]):
        found = compare(s.requires_grad_(), t, over, spread=True)
        (weights * found.squared).sum().backward()
    torch.testing.assert_close(found.squared.detach(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.variance, variance, rtol=1e-9, atol=1e-12)
    wide = weights.view(shape[0], 1, *shape[2:]) if over == "channels" else weights[:, :, None, None]
    torch.testing.assert_close(t.grad, 2 * wide * (t - s).detach(), rtol=1e-12, atol=1e-12)
    assert s.grad is None


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_maps_are_summed_in_single_precision_and_get_gradients_of_their_own(kernels, dtype):
    s, t = maps(2, 300, 9, 9, seed=3, dtype=dtype)
    with fused(KERNELS[kernels]):
        found = compare(s, t, "positions", spread=True)
        found.squared.sum().backward()
    exact = (s.double() - t.detach().double()).square().sum(dim=(2, 3))
    assert found.squared.dtype == found.variance.dtype == torch.float32
    torch.testing.assert_close(found.squared.detach().double(), exact, rtol=2e-6, atol=0)
    torch.testing.assert_close(found.variance.double(), s.double().var(correction=0), rtol=2e-5, atol=0)
    assert t.grad.dtype == dtype


@pytest.mark.parametrize("kernels", ["eager", "compiled"])
@pytest.mark.parametrize("scale", penalties.SCALES)
def test_penalties_are_the_same_through_all_kernels(kernels, scale):
    s, t = maps(3, 4, 5, 6, seed=8)
    generator = torch.Generator().manual_seed(1)
    a_c = torch.rand(3, 4, generator=generator, dtype=torch.float64).softmax(1)
    a_p = torch.rand(3, 30, generator=generator, dtype=torch.float64).softmax(1)
    cases = {
        "spatial": (penalties.spatial, a_p),
        "channel": (penalties.channel, a_c),
        "gca": (penalties.gca, a_c),
        "delta": (penalties.delta, a_c[0]),
        "features": (lambda s, t, _, scale: penalties.features(s, t, scale), a_c),
    }
    for penalty, weights in cases.values():
        results = []
        for chosen in (None, KERNELS[kernels]):
            t_own, own = t.detach().clone().requires_grad_(), weights.clone().requires_grad_()
            with fused(chosen):
                value = penalty({"a": s}, {"a": t_own}, {"a": own}, scale)
            inputs = [t_own] if penalty is cases["features"][0] else [t_own, own]
            results.append([value.detach(), *torch.autograd.grad(value, inputs)])
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_outside_the_block_and_after_an_error_nothing_is_fused():
    s, t = maps(2, 3, 4, 4, seed=0)
    with pytest.raises(KeyError), fused(eager_kernels):
        raise KeyError
    # The plain way can be derived twice.
    (grad,) = torch.autograd.grad(compare(s, t, "channels").squared.sum(), t, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), t)
    assert (second == 2).all()


def test_nothing_is_kept_for_the_backward_pass_but_the_two_maps():
    s, t = maps(2, 3, 4, 4, seed=0, dtype=torch.float32)
    kept = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x),
        fused(eager_kernels),
    ):
        compare(s, t, "channels")
    assert {x.data_ptr() for x in kept} == {s.data_ptr(), t.data_ptr()}


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler: the test below shows what happens then")
def test_really_compiled_it_gives_the_same():
    s, t = maps(2, 5, 6, 7, seed=2, dtype=torch.float32, layout=torch.channels_last)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompileWarning)
        for over in ("channels", "positions"):
            with fused(Kernels.compiled()):
                found = compare(s, t, over, spread=True)
                (grad,) = torch.autograd.grad(found.squared.sum(), t)
            plain = compare(s, t, over, spread=True)
            torch.testing.assert_close(found.squared, plain.squared, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found.variance, plain.variance, rtol=1e-4, atol=0)
            torch.testing.assert_close(grad, 2 * (t - s).detach(), rtol=1e-6, atol=1e-6)


def test_where_nothing_can_be_compiled_it_is_said_once_and_the_function_runs(monkeypatch):
    def broken(*_, **__):
        def call(*_):
            raise RuntimeError("no compiler here\nand a long story")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    double = Compiled(lambda x: 2 * x, "the doubling")
    with pytest.warns(
        CompileWarning, match=r"^the doubling could not be compiled .*: RuntimeError: no compiler here$"
    ):
        assert double(torch.ones(2)).tolist() == [2, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert double(torch.ones(1)).tolist() == [2]


def test_an_error_of_the_function_itself_is_not_taken_for_one_of_the_compiler():
    def picky(x):
        if x.ndim != 1:
            raise ValueError(f"one dimension, got {x.ndim}")
        return x

    function = Compiled(picky, "picky", backend="eager")
    with pytest.raises(ValueError, match="one dimension, got 2"):
        function(torch.ones(1, 1))
    assert not function.failed
    assert function(torch.ones(1)).tolist() == [1]

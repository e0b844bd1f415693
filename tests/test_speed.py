"""Speed options against the plain computation over 20 steps and a hand-over, and losses that are read late."""

import copy
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import spgca_lab as lab
from spgca_lab.training.batches import Batches, on_device_if_it_fits, training_batch
from spgca_lab.training.loop import Training
from spgca_lab.training.networks import CompileWarning, TappedNetwork, forward_with_taps
from spgca_lab.training.speed import PLAIN, SpeedOptions

CPU = torch.device("cpu")
FAST = SpeedOptions.of("fast", CPU)
STEPS = 20
# On a CPU the layout is all that the options change without compiling.
OTHER_LAYOUT = replace(PLAIN, channels_last=False)
HAS_COMPILER = any(shutil.which(name) for name in ("g++", "clang++", "c++"))


@pytest.fixture(scope="module")
def train():
    return lab.load_dataset("stickers", per_class=1, test_per_class=1, image_size=64)[0]


def quick(**changes):
    fields = {"backbone": "mini", "image_size": 64, "per_class": 1, "test_per_class": 1, "batch_size": 16}
    return lab.Recipe(**{**fields, "iterations": STEPS, "evaluations": 1, "snapshots": 0, **changes})


def gradients(stage):
    """Of T and of the attention nets, by name."""
    penalty = stage.objective.penalty
    named = [("T", stage.networks.target), *([] if penalty is None else [("A", penalty)])]
    return {
        f"{which}.{name}": p.grad.clone()
        for which, module in named
        for name, p in module.named_parameters()
        if p.grad is not None
    }


def apart(found, expected):
    """Distance of two sets of gradients, in units of the second's length."""
    assert found.keys() == expected.keys()
    difference = torch.stack([(found[name] - expected[name]).double().norm() for name in found]).norm()
    return float(difference / torch.stack([g.double().norm() for g in expected.values()]).norm())


def training_of(recipe, train, speed=None, device="cpu"):
    return Training(recipe, lab.load_backbone(recipe.backbone), train, train, device=device, speed=speed)


def trajectory(recipe, speed, train, *, double=False, follow=None):
    """Each step's losses and gradients; with `follow` every step begins with T and attention as that run's did."""
    training = training_of(recipe, train, speed)
    target, taken = training.networks.target, []
    if double:
        training.networks.source.double(), target.double()
    for index, end in enumerate(training.bounds[1:]):
        training.begin_stage(index)
        stage = training.stage
        penalty = stage.objective.penalty
        if double and penalty is not None:
            penalty.double()
        while training.step < end:
            if follow is not None:
                target.load_state_dict(follow[len(taken)][2])
                penalty.load_state_dict(follow[len(taken)][3])
            before = copy.deepcopy(target.state_dict()), copy.deepcopy(stage.penalty_state())
            stage.step(training.step)
            training.step += 1
            (step,), error = stage.read()
            assert error is None
            taken.append((step, gradients(stage), *before))
    training.close()
    return taken


def losses_apart(found, expected):
    return max(abs(a[0].loss - b[0].loss) / abs(b[0].loss) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("method", ["spgca", "afa", "lwf"])
def test_in_double_precision_two_whole_trainings_agree_with_all_their_gradients(method, train, monkeypatch):
    """Nothing but rounding is between the layouts: with a millionth of it 20 steps end where they should."""
    for module in ("stage", "batches"):
        inputs = lab.training.batches.network_inputs
        monkeypatch.setattr(
            f"spgca_lab.training.{module}.network_inputs", lambda *args, f=inputs: f(*args).double()
        )
    recipe = quick(method=method, image_size=32)
    plain, fast = (trajectory(recipe, speed, train, double=True) for speed in (OTHER_LAYOUT, FAST))
    # Losses are kept in single precision.
    assert losses_apart(fast, plain) <= 1e-6
    assert max(apart(a[1], b[1]) for a, b in zip(fast, plain, strict=True)) <= 1e-8


def test_bfloat16_stays_within_two_percent_of_the_loss_and_a_sixth_of_the_gradient(train):
    recipe = quick(method="spgca", image_size=32)
    plain = trajectory(recipe, PLAIN, train)
    half = trajectory(recipe, replace(FAST, precision="bfloat16"), train, follow=plain)
    assert losses_apart(half, plain) <= 0.02
    distances = [apart(a[1], b[1]) for a, b in zip(half, plain, strict=True)]
    assert max(distances) <= 1 / 6
    # It is another precision, and not another name for the same.
    assert min(distances) > 1e-4


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
def test_everything_compiled_agrees_too(train):
    recipe = quick(method="spgca", iterations=2)
    compiled = replace(FAST, compile_source=True, compile_target=True)
    plain = trajectory(recipe, PLAIN, train)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompileWarning)
        fast = trajectory(recipe, compiled, train, follow=plain)
    assert losses_apart(fast, plain) <= 1e-5
    # Compiled BatchNorm sums in another order, which some ReLU near zero notices.
    assert max(apart(a[1], b[1]) for a, b in zip(fast, plain, strict=True)) <= 2e-3


def test_a_network_is_compiled_whole(monkeypatch):
    """A break in the graph would be an error here: hooks that write into lists are one."""
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **options: compile_(f, **(options | {"backend": "eager"}))
    )
    mini = lab.load_backbone("mini")
    network = TappedNetwork(mini.model, mini.taps, mini.head, compiled=True)
    x = torch.randn(2, 3, 64, 64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", CompileWarning)
        found = network(x)
        expected = forward_with_taps(mini.model, mini.taps, mini.head, x)
    assert list(found.maps) == list(mini.taps)
    for tap in mini.taps:
        torch.testing.assert_close(found.maps[tap], expected.maps[tap], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.embedding, expected.embedding, rtol=1e-4, atol=1e-4)
    network.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in mini.model.modules())


def test_what_cannot_be_compiled_runs_eagerly_with_one_warning(monkeypatch):
    def refuse(function, **options):
        def compiled(*args):
            raise RuntimeError("no C++ compiler")

        return compiled

    monkeypatch.setattr(torch, "compile", refuse)
    mini = lab.load_backbone("mini")
    network = TappedNetwork(mini.model, mini.taps, mini.head, compiled=True)
    x = torch.zeros(1, 3, 64, 64)
    with pytest.warns(CompileWarning, match=r"ThinResNet|could not be compiled and runs eagerly.*no C\+\+"):
        first = network(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(network(x).logits, first.logits)
    network.close()


def test_a_tapped_network_holds_nothing_of_a_batch_that_it_was_not_asked_for():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))
    tapped = TappedNetwork(net, ("0",), "2")
    net(torch.zeros(1, 3, 2, 2))
    assert tapped._seen == {}
    tapped(torch.zeros(1, 3, 2, 2))
    assert tapped._seen == {}


# What the options are


def test_engines_by_device_and_by_name():
    assert SpeedOptions.of("plain", CPU) is PLAIN
    assert SpeedOptions.of("auto", CPU) == SpeedOptions.of("fast", CPU)
    assert SpeedOptions.of("auto", torch.device("mps")) is PLAIN
    assert not any((FAST.compile_source, FAST.compile_target, FAST.precision != "float32"))
    with pytest.raises(ValueError, match="engine must be one of 'auto', 'fast', 'plain', got 'turbo'"):
        SpeedOptions.of("turbo", CPU)
    with pytest.raises(lab.RecipeError, match="engine must be one of 'auto', 'fast', 'plain', got 'turbo'"):
        quick(engine="turbo")


@pytest.mark.parametrize(("half", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_on_cuda_everything_is_on_and_bfloat16_only_where_the_card_has_it(half, precision, monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: half or including_emulation
    )
    engine = SpeedOptions.of("auto", torch.device("cuda"))
    assert engine.precision == precision
    assert all((engine.compile_source, engine.cudnn_benchmark, engine.fused_optimiser))
    assert engine.read_every > 1


def test_a_run_says_how_it_was_computed(tmp_path):
    for name, says in (("plain", "plain"), ("auto", "fast")):
        list(lab.fit(tiny(engine=name), store=tmp_path, device="cpu"))
        result = lab.RunStore(tmp_path)[tiny(engine=name)].result
        assert (result["engine"], result["precision"]) == (says, "float32")


def test_the_step_leaves_torch_as_it_was(train, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    training = training_of(quick(method="spa"), train, replace(FAST, cudnn_benchmark=True))
    state = torch.get_rng_state()
    training.begin_stage(0)
    training.stage.step(0)
    assert not torch.backends.cudnn.benchmark
    assert torch.equal(torch.get_rng_state(), state)
    training.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in training.networks.target.modules())


# Losses that are read every few steps


def tiny(**changes):
    fields = {"weights": "random", "image_size": 32, "method": "spgca", "iterations": 12, "evaluations": 2}
    return quick(**{**fields, "snapshots": 4, **changes})


@pytest.fixture
def late(monkeypatch):
    """Losses wait on the device for up to five steps, as on a GPU for ten."""
    monkeypatch.setattr(
        SpeedOptions, "of", classmethod(lambda cls, name, device: replace(FAST, read_every=5))
    )


def told(events):
    """Events without clocks and folders."""
    return [
        (type(e).__name__, e.weights if isinstance(e, lab.Snapshot) else e)
        for e in events
        if not isinstance(e, lab.Done)
    ]


def same(one, other):
    assert [kind for kind, _ in one] == [kind for kind, _ in other]
    for (kind, a), (_, b) in zip(one, other, strict=True):
        if kind == "Snapshot":
            assert all(np.array_equal(a[tap], b[tap]) for tap in b)
        else:
            assert a == b


def test_events_are_the_same_whenever_losses_are_read(tmp_path, request):
    at_once = told(lab.fit(tiny(), store=tmp_path / "1", device="cpu"))
    request.getfixturevalue("late")
    waited = told(lab.fit(tiny(), store=tmp_path / "5", device="cpu"))
    same(waited, at_once)


@pytest.mark.parametrize("seen", [1, 4, 9, 11])
def test_a_loop_that_ends_among_steps_read_together_goes_on_with_the_next_event(tmp_path, late, seen):
    whole = told(lab.fit(tiny(), store=tmp_path / "whole", device="cpu"))
    begun = []
    for event in lab.fit(tiny(), store=tmp_path / "cut", device="cpu"):
        begun.append(event)
        if len(begun) == seen:
            break
    rest = list(lab.fit(tiny(), store=tmp_path / "cut", device="cpu"))
    same(told(begun) + told(rest), whole)
    tables = [lab.RunStore(tmp_path / name)[tiny()] for name in ("whole", "cut")]
    assert tables[0].steps.equals(tables[1].steps)
    weights = [table.weights() for table in tables]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_divergence_is_told_of_the_step_at_which_it_came(tmp_path, late):
    recipe = tiny(method="uniform", alpha=1e30, snapshots=0)
    events, found = [], None
    try:
        for event in lab.fit(recipe, store=tmp_path, device="cpu"):
            events.append(event)
    except lab.TrainingError as error:
        found = str(error)
    assert found is not None
    assert [event.step for event in events] == list(range(1, len(events) + 1))
    assert all(np.isfinite(event.loss) for event in events)
    assert f"at step {len(events) + 1} of 12" in found
    assert "UniformFeatures" in found


def test_weights_that_are_none_are_told_of_late_as_well(tmp_path, late):
    class Breaks(lab.Attention):
        kind = "spatial"

        def __init__(self, shapes):
            super().__init__(shapes)
            self.calls = 0

        def forward(self, maps_s, maps_t=None):
            self.calls += 1
            weights = {tap: m.mean(dim=1).flatten(1).softmax(dim=1) for tap, m in maps_s.items()}
            # Weights of nothing but zeros and one NaN: the loss is NaN, the cross-entropy is not.
            return {tap: w * float("nan") if self.calls == 3 else w for tap, w in weights.items()}

    events = lab.fit(tiny(method=Breaks, snapshots=0), store=tmp_path, device="cpu")
    assert [next(events).step, next(events).step] == [1, 2]
    with pytest.raises(lab.AttentionError, match=r"Breaks: weights at 'layer1.1.conv3' are not finite"):
        next(events)


def test_batches_are_those_of_the_recipe(train):
    recipe, mini = quick(), lab.load_backbone("mini")
    batches = Batches(recipe, train, mini, 64, CPU)
    for step in (0, 7, 30):
        images, labels = training_batch(recipe, train, 64, step)
        x, y = batches(step)
        assert torch.equal(x, mini.preprocess(images))
        assert torch.equal(y, labels)
        assert x.is_contiguous(memory_format=torch.channels_last)
    assert on_device_if_it_fits(train, CPU) is train


# On a GPU, where there is one

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def on_gpu(recipe, train, speed=None):
    training = training_of(recipe, train, speed, device="cuda")
    training.begin_stage(0)
    return training, training.stage


@cuda
@pytest.mark.parametrize("method", ["l2", "uniform", "spa", "gca", "act"])
def test_no_step_waits_for_the_gpu(method, train):
    training, stage = on_gpu(quick(method=method), train)
    for number in range(3):
        stage.step(number)
    stage.read()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(3, 8):
            stage.step(number)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    steps, error = stage.read()
    assert (len(steps), error) == (5, None)
    training.close()


@cuda
def test_on_a_gpu_fast_and_plain_agree_as_far_as_bfloat16_allows(train):
    recipe, losses = quick(method="spgca"), []
    for engine in (PLAIN, None):
        training, stage = on_gpu(recipe, train, engine)
        for number in range(10):
            stage.step(number)
        steps, error = stage.read()
        assert error is None
        losses.append([step.loss for step in steps])
        training.close()
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)

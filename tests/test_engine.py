"""The fast engine against the plain one over 20 steps and a hand-over, and losses that are read late."""

import copy
import json
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import spgca_lab as lab
from spgca_lab.data.augment import Crops, cut, gather
from spgca_lab.training import staging
from spgca_lab.training.batches import Batches, near, training_batch
from spgca_lab.training.compiled import CompileWarning
from spgca_lab.training.passes import Passes, Tapped
from spgca_lab.training.processes import Processes
from spgca_lab.training.speed import PLAIN, Engine
from spgca_lab.training.stage import StageSteps, Training
from spgca_lab.training.staging import hand_over

CPU = torch.device("cpu")
FAST = Engine.of("fast", CPU)
STEPS = 20
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
    named = [("T", stage.training.target), *([] if penalty is None else [("A", penalty)])]
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


def doubled(training):
    """Everything in double precision."""
    training.source.double(), training.target.double()
    batches = training.batches
    training.batches = lambda step: (batches(step)[0].double(), batches(step)[1])


def trajectory(recipe, engine, train, *, double=False, follow=None):
    """Each step's losses and gradients; with `follow` every step begins with T and attention as that run's did."""
    training = Training(
        recipe, lab.load_backbone(recipe.backbone), train, recipe.image_size, Processes("cpu"), engine
    )
    if double:
        doubled(training)
    stages, taken = recipe.stages().stages, []
    for index in range(len(stages)):
        if index:
            hand_over(training.target, training.source, training.head, training.head)
        stage = StageSteps(training, index)
        penalty = stage.objective.penalty
        if double and penalty is not None:
            penalty.double()
        for _ in range(recipe.iterations // len(stages)):
            if follow is not None:
                training.target.load_state_dict(follow[len(taken)][2])
                penalty.load_state_dict(follow[len(taken)][3])
            before = copy.deepcopy(training.target.state_dict()), copy.deepcopy(stage.penalty_state())
            stage.step(len(taken))
            (step,), error = stage.read()
            assert error is None
            taken.append((step, gradients(stage), *before))
    training.close()
    return taken


def losses_apart(found, expected):
    return max(abs(a[0].loss - b[0].loss) / abs(b[0].loss) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("method", "scale"), [("spgca", "relative"), ("spgca", "afa"), ("afa", "relative"), ("delta", "relative")]
)
def test_fast_and_plain_agree_to_1e5_in_single_precision(method, scale, train, monkeypatch):
    """Loss and gradients of every step, from the same weights; two trainings of their own drift, but hardly."""
    few_filters(monkeypatch)
    recipe = quick(method=method, scale=scale, alpha=1e-3 if scale == "afa" else None)
    plain = trajectory(recipe, PLAIN, train)
    own = trajectory(recipe, FAST, train)
    assert losses_apart(own, plain) <= 1e-4
    beside = trajectory(recipe, FAST, train, follow=plain)
    assert losses_apart(beside, plain) <= 1e-5
    assert max(apart(a[1], b[1]) for a, b in zip(beside, plain, strict=True)) <= 1e-5


def few_filters(monkeypatch):
    """How DELTA's weights are measured has its own tests."""
    monkeypatch.setattr(
        "spgca_lab.regularizers.delta.filter_importance",
        lambda model, taps, x, labels: {
            tap: torch.linspace(0, 1, model.get_submodule(tap).out_channels) for tap in taps
        },
    )


@pytest.mark.parametrize("method", ["spgca", "afa", "lwf"])
def test_in_double_precision_two_whole_trainings_agree_with_all_their_gradients(method, train, monkeypatch):
    """Nothing but rounding is between the engines: with a millionth of it 20 steps end where they should."""
    inputs = staging.network_inputs
    monkeypatch.setattr(staging, "network_inputs", lambda *args: inputs(*args).double())
    recipe = quick(method=method, image_size=32)
    plain, fast = (trajectory(recipe, engine, train, double=True) for engine in (PLAIN, FAST))
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


def test_lite0_agrees_from_the_same_weights(train):
    recipe = quick(method="spgca", backbone="lite0", iterations=4)
    plain = trajectory(recipe, PLAIN, train)
    fast = trajectory(recipe, FAST, train, follow=plain)
    assert losses_apart(fast, plain) <= 1e-5
    assert max(apart(a[1], b[1]) for a, b in zip(fast, plain, strict=True)) <= 1e-5


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
def test_everything_compiled_agrees_too(train):
    recipe = quick(method="spgca", iterations=2)
    compiled = replace(FAST, compile_source=True, compile_target=True, compile_penalty=True)
    plain = trajectory(recipe, PLAIN, train)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompileWarning)
        fast = trajectory(recipe, compiled, train, follow=plain)
    assert losses_apart(fast, plain) <= 1e-5
    # Compiled BatchNorm sums in another order, which some ReLU near zero notices.
    assert max(apart(a[1], b[1]) for a, b in zip(fast, plain, strict=True)) <= 2e-3


def test_t_and_s_are_compiled_whole():
    """A break in the graph would be an error here: hooks that write into lists are one."""
    mini = lab.load_backbone("mini")
    engine = replace(FAST, compile_source=True, compile_target=True)
    target = mini.to_target(5, seed=0).train()
    passes = Passes(mini.model, target, mini.taps, mini.head, engine, CPU)
    passes.begin(needs_source=True)
    for part in (passes._source, passes._target):
        part._options["backend"] = "eager"
    x = torch.randn(2, 3, 64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompileWarning)
        of_s, of_t = passes(x)
    with torch.no_grad(), lab.FeatureTaps(mini.model, mini.taps) as taps:
        logits = mini.model(x)
        for tap, expected in taps.maps.items():
            torch.testing.assert_close(of_s.maps[tap], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(of_s.logits, logits, rtol=1e-4, atol=1e-4)
    assert list(of_t.maps) == list(mini.taps)
    passes.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in target.modules())


def test_a_tapped_network_holds_nothing_of_a_batch_that_it_was_not_asked_for():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))
    tapped = Tapped(net, ("0",), "2")
    net(torch.zeros(1, 3, 2, 2))
    assert tapped._seen == {}
    tapped(torch.zeros(1, 3, 2, 2))
    assert tapped._seen == {}


# What an engine is


def test_engines_by_device_and_by_name():
    assert Engine.of("plain", CPU) is PLAIN
    assert Engine.of("auto", CPU) == Engine.of("fast", CPU)
    assert Engine.of("auto", torch.device("mps")) is PLAIN
    assert not any((FAST.compile_source, FAST.compile_target, FAST.half, FAST.overlap))
    with pytest.raises(ValueError, match="engine must be one of 'auto', 'fast', 'plain', got 'turbo'"):
        Engine.of("turbo", CPU)
    with pytest.raises(lab.RecipeError, match="engine must be one of 'auto', 'fast', 'plain', got 'turbo'"):
        quick(engine="turbo")


@pytest.mark.parametrize(("half", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_on_cuda_everything_is_on_and_bfloat16_only_where_the_card_has_it(half, precision, monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: half or including_emulation
    )
    engine = Engine.of("auto", torch.device("cuda"))
    assert engine.precision == precision
    assert all((engine.fold, engine.fuse, engine.compile_source, engine.compile_penalty, engine.overlap))
    assert engine.read_every > 1


def test_a_recipe_without_an_engine_is_the_run_it_was():
    recipe = quick()
    assert (
        recipe.hash()
        == lab.Recipe.from_dict({k: v for k, v in recipe.to_dict().items() if k != "engine"}).hash()
    )
    hashes = {quick(engine=name).hash() for name in ("auto", "fast", "plain")}
    assert len(hashes) == 3


def test_a_run_says_how_it_was_computed(tmp_path):
    for name, says in (("plain", "plain"), ("auto", "fast")):
        list(lab.fit(tiny(engine=name), store=tmp_path, device="cpu"))
        result = lab.RunStore(tmp_path)[tiny(engine=name)].result
        assert (result["engine"], result["precision"]) == (says, "float32")


def test_the_step_leaves_torch_as_it_was(train, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    training = Training(quick(method="spa"), lab.load_backbone("mini"), train, 64, Processes("cpu"))
    training.engine = replace(training.engine, cudnn_benchmark=True)
    state = torch.get_rng_state()
    StageSteps(training, 0).step(0)
    assert not torch.backends.cudnn.benchmark
    assert torch.equal(torch.get_rng_state(), state)
    training.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in training.target.modules())


# Losses that are read every few steps


def tiny(**changes):
    fields = {"weights": "random", "image_size": 32, "method": "spgca", "iterations": 12, "evaluations": 2}
    return quick(**{**fields, "snapshots": 4, **changes})


@pytest.fixture
def late(monkeypatch):
    """Losses wait on the device for up to five steps, as on a GPU for ten."""
    monkeypatch.setattr(Engine, "of", classmethod(lambda cls, name, device: replace(FAST, read_every=5)))


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


# Pictures on their way


def test_crops_bygather_and_by_slice_are_the_same_pixels(train):
    images = train.images
    generator = torch.Generator().manual_seed(0)
    crops = Crops.draw(10, *images.shape[-2:], 64, generator)
    rows = torch.randint(len(images), (10,), generator=generator)
    assert torch.equal(gather(images, crops, rows), cut(images, crops, rows))
    part = cut(images, crops.part(slice(3, 7)), rows[3:7])
    assert torch.equal(part, cut(images, crops, rows)[3:7])
    assert gather(images, crops, rows).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_batches_are_those_of_the_recipe_wherever_the_pictures_are(train, fused, there):
    """`there` is the way that a GPU's memory takes, run here on the CPU."""
    recipe, mini = quick(), lab.load_backbone("mini")
    batches = Batches(recipe, train, mini, 64, CPU, fused=fused, part=slice(2, 6))
    batches._there = there
    if fused:
        batches._cut._options["backend"] = "aot_eager"
    for step in (0, 7, 30):
        pictures, labels = training_batch(recipe, train, 64, step)
        x, y = batches(step)
        assert torch.equal(x, mini.preprocess(pictures[2:6]))
        assert torch.equal(y, labels[2:6])
        assert x.is_contiguous(memory_format=torch.channels_last)
    assert near(train, CPU) is train


def test_processes_cut_their_own_part_of_a_batch_only(train, monkeypatch):
    sizes = []

    def watch(images, crops, rows):
        sizes.append(len(rows))
        return cut(images, crops, rows)

    monkeypatch.setattr("spgca_lab.training.batches.cut", watch)
    Batches(quick(), train, lab.load_backbone("mini"), 64, CPU, part=slice(4, 8))(0)
    assert sizes == [4]


def test_results_of_runs_from_before_there_were_engines_can_be_read(tmp_path):
    list(lab.fit(tiny(), store=tmp_path, device="cpu"))
    folder = lab.RunStore(tmp_path).folder(tiny())
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    (folder / "result.json").write_text(
        json.dumps({k: v for k, v in result.items() if k not in ("engine", "precision")}), encoding="utf-8"
    )
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    del recipe["engine"]
    (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    assert lab.RunStore(tmp_path)[tiny()].result["top1"] == result["top1"]


# On a GPU, where there is one

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def on_gpu(recipe, train, engine=None):
    training = Training(recipe, lab.load_backbone(recipe.backbone), train, 64, Processes("cuda"), engine)
    return training, StageSteps(training, 0)


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

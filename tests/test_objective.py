"""Eq. 6, 11 and 12 as `fit` runs them: what a step adds up, whom it changes, what crosses half-way."""

import math
from types import SimpleNamespace

import pytest
import reference
import torch

import spgca_lab as lab
from spgca_lab.data import center_crop
from spgca_lab.regularizers import penalties
from spgca_lab.regularizers.baselines import UniformFeatures
from spgca_lab.runs import checkpoint, inputs
from spgca_lab.training import batches, objective

QUICK = {
    "backbone": "mini",
    "weights": "random",
    "per_class": 1,
    "test_per_class": 1,
    "image_size": 32,
    "iterations": 1,
    "batch_size": 4,
    "evaluations": 1,
    "snapshots": 0,
    "milestones": (),
}


@pytest.fixture(scope="module", autouse=True)
def _same_pictures():
    """Every run here uses the same few pictures: make them once."""
    images = inputs.load_data(quick(method="l2"), QUICK["image_size"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "load_data", lambda recipe, size: images)
        yield


@pytest.fixture(scope="module")
def without_penalty(tmp_path_factory):
    """T after one step of cross-entropy and decay alone."""
    return trained(tmp_path_factory.mktemp("plain"), method="l2", alpha=0.0)


def quick(**changes):
    return lab.Recipe(**(QUICK | changes))


def trained(store, **changes):
    """Final weights of T (`target.…`) and of the last stage's nets (`penalty.…`)."""
    recipe = quick(**changes)
    list(lab.fit(recipe, store=store, device="cpu"))
    return lab.RunStore(store)[recipe].weights()


def steps(store, **changes):
    return [e for e in lab.fit(quick(**changes), store=store, device="cpu") if isinstance(e, lab.Step)]


def part(weights, prefix):
    return {
        name: w.double() for name, w in weights.items() if name.startswith(prefix) and w.is_floating_point()
    }


HEAD = ("target.fc.",)


def backbone(weights):
    return {
        n: w for n, w in part(weights, "target.").items() if not n.startswith(HEAD) and "running" not in n
    }


@pytest.mark.parametrize(
    ("method", "first", "second"),
    [
        ("afa", reference.spatial_loss, reference.channel_loss),
        ("spgca", reference.spatial_loss, reference.gca_loss),
    ],
    ids=["eq6", "eq11-eq12"],
)
def test_a_step_of_each_stage_equals_the_loops_on_what_it_saw(method, first, second, tmp_path, monkeypatch):
    seen = []

    def watch_penalty(self, state, weights):
        seen.append({"s": state.maps_s, "t": state.maps_t, "weights": weights})
        return self.loss(state.maps_s, state.maps_t, weights, state.scale)

    def watch_cross_entropy(logits, labels):
        if logits.requires_grad:
            seen.append({"logits": logits.tolist(), "labels": labels.tolist()})
        return torch.nn.functional.cross_entropy(logits, labels)

    plain_l2 = penalties.l2

    def watch_decay(parameters):
        parameters = list(parameters)
        seen.append({"decayed": [p.flatten().tolist() for p in parameters]})
        return plain_l2(parameters)

    monkeypatch.setattr(lab.Attention, "penalty", watch_penalty)
    monkeypatch.setattr(objective, "F", SimpleNamespace(cross_entropy=watch_cross_entropy))
    monkeypatch.setattr(penalties, "l2", watch_decay)
    recipe = quick(method=method, iterations=2, alpha=(0.5, 2.0), beta=0.03)
    events = [e for e in lab.fit(recipe, store=tmp_path, device="cpu") if isinstance(e, lab.Step)]
    for step, loss, alpha, at in zip(events, (first, second), recipe.alphas, (0, 3), strict=True):
        answer, decay, maps = seen[at], seen[at + 1], seen[at + 2]
        cross_entropy = reference.cross_entropy(answer["logits"], answer["labels"])
        penalty = loss(*([m.tolist() for m in maps[k].values()] for k in ("s", "t", "weights")), "relative")
        decayed = reference.l2(decay["decayed"])
        assert [len(p) for p in decay["decayed"]] == [
            512 * len(answer["logits"][0]),
            len(answer["logits"][0]),
        ]
        assert step.cross_entropy == pytest.approx(cross_entropy, rel=1e-5)
        assert step.penalty == pytest.approx(penalty, rel=1e-4)
        assert step.decay == pytest.approx(decayed, rel=1e-5)
        assert step.loss == pytest.approx(
            reference.objective(cross_entropy, alpha, penalty, 0.03, decayed), rel=1e-4
        )


# Whom a step changes


@pytest.mark.parametrize("method", ["uniform", "ast", "spa", "act", "gca", "l2_sp", "lwf"])
def test_the_gradient_of_a_step_is_linear_in_alpha(method, tmp_path, without_penalty):
    """One step from the same weights: what α adds to T, twice α adds twice."""
    # Single precision moves weights by 1e-8 at a time, so α is large enough to stand out.
    one, two = (trained(tmp_path, method=method, alpha=a) for a in (50.0, 100.0))
    moved = 0.0
    for name, start in backbone(without_penalty).items():
        first, second = backbone(one)[name] - start, backbone(two)[name] - start
        moved += float(first.abs().sum())
        torch.testing.assert_close(second, 2 * first, rtol=1e-3, atol=2e-6)
    assert (moved > 0) == (method != "l2_sp")  # at its own starting point L2-SP does not pull yet


def test_the_source_is_the_same_after_a_stage_as_before(tmp_path):
    recipe = quick(iterations=8, method="spa", alpha=50.0)
    running = lab.fit(recipe, store=tmp_path, device="cpu")
    for event in running:
        if isinstance(event, lab.Step) and event.step == 7:
            break
    running.close()
    (file,) = tmp_path.rglob(checkpoint.NAME)
    saved = checkpoint.read(file.parent)
    start = lab.load_backbone("mini", weights="random").model.state_dict()
    assert all(torch.equal(saved["source"][name], value) for name, value in start.items())
    assert not torch.equal(saved["target"]["layer1.0.conv1.weight"], start["layer1.0.conv1.weight"])


def test_beta_decays_the_targets_head_with_its_bias_and_nothing_else(tmp_path):
    """Point 21: ½β‖·‖² on fc alone. A step moves fc by -lr·β·fc, the backbone and SPA's nets not at all."""
    without, decayed, twice = (trained(tmp_path, method="spa", beta=b) for b in (0.0, 10.0, 20.0))
    for name in without:
        assert torch.equal(without[name], decayed[name]) == (not name.startswith(HEAD)), name
    for name in part(without, HEAD):
        change = decayed[name] - without[name]
        torch.testing.assert_close(twice[name] - without[name], 2 * change, rtol=1e-4, atol=1e-6)
        # -lr·β·h with the head h as it was drawn, from which one step without β has not led far.
        drawn = -change / (0.01 * 10.0)
        assert float((without[name] - drawn).norm()) < 0.1 * float(drawn.norm()), name


@pytest.mark.parametrize("method", ["spa", "gca"])
def test_attention_nets_step_at_the_same_rate_as_t_and_are_not_decayed(method, tmp_path):
    """Point 20: their step is -lr·α·gradient; a tenth of lr moves them a tenth as far, and β not at all."""
    start, full, tenth = (
        part(trained(tmp_path, method=method, alpha=a, lr=lr, beta=10.0), "penalty.")
        for a, lr in ((0.0, 0.01), (1000.0, 0.01), (1000.0, 0.001))
    )
    assert start
    assert sum(float((full[n] - start[n]).abs().sum()) for n in start) > 0
    for name in start:
        torch.testing.assert_close(
            full[name] - start[name], 10 * (tenth[name] - start[name]), rtol=1e-2, atol=2e-6
        )


def test_source_in_eval_mode_and_target_in_train_mode_without_gradient_to_s(tmp_path, monkeypatch):
    seen = {}
    build, penalty = UniformFeatures.build.__func__, UniformFeatures.penalty

    def watch_build(cls, setup):
        seen["setup"] = setup
        return build(cls, setup)

    def watch_penalty(self, state, weights):
        source, target = seen["setup"].source, seen["setup"].target
        seen["source"] = {m.training for m in source.modules()}
        seen["bn"] = {m.training for m in target.modules() if isinstance(m, torch.nn.BatchNorm2d)}
        seen["others"] = {m.training for m in target.modules() if not isinstance(m, torch.nn.BatchNorm2d)}
        seen["grad"] = (
            any(m.requires_grad for m in state.maps_s.values()),
            all(m.requires_grad for m in state.maps_t.values()),
            any(p.requires_grad for p in source.parameters()),
        )
        return penalty(self, state, weights)

    monkeypatch.setattr(UniformFeatures, "build", classmethod(watch_build))
    monkeypatch.setattr(UniformFeatures, "penalty", watch_penalty)
    for mode in ("train", "eval"):
        list(lab.fit(quick(method="uniform", target_bn=mode), store=tmp_path, device="cpu"))
        assert seen["source"] == {False}
        assert seen["others"] == {True}
        assert seen["bn"] == {mode == "train"}
        assert seen["grad"] == (False, True, False)


@pytest.mark.parametrize(("bn", "zero"), [("eval", True), ("train", False)])
def test_the_first_penalty_is_zero_only_with_t_in_eval_mode(bn, zero, tmp_path):
    """Point 15: equal weights, but batch statistics against running ones."""
    (step,) = steps(tmp_path, method="spa", target_bn=bn)
    assert (step.penalty < 1e-9) is zero


# Half-way


def test_momentum_starts_anew_at_the_hand_over(tmp_path):
    """Point 18: with one step a stage no step ever sees a velocity, whatever the momentum."""
    none, usual = (trained(tmp_path, iterations=2, momentum=m) for m in (0.0, 0.9))
    assert all(torch.equal(none[name], usual[name]) for name in none)
    none, usual = (trained(tmp_path, iterations=4, momentum=m) for m in (0.0, 0.9))
    assert any(not torch.equal(none[name], usual[name]) for name in none)


def test_the_target_goes_on_with_its_head_after_the_hand_over(tmp_path):
    """Point 17: without a penalty two stages are one training, so nothing of T was drawn anew."""
    options = {"iterations": 4, "alpha": 0.0, "momentum": 0.0}
    one = steps(tmp_path, method="l2", **options)
    two = steps(tmp_path, method="spgca", **options)
    assert [s.stage for s in two] == ["spa", "spa", "gca", "gca"]
    assert [s.cross_entropy for s in two] == [s.cross_entropy for s in one]


def test_after_the_hand_over_s_equals_t_so_the_penalty_begins_at_zero_again(tmp_path):
    """Point 16: T's weights are S's again. (That the statistics go along is seen in train mode only.)"""
    last, first = steps(tmp_path, iterations=4, target_bn="eval", method="spgca", lr=0.05)[1:3]
    assert (last.stage, first.stage) == ("spa", "gca")
    assert last.penalty > 1e-6
    assert first.penalty < 1e-9


def test_the_reported_accuracy_is_that_of_the_last_iterate(tmp_path):
    """Points 16 and 25: the saved weights, put into a fresh network, give the reported accuracy again."""
    recipe = quick(iterations=6, evaluations=6, batch_size=8, lr=0.05)
    list(lab.fit(recipe, store=tmp_path, device="cpu"))
    run = lab.RunStore(tmp_path)[recipe]
    assert run.evaluations["step"].tolist() == [1, 2, 3, 4, 5, 6]
    source = lab.load_backbone("mini", weights="random")
    _, test = inputs.load_data(recipe, 32)
    net = source.to_target(len(test.classes), seed=0)
    net.load_state_dict(
        {n.removeprefix("target."): w for n, w in run.weights().items() if n.startswith("target.")}
    )
    with torch.no_grad():
        logits = net.eval()(source.preprocess(center_crop(test.images, 32)))
    right = (logits.argmax(dim=1) == test.labels).double().mean()
    assert run.result["top1"] == pytest.approx(100 * float(right))
    assert run.result["top1"] == run.evaluations["top1"].iloc[-1]
    assert run.result["cross_entropy"] == pytest.approx(run.evaluations["cross_entropy"].iloc[-1])


# Batches


def test_batches_are_whole_and_an_epoch_shows_no_picture_twice(tmp_path, monkeypatch):
    """Point 24: steps, not epochs; the rest that does not fill a batch is left out until the next shuffle."""
    shown = []
    crop_flip = batches.AUGMENTATIONS["crop_flip"]

    def watch(images, size, generator):
        shown.append({i.numpy().tobytes() for i in images})
        return crop_flip(images, size, generator)

    monkeypatch.setitem(batches.AUGMENTATIONS, "crop_flip", watch)
    recipe = quick(method="l2", iterations=7, batch_size=20)
    train, _ = inputs.load_data(recipe, 32)
    pictures = {i.numpy().tobytes() for i in train.images}
    whole = len(train) // 20
    assert len(pictures) == len(train) > 20 * whole
    list(lab.fit(recipe, store=tmp_path, device="cpu"))
    assert [len(batch) for batch in shown] == [20] * 7
    for start in range(0, 7 - whole + 1, whole):
        epoch = shown[start : start + whole]
        assert len(set().union(*epoch)) == 20 * whole
    assert shown[:whole] != shown[whole : 2 * whole]


def test_methods_of_one_seed_see_the_same_batches(tmp_path):
    """Paired comparisons: before any penalty has acted the cross-entropies agree to the last digit."""
    first = {
        m: steps(tmp_path, method=m)[0].cross_entropy for m in ("l2", "uniform", "ast", "spa", "act", "gca")
    }
    assert len(set(first.values())) == 1
    assert math.isfinite(first["l2"])


def test_fit_closes_its_taps_when_the_reader_stops_listening(tmp_path, monkeypatch):
    models = []
    build = UniformFeatures.build.__func__

    def watch(cls, setup):
        models.extend([setup.source, setup.target])
        return build(cls, setup)

    monkeypatch.setattr(UniformFeatures, "build", classmethod(watch))
    running = lab.fit(quick(method="uniform", iterations=4), store=tmp_path, device="cpu")
    for event in running:
        if isinstance(event, lab.Step):
            break
    running.close()
    assert len(models) == 2
    for model in models:
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

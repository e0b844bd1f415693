"""Loss terms and gradients on one batch, against plain autograd on a small net and against a training's own steps."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spgca_lab as lab
from spgca_lab.analysis.gradients import BatchProbe, TermGradients
from spgca_lab.backbones.base import Backbone, Preprocess
from spgca_lab.training.batches import network_inputs, training_batch
from spgca_lab.training.objective import Objective, TrainingError
from spgca_lab.training.seeding import derive_seed

TAPS = ("one", "two", "three", "four")
SIZES = ((4, 16), (6, 8), (8, 4), (8, 2))
CLASSES = 3
FIT = {
    "backbone": "mini",
    "weights": "random",
    "per_class": 1,
    "test_per_class": 1,
    "image_size": 32,
    "iterations": 2,
    "batch_size": 8,
    "evaluations": 1,
    "snapshots": 0,
}


class Small(nn.Module):
    """Four convolutions, each tapped before its BatchNorm, and a head."""

    def __init__(self, seed=0, classes=CLASSES, drop=0.0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.one = nn.Conv2d(3, 4, 3, 2, 1)
            self.two = nn.Conv2d(4, 6, 3, 2, 1)
            self.three = nn.Conv2d(6, 8, 3, 2, 1)
            self.four = nn.Conv2d(8, 8, 3, 2, 1)
            self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (4, 6, 8, 8))
            self.drop = nn.Dropout(drop)
            self.head = nn.Linear(8, classes)

    def forward(self, x):
        for name, norm in zip(TAPS, self.norms, strict=True):
            x = norm(getattr(self, name)(x)).relu()
        return self.head(self.drop(x.mean(dim=(2, 3))))


def by_hand(model, x):
    """The same forward pass with its maps at hand, written once more without hooks."""
    maps = []
    for name, norm in zip(TAPS, model.norms, strict=True):
        maps.append(getattr(model, name)(x))
        x = norm(maps[-1]).relu()
    return model.head(x.mean(dim=(2, 3))), maps


def images(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 36, 36), generator=generator, dtype=torch.uint8)
    return lab.ImageSet(pixels, torch.arange(count) % CLASSES, ["a", "b", "c"], 32)


@pytest.fixture
def backbone():
    model = Small(0).eval()
    with torch.no_grad():
        for norm in model.norms:
            norm.running_mean.normal_(generator=torch.Generator().manual_seed(1))
    return Backbone("small", model, TAPS, Preprocess((127.0,) * 3, (64.0,) * 3), 32, "head", "random")


@pytest.fixture
def trained(backbone):
    """A T that has moved away from S."""
    target = Small(7)
    with torch.no_grad():
        for p, q in zip(target.parameters(), backbone.model.parameters(), strict=True):
            p.copy_(q + 0.3 * p)
    return target


@pytest.fixture
def networks(backbone, trained):
    return BatchProbe(backbone, trained, images(), 32)


def recipe(method="uniform", **changes):
    return lab.Recipe(**({"method": method, "backbone": "small", "batch_size": 4, "scale": "afa"} | changes))


def batch(backbone, chosen=None, step=0):
    pictures, labels = training_batch(chosen or recipe(), images(), 32, step)
    return network_inputs(backbone, pictures), labels


def measured(networks, chosen, **more):
    x, y = batch(networks.backbone, chosen)
    return networks.measure(networks.begin(chosen), x, y, target_bn=chosen.target_bn, **more)


def gradients_by_hand(networks, trained, x, y, alpha=1.0, beta=1.0, bn="train"):
    """Plain autograd of each term, and of α, β weighted sum, at the maps and the head."""
    target = copy.deepcopy(trained).train(bn == "train")
    logits, maps = by_hand(target, x)
    with torch.no_grad():
        maps_s = by_hand(copy.deepcopy(networks.backbone.model).eval(), x)[1]
    ce = F.cross_entropy(logits, y)
    penalty = sum(0.5 * (s - t).square().sum() / len(x) for s, t in zip(maps_s, maps, strict=True))
    decay = 0.5 * sum(p.square().sum() for p in target.head.parameters())
    places = [*maps, *target.head.parameters()]

    def gradient(term):
        found = torch.autograd.grad(term, places, retain_graph=True, allow_unused=True)
        found = [torch.zeros_like(p) if g is None else g for g, p in zip(found, places, strict=True)]
        return [g.flatten().double() for g in found[:4]] + [
            torch.cat([g.flatten().double() for g in found[4:]])
        ]

    total = ce + alpha * penalty + beta * decay
    terms = (ce, penalty, decay, total)
    return (
        [float(t.detach()) for t in terms],
        [gradient(term) for term in terms],
        list(zip(maps_s, maps, strict=True)),
    )


def cosine(a, b):
    return float(a @ b / a.norm() / b.norm())


# --- the numbers


@pytest.mark.parametrize("bn", ["train", "eval"])
def test_terms_norms_and_angles_are_those_of_plain_autograd(networks, trained, bn):
    alpha, beta = 0.7, 0.3
    (found,) = measured(networks, recipe(target_bn=bn))
    x, y = batch(networks.backbone)
    values, (ce, penalty, decay, total), pairs = gradients_by_hand(networks, trained, x, y, alpha, beta, bn)
    assert [found.cross_entropy, found.penalty, found.decay] == pytest.approx(values[:3], rel=1e-5)
    assert math.fsum(found.parts(alpha, beta)) == pytest.approx(values[3], rel=1e-5)
    assert [pull.place for pull in found.gradients] == [*TAPS, "head"]
    for i, pull in enumerate(found.gradients):
        wanted = [float(g[i].norm()) for g in (ce, penalty, decay)]
        assert pull.norms() == pytest.approx(wanted, rel=1e-4)
        assert pull.total(alpha, beta) == pytest.approx(float(total[i].norm()), rel=1e-4)
        regulariser = alpha * penalty[i] + beta * decay[i]
        assert pull.ratio(alpha, beta) == pytest.approx(float(regulariser.norm() / ce[i].norm()), rel=1e-4)
        assert pull.cosine(alpha, beta) == pytest.approx(cosine(ce[i], regulariser), abs=1e-4)
    for pull, (s, t) in zip(found.taps, pairs, strict=True):
        assert pull.own == pytest.approx(float((t - s).detach().norm()) / len(x), rel=1e-5)


@pytest.mark.parametrize("scale", ["literal", "afa", "relative"])
@pytest.mark.parametrize("method", ["ast", "spa", "act", "gca"])
def test_a_layers_own_term_has_its_closed_form_where_weights_are_uniform(networks, trained, method, scale):
    (found,) = measured(networks, recipe(method, scale=scale, attention="uniform"))
    x, y = batch(networks.backbone)
    pairs = gradients_by_hand(networks, trained, x, y)[2]
    channels = sum(c for c, _ in SIZES)
    for pull, (s, t), (c, side) in zip(found.taps, pairs, SIZES, strict=True):
        plain = float((t - s).detach().norm()) / len(x)
        wanted = {
            "afa": plain,
            "relative": plain / (c * side**2) / float(s.var(correction=0)),
            "literal": plain / {"act": c, "gca": channels}.get(method, side**4),
        }[scale]
        assert pull.own == pytest.approx(wanted, rel=1e-4)


def test_literal_leaves_the_shallow_layers_own_terms_to_nothing(networks):
    """Eq. 8 as printed, weights of 1/HW inside the norm: 1/256² in layer 1, 1/4² in layer 4."""
    literal, afa = (
        measured(networks, recipe("spa", scale=scale, attention="uniform"))[0] for scale in ("literal", "afa")
    )
    shrunk = [a.own / b.own for a, b in zip(literal.taps, afa.taps, strict=True)]
    assert shrunk == pytest.approx([1 / side**4 for _, side in SIZES], rel=1e-4)
    # Through the deeper taps it still arrives: the total gradient shrinks only as the deepest layer's does.
    assert literal.taps[0].norms()[1] > 100 * literal.taps[0].own


@pytest.mark.parametrize(
    "method", ["spgca", "afa", "gca->spa", "delta", "lwf", "l2", "l2_sp", "l2_fe", "uniform"]
)
def test_the_first_stage_is_what_a_training_writes_of_its_first_step(method, tmp_path, monkeypatch):
    monkeypatch.setattr("spgca_lab.regularizers.delta.MAX_IMAGES", 2)
    chosen = lab.Recipe(method=method, **FIT)
    step = next(e for e in lab.fit(chosen, store=tmp_path, device="cpu") if isinstance(e, lab.Step))
    mini = lab.load_backbone("mini", weights="random")
    train, _ = lab.load_dataset("stickers", per_class=1, test_per_class=1, image_size=32)
    target = mini.to_target(len(train.classes), seed=derive_seed(0, "head"))
    networks = BatchProbe(mini, target, train, 32)
    pictures, y = training_batch(chosen, train, 32, 0)
    found = networks.measure(networks.begin(chosen), network_inputs(mini, pictures), y)
    assert len(found) == len(chosen.alphas)
    terms = found[0]
    assert (terms.cross_entropy, terms.decay) == pytest.approx((step.cross_entropy, step.decay), rel=1e-5)
    assert terms.penalty == pytest.approx(step.penalty, rel=1e-4, abs=1e-7)
    assert terms.accuracy == pytest.approx(step.accuracy)
    assert math.fsum(terms.parts(chosen.alphas[0], chosen.beta)) == pytest.approx(step.loss, rel=1e-4)


@pytest.mark.parametrize("method", ["spgca", "lwf", "uniform"])
def test_terms_are_those_of_the_objective(networks, trained, method):
    chosen = recipe(method, scale="relative")
    starts, (x, y) = networks.begin(chosen), batch(networks.backbone)
    for start, found in zip(starts, networks.measure(starts, x, y), strict=True):
        target = copy.deepcopy(trained).train()
        plain = Objective(
            start.objective.source, target, "head", TAPS, start.objective.penalty, 2.0, 0.5, "relative"
        )(x, y)
        given = [float(t.detach()) for t in (plain.cross_entropy, plain.penalty, plain.decay)]
        assert [found.cross_entropy, found.penalty, found.decay] == pytest.approx(given, rel=1e-4, abs=1e-7)
        assert math.fsum(found.parts(2.0, 0.5)) == pytest.approx(float(plain.loss.detach()), rel=1e-4)


# --- α and β


def test_norms_are_linear_in_alpha_and_beta_and_directions_do_not_turn(networks):
    (found,) = measured(networks, recipe("spa"))
    for pull in found.gradients:
        ce, penalty, decay = pull.norms(1.0, 1.0)
        assert pull.norms(5.0, 0.25) == pytest.approx((ce, 5 * penalty, decay / 4))
    tap = found.taps[0]
    assert tap.ratio(6.0, 0.01) == pytest.approx(6 * tap.ratio(1.0, 0.01))
    assert tap.cosine(6.0, 0.01) == pytest.approx(tap.cosine(1.0, 0.01))
    assert tap.ratio(tap.crossing(), 0.01) == pytest.approx(1.0)
    assert tap.own_ratio(2.0) == pytest.approx(2 * tap.own / tap.norms()[0])
    assert found.head.ratio(1.0, found.head.crossing(2)) == pytest.approx(1.0)
    assert tap.total(0.0, 0.0) == tap.norms()[0]


def test_decay_at_the_taps_is_exactly_0_and_the_penalty_never_reaches_the_head(networks):
    for found in measured(networks, recipe("spgca")):
        for pull in found.taps:
            assert pull.acts == (True, True, False)
            assert pull.norms(1.0, 100.0)[2] == 0.0
        assert found.head.acts == (True, False, True)
        assert found.head.norms()[1] == 0.0
        assert math.isnan(found.head.own)


def test_a_pull_without_a_task_or_without_anything():
    alone = TermGradients("x", ((0.0, 0.0, 0.0), (0.0, 4.0, 0.0), (0.0,) * 3), (True, True, False), own=2.0)
    assert alone.ratio(1.0, 0.0) == math.inf
    nothing = TermGradients("x", ((0.0,) * 3,) * 3, (True, True, False))
    for value in (nothing.ratio(1.0, 0.0), alone.cosine(1.0, 0.0), alone.crossing(), alone.own_ratio(1.0)):
        assert math.isnan(value)
    against = TermGradients("x", ((1.0, -1.0, 0.0), (-1.0, 1.0, 0.0), (0.0,) * 3), (True, True, False))
    assert against.cosine(1.0, 0.0) == -1.0
    assert against.total(1.0, 0.0) == 0.0


# --- what does not act on maps


def test_penalties_of_weights_have_a_loss_and_no_gradient_at_the_maps(networks, trained, backbone):
    (l2,) = measured(networks, recipe("l2"))
    body = [p for name, p in trained.named_parameters() if not name.startswith("head")]
    assert l2.penalty == pytest.approx(0.5 * sum(float(p.detach().square().sum()) for p in body), rel=1e-5)
    (l2_sp,) = measured(networks, recipe("l2_sp"))
    start = dict(backbone.model.named_parameters())
    moved = sum(
        float((p - start[name]).detach().square().sum())
        for name, p in trained.named_parameters()
        if not name.startswith("head")
    )
    assert l2_sp.penalty == pytest.approx(0.5 * moved, rel=1e-5)
    for found in (l2, l2_sp):
        assert {pull.acts for pull in found.taps} == {(True, False, False)}


def test_lwf_reaches_the_maps_but_has_no_term_of_a_layers_own(networks):
    (found,) = measured(networks, recipe("lwf"))
    for pull in found.taps:
        assert pull.norms()[1] > 0
        assert math.isnan(pull.own)


def test_l2_fe_trains_the_head_alone_in_eval_mode(networks, trained):
    (found,) = measured(networks, recipe("l2_fe"))
    assert {pull.acts for pull in found.taps} == {(False, False, False)}
    assert found.head.acts == (True, False, True)
    x, y = batch(networks.backbone)
    with torch.no_grad():
        assert found.cross_entropy == pytest.approx(
            float(F.cross_entropy(copy.deepcopy(trained).eval()(x), y))
        )


# --- stages


def test_a_second_stage_begins_with_t_as_its_source(networks, trained):
    source, first = networks.source(1), networks.source(0)
    sent = {n: v for n, v in trained.state_dict().items() if not n.startswith("head")}
    assert all(torch.equal(source.state_dict()[name], value) for name, value in sent.items())
    assert torch.equal(source.head.weight, first.head.weight)
    assert not source.training
    assert not any(p.requires_grad for p in source.parameters())


def test_where_t_is_still_s_both_stages_share_one_pass_through_s(backbone, networks):
    both = BatchProbe(backbone, backbone.to_target(CLASSES, seed=0), images(), 32)
    x, _ = batch(backbone)
    assert both.source(1) is both.source(0)
    assert both.source_pass(1, x) is both.source_pass(0, x)
    assert networks.source(1) is not networks.source(0)
    apart = [networks.source_pass(index, x).maps["four"] for index in (0, 1)]
    assert not torch.equal(*apart)


def test_in_a_second_stage_only_batchnorms_two_modes_differ(networks):
    train = measured(networks, recipe("spgca", target_bn="train"))
    evaluated = measured(networks, recipe("spgca", target_bn="eval"))
    assert train[1].penalty > 0
    assert evaluated[0].penalty > 0
    assert evaluated[1].penalty == 0.0
    for pull in evaluated[1].taps:
        assert pull.norms()[1] == 0.0
        assert pull.acts[1]
        assert math.isnan(pull.cosine(3.0, 0.01))
        assert math.isnan(pull.crossing())


def test_stages_that_train_different_parts_run_t_in_their_own_modes(networks):
    head_first = measured(networks, recipe("l2_fe->spa"))
    assert not head_first[0].taps[0].acts[0]
    assert head_first[1].taps[0].acts == (True, True, False)
    assert head_first[0].cross_entropy != head_first[1].cross_entropy
    (alone,) = measured(networks, recipe("l2_fe"))
    assert alone.gradients == head_first[0].gradients


def test_fresh_nets_come_from_the_seed_and_orders_differ(networks):
    def penalties(**changes):
        return [terms.penalty for terms in measured(networks, recipe(**changes))]

    assert penalties(method="spgca", seed=1) == penalties(method="spgca", seed=1)
    first = networks.begin(recipe("gca"))[0].objective.penalty.state_dict()
    other = networks.begin(recipe("gca", seed=1))[0].objective.penalty.state_dict()
    assert not torch.equal(first["fc.0.weight"], other["fc.0.weight"])
    assert [s.stage.name for s in networks.begin(recipe("gca->spa"))] == ["gca", "spa"]


def test_a_readers_penalty_is_built_and_measured_like_the_others(networks, trained):
    class Quiet(lab.Penalty):
        """Half the mean square of the last map, and T's head pulled along."""

        @classmethod
        def build(cls, setup):
            own = cls()
            own.head, own.seen = setup.target.get_submodule(setup.head_t), dict(setup.options)
            return own

        def penalty(self, state, weights):
            return 0.5 * state.maps_t["four"].square().sum() + self.head.weight.square().sum()

    starts, (x, y) = networks.begin(recipe(Quiet, r=2)), batch(networks.backbone)
    (found,) = networks.measure(starts, x, y)
    assert starts[0].objective.penalty.seen["r"] == 2
    last = by_hand(copy.deepcopy(trained).train(), x)[1][3]
    assert found.taps[3].own == pytest.approx(float(last.detach().norm()), rel=1e-5)
    assert math.isnan(found.taps[0].own)
    assert found.taps[0].norms()[1] > 0
    assert found.head.acts == (True, True, True)
    assert found.head.norms()[1] == pytest.approx(2 * float(trained.head.weight.detach().norm()), rel=1e-5)
    mixed = found.head.regulariser(0.5, 2.0)
    weight, bias = (p.detach().double() for p in trained.head.parameters())
    assert mixed == pytest.approx(float(torch.cat([(3 * weight).flatten(), 2 * bias]).norm()), rel=1e-5)


# --- nothing is disturbed


def snapshot(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [p.grad for p in model.parameters()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
    )


def same(one, two):
    assert all(torch.equal(one[0][name], two[0][name]) for name in one[0])
    assert one[1:] == two[1:]


@pytest.mark.parametrize("method", ["spgca", "l2_fe", "lwf", "l2_fe->gca"])
def test_networks_modes_flags_buffers_and_hooks_are_as_before(networks, trained, backbone, method):
    whole = (trained, networks.target, backbone.model, networks.source(0), networks.source(1))
    before = [snapshot(model) for model in whole]
    state = torch.get_rng_state()
    measured(networks, recipe(method), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    for model, seen in zip(whole, before, strict=True):
        same(seen, snapshot(model))
    assert measured(networks, recipe(method), seed=3) == measured(networks, recipe(method), seed=3)


def test_a_penalty_with_a_memory_is_as_before_too(networks):
    class Remembers(lab.Penalty):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(8)

        def penalty(self, state, weights):
            return self.norm(state.maps_t["four"]).square().mean()

    starts, (x, y) = networks.begin(recipe(Remembers)), batch(networks.backbone)
    before = snapshot(starts[0].objective.penalty)
    first = networks.measure(starts, x, y)
    same(before, snapshot(starts[0].objective.penalty))
    assert networks.measure(starts, x, y) == first


def test_networks_are_as_before_even_when_a_penalty_fails(networks):
    class Broken(lab.Penalty):
        def penalty(self, state, weights):
            raise RuntimeError("out of order")

    before = snapshot(networks.target)
    with pytest.raises(RuntimeError, match="out of order"):
        measured(networks, recipe(Broken))
    same(before, snapshot(networks.target))


class ChannelsLast(Small):
    """The same network with modules that output `[b, h, w, c]`."""

    def __init__(self, like):
        super().__init__()
        self.load_state_dict(like.state_dict())
        self.last = nn.ModuleList(nn.Identity() for _ in TAPS)

    def forward(self, x):
        for name, norm, last in zip(TAPS, self.norms, self.last, strict=True):
            x = norm(last(getattr(self, name)(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).relu()
        return self.head(x.mean(dim=(2, 3)))


def test_a_tap_with_a_function_has_the_gradients_of_its_map(backbone, trained, networks):
    taps = [lab.Tap(f"last.{i}", lambda y: y.permute(0, 3, 1, 2)) for i in range(len(TAPS))]
    last = Backbone("last", ChannelsLast(backbone.model), taps, backbone.preprocess, 32, "head")
    found = measured(BatchProbe(last, ChannelsLast(trained), images(), 32), recipe("gca", r=2))
    for stage, expected in zip(found, measured(networks, recipe("gca", r=2)), strict=True):
        assert [at.place for at in stage.taps] == list(last.taps)
        for at, plain in zip(stage.gradients, expected.gradients, strict=True):
            assert at.acts == plain.acts
            torch.testing.assert_close(
                torch.tensor(at.products), torch.tensor(plain.products), rtol=1e-4, atol=1e-9
            )
            assert at.own == pytest.approx(plain.own, rel=1e-4, nan_ok=True)


def test_dropout_draws_from_its_own_seed(backbone):
    networks = BatchProbe(backbone, Small(7, drop=0.5), images(), 32)
    first, again, other = (measured(networks, recipe(), seed=seed)[0].cross_entropy for seed in (1, 1, 2))
    assert first == again != other


def test_a_loss_that_is_not_finite_is_said(backbone, trained):
    with torch.no_grad():
        trained.four.weight.fill_(float("inf"))
    with pytest.raises(TrainingError, match="the loss of this batch is not finite: cross-entropy nan"):
        measured(BatchProbe(backbone, trained, images(), 32), recipe())


# --- batches


def test_batches_are_a_trainings_every_picture_once_an_epoch():
    chosen, train = recipe(batch_size=2), images()
    numbered = lab.ImageSet(
        torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 36, 36).clone(),
        train.labels,
        train.classes,
        32,
    )
    seen = [training_batch(chosen, numbered, 32, step) for step in range(6)]
    rows = [pictures[:, 0, 0, 0].tolist() for pictures, _ in seen]
    for epoch in (rows[:3], rows[3:]):
        assert sorted(number for row in epoch for number in row) == list(range(6))
    assert rows[:3] != rows[3:]
    for row, (_, labels) in zip(rows, seen, strict=True):
        assert labels.tolist() == [r % CLASSES for r in row]


def test_too_few_pictures_for_a_batch_are_said():
    with pytest.raises(TrainingError, match="batch_size is 7, but 'pictures' has only 6 training images"):
        training_batch(recipe(batch_size=7), images(), 32, 0)

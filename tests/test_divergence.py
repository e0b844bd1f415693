"""A loss that runs away: stopped at that step, with terms, gradients by layer and a cause; warned of at step 1."""

import math
import re
import warnings

import pytest
import torch

import spgca_lab as lab
from spgca_lab.regularizers.base import Penalty
from spgca_lab.runs import checkpoint
from spgca_lab.training.diagnose import (
    DOMINATES,
    LayerNorms,
    Losses,
    PenaltyWarning,
    gradient_ratio,
    likely_cause,
    task_gradient,
)
from spgca_lab.training.loop import Training
from spgca_lab.training.objective import Objective
from spgca_lab.training.stage import StageTrainer
from tests.test_journal import plain

SMALL = {
    "backbone": "mini",
    "image_size": 32,
    "per_class": 1,
    "test_per_class": 1,
    "batch_size": 8,
    "iterations": 8,
    "evaluations": 1,
    "snapshots": 0,
}

AFA = {"alpha": 0.1, "scale": "afa"}
RELATIVE = {"alpha": 0.1, "scale": "relative"}


def first_step(**fields):
    recipe = lab.Recipe(**SMALL | fields)
    train = lab.load_dataset("stickers", per_class=1, test_per_class=1, image_size=recipe.image_size)[0]
    training = Training(recipe, lab.load_backbone("mini", weights="random"), train, train, device="cpu")
    training.begin_stage(0)
    return training, training.stage


@pytest.mark.filterwarnings("ignore::spgca_lab.training.diagnose.PenaltyWarning")
def test_a_divergence_is_told_with_terms_gradients_and_cause(tmp_path):
    recipe = lab.Recipe(**SMALL, method="spa", scale="afa", alpha=0.1, lr=0.3)
    with pytest.raises(lab.TrainingError) as caught:
        list(lab.fit(recipe, tmp_path, device="cpu"))
    message = str(caught.value)
    assert re.search(r"the loss is (nan|inf) at step \d+ of 8 \(stage 'spa'\): cross-entropy", message)
    assert re.search(
        r"Step \d+, the last finite one, had cross-entropy [\d.e+]+ \+ 0\.1 × SelfPixelAttention", message
    )
    assert re.search(r"gradients of norm conv1 [\d.e+]+, bn1 .*layer4\.\d .*fc [\d.e+]+", message)
    assert re.search(
        r"Likely cause: `afa` scale on mini at α = 0\.1: penalty is [\d,.e+]+ × the cross-entropy", message
    )
    assert "try scale='relative'" in message


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"method": "l2", "lr": 1e9}, r"the learning rate is too high; try lr=1e\+08|decay of T's head"),
        (
            {"method": "l2_sp", "alpha": 1e12, "lr": 0.5},
            r"StartingPoint on mini at α = 1e\+12: penalty is .* lower alpha",
        ),
        ({"method": "l2_fe", "beta": 1e30}, r"β = 1e\+30: the decay of T's head is .*try a lower beta"),
    ],
)
def test_the_cause_is_what_was_made_to_be_it(fields, advice, tmp_path):
    with pytest.raises(lab.TrainingError, match=rf"(?s)Likely cause: .*({advice})"):
        list(lab.fit(lab.Recipe(**SMALL | {"iterations": 40} | fields), tmp_path, device="cpu"))


@pytest.mark.parametrize(
    ("losses", "objective", "scaled", "says"),
    [
        (
            Losses(3.0, 360_000.0, 2.0),
            AFA,
            True,
            "`afa` scale on lite0 at α = 0.1: penalty is 12,000 × the cross-entropy; try scale='relative', or a lower",
        ),
        (Losses(3.0, 360_000.0, 2.0), RELATIVE, True, "12,000 × the cross-entropy; try a lower alpha"),
        (Losses(3.0, math.nan, 2.0), AFA, True, "penalty is no finite multiple of the cross-entropy"),
        (Losses(0.0, 1.0, 2.0), AFA, True, "penalty is no finite multiple of the cross-entropy"),
        (
            Losses(1.0, 3e10, 2.0),
            AFA,
            False,
            "Penalty on lite0 at α = 0.1: penalty is 3.0e+09 × the cross-entropy",
        ),
        (
            Losses(3.0, 0.1, 9e4),
            AFA,
            True,
            "β = 0.01: the decay of T's head is 300 × the cross-entropy; try a lower",
        ),
        (
            Losses(3.0, 9.0, 2.0),
            RELATIVE,
            True,
            "or the penalty grows as T moves; try lr=0.05, a lower alpha",
        ),
        (Losses(3.0, 9.0, 2.0), AFA, True, "try lr=0.05, a lower alpha, or scale='relative'"),
        (Losses(3.0, 0.1, 2.0), AFA, True, "the learning rate is too high; try lr=0.05"),
        (
            Losses(3.0, 1e9, 2.0),
            RELATIVE | {"alpha": 0.0},
            True,
            "the learning rate is too high; try lr=0.05",
        ),
    ],
)
def test_the_cause_by_the_terms(losses, objective, scaled, says):
    net = torch.nn.Identity()
    told = Objective(net, net, "", (), Penalty(), beta=0.01, **objective)
    assert says in likely_cause(told, losses, scaled=scaled, lr=0.5, backbone="lite0")


def test_norms_by_layer_are_those_of_the_gradients():
    training, stage = first_step(method="spa")
    stage.step(0)
    norms = dict(zip(stage._norms.names, stage._norms().tolist(), strict=True))
    groups: dict[str, float] = dict.fromkeys(norms, 0.0)
    for name, p in training.networks.target.named_parameters():
        parts = name.split(".")
        key = parts[0] if parts[0] in groups else ".".join(parts[:2])
        groups[key] += float(p.grad.double().square().sum())
    for p in stage.objective.penalty.parameters():
        groups["SelfPixelAttention"] += float(p.grad.double().square().sum())
    assert list(norms)[:2] == ["conv1", "bn1"]
    assert {"layer1.0", "layer4.1", "fc", "SelfPixelAttention"} <= set(norms)
    for name, squared in groups.items():
        assert norms[name] == pytest.approx(math.sqrt(squared), rel=1e-5), name
    training.close()


def test_only_what_trains_has_a_norm():
    training, stage = first_step(method="l2_fe")
    assert stage._norms.names == ["fc"]
    assert LayerNorms(training.networks.target, None).names == ["fc"]
    training.close()


@pytest.mark.parametrize(("method", "scale"), [("spa", "afa"), ("gca", "relative"), ("l2_sp", "relative")])
def test_the_gradients_that_are_compared_are_those_of_the_terms(method, scale):
    training, stage = first_step(method=method, scale=scale)
    stage.step(0)
    # Again from the start, term by term, with nothing of what the step does.
    again, other = first_step(method=method, scale=scale)
    x, y = again.networks.batches(0)
    again.networks.source.eval()
    again.networks.target.train()
    objective = other.objective
    state = objective.forward(x)
    body = [p for name, p in again.networks.target.named_parameters() if not name.startswith("fc.")]
    task = torch.nn.functional.cross_entropy(state.logits_t, y)
    penalty = objective.penalty.penalty(state, objective.penalty.weights(state))
    norms = []
    for term in (task, objective.alpha * penalty):
        found = torch.autograd.grad(term, body, retain_graph=True, allow_unused=True)
        norms.append(math.sqrt(sum(float(g.double().square().sum()) for g in found if g is not None)))
    assert float(stage._ratio) == pytest.approx(norms[1] / norms[0], rel=2e-3, abs=1e-5)
    training.close()
    again.close()


def test_the_task_gradient_leaves_the_whole_one_as_it_was():
    training, stage = first_step(method="spa", scale="afa")
    stage._compares_gradients = lambda: False
    stage.step(0)
    plainly = [p.grad.clone() for p in training.networks.target.parameters()]
    other, weighing = first_step(method="spa", scale="afa")
    weighing.step(0)
    for p, before in zip(other.networks.target.parameters(), plainly, strict=True):
        assert torch.equal(p.grad, before)
    net = torch.nn.ModuleDict({"body": torch.nn.Linear(2, 2), "fc": torch.nn.Linear(2, 3)})
    loss = net["fc"](net["body"](torch.ones(1, 2))).sum()
    task = task_gradient(loss, net, "fc")
    (2 * loss).backward()
    assert float(gradient_ratio(task)) == pytest.approx(1.0)
    training.close()
    other.close()


def test_a_warning_at_step_1_says_what_dwarfs_what(tmp_path):
    recipe = lab.Recipe(**SMALL | {"iterations": 2, "image_size": 64}, method="spgca", scale="afa", alpha=1.0)
    with pytest.warns(PenaltyWarning) as told:
        list(lab.fit(recipe, tmp_path, device="cpu"))
    first = str(told[0].message)
    found = re.match(
        r"step 1 \(stage 'spa'\): the penalty's gradient on T's backbone is ([\d,]+) times", first
    )
    assert float(found[1].replace(",", "")) >= DOMINATES
    assert "(α = 1, scale 'afa', on mini)" in first
    assert first.endswith("try scale='relative', or a lower alpha")


@pytest.mark.parametrize("method", [name for name in lab.METHODS if name != "delta"])
def test_no_default_is_warned_of(method, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", PenaltyWarning)
        list(lab.fit(lab.Recipe(**SMALL | {"iterations": 2}, method=method), tmp_path, device="cpu"))


def test_the_last_good_checkpoint_is_kept_and_goes_on(tmp_path, monkeypatch):
    recipe = lab.Recipe(**SMALL, method="spa")
    whole = [plain(event) for event in lab.fit(recipe, tmp_path / "whole", device="cpu")]
    step = StageTrainer.step

    def poisoned(self, number):
        if number == 6:
            with torch.no_grad():
                self.networks.target.fc.weight[0, 0] = math.nan
        step(self, number)

    monkeypatch.setattr(StageTrainer, "step", poisoned)
    seen = []
    with pytest.raises(lab.TrainingError, match="the loss is nan at step 7 of 8"):
        seen.extend(plain(event) for event in lab.fit(recipe, tmp_path / "cut", device="cpu"))
    run = lab.RunStore(tmp_path / "cut")[recipe]
    assert run.status == "interrupted"
    assert checkpoint.read(run.path)["step"] == 6
    assert all(torch.isfinite(t).all() for t in checkpoint.read(run.path)["target"].values())
    assert len(run.steps) == 6
    monkeypatch.setattr(StageTrainer, "step", step)
    seen += [plain(event) for event in lab.fit(recipe, tmp_path / "cut", device="cpu")]
    assert seen[:-1] == whole[:-1]
    told = [done.result | {"seconds": 0} for done in (seen[-1], whole[-1])]
    assert told[0] == told[1]

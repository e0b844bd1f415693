"""fit: stages, hand-over, determinism, and a reader's own attention through the same door."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import spgca_lab as lab
from spgca_lab.cli import main
from spgca_lab.regularizers.baselines import backbone_parameters
from spgca_lab.runs import fit as training
from spgca_lab.runs import inputs
from spgca_lab.runs.follow import EventReader
from spgca_lab.training.networks import hand_over
from spgca_lab.training.stage import stage_bounds
from tests import tiny_runs
from tests.test_journal import plain

QUICK = tiny_runs.SMALL | {"iterations": 8}

OWN = '''
import torch
from torch import nn
import spgca_lab as lab

class Loudness(lab.Attention):
    """Positions where the source is loud, with a learned temperature a layer."""
    kind = "spatial"

    def __init__(self, shapes):
        super().__init__(shapes)
        self.log_temperature = nn.Parameter(torch.zeros(len(shapes)))

    def forward(self, maps_s, maps_t):
        sharpness = self.log_temperature.exp()
        return {tap: (m.abs().mean(dim=1).flatten(1) * k).softmax(dim=1)
                for (tap, m), k in zip(maps_s.items(), sharpness)}
'''


def quick(**changes):
    return lab.Recipe(**(QUICK | changes))


def steps_of(recipe, store):
    return [e for e in lab.fit(recipe, store=store, device="cpu") if isinstance(e, lab.Step)]


@pytest.fixture(autouse=True)
def _few_pictures_for_delta(monkeypatch):
    """How DELTA's weights are measured has its own tests; here they only need to be measured."""
    monkeypatch.setattr("spgca_lab.regularizers.delta.MAX_IMAGES", 4)


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "loudness.py"
    file.write_text(OWN)
    return file


@pytest.mark.parametrize("method", [*lab.METHODS, "gca->spa"])
def test_every_method_trains_and_leaves_a_whole_run(method, tmp_path):
    recipe = quick(method=method)
    events = list(lab.fit(recipe, store=tmp_path, device="cpu"))
    steps = [e for e in events if isinstance(e, lab.Step)]
    assert [s.step for s in steps] == list(range(1, 9))
    for s in steps:
        bounds = stage_bounds(8, len(recipe.alphas))
        alpha = recipe.alphas[sum(s.step > end for end in bounds[1:-1])]
        expected = s.cross_entropy + alpha * s.penalty + recipe.beta * s.decay
        assert s.loss == pytest.approx(expected, rel=1e-5)
    assert isinstance(events[-1], lab.Done)
    run = lab.RunStore(tmp_path)[recipe]
    assert run.status == "finished"
    assert run.recipe == recipe
    assert run.steps["step"].tolist() == list(range(1, 9))
    assert run.evaluations["top1"].iloc[-1] == run.result["top1"]
    answers = run.predictions
    assert 100 * (answers["label"] == answers["predicted"]).mean() == pytest.approx(run.result["top1"])
    stages = [s.name for s in recipe.stages().stages]
    assert list(dict.fromkeys(s.stage for s in steps)) == stages
    assert [e.step for e in events if isinstance(e, lab.HandOver)] == [4] * (len(stages) - 1)


def test_equal_recipes_give_equal_numbers_and_seeds_differ(tmp_path):
    first, again = (steps_of(quick(), tmp_path / name) for name in ("a", "b"))
    assert first == again
    other = steps_of(quick(seed=1), tmp_path / "c")
    assert first[0].loss != other[0].loss


@pytest.mark.parametrize("method", ["spgca", "afa", "l2_sp->gca", "delta", "lwf"])
def test_a_run_closed_at_every_event_is_the_same_run(method, tmp_path, monkeypatch):
    """At the first attention, each step, each accuracy, a stage's end and the hand-over: none lost, none twice."""
    recipe = quick(method=method, iterations=4)
    images = inputs.load_data(recipe, 32)
    monkeypatch.setattr(inputs, "load_data", lambda *_: images)
    expected = list(lab.fit(recipe, store=tmp_path / "whole", device="cpu"))
    tail, told, beside = EventReader(lab.RunStore(tmp_path / "cut").folder(recipe)), [], []
    while not told or not isinstance(told[-1], lab.Done):
        running = lab.fit(recipe, store=tmp_path / "cut", device="cpu")
        told.append(next(running))
        running.close()
        beside += tail.read()
        torch.manual_seed(len(told))
    assert [type(e) for e in told] == [type(e) for e in expected]
    if staged := len(recipe.alphas) > 1:
        assert {lab.HandOver, lab.Evaluation, lab.Snapshot} <= {type(e) for e in told}
    assert list(map(plain, told[:-1])) == list(map(plain, expected[:-1]))
    assert list(map(plain, beside)) == list(map(plain, told))
    one, other = (lab.RunStore(tmp_path / name)[recipe] for name in ("whole", "cut"))
    files = [
        f.relative_to(one.path) for f in one.path.rglob("*") if f.suffix in (".csv", ".npz", ".safetensors")
    ]
    assert len(files) > 4 + staged
    for file in files:
        assert (one.path / file).read_bytes() == (other.path / file).read_bytes(), file
    assert {f.name for f in one.path.rglob("*")} == {f.name for f in other.path.rglob("*")}


def test_the_clock_stands_while_the_reader_has_an_event(tmp_path, monkeypatch):
    """Drawing and pausing are the reader's time, not the run's."""
    now = 0.0
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: now))
    events = []
    for event in lab.fit(quick(), store=tmp_path, device="cpu"):
        events.append(event)
        now += 1000.0
    assert events[-1].result["seconds"] == 0.0


def test_a_finished_run_answers_at_once_and_fresh_starts_over(tmp_path, monkeypatch):
    first = list(lab.fit(quick(), store=tmp_path, device="cpu"))
    with monkeypatch.context() as patched:
        for name in ("load_inputs", "fingerprint"):
            patched.setattr(training, name, lambda *_: pytest.fail("nothing needs to be loaded"))
        again = list(lab.fit(quick(), store=tmp_path, device="cpu"))
    assert [type(e) for e in again] == [lab.Done]
    assert again[0].result == first[-1].result
    fresh = list(lab.fit(quick(), store=tmp_path, device="cpu", resume=False))
    assert len(fresh) == len(first)


def test_the_callers_random_numbers_are_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(lab.fit(quick(), store=tmp_path, device="cpu"))
    assert torch.equal(torch.rand(3), expected)


class Spy(lab.Penalty):
    """A second stage that keeps what it was given."""

    seen: dict = {}

    @classmethod
    def build(cls, setup):
        cls.seen = {
            "source": {k: v.clone() for k, v in setup.source.state_dict().items()},
            "target": {k: v.clone() for k, v in setup.target.state_dict().items()},
            "frozen": not any(p.requires_grad for p in setup.source.parameters()),
            "eval": not any(m.training for m in setup.source.modules()),
        }
        return cls()

    def penalty(self, state, weights):
        return sum(
            (a - b).square().mean() for a, b in zip(state.maps_s.values(), state.maps_t.values(), strict=True)
        )


def test_hand_over_sends_the_backbone_with_its_buffers_and_keeps_both_heads(tmp_path):
    source = lab.load_backbone("mini", weights="random")
    name = lab.Recipe(method=Spy).method
    list(lab.fit(quick(method=f"spa->{name}"), store=tmp_path, device="cpu"))
    seen = Spy.seen
    moved = [k for k in seen["source"] if not k.startswith("fc.")]
    assert all(torch.equal(seen["source"][k], seen["target"][k]) for k in moved)
    assert any("running_mean" in k for k in moved)
    assert not torch.equal(
        seen["source"]["layer1.0.conv1.weight"], source.model.state_dict()["layer1.0.conv1.weight"]
    )
    assert torch.equal(seen["source"]["fc.weight"], source.model.state_dict()["fc.weight"])
    assert seen["target"]["fc.weight"].shape != seen["source"]["fc.weight"].shape
    assert seen["frozen"]
    assert seen["eval"]


def test_hand_over_changes_nothing_of_the_target():
    source, target = (lab.load_backbone("mini", weights="random", seed=s).model for s in (0, 1))
    before = {k: v.clone() for k, v in target.state_dict().items()}
    hand_over(target, source, "fc")
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in before.items())


def test_the_learning_rate_falls_where_the_paper_says(tmp_path):
    rates = [s.lr for s in steps_of(quick(iterations=18), tmp_path)]
    assert rates == pytest.approx([0.01] * 6 + [0.001] * 9 + [0.0001] * 3)


def test_alpha_zero_is_plain_fine_tuning_whatever_the_penalty(tmp_path):
    plain = steps_of(quick(method="l2", alpha=0.0), tmp_path)
    ast = steps_of(quick(method="ast", alpha=0.0), tmp_path)
    assert [s.cross_entropy for s in ast] == [s.cross_entropy for s in plain]


def test_uniform_attention_is_the_uniform_method(tmp_path):
    plain = steps_of(quick(method="uniform"), tmp_path)
    for method in ("ast", "spa", "act", "gca"):
        flat = steps_of(quick(method=method, attention="uniform"), tmp_path)
        # Rounding differs between the two sums and grows from step to step.
        assert [s.penalty for s in flat[:3]] == pytest.approx([s.penalty for s in plain[:3]], rel=1e-4)


def test_l2_fe_trains_the_head_alone(tmp_path):
    recipe = quick(method="l2_fe")
    list(lab.fit(recipe, store=tmp_path, device="cpu"))
    source = lab.load_backbone("mini", weights="random")
    trained = lab.RunStore(tmp_path)[recipe].weights()
    for name, value in source.model.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(trained[f"target.{name}"], value), name
    fresh = source.to_target(trained["target.fc.weight"].shape[0], seed=0)
    assert not torch.equal(trained["target.fc.weight"], fresh.get_submodule("fc").weight)


def test_target_bn_eval_keeps_running_statistics(tmp_path):
    source = lab.load_backbone("mini", weights="random").model.state_dict()
    for mode in ("eval", "train"):
        recipe = quick(target_bn=mode)
        list(lab.fit(recipe, store=tmp_path, device="cpu"))
        after = lab.RunStore(tmp_path)[recipe].weights()["target.bn1.running_mean"]
        assert torch.equal(after, source["bn1.running_mean"]) == (mode == "eval")


def test_attention_learns_or_stays_as_it_began(tmp_path):
    start = None
    for mode in ("frozen", "learned"):
        recipe = quick(method="gca", attention=mode, alpha=100.0)
        list(lab.fit(recipe, store=tmp_path, device="cpu"))
        after = lab.RunStore(tmp_path)[recipe].weights()["penalty.fc.0.weight"]
        start = after if start is None else start
        assert torch.equal(after, start) == (mode == "frozen")


def test_snapshots_are_distributions_over_the_probe_batch(tmp_path):
    recipe = quick(snapshots=4)
    list(lab.fit(recipe, store=tmp_path, device="cpu"))
    run = lab.RunStore(tmp_path)[recipe]
    shots = run.snapshots()
    assert [(s.step, s.stage, s.kind) for s in shots] == [
        (0, "spa", "spatial"), (4, "spa", "spatial"), (4, "gca", "channel"), (8, "gca", "channel")
    ]  # fmt: skip
    for w in shots[0].weights.values():
        assert w.shape[0] == len(run.probe["labels"])
        np.testing.assert_allclose(w.sum(axis=1), 1, atol=2e-3)
    np.testing.assert_allclose(sum(w.sum(axis=1) for w in shots[-1].weights.values()), 1, atol=2e-3)
    assert run.probe["images"].shape[1:] == (3, 32, 32)
    assert run.probe["masks"].shape[1:] == (32, 32)


def test_a_batch_larger_than_the_set_is_refused(tmp_path):
    with pytest.raises(
        lab.TrainingError, match=r"batch_size is 4000, but 'stickers' has only \d+ training images"
    ):
        next(lab.fit(quick(batch_size=4000), store=tmp_path, device="cpu"))


def test_divergence_stops_with_the_terms_and_what_to_do(tmp_path):
    with pytest.raises(
        lab.TrainingError, match=r"at step \d+ of 8 .*SelfPixelAttention.*try scale='relative'"
    ):
        list(lab.fit(quick(lr=1e9, scale="afa"), store=tmp_path, device="cpu"))


def test_a_readers_attention_trains_through_fit_and_the_command_line(own, tmp_path, capsys):
    recipe = quick(method=f"{own}:Loudness")
    events = list(lab.fit(recipe, store=tmp_path / "runs", device="cpu"))
    steps = [e for e in events if isinstance(e, lab.Step)]
    assert all(s.penalty > 0 for s in steps[1:])
    assert any(key.startswith("entropy/") for key in steps[0].extra)
    table = lab.RunStore(tmp_path / "runs").table()
    assert table["method"].tolist() == [f"{own}:Loudness"]
    assert table["status"].tolist() == ["finished"]
    flags = [w for k, v in QUICK.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    arguments = [
        "fit",
        "--method",
        f"{own}:Loudness",
        *flags,
        "--store",
        str(tmp_path / "cli"),
        "--device",
        "cpu",
    ]
    assert main(arguments) == 0
    assert lab.RunStore(tmp_path / "cli")[recipe].result["top1"] == events[-1].result["top1"]
    assert main(["runs", str(tmp_path / "cli")]) == 0
    assert "Loudness" in capsys.readouterr().out


def test_a_readers_class_itself_trains(tmp_path):
    class Flat(lab.Attention):
        kind = "channel"

        def forward(self, maps_s, maps_t):
            return {t: torch.full(m.shape[:2], 1 / m.shape[1]) for t, m in maps_s.items()}

    steps = steps_of(quick(method=Flat), tmp_path)
    plain = steps_of(quick(method="uniform"), tmp_path)
    assert [s.penalty for s in steps[:3]] == pytest.approx([s.penalty for s in plain[:3]], rel=1e-4)


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        (".softmax(dim=1)\n", ".softmax(dim=1)[:, 1:]\n", r"spatial weights at 'layer1.1.conv3' must be"),
        (".softmax(dim=1)\n", ".softmax(dim=1).detach()\n", r"weights at 'layer1.1.conv3' carry no gradient"),
        (".softmax(dim=1)\n", ".softmax(dim=1) / 0\n", r"weights at 'layer1.1.conv3' are not finite"),
        ("sharpness)}", "sharpness) if 'layer3' not in tap}", r"must return weights for the taps"),
        ("        sharpness", "        return 3\n        sharpness", r"must return weights .* returned int"),
        ("torch.zeros(len(shapes)))", "torch.zeros(len(shapes))); self.idle = nn.Parameter(torch.zeros(1))",
         r"Loudness: no gradient reaches idle"),
        ("    def forward", "    def loss(self, *args):\n        return torch.ones(2)\n\n    def forward",
         r"Loudness: its penalty must be a scalar tensor, it is a tensor of shape \(2,\)"),
        ("    def forward", "    def other", r"Loudness must define forward"),
    ],
)  # fmt: skip
def test_a_misused_attention_is_named_with_its_tap(was, becomes, says, own, tmp_path):
    code = own.read_text()
    assert was in code
    own.write_text(code.replace(was, becomes))
    with pytest.raises((lab.AttentionError, lab.TrainingError, TypeError), match=says) as caught:
        list(lab.fit(quick(method=f"{own}:Loudness"), store=tmp_path / "runs", device="cpu"))
    assert str(caught.value).startswith("Loudness")


def test_a_run_leaves_no_hooks_behind(tmp_path):
    """The registered hooks live on the run's own copies; the loaded source stays clean."""
    backbone = lab.load_backbone("mini", weights="random")
    list(lab.fit(quick(), store=tmp_path, device="cpu"))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.model.modules())
    assert backbone_parameters(backbone.model, "fc")

"""The interfaces that a researcher extends, each used as they would use it: no internal import, no private name."""

import math
import textwrap

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spgca_lab as lab
from tests import tiny_runs

SMALL = tiny_runs.SMALL | {"evaluations": 1, "snapshots": 0}


# A penalty on the target alone

BSS = '''
import torch
import spgca_lab as lab


class BSS(lab.Penalty):
    """Batch spectral shrinkage (Chen et al. 2019): penalise the smallest singular values of the embedding."""

    needs_source = False
    count = 1

    def penalty(self, state, weights):
        assert state.maps_s == {} and state.logits_s is None
        assert all(m.requires_grad and m.ndim == 4 for m in state.maps_t.values())
        assert len(state.logits_t) == len(state.embedding_t)
        singular = torch.linalg.svdvals(state.embedding_t.flatten(1).float())
        return singular[-self.count :].square().sum()
'''


def test_a_penalty_on_the_target_alone_trains_without_a_pass_through_the_source(tmp_path):
    file = tmp_path / "bss.py"
    file.write_text(BSS)
    backbone = lab.load_backbone("mini", weights="random")
    passes = []
    forward = type(backbone.model).forward
    model = type("Counted", (type(backbone.model),), {})

    def counted(self, x):
        if not any(p.requires_grad for p in self.parameters()):
            passes.append(len(x))
        return forward(self, x)

    model.forward = counted
    backbone.model.__class__ = model
    recipe = lab.Recipe(**SMALL | {"method": f"{file}:BSS", "alpha": 1e-3})
    run = lab.train(recipe, backbone=backbone, store=tmp_path / "runs", device="cpu", progress=False)
    assert (run.steps["penalty"] > 0).all()
    # The two images that give a penalty its sizes when the stage begins.
    assert passes == [2]
    passes.clear()
    lab.train(recipe.replace(method="uniform"), backbone=backbone, store=tmp_path / "runs", progress=False)
    assert passes == [2, 8, 8, 8, 8]


# A stage's own optimisation


def rates(run):
    return run.steps["lr"].round(8).tolist()


def test_each_stage_has_its_own_rate_schedule_and_warm_up(tmp_path):
    recipe = lab.Recipe(
        **SMALL | {"method": "spgca", "iterations": 8},
        lr=(0.1, 0.01),
        schedule=("constant", "cosine"),
        warmup=(0.5, 0.0),
    )
    run = lab.train(recipe, store=tmp_path, device="cpu", progress=False)
    cosine = [0.01 * 0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    assert rates(run) == pytest.approx([0.05, 0.1, 0.1, 0.1, *cosine], abs=1e-8)


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("backbone_lr", [0.0, 0.1, 1.0])
def test_one_step_of_backbone_and_head_is_the_optimisers_own(optimiser, backbone_lr, tmp_path):
    """Against PyTorch's optimiser on the same gradients: those of a step with plain SGD at rate 1."""
    fields = SMALL | {"method": "l2", "alpha": 0.0, "iterations": 1, "batch_size": 48, "augmentation": "none"}
    fields |= {"schedule": "constant"}
    weights = {}
    for name, changes in {
        "sgd at 1": {"optimiser": "sgd", "lr": 1.0},
        "step": {"optimiser": optimiser, "lr": 0.01, "backbone_lr": backbone_lr, "weight_decay": 0.1},
    }.items():
        run = lab.train(lab.Recipe(**fields | changes), store=tmp_path, device="cpu", progress=False)
        weights[name] = {k: v.double() for k, v in run.weights().items() if k.endswith(("weight", "bias"))}
    start = start_of(tmp_path)
    for name, w0 in start.items():
        p = nn.Parameter(w0.clone())
        p.grad = w0 - weights["sgd at 1"][f"target.{name}"]
        lr = 0.01 * (1.0 if name.startswith("fc.") else backbone_lr)
        made = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimiser]
        made([p], lr=lr, weight_decay=0.1).step()
        # Adam divides by the gradient, with its decay or without: where that is next to nothing, rounding shows.
        seen = torch.minimum(p.grad.abs(), (p.grad + 0.1 * w0).abs()) > 1e-3
        found, expected = weights["step"][f"target.{name}"], p.detach()
        torch.testing.assert_close(found[seen], expected[seen], rtol=1e-4, atol=2e-6)
        if lr == 0:
            assert torch.equal(found, w0), name


class Start(lab.Penalty):
    """Adds nothing, and keeps T as the stage begins."""

    needs_source = False
    target: dict = {}

    @classmethod
    def build(cls, context):
        cls.target = {name: p.detach().double().clone() for name, p in context.target.named_parameters()}
        return cls()

    def penalty(self, state, weights):
        return state.logits_t.sum() * 0


def start_of(store):
    fields = SMALL | {"iterations": 1, "batch_size": 48, "augmentation": "none"}
    lab.train(lab.Recipe(**fields, method=Start), store=store, device="cpu", progress=False)
    return dict(Start.target)


def test_some_modules_train_and_all_others_stay(tmp_path):
    recipe = lab.Recipe(**SMALL | {"method": "l2", "trains": "layer4", "target_bn": "eval"})
    run = lab.train(recipe, store=tmp_path, device="cpu", progress=False)
    source = lab.load_backbone("mini", weights="random").model.state_dict()
    moved = {
        name.split(".")[0]
        for name, value in source.items()
        if not name.startswith("fc.") and not torch.equal(run.weights()[f"target.{name}"], value)
    }
    assert moved == {"layer4"}
    with pytest.raises(
        ValueError, match=r"trains names 'layer9', which is no module of the target; .*layer4"
    ):
        lab.train(recipe.replace(trains="layer9"), store=tmp_path, device="cpu", progress=False)


def test_the_attention_nets_have_an_optimiser_of_their_own(tmp_path):
    """Adam's first step moves each of them by its rate, whatever the gradient; T moves as without it."""
    fields = SMALL | {"method": "spa", "iterations": 1, "alpha": 3.0}
    runs = {
        name: lab.train(
            lab.Recipe(**fields | changes), store=tmp_path, device="cpu", progress=False
        ).weights()
        for name, changes in {
            "frozen": {"attention": "frozen"},
            "shared": {},
            "own": {"attention_optimiser": "adam", "attention_lr": 0.01},
        }.items()
    }
    for name, start in runs["frozen"].items():
        if name.startswith("target."):
            assert torch.equal(runs["shared"][name], runs["own"][name]), name
        elif name.startswith("penalty."):
            steps = (runs["own"][name] - start).abs()
            assert float(steps.max()) == pytest.approx(0.01, rel=0.01)
            assert float((runs["shared"][name] - start).abs().max()) < 0.001


class Clipped(lab.Penalty):
    """Keeps the head's weights within a ball after every step, as a projection method would."""

    needs_source = False
    radius = 0.05
    seen: list = []

    @classmethod
    def build(cls, context):
        made = cls()
        made.head = [context.target.get_submodule(context.head_t).weight]
        return made

    def penalty(self, state, weights):
        return state.embedding_t.square().mean() * 0

    def after_step(self, state):
        assert not torch.is_grad_enabled()
        (weight,) = self.head
        self.seen.append(len(state.logits_t))
        weight.mul_(min(1.0, self.radius / float(weight.norm())))


def test_a_hook_after_the_step_projects(tmp_path):
    run = lab.train(lab.Recipe(**SMALL | {"method": Clipped}), store=tmp_path, device="cpu", progress=False)
    assert float(run.weights()["target.fc.weight"].norm()) == pytest.approx(0.05, rel=1e-5)
    assert Clipped.seen == [8] * 4


def test_an_error_in_a_class_of_ones_own_names_class_file_and_line_and_keeps_its_cause(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(
        textwrap.dedent(
            """
            import spgca_lab as lab

            class Broken(lab.Penalty):
                def penalty(self, state, weights):
                    sizes = {}
                    return sizes["layer5"]
            """
        )
    )
    recipe = lab.Recipe(**SMALL | {"method": f"{file}:Broken"})
    with pytest.raises(lab.TrainingError) as caught:
        lab.train(recipe, store=tmp_path / "runs", device="cpu", progress=False)
    message = str(caught.value)
    assert message.startswith("Broken (")
    assert "broken.py, line 7: return sizes" in message
    assert "KeyError: 'layer5'" in message
    assert isinstance(caught.value.__cause__, KeyError)


# Augmentation by name


@pytest.mark.parametrize("name", ["crop_flip", "crop", "flip", "random_resized_crop", "none"])
def test_augmentations_give_images_of_the_networks_size(name, tmp_path):
    recipe = lab.Recipe(**SMALL | {"method": "l2", "augmentation": name})
    run = lab.train(recipe, store=tmp_path, device="cpu", progress=False)
    assert run.steps["loss"].notna().all()
    train, _ = lab.load_dataset("stickers", per_class=1, test_per_class=1, image_size=32)
    images, _ = lab.training.batches.training_batch(recipe, train, 32, step=0)
    again, _ = lab.training.batches.training_batch(recipe, train, 32, step=0)
    assert images.shape == (8, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert torch.equal(images, again)


def test_without_augmentation_every_epoch_shows_the_same_crops():
    recipe = lab.Recipe(**SMALL | {"method": "l2", "augmentation": "none", "batch_size": 48})
    train, _ = lab.load_dataset("stickers", per_class=1, test_per_class=1, image_size=32)
    epochs = [lab.training.batches.training_batch(recipe, train, 32, step=k) for k in (0, 1)]
    first, second = ({i.numpy().tobytes() for i in images} for images, _ in epochs)
    assert first == second == {i.numpy().tobytes() for i in lab.center_crop(train.images, 32)}


# Objects of one's own, against a loop written by hand


class Tiny(nn.Module):
    """A small network without BatchNorm, so that a batch's order does not matter."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.fc(x.mean(dim=(2, 3)))


TAPS = ("first", "second")


def wrapped(model):
    preprocess = lab.backbones.Preprocess(mean=(127.5,) * 3, std=(63.75,) * 3)
    return lab.Backbone(
        name="tiny", model=model, taps=TAPS, head="fc", image_size=16, preprocess=preprocess, weights="custom"
    )


class HandAST(lab.SpatialAttention):
    """AST whose first weights are set: what a reader overrides."""

    start: dict = {}
    began: dict = {}

    @classmethod
    def build(cls, context):
        cls.began = {name: p.detach().clone() for name, p in context.target.state_dict().items()}
        made = super().build(context)
        made.load_state_dict(cls.start)
        return made


class HandACT(lab.ChannelAttention):
    start: dict = {}

    @classmethod
    def build(cls, context):
        made = super().build(context)
        made.load_state_dict(cls.start)
        return made


def tiny_data():
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (24, 3, 18, 18), dtype=torch.uint8, generator=generator)
    labels = torch.arange(24) % 3
    sets = [lab.ImageSet(images, labels, ["a", "b", "c"], 16, name="noise") for _ in range(2)]
    return sets[0], sets[1]


def test_a_hand_written_loop_gives_the_same_total_losses(tmp_path):
    """AST, then ACT: 20 + 20 steps in plain PyTorch, written from the equations, to 1e-4 relative."""
    torch.manual_seed(0)
    model, data = Tiny(), tiny_data()
    backbone = wrapped(model)
    sizes = {"first": (6, 8, 8), "second": (8, 4, 4)}
    HandAST.start, HandACT.start = (
        kind(sizes).state_dict() for kind in (lab.SpatialAttention, lab.ChannelAttention)
    )
    names = [lab.Recipe(method=cls).method for cls in (HandAST, HandACT)]
    recipe = lab.Recipe(
        method="->".join(names),
        iterations=40,
        batch_size=24,
        alpha=(3.0, 1.0),
        beta=0.01,
        lr=0.05,
        momentum=0.9,
        schedule="constant",
        scale="relative",
        augmentation="none",
        evaluations=1,
        snapshots=0,
    )
    run = lab.train(recipe, backbone=backbone, data=data, store=tmp_path, device="cpu", progress=False)

    # By hand, from here on.
    x = (lab.center_crop(data[0].images, 16).float() - 127.5) / 63.75
    y = data[0].labels
    source, target = Tiny(), Tiny()
    source.load_state_dict(model.state_dict())
    target.fc = nn.Linear(8, 3)
    target.load_state_dict(HandAST.began)
    ast, act = (
        {k: v.clone() for k, v in HandAST.start.items()},
        {k: v.clone() for k, v in HandACT.start.items()},
    )
    losses = []
    for stage, (attention, alpha) in enumerate(((ast, 3.0), (act, 1.0))):
        if stage:
            kept = source.fc
            source.fc = nn.Linear(8, 3)
            source.load_state_dict(target.state_dict())
            source.fc = kept
        weights = {k: v.requires_grad_() for k, v in attention.items()}
        optimiser = torch.optim.SGD([*target.parameters(), *weights.values()], lr=0.05, momentum=0.9)
        for _ in range(20):
            maps = {}
            for net, which in ((source, "s"), (target, "t")):
                one = net.first(x)
                two = net.second(torch.relu(one))
                maps[which] = {"first": one, "second": two}
            logits = target.fc(torch.relu(maps["t"]["second"]).mean(dim=(2, 3)))
            penalty = 0
            for tap in TAPS:
                s, t = maps["s"][tap].detach(), maps["t"][tap]
                _, c, h, w = s.shape
                variance = s.var(unbiased=False)
                if stage == 0:  # Eq. 2 and 3, weights of mean one inside the norm
                    a = by_hand(weights, tap, s.mean(dim=1).flatten(1)).softmax(dim=1)
                    penalty += 0.5 * ((a[:, None] * h * w * (s - t).flatten(2)) ** 2).mean() / variance
                else:  # Eq. 4 and 5, weights of mean one
                    score = by_hand(weights, tap, s.flatten(2)).squeeze(2) + weights[f"bias.{tap}"]
                    a = score.softmax(dim=1)
                    penalty += 0.5 * (c * a * (s - t).square().flatten(2).mean(dim=2)).mean() / variance
            decay = 0.5 * (target.fc.weight.square().sum() + target.fc.bias.square().sum())
            loss = F.cross_entropy(logits, y) + alpha * penalty + 0.01 * decay
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
    assert run.steps["loss"].tolist() == pytest.approx(losses, rel=1e-4)
    assert run.steps["penalty"].iloc[-1] > 1e-6
    assert losses[0] != pytest.approx(losses[19], rel=1e-3)


def by_hand(weights, tap, x):
    hidden = torch.relu(x @ weights[f"fc.{tap}.0.weight"].T)
    bias = weights.get(f"fc.{tap}.2.bias", torch.zeros(()))
    return hidden @ weights[f"fc.{tap}.2.weight"].T + bias


def test_a_run_on_objects_is_identified_by_them_and_refuses_others(tmp_path):
    torch.manual_seed(0)
    model, data = Tiny(), tiny_data()
    recipe = lab.Recipe(method="uniform", iterations=2, batch_size=8, evaluations=1, snapshots=0)
    options = {"store": tmp_path, "device": "cpu", "progress": False}
    first = lab.train(recipe, backbone=wrapped(model), data=data, **options)
    assert first.recipe.backbone == "tiny"
    assert first.recipe.dataset == "noise"
    again = lab.train(recipe, backbone=wrapped(model), data=data, **options)
    assert again.path == first.path
    changed = Tiny()
    other = lab.train(recipe, backbone=wrapped(changed), data=data, **options)
    assert other.path != first.path
    with pytest.raises(lab.RecipeError, match="the backbone 'tiny' was given as an object"):
        list(lab.fit(first.recipe, tmp_path / "new", backbone=None, data=data, device="cpu"))
    with pytest.raises(lab.RecipeError, match="images of 'noise' were given as objects"):
        list(lab.fit(lab.Recipe().replace(dataset="noise", data_code="x"), tmp_path, device="cpu"))


def test_an_interrupted_run_on_objects_goes_on_and_its_networks_load(tmp_path):
    torch.manual_seed(0)
    options = {"backbone": wrapped(Tiny()), "data": tiny_data(), "device": "cpu"}
    recipe = lab.Recipe(method="uniform", iterations=4, batch_size=8, evaluations=1, snapshots=0)
    whole = lab.train(recipe, store=tmp_path / "whole", progress=False, **options)
    running = lab.fit(recipe, tmp_path / "cut", **options)
    next(running)
    running.close()
    (cut,) = lab.RunStore(tmp_path / "cut")
    assert cut.status == "interrupted"
    with pytest.raises(lab.RecipeError, match="the backbone 'tiny' was given as an object"):
        next(lab.fit(cut.recipe, tmp_path / "cut", device="cpu"))
    run = lab.train(cut.recipe, store=tmp_path / "cut", progress=False, **options)
    assert run.path == cut.path
    assert run.steps.equals(whole.steps)
    load_run = lab.runs.load.load_run
    with pytest.raises(lab.RecipeError, match="give it again with backbone="):
        load_run(run)
    with pytest.raises(lab.RunError, match="trained on another backbone 'tiny' than the one given"):
        load_run(run, backbone=wrapped(Tiny()))
    weights = run.weights()
    for name, value in load_run(run, backbone=options["backbone"]).target.state_dict().items():
        assert torch.equal(value, weights[f"target.{name}"]), name


# What a training prints


def test_events_print_in_one_line_each(tmp_path, capsys):
    recipe = lab.Recipe(**SMALL | {"method": "spgca", "alpha": 3.0, "snapshots": 2})
    for event in lab.fit(recipe, tmp_path, device="cpu"):
        text = str(event)
        assert "\n" not in text
        print(text)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("step 1/4 · SPA · loss ") and " + 3 · " in line for line in lines)
    assert "step 2 · hand-over SPA→GCA: the target becomes the source" in lines
    assert lines[-1].startswith("done · top-1 ")


def test_train_shows_stage_and_loss_and_returns_the_run(tmp_path, capsys):
    run = lab.train(lab.Recipe(**SMALL | {"method": "spgca"}), store=tmp_path, device="cpu")
    shown = capsys.readouterr().err
    assert "4/4" in shown
    assert "gca, loss" in shown
    assert run.status == "finished"
    assert run.result["iterations"] == 4
    recipe = lab.Recipe(**SMALL | {"method": "spgca", "seed": 1})
    lab.train(recipe, store=tmp_path, device="cpu", progress=False)
    silent = capsys.readouterr()
    assert silent.out == silent.err == ""

"""Penalties and attentions as a reader writes them, and what the package gives them."""

import subprocess
import sys

import pytest
import torch
from mock_models import basic_net, random_maps

import spgca_lab as lab
from spgca_lab.regularizers.registry import (
    MethodError,
    describe_class,
    is_built_in,
    method_name,
    resolve_method,
)


class BSS(lab.Penalty):
    """Batch spectral shrinkage (Chen et al. 2019): the k smallest singular values of a batch's embedding, squared."""

    needs_source = False

    def __init__(self, k=1):
        super().__init__()
        self.k = k

    def penalty(self, state, weights):
        return torch.linalg.svdvals(state.embedding_t)[-self.k :].square().sum()

    def summary(self, weights):
        return {"k": torch.tensor(float(self.k))}


class NormBall(BSS):
    """A projection after each step, as in MARS: the weights stay in a ball around their start."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.start = [layer], layer.weight.detach().clone()

    @classmethod
    def build(cls, context):
        return cls(context.target.get_submodule(context.head_t))

    @torch.no_grad()
    def after_step(self, state):
        (layer,) = self.layer
        away = layer.weight - self.start
        layer.weight.copy_(self.start + away * (0.1 / away.norm()).clamp(max=1))


def test_a_penalty_on_t_alone_gets_embedding_logits_and_maps_of_t():
    embedding = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    head = torch.nn.Linear(4, 3)
    state = lab.ForwardState({"a": torch.zeros(6, 2, 1, 1)}, embedding, head(embedding))
    assert (state.maps_s, state.logits_s, state.scale, state.checks) == ({}, None, "relative", None)
    bss = BSS.build(None)
    loss = bss.penalty(state, bss.weights(state))
    # The smallest eigenvalue of EᵀE is the smallest singular value of E, squared.
    smallest = torch.linalg.eigvalsh(embedding.detach().double().T @ embedding.detach().double())[0]
    torch.testing.assert_close(loss.detach().double(), smallest, rtol=1e-4, atol=1e-6)
    loss.backward()
    assert embedding.grad.abs().sum() > 0
    assert bss.after_step(state) is None


def test_a_projection_after_the_step_holds_the_weights_near_their_start():
    net = basic_net(classes=3)
    context = lab.BuildContext({}, net, net, "fc", "fc", (), None, None, 32)
    ball = NormBall.build(context)
    with torch.no_grad():
        net.fc.weight.add_(1)
    ball.after_step(lab.ForwardState({}, torch.zeros(1, 1), torch.zeros(1, 3)))
    torch.testing.assert_close((net.fc.weight - ball.start).norm(), torch.tensor(0.1))
    assert not list(ball.parameters())


def context(maps, **options):
    net = basic_net(classes=3)
    recipe = {"r": 2, "attention": "learned", "attend_through_target": False} | options
    return lab.BuildContext(maps, net, net, "fc", "fc", tuple(maps), None, None, 32, recipe)


def test_the_first_attention_weights_can_be_set():
    maps = random_maps({"a.b": (3, 4, 4), "c": (5, 2, 2)}, dtype=torch.float32)
    first = lab.GlobalChannelAttention.for_maps(maps, r=2)

    class FromFirst(lab.GlobalChannelAttention):
        def initialise(self, context):
            self.load_state_dict(first.state_dict())

    class ZeroNet(lab.SpatialAttention):
        @classmethod
        def build(cls, context):
            attention = super().build(context)
            torch.nn.init.zeros_(attention.fc["a/b"][2].weight)
            return attention

    own = FromFirst.build(context(maps))
    assert all(torch.equal(own(maps)[tap], w) for tap, w in first(maps).items())
    assert all(p.requires_grad for p in own.parameters())
    assert not any(p.requires_grad for p in FromFirst.build(context(maps, attention="frozen")).parameters())
    zero = ZeroNet.build(context(maps))(maps)
    torch.testing.assert_close(zero["a.b"], zero["a.b"][:1].expand(2, -1))


# Names of methods


@pytest.mark.parametrize(
    ("given", "name", "stages"),
    [
        ("SPGCA", "spgca", ["spa", "gca"]),
        ("Spa->Gca", "spa->gca", ["spa", "gca"]),
        ("L2_SP", "l2_sp", ["l2_sp"]),
        ("AFA->gca_SQUARED", "afa->gca_squared", ["ast", "act", "gca_squared"]),
    ],
)
def test_names_of_methods_may_be_in_any_case(given, name, stages):
    assert method_name(given) == name
    assert [stage.name for stage in resolve_method(given).stages] == stages
    assert lab.Recipe(method=given) == lab.Recipe(method=name)


def test_near_names_do_not_depend_on_case():
    with pytest.raises(MethodError, match="unknown method 'SPCGA'; did you mean 'spgca'"):
        resolve_method("SPCGA")


def test_every_method_and_stage_has_a_sentence():
    for method in lab.METHODS.values():
        for sentence in (method.summary, *(stage.summary for stage in method.stages)):
            assert sentence[0].isupper(), method.name
            assert sentence.endswith("."), method.name
            assert "\n" not in sentence, method.name


def test_a_class_of_a_session_goes_before_a_built_in_name_in_another_case(monkeypatch):
    monkeypatch.setattr("spgca_lab.regularizers.registry._IN_SESSION", {})

    class GCA(lab.GlobalChannelAttention):
        pass

    GCA.__module__, GCA.__qualname__ = "__main__", "GCA"
    assert method_name(GCA) == method_name("GCA") == "GCA"
    assert resolve_method("GCA").stages[0].penalty is GCA
    assert resolve_method("gca").stages[0].penalty is lab.GlobalChannelAttention
    assert not is_built_in(GCA)
    assert is_built_in(lab.GlobalChannelAttention)


def test_a_class_is_described_by_its_file_and_line(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import spgca_lab as lab\n\n\nclass Mine(lab.Penalty):\n    pass\n")
    (stage,) = resolve_method(f"{file}:Mine").stages
    assert describe_class(stage.penalty) == "Mine (mine.py, line 4)"
    assert describe_class(type("Nowhere", (lab.Penalty,), {"__module__": "__main__"})) == "Nowhere"


def test_a_class_of_a_notebook_cell_is_described_by_a_line_of_the_cell():
    import linecache

    name, code = "/tmp/ipykernel_1/2.py", "class Cell:\n    def penalty(self):\n        return 1\n"
    space = {"__name__": "__main__"}
    exec(compile(code, name, "exec"), space)
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    assert describe_class(space["Cell"]) == "Cell (notebook cell, line 2)"


def test_importing_regularizers_imports_no_data_sets_and_loads_no_backbone():
    code = """
import sys, pkgutil, importlib, spgca_lab.regularizers as regularizers
for module in pkgutil.iter_modules(regularizers.__path__):
    importlib.import_module(f"spgca_lab.regularizers.{module.name}")
heavy = ("spgca_lab.data", "spgca_lab.backbones.registry", "pandas", "torchvision", "timm", "PIL")
print([name for name in sys.modules if name.startswith(heavy)])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"

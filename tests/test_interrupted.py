"""Ctrl-C leaves everything as it was: the run to go on with, the networks that were given, and no memory."""

import gc
import os
import random
import signal
import traceback
import weakref

import pytest
import torch
from jupyter_client.manager import start_new_kernel
from torch.utils._python_dispatch import TorchDispatchMode

import spgca_lab as lab
from spgca_lab.runs import checkpoint, inputs
from spgca_lab.runs.interrupts import defer_interrupt
from spgca_lab.training.evaluate import Evaluator
from spgca_lab.training.loop import Training
from spgca_lab.training.objective import Objective
from spgca_lab.training.stage import StageTrainer
from tests.test_journal import plain
from tests.tiny_runs import SMALL

RECIPE = lab.Recipe(method="spgca", **SMALL | {"iterations": 6})


@pytest.fixture(autouse=True)
def _as_in_a_notebook():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def quick(monkeypatch):
    images = inputs.load_data(RECIPE, 32)
    monkeypatch.setattr(inputs, "load_data", lambda *_: images)


def press(monkeypatch, owner, name, at, times=1):
    """Ctrl-C inside call number `at` of a method."""
    original, calls = getattr(owner, name), []

    def pressed(*args, **kwargs):
        calls.append(name)
        result = original(*args, **kwargs)
        if len(calls) == at:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(owner, name, pressed)


def interrupted(store):
    """Events until Ctrl-C, and the error as a notebook keeps it."""
    events = []
    try:
        for event in lab.fit(RECIPE, store, device="cpu"):
            events.append(event)
    except KeyboardInterrupt as error:
        return events, error
    raise AssertionError("nothing was interrupted")


MOMENTS = [(StageTrainer, "step", at) for at in range(1, 7)] + [
    (Evaluator, "accuracy", 1),
    (Evaluator, "attention", 2),
    (StageTrainer, "read", 4),
]


@pytest.mark.parametrize(("owner", "name", "at"), MOMENTS, ids=[f"{n}-{at}" for _, n, at in MOMENTS])
def test_pressed_once_it_waits_for_the_step_and_no_event_is_lost(
    tmp_path, monkeypatch, quick, owner, name, at
):
    expected = list(lab.fit(RECIPE, tmp_path / "whole", device="cpu"))
    with monkeypatch.context() as patched:
        press(patched, owner, name, at)
        seen, _ = interrupted(tmp_path / "cut")
    folder = lab.RunStore(tmp_path / "cut").folder(RECIPE)
    assert lab.Run(folder).status == "interrupted"
    left = checkpoint.read(folder)["step"]
    steps = [e.step for e in seen if isinstance(e, lab.Step)]
    assert left == len(steps) + 1
    again = list(lab.fit(RECIPE, tmp_path / "cut", device="cpu"))
    assert [plain(e) for e in seen + again][:-1] == [plain(e) for e in expected][:-1]
    one, other = lab.RunStore(tmp_path / "whole")[RECIPE], lab.Run(folder)
    assert (one.path / "weights.safetensors").read_bytes() == (
        other.path / "weights.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("times", [1, 2])
def test_the_error_that_a_notebook_keeps_holds_no_network(tmp_path, monkeypatch, quick, times):
    made = []
    begin = Training.__init__

    def noted(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        nets = self.networks
        parts = (self, nets.source, nets.target, nets.train, *nets.target.parameters())
        made.extend(map(weakref.ref, parts))

    monkeypatch.setattr(Training, "__init__", noted)
    press(monkeypatch, Objective, "__call__", 3, times)
    _, error = interrupted(tmp_path)
    monkeypatch.undo()
    gc.collect()
    assert len(made) > 20
    assert error.__traceback__ is not None
    # The pictures are this test's own.
    images = inputs.load_data(RECIPE, 32)[0]
    assert [ref() for ref in made if ref() is not None and ref() is not images] == []
    assert torch.is_grad_enabled()


def traceback_of(error):
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def test_a_divergence_holds_no_network_either_but_a_readers_own_variables(tmp_path, monkeypatch, quick):
    class Own(lab.Penalty):
        @classmethod
        def build(cls, setup):
            return cls()

        def penalty(self, state, weights):
            mine = "to be seen in a debugger"
            raise ValueError(f"this attention is {mine}")

    made = []
    begin = StageTrainer.__init__

    def noted(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        made.append(weakref.ref(self))

    monkeypatch.setattr(StageTrainer, "__init__", noted)
    with pytest.raises(lab.TrainingError, match="Own .*this attention is to be seen") as caught:
        list(lab.fit(RECIPE.replace(method=Own), tmp_path, device="cpu"))
    frame = traceback_of(caught.value.__cause__)[-1]
    assert frame.f_locals["mine"] == "to be seen in a debugger"
    made_by_own = made[:]
    made.clear()
    with pytest.raises(lab.TrainingError, match="at step") as told:
        list(lab.fit(RECIPE.replace(lr=1e9), tmp_path, device="cpu"))
    gc.collect()
    assert made
    assert all(ref() is None for ref in made), told
    assert made_by_own


def test_pressed_twice_it_does_not_wait(tmp_path, monkeypatch, quick):
    press(monkeypatch, Objective, "__call__", 3, times=2)
    seen, _ = interrupted(tmp_path)
    monkeypatch.undo()
    assert [e.step for e in seen if isinstance(e, lab.Step)] == [1, 2]
    # On from the checkpoint at a quarter of the steps; the loop before it saw one event more.
    assert isinstance(list(lab.fit(RECIPE, tmp_path, device="cpu"))[-1], lab.Done)


def test_nothing_is_held_where_somebody_else_handles_ctrl_c():
    got = []
    signal.signal(signal.SIGINT, lambda *_: got.append("mine"))
    with defer_interrupt() as ctrl_c:
        os.kill(os.getpid(), signal.SIGINT)
        assert got == ["mine"]
    assert not ctrl_c.requested
    signal.signal(signal.SIGINT, signal.default_int_handler)


class At(TorchDispatchMode):
    """Ctrl-C at operation number `at`."""

    def __init__(self, at=None):
        super().__init__()
        self.at, self.count = at, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self.at:
            raise KeyboardInterrupt
        return func(*args, **(kwargs or {}))


def state_of(model):
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        [m.training for m in model.modules()],
        [[len(getattr(m, kind)) for kind in hooks] for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [p.grad is None for p in model.parameters()],
        {name: value.clone() for name, value in model.state_dict().items()},
    )


def taps(mini, target, x):
    with lab.FeatureTaps(target, mini.taps) as tapped:
        target(x)
        return list(tapped.maps)


@pytest.mark.parametrize("mode", [True, False])
def test_networks_that_were_given_are_as_before_wherever_it_was_pressed(mode):
    mini = lab.load_backbone("mini", weights="random")
    target = mini.to_target(3, seed=0).train(mode)
    x = torch.rand(2, 3, 32, 32)
    counted = At()
    with counted:
        taps(mini, target, x)
    before = state_of(target)
    draw = random.Random(1)
    for at in (1, counted.count, *(draw.randrange(1, counted.count + 1) for _ in range(20))):
        with pytest.raises(KeyboardInterrupt), At(at):
            taps(mini, target, x)
        after = state_of(target)
        assert before[:4] == after[:4], at


def test_a_kernel_that_is_interrupted_goes_on_where_it_was(tmp_path):
    manager, client = start_new_kernel(cwd=str(tmp_path), kernel_name="python3")
    try:
        run = lambda code: client.execute_interactive(code, timeout=120, output_hook=said.append)["content"]  # noqa: E731
        said: list = []
        code = (
            "import torch, gc, spgca_lab as lab\n"
            f"recipe = lab.Recipe(method='spgca', **{SMALL | {'iterations': 4000}})\n"
            "seen = []\n"
            "for event in lab.fit(recipe, device='cpu'):\n"
            "    if isinstance(event, lab.Step):\n"
            "        seen.append(event.step)\n"
            "        print(event.step, flush=True)"
        )
        client.execute(code)
        steps = 0
        while steps < 5:
            told = client.get_iopub_msg(timeout=120)
            if told["msg_type"] == "stream":
                steps += told["content"]["text"].count("\n")
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=60)["content"]
        assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
        assert run("last = seen[-1]; gc.collect()")["status"] == "ok"
        held_back = (
            "nets = [o for o in gc.get_objects() if isinstance(o, torch.nn.Module)]\n"
            "assert not nets, nets[:3]\n"
            "assert lab.RunStore('runs')[recipe].status == 'interrupted'\n"
            "for event in lab.fit(recipe, device='cpu'):\n"
            "    if isinstance(event, lab.Step):\n"
            "        break\n"
            "assert event.step in (last + 1, last + 2), (event.step, last)"
        )
        reply = run(held_back)
        assert reply["status"] == "ok", reply
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)

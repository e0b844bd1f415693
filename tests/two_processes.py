"""What `test_processes` lets two processes do together; `torchrun` starts it, and each leaves `rank<n>.pt` behind."""

import sys
from pathlib import Path

import torch
from timm.layers import BatchNormAct2d
from torch import nn

import spgca_lab as lab
from spgca_lab.runs import fit as training
from spgca_lab.training.global_batch import GlobalBatchNorm, share_batch_norm, shared_batch, variance
from spgca_lab.training.processes import Processes

# From the shipped weights: a source that knows nothing makes maps so wild that rounding alone parts two curves.
SMALL = {
    "backbone": "mini",
    "image_size": 32,
    "per_class": 1,
    "test_per_class": 1,
    "iterations": 10,
    "batch_size": 8,
    "evaluations": 2,
    "snapshots": 4,
}
RUNS = {
    "two stages": {"method": "spgca"},
    "head alone": {"method": "l2_fe", "iterations": 4},
    "still statistics": {"method": "lwf->l2_sp", "target_bn": "eval", "iterations": 4},
    "large scale": {"method": "act", "scale": "afa", "iterations": 4},
}
CUT = {"method": "spgca", "seed": 1}
LAYERS = {
    "plain": lambda: nn.BatchNorm2d(3),
    "cumulative": lambda: nn.BatchNorm2d(3, momentum=None, eps=1e-3),
    "bare": lambda: nn.BatchNorm2d(3, affine=False),
    "unkept": lambda: nn.BatchNorm2d(3, track_running_stats=False),
    "flat": lambda: nn.BatchNorm1d(3),
    "activated": lambda: BatchNormAct2d(3, act_layer=nn.GELU),
}
# Unequal, and with a mean that dwarfs the spread: sums of squares would lose it.
PARTS = (3, 5)


class Idle(lab.Penalty):
    """Draws a random number a step, as dropout does, and has a parameter that no gradient reaches."""

    needs_source = False
    drawn: list = []

    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(1))

    def penalty(self, state, weights):
        self.drawn.append(float(torch.rand(())))
        return torch.zeros(())


def recipe(**fields):
    return lab.Recipe(**SMALL | fields)


def pictures(name):
    """A batch `[8, 3, …]` for that layer, and weights for the loss of each of its elements."""
    generator = torch.Generator().manual_seed(0)
    shape = (sum(PARTS), 3) if name == "flat" else (sum(PARTS), 3, 4, 5)
    x, loss = (torch.randn(shape, generator=generator) for _ in range(2))
    return 1000 + 2 * x, loss


def layer(name):
    made = LAYERS[name]()
    if made.affine:
        with torch.no_grad():
            made.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
            made.bias.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    return made


def passes(model, name, part):
    """Two steps in train mode and a look in eval mode: outputs, gradients and buffers."""
    x, loss = (t[part].double() for t in pictures(name))
    x.requires_grad_(True)
    for shift in (0.0, 1.0):
        y = model(x + shift)
        (y * loss).sum().backward()
    own = {f"grad {n}": p.grad for n, p in model.named_parameters()}
    kept = {n: b.clone() for n, b in model.named_buffers()}
    model.eval()
    return {"y": y.detach(), "x": x.grad, "still": model(x).detach(), **own, **kept}


def error_of(work):
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(folder):
    torch.set_num_threads(1)
    processes = Processes.current("cpu")
    own = slice(0, PARTS[0]) if processes.main else slice(PARTS[0], None)
    found = {"count": processes.count, "rows": processes.rows(8), "draws": processes.draws}
    found["mean"] = processes.mean(torch.tensor([1.0 + processes.rank])).item()
    found["agree"] = [processes.agree(flag) for flag in (False, not processes.main)]
    found["told"] = processes.from_main(lambda: {"by": processes.rank})
    found["lease"] = processes.on_main(lambda: "held")

    def fails():
        raise lab.RunBusy(f"said by process {processes.rank}")

    found["error"] = error_of(lambda: processes.from_main(fails))
    found["errors"] = error_of(lambda: processes.on_main(fails))

    model = nn.Sequential(*(layer(name) for name in LAYERS))
    names = list(model.state_dict())
    shared = share_batch_norm(model)
    assert list(shared.state_dict()) == names
    assert all(isinstance(m, GlobalBatchNorm) for m in shared)
    found["layers"] = {
        name: passes(made.double(), name, own) for name, made in zip(LAYERS, shared, strict=True)
    }
    x = pictures("plain")[0][own]
    with shared_batch():
        found["variance"] = variance(x)
    found["own variance"] = variance(x)

    finish = training._Run._finish

    def keep(run, parts):
        buffers_and_weights = {f"target.{k}": v.clone() for k, v in run.target.state_dict().items()}
        nets = {f"penalty.{k}": v.clone() for k, v in parts.penalty_state().items()}
        source = {f"source.{k}": v.clone() for k, v in run.source.state_dict().items()}
        states.append(buffers_and_weights | nets | source)
        return finish(run, parts)

    training._Run._finish = keep
    states, events = [], []
    for fields in (*RUNS.values(), CUT):
        events.append(list(lab.fit(recipe(**fields), store=folder / "two", device="cpu")))
    found["states"] = dict(zip((*RUNS, "cut"), states, strict=True))
    found["events"] = dict(zip((*RUNS, "cut"), [list(map(told, e)) for e in events], strict=True))
    again = lab.fit(recipe(**RUNS["two stages"]), store=folder / "two", device="cpu")
    found["again"] = list(map(told, again))
    odd = lab.fit(recipe(batch_size=9), store=folder / "two", device="cpu")
    found["odd"] = error_of(lambda: next(odd))
    wild = lab.fit(recipe(lr=1e9, scale="afa"), store=folder / "two", device="cpu")
    found["wild"] = error_of(lambda: list(wild))
    list(lab.fit(recipe(method=Idle, alpha=0.0, iterations=3), store=folder / "two", device="cpu"))
    found["drawn"] = Idle.drawn
    torch.save(found, folder / f"rank{processes.rank}.pt")
    processes.leave()


def told(event):
    """An event as text that can be compared."""
    if isinstance(event, lab.Snapshot):
        return f"Snapshot {event.step} {[w.tolist() for w in event.weights.values()]}"
    return repr(event)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

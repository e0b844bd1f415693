"""A training that is killed at chosen points of its life, and its resumption: `python -m tests.kill_points SPEC`.

Points are counted, not timed: before and after every step, evaluation, snapshot and hand-over, in the middle and at the
end of every write, and before and after every renaming or removal of a file. One process imports everything and forks a
child for each life, which it ends by SIGKILL.
"""

import hashlib
import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch

import spgca_lab as lab
from spgca_lab import _files as files
from spgca_lab.runs import inputs
from spgca_lab.training import loop
from spgca_lab.training.evaluate import Evaluator
from spgca_lab.training.stage import StageTrainer
from tests.tiny_runs import SMALL

RECIPE = lab.Recipe(method="spgca", **SMALL | {"iterations": 8})


class Life:
    """Counts the points that a process passes, and ends it at number `end`."""

    def __init__(self, end: int | None = None):
        self.end, self.passed = end, []

    def point(self, name: str) -> None:
        self.passed.append(name)
        if len(self.passed) - 1 == self.end:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: object, name: str, label: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def watched(*args, **kwargs):
            said = label(*args)
            self.point(f"before {said}")
            result = original(*args, **kwargs)
            self.point(f"after {said}")
            return result

        setattr(owner, name, watched)

    def watch(self) -> None:
        self.around(StageTrainer, "step", lambda _, number: f"step {number + 1}")
        self.around(Evaluator, "accuracy", lambda *_: "evaluation")
        self.around(Evaluator, "attention", lambda *_: "snapshot")
        self.around(loop, "hand_over", lambda *_: "hand-over")
        self.around(Path, "replace", lambda path, to: f"renaming {_plain(path)} to {to.name}")
        self.around(Path, "unlink", lambda path, *_: f"removing {_plain(path)}")
        write = os.write

        def torn(descriptor: int, content: memoryview) -> int:
            name = _plain(Path(f"/proc/self/fd/{descriptor}").readlink())
            half = write(descriptor, content[: len(content) // 2])
            self.point(f"half of {name}")
            rest = write(descriptor, content[half:])
            self.point(f"all of {name}")
            return half + rest

        files.os = OsWith(torn)


class OsWith:
    """`os` with another `write`: patched in the real one, what forks and pipes do would be points too."""

    def __init__(self, write):
        self.write = write

    def __getattr__(self, name: str):
        return getattr(os, name)


def _plain(path: Path) -> str:
    return path.name.split(".part")[0].split(f".{os.getpid()}-")[0]


def live(store: Path, end: int | None, said: Path) -> int:
    """One life in a forked child; 0 when it came to the end, 9 when it was killed."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] & 0x7F
    try:
        life = Life(end)
        life.watch()
        for _ in lab.fit(RECIPE, store, device="cpu"):
            pass
        said.write_text(json.dumps(life.passed), encoding="utf-8")
    except BaseException:
        traceback.print_exc()
        os._exit(3)
    os._exit(0)


def contents(folder: Path) -> dict[str, str]:
    """Digests of a run's files; what times and machines are in its result is left out."""
    found = {}
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        data = file.read_bytes()
        if file.name == "result.json":
            result = json.loads(data)
            data = json.dumps({k: v for k, v in result.items() if k != "seconds"}).encode()
        found[file.relative_to(folder).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def named(passed: list[str]) -> Iterator[int]:
    """The places where most could go wrong, each once."""
    for name in (
        "half of checkpoint.safetensors",
        "after renaming checkpoint.safetensors to checkpoint-previous.safetensors",  # there is no newest one
        "after hand-over",
        "before evaluation",
        "half of events.jsonl",
        "half of weights.safetensors",
        "half of result.json",
        "after renaming result.json to result.json",
    ):
        yield passed.index(name)


def main(home: Path, count: int) -> None:
    """Print one line of JSON a killed run: where, how often, and what differs from the run that was left alone."""
    torch.set_num_threads(1)
    images = inputs.load_data(RECIPE, 32)
    inputs.load_data = lambda *_: images
    # Once in this process, so that no child has to import what is imported late.
    list(lab.fit(RECIPE, home / "here", device="cpu"))
    said = home / "said.json"
    assert live(home / "whole", None, said) == 0
    passed = json.loads(said.read_text(encoding="utf-8"))
    whole = contents(lab.RunStore(home / "whole").folder(RECIPE))
    draw = random.Random(7)
    ends = [*named(passed), *draw.sample(range(len(passed)), count)]
    for number, end in enumerate(ends):
        store, kills = home / f"store{number}", 1
        assert live(store, end, said) == signal.SIGKILL
        # Every third run dies once more while it goes on.
        if number % 3 == 0:
            kills += live(store, draw.randrange(len(passed) // 2), said) == signal.SIGKILL
        ended = live(store, None, said)
        found = contents(lab.RunStore(store).folder(RECIPE))
        differ = sorted(name for name in whole | found if whole.get(name) != found.get(name))
        print(
            json.dumps({"point": passed[end], "kills": kills, "ended": ended, "differ": differ}), flush=True
        )
    print(json.dumps({"points": len(passed), "kinds": len(set(passed))}))


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main(Path(sys.argv[1]), int(sys.argv[2]))

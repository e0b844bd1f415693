"""A process whose memory the system limits: `python tests/out_of_memory.py STORE MEGABYTES`.

It trains a batch that does not fit: once refused before the first step, and once without the estimate, so that memory
really runs out. After either it trains on, and it prints what happened.
"""

import ctypes
import gc
import json
import resource
import sys

import psutil

import spgca_lab as lab
from spgca_lab.runs import memory

SMALL = {"backbone": "mini", "weights": "random", "evaluations": 1, "snapshots": 0, "iterations": 1}
RECIPE = lab.Recipe(method="spa", image_size=128, per_class=2, test_per_class=1, batch_size=64, **SMALL)

KEPT: list[Exception] = []


def steps(recipe: lab.Recipe, store: str) -> int:
    return sum(isinstance(event, lab.Step) for event in lab.fit(recipe, store, device="cpu"))


def main() -> None:
    store, megabytes = sys.argv[1], int(sys.argv[2])
    # Everything that is loaded once is there before the limit is set.
    steps(RECIPE.replace(batch_size=2), store)
    gc.collect()
    limit(megabytes)
    told: dict[str, object] = {"refused": failed(store)}
    memory.check_memory = lambda *_: None
    before = resident()
    told |= {"ran out": failed(store), "kept": resident() - before}
    # Addresses do not come back, what stood there does: the limit is set anew.
    limit(megabytes)
    told["after"] = steps(RECIPE.replace(batch_size=4), store)
    print(json.dumps(told))


def limit(megabytes: int) -> None:
    """Allow this process so much more than it has."""
    size = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 2**20, resource.RLIM_INFINITY))


def failed(store: str) -> str:
    """What is said of a batch that does not fit; the error is kept, as a notebook keeps its last one."""
    try:
        steps(RECIPE, store)
    except lab.OutOfMemory as error:
        KEPT.append(error)
        return str(error)
    return ""


def resident() -> int:
    memory.release_memory()
    ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    main()

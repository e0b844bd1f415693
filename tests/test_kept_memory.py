"""Memory between steps: kept inside a block, where glibc allows it, and given back behind it."""

import json
import platform
import subprocess
import sys

import pytest

PROBE = """
import json, resource, torch
from spgca_lab.training.memory import kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(40 * 2**20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

torch.set_num_threads(1)
faults()
found = {"outside": faults()}
with kept():
    with kept():
        faults()
    found["inside"] = faults()
    inside = held()
found["returned"] = inside - held()
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc: there is nothing to keep")
def test_inside_the_block_large_tensors_take_the_pages_of_those_before_and_behind_it_all_go_back():
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    pages = 20 * 40 * 2**20 / 4096
    assert found["outside"] > pages / 4
    assert found["inside"] < found["outside"] / 20
    assert found["returned"] > 30 * 2**20

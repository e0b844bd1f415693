"""A run that is killed at any moment, once or twice, ends as if it had not been: bit for bit, and with no file more."""

import json
import os
import subprocess
import sys

COUNT = 30


def test_a_run_killed_at_any_point_ends_with_the_same_bits(repo, tmp_path):
    told = subprocess.run(
        [sys.executable, "-m", "tests.kill_points", str(tmp_path), str(COUNT)],
        cwd=repo,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    *runs, points = map(json.loads, told.stdout.splitlines())
    assert points["points"] > 100
    assert len(runs) == COUNT + 8
    assert sum(run["kills"] for run in runs) > COUNT + 8
    assert [run for run in runs if run["ended"] != 0 or run["differ"]] == []

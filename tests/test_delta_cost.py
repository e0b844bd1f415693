"""The benchmark of the cost of DELTA's filter weights runs, and its two methods agree."""

import importlib.util

import pytest


@pytest.fixture(scope="module")
def script(request):
    path = request.config.rootpath / "benchmarks" / "delta_cost.py"
    spec = importlib.util.spec_from_file_location("delta_cost", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_script_prints_a_table_of_both_ways(script, capsys):
    small = ["--backbones", "mini", "--images", "2", "--image-size", "32", "--sample", "2"]
    script.main([*small, "--device", "cpu"])
    measured, empty, head, rule, line = capsys.readouterr().out.splitlines()
    assert "threads, torch " in measured
    assert empty == ""
    assert set(rule) <= set("| -")
    row = dict(zip(cells(head), cells(line), strict=True))
    assert (row["backbone"], row["px"], row["images"], row["filters"]) == ("mini", "32", "2", "960")
    assert int(row["passes, batched"]) < int(row["passes, one per filter"]) == 964
    assert row["s, one per filter"].endswith("(scaled from 2 filters per tap)")
    assert float(row["largest difference, nats"]) < 1e-5


def test_the_script_leaves_one_per_filter_out_where_asked(script):
    line = script.measure("mini", images=1, image_size=32, skip_naive=True, budget=2**23)
    assert "s, batched" in line
    assert "s, one per filter" not in line


def test_the_script_refuses_what_it_cannot_measure(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--images", "0"])
    assert "--images 0: a positive whole number is needed" in capsys.readouterr().err

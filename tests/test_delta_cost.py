"""The script that measures what DELTA's filter weights cost runs, and its two ways agree."""

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
    small = ["--backbones", "mini", "--pictures", "2", "--image-size", "32", "--sample", "2"]
    script.main([*small, "--device", "cpu"])
    measured, empty, head, rule, line = capsys.readouterr().out.splitlines()
    assert "threads, torch " in measured
    assert empty == ""
    assert set(rule) <= set("| -")
    row = dict(zip(cells(head), cells(line), strict=True))
    assert (row["backbone"], row["px"], row["pictures"], row["filters"]) == ("mini", "32", "2", "960")
    assert int(row["passes, batched"]) < int(row["passes, one a filter"]) == 964
    assert row["s, one a filter"].endswith("(scaled from 2 filters a tap)")
    assert float(row["largest difference, nats"]) < 1e-5


def test_the_script_leaves_one_a_filter_out_where_asked(script):
    line = script.measure("mini", pictures=1, image_size=32, skip_naive=True, budget=2**23)
    assert "s, batched" in line
    assert "s, one a filter" not in line


def test_the_script_refuses_what_it_cannot_measure(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--pictures", "0"])
    assert "--pictures 0: a positive whole number is needed" in capsys.readouterr().err

"""The scripts that measure time run, and say what they measured; which times they find is no matter here."""

import json
import re
import threading

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import spgca_lab as lab
from benchmarks import long_use, step, waiting
from spgca_lab.training.speed import PLAIN, Engine

SMALL = ["--device", "cpu", "--backbones", "mini", "--image-size", "32", "--batch-size", "8"]
QUICK = [*SMALL, "--rounds", "2", "--steps", "1", "--warm-up", "1"]


def cells(text, heading):
    """Rows of the table that begins with this heading."""
    lines = text[text.index(heading) :].splitlines()
    rows = [line for line in lines[2:] if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[: len(lines)]]


def test_step_prints_every_method_under_both_engines_and_each_trick_by_itself(tmp_path, capsys):
    kept = tmp_path / "step.json"
    step.main([*QUICK, "--methods", "afa", "spa", "gca", "--ablation", "spa", "--json", str(kept)])
    told = capsys.readouterr().out
    assert re.search(
        r"`mini`, pretrained weights, 32 px, batch 8; .*torch \d.*; \d{4}-\d\d-\d\d; 2 rounds of 1 step", told
    )
    rows = json.loads(kept.read_text(encoding="utf-8"))["backbones"]["mini"]
    methods = [(row["method"], row["engine"]) for row in rows["methods"]]
    names = ["plain fine-tuning", "afa (ast)", "afa (act)", "spa", "gca"]
    assert methods == [(name, engine) for name in names for engine in ("plain", "fast")]
    fastest = min(rows["methods"][:2], key=lambda row: row["ms"])
    assert fastest["x_plain"] == 1
    assert rows["methods"][0]["x_eager"] == 1
    assert all(0 < row["arithmetic"] < 1.5 and 0 < row["bytes"] < 1.5 for row in rows["methods"])
    assert all(row["ms"] * row["images_s"] == pytest.approx(8000) for row in rows["methods"])
    changes = [row["change"] for row in rows["ablation spa"]]
    assert changes[0] == "the fast engine"
    assert {"BatchNorm not folded", "penalty not fused", "channels first", "bfloat16"} <= set(changes)
    # On a CPU there are no streams and no graphs, and T is compiled only where that was asked for.
    assert not {"no stream of its own", "S as a CUDA graph", "T compiled"} & set(changes)
    assert set(rows["parts"]) == {"waiting", "source", "spa", "gca"}
    for heading in (
        "| method | engine |",
        "| part of a step |",
        "| sums over |",
        "| `spa`, fast engine, but |",
    ):
        assert heading in told


def test_the_arithmetic_of_a_step_is_three_times_that_of_ts_forward_pass_and_once_that_of_ss():
    options = step.options_of(QUICK)
    mini, train = lab.load_backbone("mini"), step.pictures(32, 8)
    for name, extra in (("plain fine-tuning", 0), ("uniform", 1)):
        variant = step.build(name, 0, PLAIN, mini, train, options)
        training = variant.steps.training
        x, _ = training.batches(0)
        counts = []
        for model in (training.target, training.source):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model(x)
            counts.append(counter.get_total_flops())
        work, moved = step.floors(variant)
        assert work == pytest.approx(3 * counts[0] + extra * counts[1], rel=1e-6)
        half = step.build(name, 0, Engine("fast", precision="bfloat16"), mini, train, options)
        assert step.floors(half)[1] < moved


def test_waiting_prints_what_it_measured_beside_the_goals(capsys):
    waiting.main(["--repeats", "1", "--trainings", "0"])
    told = capsys.readouterr().out
    assert re.search(r"\| `import spgca_lab`, beyond torch \| -?\d+\.\d\d \| 0\.15 \|", told)
    assert re.search(
        r"\| `stickers` near, 48 classes × 8 and one test picture each \| \d+\.\d\d \| 1\.5 \|", told
    )
    for goal, fields in waiting.TRAININGS.values():
        recipe = lab.Recipe.from_dict({"method": "spgca", **fields})
        assert (recipe.batch_size, goal) == (32, 30 if recipe.backbone == "mini" else 100)


def test_long_use_leaves_nothing(tmp_path, capsys):
    before = threading.active_count()
    session = long_use.Session(tmp_path)
    (told,) = long_use.use(session, rounds=1, moves=12, runs=1)
    assert (told["hooks"], told["children"]) == (0, 0)
    assert told["threads"] <= before + 2
    assert len([name for name in capsys.readouterr().out.splitlines() if name.startswith("| 1 |")]) == 1
    assert {run.status for run in session.store} == {"finished"}
    assert len(session.store) == 3
    assert not [file for file in tmp_path.rglob("*") if file.suffix in (".part", ".next")]
    session.close()


def test_slope_is_that_of_the_second_half():
    rounds = [{"MB": value} for value in (900, 1000, 1100, 1000, 1010, 1020)]
    assert long_use.slope(rounds) == pytest.approx(10)

"""The scripts that measure time run and print their tables; the times themselves are not tested."""

import json
import re
import threading

import pytest

import spgca_lab as lab
from benchmarks import long_use, step, waiting

SMALL = ["--device", "cpu", "--backbones", "mini", "--image-size", "32", "--batch-size", "8"]
QUICK = [*SMALL, "--rounds", "2", "--steps", "1", "--warm-up", "1"]


def test_step_prints_every_method_under_both_engines_and_each_option_by_itself(tmp_path, capsys):
    written = tmp_path / "step.json"
    step.main([*QUICK, "--methods", "afa", "spa", "gca", "--ablation", "spa", "--json", str(written)])
    text = capsys.readouterr().out
    assert re.search(
        r"`mini`, pretrained weights, 32 px, batch 8; .*torch \d.*; \d{4}-\d\d-\d\d; rounds: 2, steps per round: 1",
        text,
    )
    rows = json.loads(written.read_text(encoding="utf-8"))["backbones"]["mini"]
    methods = [(row["method"], row["engine"]) for row in rows["methods"]]
    names = ["plain fine-tuning", "afa (ast)", "afa (act)", "spa", "gca"]
    assert methods == [(name, engine) for name in names for engine in ("plain", "fast")]
    fastest = min(rows["methods"][:2], key=lambda row: row["ms"])
    assert fastest["x_plain"] == 1
    assert rows["methods"][0]["x_eager"] == 1
    assert all(row["ms"] * row["images_s"] == pytest.approx(8000) for row in rows["methods"])
    changes = [row["change"] for row in rows["ablation spa"]]
    # On a CPU the fast engine compiles nothing, and T is compiled only where that was asked for.
    assert changes == ["none", "channels first", "bfloat16", "S compiled", "SGD fused"]
    assert len(rows["parts"]) == 4
    assert [row["over"] for row in rows["penalty"]] == ["channels", "positions"]
    for heading in (
        "| method | engine |",
        "| part of a step |",
        "| sums over |",
        "| method | fast engine, but |",
    ):
        assert heading in text


def test_waiting_prints_what_it_measured_beside_the_goals(capsys):
    waiting.main(["--repeats", "1", "--trainings", "0"])
    text = capsys.readouterr().out
    assert re.search(r"\| `import spgca_lab`, beyond torch \| -?\d+\.\d\d \| 0\.15 \|", text)
    assert re.search(
        r"\| `stickers` near, 48 classes × 8 and one test image per class \| \d+\.\d\d \| 1\.5 \|", text
    )
    for goal, fields in waiting.TRAININGS.values():
        recipe = lab.Recipe.from_dict({"method": "spgca", **fields})
        assert (recipe.batch_size, goal) == (32, 30 if recipe.backbone == "mini" else 100)


def test_long_use_leaves_nothing(tmp_path, capsys):
    before = threading.active_count()
    session = long_use.Session(tmp_path)
    (text,) = long_use.use(session, rounds=1, moves=12, runs=1)
    assert (text["hooks"], text["children"]) == (0, 0)
    assert text["threads"] <= before + 2
    assert len([name for name in capsys.readouterr().out.splitlines() if name.startswith("| 1 |")]) == 1
    assert {run.status for run in session.store} == {"finished"}
    assert len(session.store) == 3
    assert not [file for file in tmp_path.rglob("*") if file.suffix in (".part", ".next")]
    session.close()


def test_slope_is_that_of_the_second_half():
    rounds = [{"MB": value} for value in (900, 1000, 1100, 1000, 1010, 1020)]
    assert long_use.slope(rounds) == pytest.approx(10)

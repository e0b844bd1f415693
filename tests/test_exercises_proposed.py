"""Exercises of notebooks 04–08 and 10: the printed solutions are accepted, usual mistakes get their own hint."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spgca_lab as lab
from spgca_lab import exercises
from spgca_lab.exercises import practice, proposed
from spgca_lab.training import hand_over

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
ASKED = {
    "04_self_pixel_attention": ["spa_weights", "spa_loss"],
    "05_global_channel_attention": ["gca_weights", "layer_shares", "gca_loss"],
    "06_two_stage_training": ["total_loss", "hand_over"],
    "07_explore_alpha_and_r": ["paired_interval"],
    "08_inspect_attention": ["mass_inside"],
    "10_paper_scale": ["printed_interval"],
}
NAMES = [name for names in ASKED.values() for name in names]
EXERCISES = proposed.EXERCISES | practice.EXERCISES
MISTAKES = [(name, i) for name in NAMES for i in range(len(EXERCISES[name].mistakes))]


def cells(notebook: str, kind: str) -> list[str]:
    """The texts of a notebook's cells of one kind."""
    book = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == kind]


def solutions(notebook: str) -> dict[str, Any]:
    """What the folded-up solutions of a notebook define, run one after the other as a reader would."""
    folded = "\n".join(
        re.findall(r"<details>.*?</details>", "\n".join(cells(notebook, "markdown")), re.DOTALL)
    )
    space: dict[str, Any] = {"torch": torch, "F": F, "lab": lab, "np": np}
    for block in re.findall(r"```python\n(.*?)```", folded, re.DOTALL):
        exec(block, space)
    return space


def test_every_exercise_is_asked_once():
    assert sorted(EXERCISES) == sorted(NAMES)
    assert set(EXERCISES) <= set(exercises.EXERCISES)


@pytest.mark.parametrize(("notebook", "name"), [(n, e) for n, names in ASKED.items() for e in names])
def test_printed_solution_is_right(notebook: str, name: str):
    verdict = exercises.judge(name, solutions(notebook)[name])
    assert verdict.right, verdict.message


@pytest.mark.parametrize(("notebook", "name"), [(n, e) for n, names in ASKED.items() for e in names])
def test_stored_cell_asks_for_the_equation(notebook: str, name: str):
    (cell,) = [text for text in cells(notebook, "code") if f"def {name}(" in text]
    space: dict[str, Any] = {"torch": torch, "F": F, "lab": lab, "np": np, "check": lambda *_: None}
    exec(cell, space)
    verdict = exercises.judge(name, space[name])
    assert not verdict.right
    assert verdict.message.startswith("Not yet")


@pytest.mark.parametrize(("name", "number"), MISTAKES)
def test_mistake_gets_its_hint(name: str, number: int):
    mistake = EXERCISES[name].mistakes[number]
    verdict = EXERCISES[name].judge(mistake.wrong)
    assert not verdict.right
    assert mistake.hint.rstrip(".") in verdict.message


@pytest.mark.parametrize("name", NAMES)
def test_own_answer_is_right_and_others_are_not(name: str):
    exercise = EXERCISES[name]
    assert exercise.judge(exercise.right).right
    assert not exercise.judge(lambda *inputs: torch.tensor(1.0)).right
    assert "raises ZeroDivisionError" in exercise.judge(lambda *inputs: 1 / 0).message


def test_open_way_through_the_attention_is_named():
    def spa_loss(fm_s, fm_t, fc):
        a = fc(torch.cat([fm_s, fm_t], dim=1).mean(dim=1).flatten(1)).softmax(dim=1)
        return 0.5 * (a.reshape(len(a), 1, *fm_s.shape[2:]) * (fm_s - fm_t)).square().sum() / len(fm_s)

    verdict = exercises.judge("spa_loss", spa_loss)
    assert not verdict.right
    assert "fm_t.detach()" in verdict.message


def test_closed_way_through_the_difference_is_named():
    def spa_loss(fm_s, fm_t, fc):
        a = fc(torch.cat([fm_s, fm_t.detach()], dim=1).mean(dim=1).flatten(1)).softmax(dim=1)
        a = a.reshape(len(a), 1, *fm_s.shape[2:])
        return 0.5 * (a * (fm_s - fm_t.detach())).square().sum() / len(fm_s) + 0 * fm_t.sum()

    assert "no gradient reaches FM_T" in exercises.judge("spa_loss", spa_loss).message


def test_attention_without_gradient_is_named():
    def spa_loss(fm_s, fm_t, fc):
        with torch.no_grad():
            a = fc(torch.cat([fm_s, fm_t], dim=1).mean(dim=1).flatten(1)).softmax(dim=1)
        return 0.5 * (a.reshape(len(a), 1, *fm_s.shape[2:]) * (fm_s - fm_t)).square().sum() / len(fm_s)

    assert "no gradient reaches fc" in exercises.judge("spa_loss", spa_loss).message


def test_hand_over_agrees_with_the_trainers():
    torch.manual_seed(0)
    target, source = (
        nn.ModuleDict({"conv": nn.Conv2d(2, 3, 1), "bn": nn.BatchNorm2d(3), "fc": nn.Linear(3, n)}).train()
        for n in (4, 7)
    )
    target["bn"](target["conv"](torch.randn(5, 2, 2, 2)))
    wanted = EXERCISES["hand_over"].right(target.state_dict(), source.state_dict(), "fc")
    wanted = {name: w.clone() for name, w in wanted.items()}
    hand_over(target, source, "fc", "fc")
    assert list(wanted) == list(source.state_dict())
    assert all(torch.equal(wanted[name], w) for name, w in source.state_dict().items())

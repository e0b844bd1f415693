"""Exercises of notebooks 04–08 and 10: usual mistakes get their own hint, and gradients go where they should."""

import pytest
import torch
from torch import nn

from spgca_lab import exercises
from spgca_lab.exercises import practice, proposed
from spgca_lab.runs.fit import hand_over

EXERCISES = proposed.EXERCISES | practice.EXERCISES
NAMES = list(EXERCISES)
MISTAKES = [(name, i) for name in NAMES for i in range(len(EXERCISES[name].mistakes))]


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

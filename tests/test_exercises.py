"""The notebooks' exercises: right answers pass, every usual mistake gets its own hint."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spgca_lab import exercises
from spgca_lab.exercises import EXERCISES, Exercise, ExerciseError, Mistake, judge
from spgca_lab.exercises.base import TRIALS
from spgca_lab.training.networks import hand_over

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
USUAL = [(name, i) for name, exercise in EXERCISES.items() for i in range(len(exercise.mistakes))]
SOLUTIONS = NOTEBOOKS / "solutions"


@pytest.mark.parametrize("name", EXERCISES)
def test_right_answer_passes_and_others_do_not(name):
    verdict = judge(name, EXERCISES[name].right)
    assert verdict.right, verdict.message
    assert str(verdict).startswith("Right:")
    assert not judge(name, lambda *inputs: torch.tensor(1.0)).right
    assert "raises ZeroDivisionError" in judge(name, lambda *inputs: 1 / 0).message


@pytest.mark.parametrize(("name", "index"), USUAL)
def test_usual_mistake_gets_its_hint_and_no_other(name, index):
    mistake = EXERCISES[name].mistakes[index]
    verdict = judge(name, mistake.wrong)
    assert not verdict.right
    assert verdict.message == f"Not right yet: {mistake.hint.rstrip('.')}."


@pytest.mark.parametrize("name", EXERCISES)
def test_inputs_are_the_same_each_time_and_differ_between_trials(name):
    def numbers(seed):
        found = []
        for value in EXERCISES[name].inputs(torch.Generator().manual_seed(seed)):
            if isinstance(value, nn.Module):
                value = dict(value.named_parameters())
            found += value.values() if isinstance(value, dict) else [value]
        return torch.cat([x.detach().reshape(-1) for x in found if isinstance(x, torch.Tensor)])

    assert torch.equal(numbers(0), numbers(0))
    assert all(not torch.equal(numbers(0)[:5], numbers(seed)[:5]) for seed in range(1, TRIALS))


def toy(**options) -> Exercise:
    inputs = options.pop("inputs", lambda g: (torch.rand(3, 4, generator=g, dtype=torch.float64) + 0.1,))
    return Exercise("toy", "x times two", lambda x: 2 * x, inputs, **options)


def crash(x):
    raise KeyError("weight")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            lambda x: None,
            r'^Not attempted yet: replace the \.\.\. by x times two\. A hint: exercises\.hint\("toy"\)$',
        ),
        (lambda x: ..., "Not attempted yet"),
        (lambda x: 3 * x, "always 1.5 times the right one"),
        (lambda x: x + 1, r"it gives [\d.]+ where [\d.]+ is right \(first element of a tensor \[3, 4\]\)"),
        (
            lambda x: (2 * x).reshape(-1),
            r"the numbers are right, their shape is not: a tensor \[12\] instead of",
        ),
        (
            lambda x: x.sum(),
            r"it returns a scalar tensor, but a tensor \[3, 4\] is expected\nThe first input was a",
        ),
        (lambda x: float(x.sum()), "Python number; return the tensor, without .item()"),
        (lambda x: [x], "it returns a list"),
        (lambda x: x / 0, "not finite"),
        (crash, "it raises KeyError: 'weight'"),
        (lambda: 1, "it raises TypeError"),
        (torch.ones(3), r"give the function itself, without calling it, not a tensor \[3\]"),
        (torch.nn.Linear, "give the function itself"),
    ],
)
def test_what_is_said_of_other_wrong_answers(function, said):
    verdict = toy().judge(function)
    assert not verdict.right
    assert re.search(said, verdict.message), verdict.message


def test_answers_right_on_some_inputs_only_are_wrong():
    exercise = toy(inputs=lambda g: (torch.rand(int(torch.randint(2, 9, (), generator=g)), generator=g),))
    sizes = [len(exercise.inputs(torch.Generator().manual_seed(seed))[0]) for seed in range(TRIALS)]
    assert len(set(sizes)) > 1
    assert not exercise.judge(lambda x: 2 * x if len(x) == sizes[0] else 5 * x).right
    assert not exercise.judge(lambda x: 2 * x if len(x) == sizes[0] else x / 0).right
    assert "it raises" in exercise.judge(lambda x: 2 * x if len(x) == sizes[0] else crash(x)).message


def test_in_place_answers_are_refused():
    assert "in-place" in toy().judge(lambda x: x.mul_(2)).message


def test_lost_gradient_is_refused():
    exercise = toy(gradient=True, inputs=lambda g: (torch.rand(3, generator=g, requires_grad=True),))
    assert exercise.judge(lambda x: 2 * x).right
    assert "carries no gradient" in exercise.judge(lambda x: 2 * x.detach()).message


def test_mistakes_may_be_errors():
    exercise = toy(mistakes=[Mistake("transpose first", lambda x: x @ x)])
    assert exercise.judge(lambda x: x @ x).message == "Not right yet: transpose first."
    assert "it raises RuntimeError" in exercise.judge(lambda x: x @ x[:2]).message


def test_float32_answers_are_close_enough():
    assert judge(
        "ast_loss", lambda s, t, a: EXERCISES["ast_loss"].right(s.float(), t.float(), a.float())
    ).right


def test_unknown_exercise_lists_near_names():
    with pytest.raises(ExerciseError, match=r"no exercise 'ast_los'; did you mean .*'ast_loss'"):
        judge("ast_los", lambda: None)


def test_check_prints_the_verdict(tmp_path, capsys):
    exercises.check("l2_sp", lambda parameters, start: None, tmp_path)
    assert capsys.readouterr().out.startswith("Not attempted yet: replace the ... by half the sum of squares")


@pytest.mark.parametrize(
    ("removes", "said"),
    [
        ("never", "your hook is still on the model"),
        ("at the end", "when the forward pass raises, your hook stays"),
        ("always", "Right"),
    ],
)
def test_hooks_left_behind_are_found(removes, said):
    def feature_map(model, name, x):
        seen = []
        handle = model.get_submodule(name).register_forward_hook(lambda m, i, output: seen.append(output))
        if removes == "always":
            try:
                model(x)
            finally:
                handle.remove()
        else:
            model(x)
            if removes == "at the end":
                handle.remove()
        return seen[0]

    assert said in judge("feature_map", feature_map).message


def test_open_way_through_the_attention_is_named():
    def spa_loss(fm_s, fm_t, fc):
        a = fc(torch.cat([fm_s, fm_t], dim=1).mean(dim=1).flatten(1)).softmax(dim=1)
        return 0.5 * (a.reshape(len(a), 1, *fm_s.shape[2:]) * (fm_s - fm_t)).square().sum() / len(fm_s)

    verdict = judge("spa_loss", spa_loss)
    assert not verdict.right
    assert "fm_t.detach()" in verdict.message


def test_closed_way_through_the_difference_is_named():
    def spa_loss(fm_s, fm_t, fc):
        a = fc(torch.cat([fm_s, fm_t.detach()], dim=1).mean(dim=1).flatten(1)).softmax(dim=1)
        a = a.reshape(len(a), 1, *fm_s.shape[2:])
        return 0.5 * (a * (fm_s - fm_t.detach())).square().sum() / len(fm_s) + 0 * fm_t.sum()

    assert "no gradient reaches FM_T" in judge("spa_loss", spa_loss).message


def test_attention_without_gradient_is_named():
    def spa_loss(fm_s, fm_t, fc):
        with torch.no_grad():
            a = fc(torch.cat([fm_s, fm_t], dim=1).mean(dim=1).flatten(1)).softmax(dim=1)
        return 0.5 * (a.reshape(len(a), 1, *fm_s.shape[2:]) * (fm_s - fm_t)).square().sum() / len(fm_s)

    assert "no gradient reaches fc" in judge("spa_loss", spa_loss).message


def test_hand_over_agrees_with_the_trainers():
    torch.manual_seed(0)
    target, source = (
        nn.ModuleDict({"conv": nn.Conv2d(2, 3, 1), "bn": nn.BatchNorm2d(3), "fc": nn.Linear(3, n)}).train()
        for n in (4, 7)
    )
    target["bn"](target["conv"](torch.randn(5, 2, 2, 2)))
    wanted = EXERCISES["hand_over"].right(target.state_dict(), source.state_dict(), "fc")
    wanted = {name: w.clone() for name, w in wanted.items()}
    hand_over(target, source, "fc")
    assert list(wanted) == list(source.state_dict())
    assert all(torch.equal(wanted[name], w) for name, w in source.state_dict().items())


def cells(book: Path, kind: str) -> list[str]:
    """The texts of a notebook's cells of one kind."""
    every = json.loads(book.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in every if cell["cell_type"] == kind]


def book_of(name: str) -> Path:
    """The notebook that asks for an exercise."""
    (number,) = [number for number, names in exercises.NOTEBOOKS.items() if name in names]
    (book,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    return book


@pytest.mark.parametrize("name", EXERCISES)
def test_every_solution_passes(name):
    spec = importlib.util.spec_from_file_location(name, SOLUTIONS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    verdict = judge(name, getattr(module, name))
    assert verdict.right, verdict.message
    assert module.__doc__.startswith(f"Notebook {book_of(name).name[:2]},")


def test_there_is_one_solution_an_exercise_and_none_in_a_notebook():
    assert sorted(path.stem for path in SOLUTIONS.glob("*.py")) == sorted(EXERCISES)
    for book in NOTEBOOKS.glob("*.ipynb"):
        assert "<details>" not in "\n".join(cells(book, "markdown"))


@pytest.mark.parametrize("name", EXERCISES)
def test_its_notebook_asks_once_unsolved_and_points_to_hints_and_solution(name):
    asked = [(book, text) for book in NOTEBOOKS.glob("*.ipynb") for text in cells(book, "code")]
    ((book, cell),) = [(book, text) for book, text in asked if f'check("{name}"' in text]
    assert book == book_of(name)
    space: dict[str, Any] = {"exercises": exercises, "torch": torch}
    exec(cell.split("exercises.check", maxsplit=1)[0], space)
    verdict = judge(name, space[name])
    assert not verdict.attempted
    stored = json.loads(book.read_text(encoding="utf-8"))["cells"]
    (found,) = [one for one in stored if one["cell_type"] == "code" and "".join(one["source"]) == cell]
    assert "".join(found["outputs"][0]["text"]) == f"{verdict.message}\n"
    told = "\n".join(cells(book, "markdown"))
    assert name in told
    assert f"(solutions/{name}.py)" in told


def test_every_notebook_has_an_exercise_and_ends_with_the_progress():
    for book in sorted(NOTEBOOKS.glob("*.ipynb")):
        assert exercises.NOTEBOOKS[book.name[:2]], book.name
        assert cells(book, "code")[-1] == "exercises.progress()", book.name


@pytest.mark.parametrize("name", EXERCISES)
def test_three_hints_and_three_wrong_answers_at_least(name):
    given = EXERCISES[name].hints
    assert len(given) == len(set(given)) == 3
    assert len({mistake.hint for mistake in EXERCISES[name].mistakes}) >= 3


@pytest.mark.parametrize("name", [name for name in EXERCISES if "softmax" in EXERCISES[name].about])
def test_a_softmax_over_the_wrong_axis_is_named(name):
    told = [m.hint for m in EXERCISES[name].mistakes if "softmax runs over the batch" in m.hint]
    assert told, name
    assert "dim=1" in told[0]


def test_hints_come_one_by_one(capsys):
    for step in (1, 2, 3):
        exercises.hint("gca_loss", step)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[::2]] == ["Hint 1 of 3", "Hint 2 of 3", "Hint 3 of 3"]
    assert lines[1] == 'The next: exercises.hint("gca_loss", 2)'
    assert len(lines) == 5


@pytest.mark.parametrize("step", [0, 4, "2", True, None, 1.5])
def test_other_hints_do_not_exist(step):
    with pytest.raises(ExerciseError, match=re.escape(f"step must be 1, 2 or 3, got {step!r}")):
        exercises.hint("gca_loss", step)
    with pytest.raises(ExerciseError, match="did you mean 'gca_loss'"):
        exercises.hint("gca_los")


def test_progress_knows_what_was_right_wrong_and_left_out(tmp_path, capsys):
    exercises.check("l2_sp", EXERCISES["l2_sp"].right, tmp_path)
    exercises.check("ast_loss", lambda *_: torch.tensor(1.0), tmp_path)
    exercises.check("act_loss", lambda *_: ..., tmp_path)
    capsys.readouterr()
    found = {name: state for _, name, _, state in exercises.progress(tmp_path).rows}
    assert list(found) == list(EXERCISES)
    assert found["l2_sp"] == "right"
    assert found["ast_loss"] == "not right yet"
    assert {found[name] for name in found if name not in ("l2_sp", "ast_loss")} == {"not attempted"}
    assert repr(exercises.progress(tmp_path)).endswith(f"1 of {len(EXERCISES)} right")
    exercises.check("ast_loss", EXERCISES["ast_loss"].right, tmp_path)
    assert exercises.progress(tmp_path).summary.startswith("2 of")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"l2_sp": "perfect", "ast_loss": 3}', "null"])
def test_a_damaged_file_is_begun_afresh(tmp_path, damage):
    file = tmp_path / "exercises.json"
    file.write_text(damage)
    assert exercises.progress(tmp_path).summary.startswith("0 of")
    exercises.check("l2_sp", EXERCISES["l2_sp"].right, tmp_path)
    assert json.loads(file.read_text()) == {"l2_sp": "right"}
    assert [path.name for path in tmp_path.iterdir()] == ["exercises.json"]


def test_a_check_works_where_nothing_can_be_kept(tmp_path, capsys):
    (tmp_path / "runs").write_text("a file")
    exercises.check("l2_sp", EXERCISES["l2_sp"].right, tmp_path / "runs")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("Right:")
    assert second.startswith("(Your progress could not be saved: ")


def test_html_of_the_progress_is_escaped():
    page = exercises.Progress((("02", "<b>x</b>", "a < b & c", "right"),))._repr_html_()
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page
    assert "a &lt; b &amp; c" in page
    assert "1 of 1 right" in page

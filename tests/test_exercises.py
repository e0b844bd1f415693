"""The notebooks' exercises: right answers pass, every usual mistake gets its own hint."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from spgca_lab import exercises
from spgca_lab.exercises import EXERCISES, Exercise, ExerciseError, Mistake, basics, judge
from spgca_lab.exercises.base import TRIALS

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
USUAL = [(name, i) for name, exercise in EXERCISES.items() for i in range(len(exercise.mistakes))]
CHECK = re.compile(r'\bcheck\("(\w+)", (\w+)\)')
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)


@pytest.mark.parametrize("name", EXERCISES)
def test_right_answer_passes(name):
    verdict = judge(name, EXERCISES[name].right)
    assert verdict.right, verdict.message
    assert str(verdict).startswith("Right:")


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
        (lambda x: None, "Not yet: toy is still empty. Replace the ... by x times two."),
        (lambda x: ..., "Not yet"),
        (lambda x: 3 * x, "always 1.5 times the right one"),
        (lambda x: x + 1, r"it gives [\d.]+ where [\d.]+ is right \(first element of a tensor \[3, 4\]\)"),
        (
            lambda x: (2 * x).reshape(-1),
            r"the numbers are right, their shape is not: a tensor \[12\] instead of",
        ),
        (
            lambda x: x.sum(),
            r"it returns a scalar tensor, a tensor \[3, 4\] is wanted\nThe first input was a",
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


def test_check_prints_the_verdict(capsys):
    exercises.check("l2_sp", lambda parameters, start: None)
    assert capsys.readouterr().out.startswith("Not yet: l2_sp is still empty.")


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


def books() -> list[Path]:
    return sorted(NOTEBOOKS.glob("0[0-3]_*.ipynb"))


def checks(book: Path) -> list[tuple[str, str]]:
    """(exercise, code of its cell) for every check in a notebook."""
    cells = json.loads(book.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [(match[1], source) for source in sources for match in CHECK.finditer(source)]


def solutions(book: Path) -> str:
    """The code in a notebook's folded solutions, one after the other."""
    cells = json.loads(book.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    return "\n".join(code for source in sources for code in SOLUTION.findall(source))


@pytest.mark.notebooks
@pytest.mark.parametrize("book", books(), ids=lambda book: book.stem)
def test_solutions_in_the_notebook_pass_and_its_cells_are_not_solved(book):
    for name, cell in checks(book):
        given: dict = {}
        exec("import torch\n" + solutions(book), given)
        assert name in given, f"{book.name} has no folded solution for {name!r}"
        verdict = judge(name, given[name])
        assert verdict.right, verdict.message
        unsolved: dict = {"exercises": exercises}
        exec("import torch\n" + cell.split("exercises.check", maxsplit=1)[0], unsolved)
        assert judge(name, unsolved[name]).message.startswith("Not yet")


@pytest.mark.notebooks
def test_every_exercise_is_asked_in_a_notebook_once():
    asked = [name for book in books() for name, _ in checks(book)]
    assert sorted(asked) == sorted(basics.EXERCISES)

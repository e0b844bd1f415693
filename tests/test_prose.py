"""The prose check finds each banned habit, and accepts plain text and fixed names."""

import pytest

from tools import prose

CLEAN = '''"""A clean module; `picture` is a column's name."""

def load(path):
    """Return 12 images per class from `per_class` and picture_count."""
    # A comment says why.
    raise ValueError(f"{path}: expected one weight per tap")
'''


@pytest.mark.parametrize(
    ("line", "number", "text"),
    [
        ('"""What a step costs."""', 1, "What"),
        ('def f():\n    """Whether it fits."""', 2, "Whether"),
        ('class A:\n    """How it runs."""', 2, "How"),
        ('"""Return 12 images a class."""', 1, "images a class"),
        ('"""Return one\nvalue a step."""', 2, "value a step"),
        ("x = 1  # three weights a tap", 1, "weights a tap"),
        ('error = "the user is told once"', 1, "told"),
        ('error = f"maps of {x} are held fast"', 1, "held fast"),
        ("# its pull on T", 1, "pull"),
        ("# even weights", 1, "even weights"),
        ("# the images at hand", 1, "at hand"),
        ("# the process dies", 1, "dies"),
        ("# it obeys", 1, "obeys"),
        ('"""Draw a picture."""', 1, "picture"),
        ('"""Return the answers of T."""', 1, "answers"),
    ],
)
def test_each_habit_is_found_on_its_line(line, number, text):
    assert [(where, words) for where, _, words in prose.check_python(line)] == [(number, text)]


def test_clean_text_and_fixed_names_are_accepted():
    assert list(prose.check_python(CLEAN)) == []
    assert (
        list(prose.check_text("Ten images per class; `picture a step`; a pull request", 1, prose.IDIOMS))
        == []
    )


def test_the_command_lists_file_and_line_and_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prose, "REPO", tmp_path)
    (tmp_path / "page.md").write_text("A title\n\nTwo steps a stage.\n", encoding="utf-8")
    (tmp_path / "clean.py").write_text(CLEAN, encoding="utf-8")
    assert prose.main(["clean.py"]) == 0
    assert prose.main(["page.md", "clean.py"]) == 1
    assert capsys.readouterr().out == "page.md:3: write `per` for a distributive article: steps a stage\n"
    with pytest.raises(SystemExit, match=r"no file or folder 'none\.py'"):
        prose.main(["none.py"])

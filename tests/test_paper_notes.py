"""docs/paper_notes.md: all 32 points, true quotations, and no test named that does not exist."""

import ast
import json
import re

import pytest
from torchvision import models

from spgca_lab.backbones import resnet as resnets
from spgca_lab.regularizers import attention
from spgca_lab.regularizers.penalties import SCALES
from spgca_lab.training import recipe

STARRED = {1, 2, 3, 4, 5, 8, 10, 15, 16, 25}


@pytest.fixture(scope="module")
def notes(repo):
    return (repo / "docs" / "paper_notes.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def points(notes):
    """{number: (starred, text of the section)}."""
    parts = re.split(r"^#{2,3} ", notes, flags=re.MULTILINE)[1:]
    found = [(re.match(r"(\d+) (★ )?.+\?\n", part), part) for part in parts]
    return {int(match[1]): (bool(match[2]), part) for match, part in found if match}


def names_of_tests(file):
    return {
        node.name
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }


def test_all_points_are_there_once(notes, points):
    numbers = [int(n) for n in re.findall(r"^### (\d+) ", notes, flags=re.MULTILINE)]
    assert sorted(numbers) == list(range(1, 33))
    assert sorted(points) == list(range(1, 33))
    assert {n for n, (starred, _) in points.items() if starred} == STARRED


def test_every_point_quotes_the_paper_and_gives_options_default_reason_and_test(points):
    for number, (_, text) in points.items():
        assert len(re.findall(r"^> \S", text, flags=re.MULTILINE)) == 1, number
        for field in ("Options", "Why", "Notebook", "Pinned by"):
            assert text.count(f"- **{field}:** ") == 1, (number, field)
        options = text[text.index("- **Options:**") : text.index("- **Why:**")]
        assert "**" in options.removeprefix("- **Options:**"), f"point {number} marks no default"


def headings(file):
    """The headings of a notebook, without their signs; what a fence holds is code."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    prose = [re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL) for text in texts]
    return {
        found.strip() for text in prose for found in re.findall(r"^#{1,6} (.+)$", text, flags=re.MULTILINE)
    }


def starred_numbers(heading):
    """The points that a heading such as "1, 2 ★ How large …" is about."""
    before, star, _ = heading.partition(" ★ ")
    return {int(number) for number in before.split(", ")} if star else set()


def test_every_point_names_a_section_of_a_notebook(repo, points):
    for number, (starred, text) in points.items():
        told = text[text.index("- **Notebook:**") : text.index("- **Pinned by:**")]
        links = re.findall(r"\[(\d\d) · (.+?)\]\(\.\./notebooks/(\S+?)\)", told)
        assert links, number
        assert len(set(links)) == len(links) == told.count("]("), (number, links)
        for book, heading, file in links:
            assert re.fullmatch(rf"{book}_\w+\.ipynb", file), number
            assert heading in headings(repo / "notebooks" / file), (number, heading)
        book, heading, _ = links[0]
        if starred:
            assert (book, number in starred_numbers(heading)) == ("09", True), number


def test_notebook_09_has_a_section_for_every_starred_point(repo):
    found = headings(repo / "notebooks" / "09_what_the_paper_leaves_open.ipynb")
    assert sorted(number for heading in found for number in starred_numbers(heading)) == sorted(STARRED)


def test_notebook_09_quotes_the_paper(repo, paper_text):
    paper = " ".join(paper_text.split())
    book = json.loads(
        (repo / "notebooks" / "09_what_the_paper_leaves_open.ipynb").read_text(encoding="utf-8")
    )
    lines = [
        line
        for c in book["cells"]
        if c["cell_type"] == "markdown"
        for line in "".join(c["source"]).splitlines()
    ]
    quotes = [line.removeprefix("> ").strip() for line in lines if line.startswith("> ")]
    assert len(quotes) >= len(STARRED)
    for quote in quotes:
        assert " ".join(quote.split()) in paper, quote


def test_every_test_named_exists(repo, points):
    for number, (_, text) in points.items():
        pinned = text[text.index("- **Pinned by:**") :]
        named = re.findall(r"`(tests/\w+\.py)::(\w+)`", pinned)
        assert named, number
        assert len(named) == pinned.count("`") // 2, f"point {number} names something else than tests"
        for file, test in named:
            assert test in names_of_tests(repo / file), f"point {number} names {file}::{test}"


def test_the_rest_of_the_page_names_no_other(repo, notes):
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", notes)
    assert len(named) == notes.count("`tests/")
    for file, test in named:
        assert test in names_of_tests(repo / file), f"{file}::{test}"


def test_every_quotation_is_the_papers(paper_text, points):
    paper = " ".join(paper_text.split())
    for number, (_, text) in points.items():
        quote = re.search(r"^> (.+)$", text, flags=re.MULTILINE)[1]
        assert " ".join(quote.split()) in paper, f"point {number}: {quote}"


def test_the_defaults_that_the_page_names_are_the_recipes(points):
    plain, paper = recipe.Recipe(), recipe.Recipe(backbone="resnet101")
    assert (plain.scale, paper.scale) == ("relative", "afa")
    assert all(f'"{scale}"' in points[1][1] for scale in SCALES)
    assert all(f"`{name}`" in points[1][1] for name in recipe.PAPER_RESNETS)
    assert (plain.attention, plain.attend_through_target, plain.target_bn) == ("learned", False, "train")
    assert (plain.beta, plain.r, plain.data_seed) == (0.01, 4, 0)
    assert (plain.alpha, paper.alpha, recipe.Recipe(scale="literal").alpha) == (3.0, 0.1, 0.1)
    assert plain.milestones == (1 / 3, 5 / 6)
    assert [s.name for s in plain.stages().stages] == ["spa", "gca"]
    assert attention.GlobalChannelAttention({"a": (8, 1, 1)}).r == 4


@pytest.mark.parametrize(
    ("blueprint", "published"),
    [
        (resnets.RESNET50, models.ResNet50_Weights),
        (resnets.RESNET101, models.ResNet101_Weights),
    ],
    ids=["resnet50", "resnet101"],
)
def test_the_papers_resnets_have_torchvisions_first_weights(blueprint, published, monkeypatch):
    asked = []
    monkeypatch.setattr(resnets, "download_checkpoint", lambda url, *_: asked.append(url))
    blueprint.weights(None)
    assert asked == [published.IMAGENET1K_V1.url]
    assert asked != [published.IMAGENET1K_V2.url]

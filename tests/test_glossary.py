"""docs/glossary.md: names in code exist, equations are the paper's, notebooks tell of the symbols."""

import importlib
import json
import re

import pytest

import spgca_lab as lab

CORE = (
    *(
        "S",
        "T",
        "α",
        "β",
        "r",
        "ΣC",
        "AST",
        "ACT",
        "SPA",
        "GCA",
        "AFA",
        "L2-SP",
        "DELTA",
        "uniform",
        "literal",
    ),
    *(
        "relative",
        "hand-over",
        "tap",
        "effective number",
        "pointing game",
        "mass inside",
        "Grad-CAM",
        "cross",
        "probe",
    ),
)
TABLES = {2, 3, 4, 6}
# As the notebooks spell what the glossary writes otherwise.
LATEX = {"α": "\\alpha", "β": "\\beta", "fm_s^i": "fm^i", "gca²": "gca_squared"}


@pytest.fixture(scope="module")
def rows(repo):
    """(symbol, meaning, source, code, notebook) of every row."""
    lines = (repo / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    cells = [[c.strip() for c in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return [row for row in cells if row[0] != "symbol"]


def test_every_row_is_whole_and_every_symbol_there_once(rows):
    assert all(len(row) == 5 and all(row) for row in rows)
    symbols = [row[0] for row in rows]
    assert len(set(symbols)) == len(symbols)
    assert set(CORE) <= set(symbols)


def resolve(name):
    """The object of a dotted name; an error where there is none."""
    parts = name.removeprefix("lab.").split(".")
    found = lab
    for i, part in enumerate(parts):
        if hasattr(found, part):
            found = getattr(found, part)
        else:
            found = importlib.import_module(f"spgca_lab.{'.'.join(parts[: i + 1])}")
    return found


def test_every_name_in_code_exists(rows):
    for symbol, _, _, code, _ in rows:
        (name,) = re.findall(r"^`(lab\.[\w.]+)`$", code)
        try:
            resolve(name)
        except (AttributeError, ImportError) as error:
            pytest.fail(f"{symbol}: {error}")


def test_equations_and_tables_are_the_papers(rows):
    for symbol, _, source, _, _ in rows:
        for number in re.findall(r"Eq\. (\d+)", source):
            assert 1 <= int(number) <= 12, symbol
        for number in re.findall(r"Table (\d+)", source):
            assert int(number) in TABLES, symbol


def test_classes_name_the_equation_in_their_docstrings(rows):
    """What the glossary calls AST by Eq. 2 says so itself."""
    for symbol in ("AST", "ACT", "SPA", "GCA", "$L_{AST}$", "$L_{ACT}$", "$L_{SPA}$", "$L_{GCA}$"):
        (row,) = [row for row in rows if row[0] == symbol]
        number = re.fullmatch(r"Eq\. (\d+)", row[2])[1]
        told = resolve(row[3].strip("`")).__doc__
        assert re.search(rf"\({number}\)|Eq\. [\d and,]*\b{number}\b", told), symbol


def test_every_notebook_exists_and_names_its_symbol(repo, rows):
    for symbol, _, _, _, link in rows:
        number, target = re.fullmatch(r"\[(\d\d)\]\((\S+)\)", link).groups()
        file = (repo / "docs" / target).resolve()
        assert file.name.startswith(number), symbol
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells).lower()
        plain = re.split(r", | H$", symbol)[0].strip("`$").lower()
        assert plain in text or LATEX.get(plain, plain) in text, (symbol, file.name)

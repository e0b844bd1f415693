"""docs/glossary.md: names in code exist, equations are the paper's, notebooks tell of the symbols."""

import importlib
import json
import re

import pytest

import spgca_lab as lab

# What no glossary of this project may lack; a line a theme.
CORE = """
S; T; x; y; $W_T$; head; $FM^i$; $FM_S^i$; $FM_T^i$; tap; C; H; W; HW; ΣC; Flat; AvgPool; GAP; Concat
AST; ACT; AFA; SPA; GCA; $FC^i_{AST}$; $FC_{ACT}$; $FC^i_{SPA}$; $FC_{GCA}$; r; Softmax; $d_p$; $D_c$; uniform; frozen
entropy H; effective number; share
penalty; $L_{AST}$; $L_{ACT}$; $L_{SPA}$; $L_{GCA}$; $L_{CE}$; $L_{Total}$; α; β; WD
scale; literal; afa; relative; gradient norm
L2; L2-FE; L2-SP; DELTA; LwF
stage; hand-over; seed; probe; snapshot
top-1; paired difference; mass inside; pointing game; IoU; Grad-CAM; Integrated Gradients; channel ablation
near; mid; far; cross; `mini`; `lite0`
"""
TABLES = range(1, 8)
# As the notebooks spell what the glossary writes otherwise.
SPELLED = {
    "α": "\\alpha",
    "β": "\\beta",
    "ΣC": "\\Sigma C",
    "entropy H": "entropy",
    "GCA²": "gca_squared",
    "gradient norm": "pull",
    "LwF": "MethodComparison",  # which has a row for it under `all`
    "projection": "projected",
}


@pytest.fixture(scope="module")
def rows(repo):
    """(symbols, meaning, source, code, notebook) of every row."""
    lines = (repo / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    cells = [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines if line.startswith("| ")]
    assert all(len(row) == 5 and all(row) for row in cells)
    return [(row[0].split(", "), *row[1:]) for row in cells if row[0] != "symbol"]


def test_every_symbol_is_there_once(rows):
    symbols = [symbol for row in rows for symbol in row[0]]
    assert [symbol for symbol in symbols if symbols.count(symbol) > 1] == []
    assert [name for name in re.split(r"[;\n]\s*", CORE.strip()) if name not in symbols] == []


def test_every_row_of_the_page_is_read(repo, rows):
    text = (repo / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert len(rows) == text.count("](../notebooks/") > 80


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
    for symbols, _, _, code, _ in rows:
        (name,) = re.findall(r"^`(lab\.[\w.]+)`$", code)
        try:
            resolve(name)
        except (AttributeError, ImportError) as error:
            pytest.fail(f"{symbols}: {error}")


def numbers(source, what):
    """The numbers that a source names: `Eq. 6, 11, Table 2` has 6 and 11 of "Eq."."""
    lists = re.findall(rf"{re.escape(what)} (\d+(?:, \d+)*)", source)
    return {int(number) for found in lists for number in found.split(", ")}


def test_equations_and_tables_are_the_papers(rows):
    known = {"this project", "AFA's release"}
    for symbols, _, source, _, _ in rows:
        equations, tables = numbers(source, "Eq."), numbers(source, "Table")
        assert equations <= set(range(1, 13)), symbols
        assert tables <= set(TABLES), symbols
        assert equations or tables or source in known or re.search(r"Sec\. \d|\d{4}$", source), symbols
    assert set().union(*(numbers(source, "Eq.") for _, _, source, _, _ in rows)) == set(range(1, 13))


def test_classes_name_the_equation_in_their_docstrings(rows):
    """What the glossary calls AST by Eq. 2 says so itself."""
    attentions = "AST; ACT; SPA; GCA; $FC^i_{AST}$; $FC^i_{SPA}$; $FC_{GCA}$"
    losses = "$L_{AST}$; $L_{ACT}$; $L_{SPA}$; $L_{GCA}$; $L_{Total}$; WD"
    for symbol in f"{attentions}; {losses}; $FM^i$; tap".split("; "):
        ((_, _, source, code, _),) = [row for row in rows if symbol in row[0]]
        told = resolve(code.strip("`")).__doc__
        for what in ("Eq.", "Table"):
            for number in numbers(source, what):
                assert re.search(rf"\({number}\)|{what} [\d and,]*\b{number}\b", told), (symbol, number)


def occurs(term, text):
    """Whether a text has the term: a letter or two must stand alone, a word may take an s or a capital."""
    if len(term) <= 2:
        return re.search(rf"(?<![\w\\]){re.escape(term)}(?![A-Za-z])", text) is not None
    return term.lower() in text.lower()


def test_every_notebook_exists_and_names_its_symbol(repo, rows):
    books = {}
    for symbols, _, _, _, link in rows:
        number, target = re.fullmatch(r"\[(\d\d)\]\((\S+)\)", link).groups()
        file = (repo / "docs" / target).resolve()
        assert file.name.startswith(f"{number}_"), symbols
        if file not in books:
            cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
            books[file] = "\n".join("".join(cell["source"]) for cell in cells)
        for symbol in symbols:
            plain = symbol.strip("`$")
            assert any(occurs(each, books[file]) for each in (plain, SPELLED.get(plain, plain))), (
                symbol,
                file.name,
            )

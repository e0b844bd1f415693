"""docs/published_figures.md: every number on the page, computed anew by other code than that which made the page."""

import math
import re

import pytest
from scipy import stats

from spgca_lab.experiments import paper

NAMES = {"L2": "l2", "L2-FE": "l2_fe", "L2-SP": "l2_sp", "GCA→SPA": "gca->spa"}
NAMES |= {name: name.lower() for name in ("DELTA", "AFA", "AST", "ACT", "SPA", "GCA")}


@pytest.fixture(scope="module")
def page(repo):
    return (repo / "docs" / "published_figures.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tables(page):
    """{heading of the first column: rows as dictionaries}, in the order of the page."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", page, flags=re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|\n ").split(" | ")] for line in block.splitlines()]
        assert {len(row) for row in rows} == {len(rows[0])}
        found.append([dict(zip(rows[0], row, strict=True)) for row in rows[2:]])
    return found


def column(name, number):
    """A column of a table by the name that the page has."""
    if name == "SPA→GCA":
        return "spgca" if number == 4 else "spa->gca"
    return name.removeprefix("r = ") if name.startswith("r = ") else NAMES[name]


def welch(a, b):
    """Half width of the 95 % interval, and the p value of scipy's test."""
    (m, s), (n, t) = a, b
    va, vb = s**2 / 5, t**2 / 5
    freedom = (va + vb) ** 2 / (va**2 / 4 + vb**2 / 4)
    test = stats.ttest_ind_from_stats(m, s, 5, n, t, 5, equal_var=False)
    return stats.t.ppf(0.975, freedom) * math.sqrt(va + vb), test.pvalue


def test_the_page_has_the_claims_in_order_and_where_they_fail(tables):
    rows = tables[0]
    assert [row["sentence"].strip("“”") for row in rows] == [claim.sentence for claim in paper.CLAIMS]
    for row, claim in zip(rows, paper.CLAIMS, strict=True):
        assert row["where"] == claim.where
        if claim.table is None:
            assert row["holds"] == "no numbers printed"
            continue
        cells = paper.printed(claim.table)
        gaps = [round(cells[d, a][0] - cells[d, b][0], 2) for d, a, b in claim.pairs]
        if claim.points is not None:
            agree = [gap == claim.points for gap in gaps]
        elif claim.smallest:
            rest = min(g for g, (d, *_) in zip(gaps, claim.pairs, strict=True) if d not in claim.smallest)
            agree = [
                g < rest or d not in claim.smallest for g, (d, *_) in zip(gaps, claim.pairs, strict=True)
            ]
        else:
            agree = [gap > 0 for gap in gaps]
        assert row["from"] == f"Table {claim.table}"
        assert row["differences that agree"] == f"{sum(agree)} of {len(agree)}"
        most = "For most" in claim.sentence
        assert row["holds"] == ("yes" if all(agree) or (most and sum(agree) > len(agree) / 2) else "no")
        failing = [pair for pair, good in zip(claim.pairs, agree, strict=True) if not good]
        assert (row["not for"] == "—") == (not failing)
        for dataset, ahead, behind in failing:
            a, b = re.match(rf"(.+) over (.+), {dataset}$", row["not for"]).groups()
            assert (column(a, claim.table), column(b, claim.table)) == (ahead, behind)


def test_every_difference_and_its_interval_follow_from_the_printed_cells(tables):
    seen = set()
    for row in tables[1]:
        number = int(row["table"].removeprefix("Table "))
        a, b = (column(name, number) for name in row["difference"].split(" − "))
        cells = paper.printed(number)
        one, other = cells[row["data set"], a], cells[row["data set"], b]
        half, p = welch(one, other)
        assert row["printed"] == f"{one[0] - other[0]:+.2f}"
        assert row["± 95 %"] == f"{half:.2f}"
        assert row["beyond its scatter"] == ("yes" if p < 0.05 else "no")
        seen.add((number, row["data set"], frozenset((a, b))))
    claimed = {(c.table, d, frozenset(pair)) for c in paper.CLAIMS if c.table for d, *pair in c.pairs}
    assert seen == claimed
    assert len(tables[1]) == len(seen)


def test_the_points_that_the_text_claims_stand_beside_their_differences(tables):
    rows = {(row["data set"], row["difference"]): row["claimed"] for row in tables[1]}
    points = {key: float(told) for key, told in rows.items() if re.fullmatch(r"[+-][\d.]+", told)}
    assert points == {
        ("CUB-200-2011", "SPA→GCA − AFA"): 0.32,
        ("MIT Indoor 67", "SPA→GCA − AFA"): 0.48,
        ("Caltech 256-60", "GCA − ACT"): 0.85,
        ("MIT Indoor 67", "SPA − AST"): -0.18,
        ("MIT Indoor 67", "GCA − ACT"): 0.69,
    }
    assert rows["Caltech 256-60", "GCA→SPA − SPA→GCA"] == "> 0 and < 0"


def test_what_both_stages_add_to_gca_alone(tables):
    four, five = paper.printed(4), paper.printed(5)
    assert [row["data set"] for row in tables[2]] == list(paper.DATASETS)
    for row in tables[2]:
        both, alone = four[row["data set"], "spgca"], five[row["data set"], "gca"]
        half, p = welch(both, alone)
        assert row["SPA→GCA"] == "{:.2f} ± {:.2f}".format(*both)
        assert row["GCA alone"] == "{:.2f} ± {:.2f}".format(*alone)
        assert (row["printed"], row["± 95 %"]) == (f"{both[0] - alone[0]:+.2f}", f"{half:.2f}")
        assert row["beyond its scatter"] == ("yes" if p < 0.05 else "no")
    assert [row["beyond its scatter"] for row in tables[2]].count("no") == 3  # "on three of the five"


def test_what_others_publish_is_all_there(tables):
    four = paper.printed(4)
    assert len(tables) == 4
    for row, other in zip(tables[3], paper.ELSEWHERE, strict=True):
        assert (row["data set"], NAMES[row["method"]], row["network"]) == (
            other.dataset,
            other.method,
            other.model,
        )
        assert row["the paper"] == "{:.2f} ± {:.2f}".format(*four[other.dataset, other.method])
        numbers = [float(n) for n in re.findall(r"[\d.]+", row["elsewhere"])]
        assert numbers == [n for n in (other.value, other.sd, other.high) if n is not None]
        assert (row["iterate"], row["source"], row["why not the same"]) == (
            other.iterate,
            other.source,
            other.why,
        )


def test_what_the_prose_reads_out_of_the_tables(page, tables):
    prose = " ".join(re.sub(r"^\|.*\|\n", "", page, flags=re.MULTILINE).split())
    assert f"with {len(tables[1])} differences below about one" in prose
    four, seven = paper.printed(4), paper.printed(7)
    gaps = {d: round(seven[d, "spa->gca"][0] - seven[d, "gca->spa"][0], 2) for d in paper.DATASETS}
    ahead = [gap for gap in gaps.values() if gap > 0]
    assert (len(ahead), min(ahead), max(ahead)) == (4, 0.11, 0.69)
    assert "by 0.11 to 0.69 points" in prose
    rows = {(row["data set"], row["difference"]): row for row in tables[1]}
    assert f"± {rows['Caltech 256-30', 'r = 4 − r = 32']['± 95 %']};" in prose
    six = [row for row in tables[1] if row["table"] == "Table 6"]
    assert {row["beyond its scatter"] for row in six} == {"no"}
    spa = [row for row in tables[1] if row["difference"] == "SPA − AST"]
    beyond = {row["data set"]: float(row["printed"]) for row in spa if row["beyond its scatter"] == "yes"}
    assert beyond == {"Stanford Dogs 120": 0.17, "MIT Indoor 67": -0.18}
    act = [row for row in tables[1] if row["difference"] == "GCA − ACT"]
    assert all(float(row["printed"]) > 0 for row in act)
    assert [row["beyond its scatter"] for row in act].count("yes") == 4
    dogs = {method: mean for (dataset, method), (mean, _) in four.items() if dataset == "Stanford Dogs 120"}
    assert dogs["l2_fe"] > max(dogs["l2"], dogs["l2_sp"], dogs["delta"])
    assert sorted(sd for (d, _), (_, sd) in four.items() if d == "Caltech 256-30")[:2] == [0.01, 0.06]
    cub = {name: four["CUB-200-2011", name][0] for name in ("l2", "delta", "spgca")}
    assert all(f"{value:.2f}" in prose for value in cub.values())
    assert f"against {cub['delta'] - cub['l2']:.2f} here" in prose
    assert f"and {dogs['l2_sp'] - dogs['l2']:.2f} here" in prose
    assert f"DELTA {88.7 - dogs['delta']:.1f} and AFA {90.1 - dogs['afa']:.1f} points above" in prose


def test_no_number_of_the_prose_comes_from_nowhere(page):
    prose = re.sub(r"^\|.*\|\n", "", page, flags=re.MULTILINE)
    prose = re.sub(r"doi:\S+|CC BY 4\.0|§5\.\d", "", prose)
    cells = {n: paper.printed(n) for n in (4, 5, 6, 7)}
    known = {f"{value:.2f}" for table in cells.values() for cell in table.values() for value in cell}
    known |= {f"{value:g}" for o in paper.ELSEWHERE for value in (o.value, o.sd, o.high) if value is not None}
    known |= {f"{abs(gap):.2f}" for claim in paper.CLAIMS for gap in claim.differences}
    # One test picture of 5,140; the range of α; what rounds to 0.01; t's quantile; and what the test above computes.
    known |= {
        f"{100 / 5140:.3f}",
        *["0.005", "0.1", "0.015", "97.5", "0.20", "4.91", "1.64", "1.2", "1.9", "0.5"],
    }
    assert {n for n in re.findall(r"\d+\.\d+", prose) if n not in known} == set()


def test_every_sentence_in_quotation_marks_is_the_papers(paper_text, page):
    text = " ".join(paper_text.replace("$", "").split()).lower()
    prose = re.sub(r"^\|.*\|\n", "", page, flags=re.MULTILINE)
    quotes = [" ".join(quote.split()).rstrip(",") for quote in re.findall(r'"([^"]+)"', prose)]
    assert len(quotes) >= 4
    assert [quote for quote in quotes if quote.lower() not in text] == []

"""The paper's tables as data: a second reading by hand, and every number against the paper's own text."""

import re

import pytest

from spgca_lab.backbones import table3
from spgca_lab.experiments import paper

DATASETS = ["Stanford Dogs 120", "CUB-200-2011", "Caltech 256-30", "Caltech 256-60", "MIT Indoor 67"]


@pytest.fixture(scope="module")
def paper_rows(paper_text):
    """{table number: rows of cells} as the paper's text has them."""
    found, number = {}, None
    for line in paper_text.splitlines():
        caption = re.match(r"\*\*Table (\d)\.\*\* (.+)", line)
        if caption:
            number = int(caption.group(1))
            found[number] = [" ".join(caption.group(2).replace("$r$", "r").split())]
        elif "\t" in line and number is not None:
            found[number].append(line.split("\t"))
        elif line.strip() and not line.startswith("*"):
            number = None
    return found


def cell(number, column, value, dataset):
    """(mean, sd) of one cell."""
    rows = paper.table(number)
    row = rows[(rows[column] == value) & (rows.dataset == dataset)]
    assert len(row) == 1
    return row["mean"].item(), row["sd"].item()


@pytest.mark.parametrize(
    ("number", "column", "value", "dataset", "expected"),
    [
        (4, "method", "l2", "Stanford Dogs 120", (82.37, 0.25)),
        (4, "method", "l2_fe", "CUB-200-2011", (62.09, 0.07)),
        (4, "method", "l2_sp", "Caltech 256-60", (87.72, 0.15)),
        (4, "method", "delta", "MIT Indoor 67", (84.06, 0.08)),
        (4, "method", "afa", "Caltech 256-30", (86.15, 0.06)),
        (4, "method", "spgca", "MIT Indoor 67", (84.82, 0.13)),
        (5, "method", "ast", "MIT Indoor 67", (84.36, 0.09)),
        (5, "method", "act", "Caltech 256-60", (87.02, 0.19)),
        (5, "method", "spa", "CUB-200-2011", (80.47, 0.14)),
        (5, "method", "gca", "Caltech 256-30", (86.14, 0.09)),
        (6, "r", 16, "Caltech 256-30", (86.06, 0.21)),
        (7, "order", "gca->spa", "Caltech 256-60", (88.05, 0.08)),
    ],
)
def test_a_second_reading_by_hand(number, column, value, dataset, expected):
    assert cell(number, column, value, dataset) == expected


def test_tables_that_report_the_same_experiment_agree():
    proposed = {d: cell(4, "method", "spgca", d) for d in DATASETS}
    assert proposed == {d: cell(7, "order", "spa->gca", d) for d in DATASETS}
    assert cell(6, "r", 4, "Caltech 256-30") == cell(5, "method", "gca", "Caltech 256-30")


def test_table1_adds_up_to_what_section_4_1_says():
    sizes = paper.table(1).set_index("dataset")
    total = sizes.train_samples + sizes.test_samples
    assert total["Stanford Dogs 120"] == 20_580
    assert total["CUB-200-2011"] == 11_788
    assert total["MIT Indoor 67"] == 6_700
    assert sizes.train_samples["Caltech 256-30"] == 257 * 30
    assert sizes.train_samples["Caltech 256-60"] == 257 * 60
    assert sizes.test_samples["Caltech 256-60"] == 257 * 20


@pytest.mark.parametrize("name", ["resnet101", "resnet50"])
def test_the_backbones_are_tapped_where_table3_says(name):
    printed = paper.table(3)[{"resnet101": "ResNet-101", "resnet50": "ResNet-50"}[name]]
    assert table3(name).module.tolist() == printed.tolist()


@pytest.mark.parametrize("number", [0, 8, "4", None, True, -1])
def test_other_tables_do_not_exist(number):
    with pytest.raises(ValueError, match=r"Tables 1 to 7, not"):
        paper.table(number)
    with pytest.raises(ValueError, match="Tables 4 to 7 hold accuracies, not 3"):
        paper.printed(3)


def test_tables_carry_their_caption_and_source():
    attrs = paper.table(6).attrs
    assert attrs["number"] == 6
    assert attrs["caption"].startswith("Effects of reduction rate")
    assert "10.20944/preprints202404.1423.v1" in attrs["source"]


def test_numbers_in_the_notes_follow_from_the_tables():
    orders = paper.table(7).pivot(index="dataset", columns="order", values="mean")
    gain = (orders["spa->gca"] - orders["gca->spa"]).round(2)
    assert sorted(gain) == [-0.11, 0.11, 0.21, 0.52, 0.69]
    assert gain.idxmin() == "Caltech 256-60"
    modules = paper.table(5).pivot(index="dataset", columns="method", values="mean")
    spa = (modules["spa"] - modules["ast"]).round(2)
    assert spa.idxmin() == "MIT Indoor 67"
    assert spa.min() == -0.18
    assert (spa.drop("MIT Indoor 67").min(), spa.max()) == (0.09, 0.17)
    rates = paper.table(6).set_index("r")["mean"]
    assert round(rates[4] - rates[32], 2) == 0.09
    assert rates.loc[[8, 16, 32]].max() - rates.loc[[8, 16, 32]].min() < 0.011
    dogs = paper.table(4).query("dataset == 'Stanford Dogs 120'").set_index("method")["mean"]
    assert dogs["l2_fe"] > dogs[["l2", "l2_sp", "delta"]].max()
    cub = paper.table(4).query("dataset == 'CUB-200-2011'").set_index("method")["mean"]
    assert cub.idxmin() == "l2_fe"


def claims(*words):
    """The claims whose sentences have these words."""
    found = [claim for claim in paper.CLAIMS if all(word in claim.sentence for word in words)]
    assert found
    return found


@pytest.mark.parametrize(
    ("words", "number", "dataset", "ahead", "behind", "points"),
    [
        ("0.32%", 4, "CUB-200-2011", 80.62, 80.30, 0.32),
        ("0.48%", 4, "MIT Indoor 67", 84.82, 84.34, 0.48),
        ("0.85%", 5, "Caltech 256-60", 87.87, 87.02, 0.85),
        ("0.18%", 5, "MIT Indoor 67", 84.36, 84.18, 0.18),
        ("0.69%", 5, "MIT Indoor 67", 84.72, 84.03, 0.69),
    ],
)
def test_every_difference_in_points_that_the_text_claims_is_in_the_tables(
    words, number, dataset, ahead, behind, points
):
    (claim,) = claims(words)
    ((where, first, second),) = claim.pairs
    cells = paper.printed(number)
    assert (claim.table, where) == (number, dataset)
    assert (cells[where, first][0], cells[where, second][0]) == (ahead, behind)
    assert round(ahead - behind, 2) == points == claim.points
    assert claim.differences == (points,)
    assert claim.holds


def test_claims_that_hold_everywhere_in_most_and_not():
    (everywhere,) = claims("For all datasets")
    assert everywhere.holds
    assert everywhere.differences == (0.22, 0.32, 0.27, 0.11, 0.48)
    four = paper.table(4).pivot(index="dataset", columns="method", values="mean")
    assert (four.drop(columns="spgca").idxmax(axis=1) == "afa").all(), "AFA stands for all previous methods"
    (small,) = claims("relatively small")
    assert small.holds
    assert sorted(small.differences)[:2] == [0.11, 0.22]
    (across,) = claims("across the board")
    assert not across.holds
    assert across.fails == (("MIT Indoor 67", "spa", "ast"),)
    (most,) = claims("For most datasets")
    assert most.holds
    assert most.fails == across.fails
    (rates,) = claims("as r increases")
    assert not rates.holds
    assert rates.differences == (0.08, 0.0, 0.01)
    (lowest,) = claims("lowest level")
    assert lowest.holds
    (converged,) = claims("converged faster")
    assert converged.holds is None
    assert converged.differences == converged.fails == ()


def test_the_order_holds_where_the_text_looks_and_not_where_it_draws_its_conclusion():
    (seen,), (drawn,) = claims("Better result"), claims("To reflect")
    assert seen.pairs == (("Caltech 256-60", "gca->spa", "spa->gca"),)
    assert seen.holds
    assert not drawn.holds
    assert drawn.fails == (("Caltech 256-60", "spa->gca", "gca->spa"),)
    assert any("one data set of five" in note.found for note in paper.NOTES if "Caltech 256-60" in note.where)


def test_a_wrong_claim_is_found_out():
    wrong = paper.Claim("", "", 4, (("CUB-200-2011", "spgca", "afa"),), points=0.33)
    assert not wrong.holds
    assert wrong.fails == wrong.pairs
    backwards = paper.Claim("", "", 4, (("CUB-200-2011", "afa", "spgca"),))
    assert not backwards.holds
    small = paper.Claim("", "", 4, paper.CLAIMS[0].pairs, smallest=("MIT Indoor 67",))
    assert [dataset for dataset, *_ in small.fails] == ["MIT Indoor 67"]


def test_claims_quote_the_paper_and_name_cells_that_there_are(paper_text):
    for claim in paper.CLAIMS:
        if claim.table is not None:
            cells = paper.printed(claim.table)
            assert claim.pairs
            assert all((d, a) in cells and (d, b) in cells and a != b for d, a, b in claim.pairs)
    text = " ".join(paper_text.replace("$", "").split())
    assert [claim.sentence for claim in paper.CLAIMS if claim.sentence not in text] == []


def test_what_others_publish_is_for_cells_of_table_4_and_says_whose_and_why():
    cells = paper.printed(4)
    for other in paper.ELSEWHERE:
        assert (other.dataset, other.method) in cells
        assert other.source
        assert other.why
        assert 75 < other.value < 95
        assert other.high is None or other.high > other.value
    told = [(o.method, o.model, str(o)) for o in paper.ELSEWHERE if o.dataset == "Stanford Dogs 120"]
    assert told[:3] == [
        ("delta", "ResNet-101", "88.7 ± 0.1"),
        ("afa", "ResNet-101", "90.1 ± 0.0"),
        ("afa", "ResNet-101", "90.22"),
    ]
    assert ("l2_sp", "ResNet-101", "88 to 89") in told
    assert ("l2", "ResNet-101", "81 to 82") in told
    assert {(o.method, o.model, o.value) for o in paper.ELSEWHERE if o.dataset == "CUB-200-2011"} == {
        ("delta", "ResNet-50", 82.3),
        ("l2", "ResNet-50", 81.8),
    }


def test_every_accuracy_is_the_papers(paper_rows):
    for number in (4, 5, 6, 7):
        printed = [
            [(float(m), float(sd)) for m, sd in re.findall(r"([\d.]+)% \$\\pm\$ ([\d.]+)", "\t".join(row))]
            for row in paper_rows[number][1:]
        ]
        printed = [pair for row in printed for pair in row]
        table = paper.table(number)
        assert list(zip(table["mean"], table["sd"], strict=True)) == printed


def test_rows_and_columns_are_in_the_papers_order(paper_rows):
    for number in (5, 6, 7):
        names = [row[1] for row in paper_rows[number][1:] if "%" in row[-1]]
        assert list(dict.fromkeys(paper.table(number).dataset)) == names
    legend = dict(zip("①②③④⑤", DATASETS, strict=True))
    names = [legend[row[1]] for row in paper_rows[4][1:] if "%" in row[-1]]
    assert list(dict.fromkeys(paper.table(4).dataset)) == names
    heads = {
        4: ["L^2$", "L^2 - FE$", "L^2 - SP$", "DELTA", "AFA", "Proposed"],
        5: ["AST", "ACT", "SPA", "GCA"],
        6: ["4", "8", "16", "32"],
        7: [r"SPA $\rightarrow$ GCA", r"GCA $\rightarrow$ SPA"],
    }
    for number, expected in heads.items():
        printed = paper_rows[number][2][2:]
        assert [name in cell for name, cell in zip(expected, printed, strict=True)] == [True] * len(expected)


def test_tables_1_to_3_are_the_papers(paper_rows):
    printed = [[c.replace(",", "") for c in row] for row in paper_rows[1][2:]]
    mine = {row[0]: [str(c) for c in row] for row in paper.table(1).itertuples(index=False)}
    assert {row[0]: row for row in printed} == mine
    assert len(paper_rows[2][2:]) == 10  # four layers: two sizes each, and two activations
    assert paper.table(2).activation.notna().sum() == 2
    printed = [[c.removeprefix("Resnet.") for c in row] for row in paper_rows[3][2:]]
    assert printed == [[str(c) for c in row] for row in paper.table(3).itertuples(index=False)]


def test_captions_are_the_papers(paper_rows):
    assert {number: rows[0] for number, rows in paper_rows.items()} == paper.CAPTIONS

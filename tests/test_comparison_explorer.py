"""MethodComparison: every number against pandas and scipy from the files, every divided picture against the answers."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

import spgca_lab as lab
from spgca_lab.experiments import paper
from spgca_lab.explorers import ExplorerError
from spgca_lab.explorers.comparison import MethodComparison, MethodComparisonState
from spgca_lab.explorers.comparison_table import VARIED, comparison_settings, paper_datasets, paper_values
from spgca_lab.explorers.run_table import RunTable
from spgca_lab.plots.panels.comparison import ANSWERS, PAGE
from spgca_lab.plots.style import to_png
from spgca_lab.regularizers.registry import method_name
from spgca_lab.runs.inputs import load_data
from tests.comparison_runs import CLASSES, MID, NEAR, SMALL, write
from tests.explorers import keeps_the_promises, size

TRAINED = {
    "l2": (0, 1, 2),
    "l2_fe": (1,),
    "uniform": (0, 1, 2),
    "afa": (0, 1),
    "spgca": (0, 1, 2),
    "spa": (0, 1, 2),
    "gca": (0, 2),
}
Mine = type("<b>mine", (lab.Penalty,), {"__module__": __name__})
OWN = method_name(Mine)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("comparison"), np.random.default_rng(0)
    for method, seeds in TRAINED.items():
        for seed in seeds:
            write(path, lab.Recipe(method=method, seed=seed, **SMALL), 0.6, rng)
    for seed in (0, 1):
        write(path, lab.Recipe(method="spgca", alpha=1.0, r=8, seed=seed, **SMALL), 0.5, rng)
        write(path, lab.Recipe(method=Mine, seed=seed, **SMALL), 0.5, rng)
        write(path, lab.Recipe(method="spgca", preset="mid", seed=seed, **SMALL), 0.7, rng)
    write(path, lab.Recipe(method="l2", preset="mid", seed=1, **SMALL), 0.4, rng)
    begun = lab.Recipe(method="l2_sp", seed=0, **SMALL)
    lab.RunStore(path).folder(begun).mkdir()
    (lab.RunStore(path).folder(begun) / "recipe.json").write_text(begun.to_json(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def files(store):
    """Accuracies straight from the files: rows (preset, method, alpha, seed)."""
    rows = []
    for file in store.glob("*/predictions.csv"):
        recipe = json.loads((file.parent / "recipe.json").read_text(encoding="utf-8"))
        answers = pd.read_csv(file)
        fields = {k: recipe[k] for k in ("preset", "method", "alpha", "r", "seed")}
        rows.append(fields | {"top1": 100 * (answers.label == answers.predicted).mean(), "file": file})
    table = pd.DataFrame(rows)
    own = (table.method == "spgca") & (table.alpha == 1.0)
    table["key"] = np.where(own, "spgca α 1 r 8", table.method)
    return table


def settings_of(source):
    return comparison_settings(RunTable(source, VARIED))


@pytest.fixture
def compare(store):
    return MethodComparison(store)


def by_seed(files, key, preset="near"):
    part = files[(files.key == key) & (files.preset == preset)]
    return part.set_index("seed").top1.sort_index()


def drawn(explorer):
    """{gid: artists} of the figure."""
    found = {}
    for artist in explorer.figure().artists:
        if artist.get_gid():
            found.setdefault(artist.get_gid(), []).append(artist)
    return found


def texts(explorer):
    return [text.get_text() for text in explorer.figure().texts]


class Cells(HTMLParser):
    """Rows of cells of a table; whatever is inside a cell as text."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.inside = [], set(), False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True
        elif tag == "br":
            self.rows[-1][-1] += " "

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data.replace("\xa0", " ")


def table(explorer):
    """The HTML table: names of columns, and {first cell: other cells}."""
    head, *rows = Cells(explorer.details.value).rows
    return head[1:], {row[0]: row[1:] for row in rows if len(row) > 1}


# --- numbers


@pytest.mark.parametrize("name", ["Table 4", "Table 5", "all"])
@pytest.mark.parametrize("baseline", ["uniform", "l2", "gca"])
def test_every_number_of_the_chart_is_that_of_the_files(compare, files, name, baseline):
    compare.show(table=name, baseline=baseline, variants="all apart", paper="CUB-200-2011")
    artists = drawn(compare)
    base = by_seed(files, baseline)
    printed = pd.concat([paper.table(4), paper.table(5)])
    printed = printed[printed.dataset == "CUB-200-2011"].set_index("method")
    assert artists["baseline"][0].get_xdata()[0] == pytest.approx(base.mean())
    for row in compare.rows():
        top1 = by_seed(files, row.key)
        if top1.empty:
            assert f"ours:{row.key}:mean" not in artists
            continue
        assert list(artists[f"ours:{row.key}:seeds"][0].get_xdata()) == pytest.approx(list(top1))
        assert artists[f"ours:{row.key}:mean"][0].get_xdata()[0] == pytest.approx(top1.mean())
        check_interval(artists, f"ours:{row.key}", top1)
        method = row.key.split(" ")[0]
        if method in printed.index:
            mean, sd = printed.loc[method, ["mean", "sd"]]
            assert artists[f"paper:{row.key}:mean"][0].get_xdata()[0] == mean
            ends = artists[f"paper:{row.key}:sd"][0].get_xdata()
            assert list(ends) == pytest.approx([mean - sd, mean + sd])
        else:
            assert f"paper:{row.key}:mean" not in artists
        gaps = (top1 - base).dropna()
        if row.key == baseline or gaps.empty:
            assert f"gap:{row.key}:mean" not in artists
            continue
        assert list(artists[f"gap:{row.key}:seeds"][0].get_xdata()) == pytest.approx(list(gaps))
        assert artists[f"gap:{row.key}:mean"][0].get_xdata()[0] == pytest.approx(gaps.mean())
        check_interval(artists, f"gap:{row.key}", gaps)


def half_width(values):
    return np.ptp(stats.ttest_1samp(values, 0.0).confidence_interval(0.95)) / 2


def check_interval(artists, name, values):
    if len(values) < 2:
        assert f"{name}:interval" not in artists
        return
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert list(artists[f"{name}:interval"][0].get_xdata()) == pytest.approx([interval.low, interval.high])


def test_the_words_beside_the_dots_are_means_and_intervals(compare, files):
    shown = texts(compare)
    top1, base = by_seed(files, "spgca"), by_seed(files, "uniform")
    interval = stats.ttest_rel(top1, base).confidence_interval(0.95)
    assert f"{top1.mean():.1f} ± {half_width(top1):.1f}" in shown
    assert f"{(top1 - base).mean():+.1f} ± {(interval.high - interval.low) / 2:.1f}" in shown
    assert "88.44 (0.04)" in shown
    assert f"dotted: uniform, {base.mean():.1f}" in shown


def test_an_interval_beyond_the_chart_ends_in_an_arrow(compare):
    compare.show(table="all")
    artists = drawn(compare)
    wide = [name for name in artists if name.endswith(":beyond")]
    assert wide
    for name in wide:
        low, high = artists[name.replace("beyond", "interval")][0].get_xdata()
        tips = [artist.get_xdata()[0] for artist in artists[name]]
        assert all(low < tip < high for tip in tips)


@pytest.mark.parametrize("number", [4, 5])
def test_the_papers_rows_are_its_tables(compare, number):
    compare.show(table=f"Table {number}")
    heads, rows = table(compare)
    printed = paper.table(number)
    assert heads == [
        lab.plots.style.method_label(m) + (" (baseline)" if m == compare.state.baseline else "")
        for m in dict.fromkeys(printed.method)
    ]
    for (dataset, model), part in printed.groupby(["dataset", "model"]):
        assert rows[f"{dataset}, {model}"] == [
            f"{m:.2f} ({sd:.2f})" for m, sd in zip(part["mean"], part["sd"], strict=True)
        ]


def test_our_rows_are_the_files_in_every_setting(compare, files):
    compare.show(baseline="l2")
    heads, rows = table(compare)
    assert heads == ["L2 (baseline)", "L2-FE", "L2-SP", "DELTA", "AFA", "SPA→GCA"]
    near = rows[f"{NEAR} (n)"]
    top1 = by_seed(files, "l2")
    assert near[0] == f"{top1.mean():.1f} ± {half_width(top1):.1f} (3)"
    assert near[1] == f"{by_seed(files, 'l2_fe').mean():.1f} (1)"
    assert near[2:4] == ["not trained", "not trained"]
    spgca = by_seed(files, "spgca", "mid")
    assert rows[f"{MID} (n)"][-1] == f"{spgca.mean():.1f} ± {half_width(spgca):.1f} (2)"
    # The last of the two rows of differences is the second setting's: one shared seed.
    gap = (spgca - by_seed(files, "l2", "mid")).dropna()
    assert rows["− L2"] == ["baseline", "", "", "", "", f"{gap.iloc[0]:+.1f}, one seed"]


def test_table_7s_other_order_has_the_papers_value_too():
    seven = paper.table(7)
    for dataset in paper_datasets():
        row = seven[(seven.dataset == dataset) & (seven.order == "gca->spa")].iloc[0]
        assert paper_values(dataset)["gca->spa"] == (row["mean"], row["sd"])


# --- order and baseline


def test_rows_and_columns_follow_the_sort(compare, files):
    compare.show(table="all", paper="MIT Indoor 67")
    keys = {row.label: row.key for row in compare.rows()}

    def order(sort):
        compare.sort_choice.value = sort
        assert compare.state.sort == sort
        labels = [row.label for row in compare.rows()]
        assert [h.removesuffix(" (baseline)") for h in table(compare)[0]] == labels
        places = {t.get_text(): t.get_position()[1] for t in compare.figure().texts}
        assert sorted(labels, key=lambda label: -places[label]) == labels
        return [keys[label] for label in labels]

    in_paper = ["l2", "l2_fe", "afa", "spgca", "spa", "gca"]
    assert order("paper's order") == [*in_paper, "uniform", OWN]
    means = {key: by_seed(files, key).mean() for key in keys.values()}
    assert order("ours") == sorted(order("paper's order"), key=lambda k: -means[k])
    printed = {m: paper_values("MIT Indoor 67")[m][0] for m in in_paper}
    assert order("paper's") == [*sorted(in_paper, key=lambda m: -printed[m]), "uniform", OWN]
    base = by_seed(files, "uniform")
    gaps = {key: (by_seed(files, key) - base).dropna().mean() for key in keys.values()}
    assert order("difference") == sorted(order("paper's order"), key=lambda k: -gaps[k])
    assert order("name") == [keys[label] for label in sorted(keys, key=str.casefold)]


def test_another_baseline_changes_lines_differences_and_words(compare, files):
    compare.baseline_choice.value = "l2"
    assert compare.state.baseline == "l2"
    assert "difference to L2" in texts(compare)
    assert f"baseline L2: {by_seed(files, 'l2').mean():.1f}" in compare.status_line.value
    gaps = by_seed(files, "spgca") - by_seed(files, "l2")
    assert drawn(compare)["gap:spgca:mean"][0].get_xdata()[0] == pytest.approx(gaps.mean())
    assert "gap:l2:mean" not in drawn(compare)
    assert "above L2" in compare.caption(compare.state) or "below L2" in compare.caption(compare.state)


# --- the pictures


def grid(explorer):
    """Every picture of the page with its frame and words, from the artists."""
    figure = explorer.figure()
    frames = [a for a in figure.artists if str(a.get_gid()).startswith("frame:")]
    strips = figure.axes[0].images
    width, height = figure.get_size_inches()
    found = []
    for frame in frames:
        x, y = frame.get_xy()
        strip = next(s for s in strips if s.get_extent()[3] == pytest.approx(y))
        left, right, *_ = strip.get_extent()
        pixels = strip.get_array()
        scale = pixels.shape[1] / (right - left)
        start, side = round((x - left) * scale), round(frame.get_width() * scale)
        below = [t for t in figure.texts if t.get_position()[0] == pytest.approx(x / width)]
        near = [t for t in below if 0 < (1 - t.get_position()[1]) * height - y - frame.get_width() < 0.3]
        words = [t.get_text() for t in sorted(near, key=lambda t: -t.get_position()[1])]
        right_one = frame.get_gid().removeprefix("frame:")
        assert frame.get_edgecolor()[:3] == pytest.approx(to_rgb(ANSWERS[right_one]))
        found.append((pixels[:, start : start + side], right_one, words))
    return found


def to_rgb(colour):
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


@pytest.mark.parametrize(("a", "b", "seed"), [("spgca", "l2", 0), ("afa", "uniform", 1), ("l2", "spa", 2)])
def test_pages_show_exactly_the_pictures_with_two_answers(compare, files, a, b, seed):
    compare.show(a=a, b=b, seed=seed)
    chosen = files[(files.preset == "near") & (files.seed == seed)].set_index("key")
    said = {n: pd.read_csv(chosen.loc[k, "file"]) for n, k in (("a", a), ("b", b))}
    labels, one, other = said["a"].label, said["a"].predicted, said["b"].predicted
    recipe = lab.Recipe(method=a, seed=seed, **SMALL)
    test = load_data(recipe, 32)[1]
    images = lab.center_crop(test.images, 32).numpy().transpose(0, 2, 3, 1)
    groups = {
        "a": np.flatnonzero((one == labels) & (other != labels)),
        "b": np.flatnonzero((one != labels) & (other == labels)),
        "neither": np.flatnonzero((one != labels) & (other != labels) & (one != other)),
    }
    expected = [(i, who) for who, rows in groups.items() for i in rows]
    pages = -(-len(expected) // PAGE)
    assert pages > 1
    assert compare.page_slider.max == pages
    shown = []
    for page in range(1, pages + 1):
        compare.page_slider.value = page
        assert compare.state.page == page
        assert f"page {page} of {pages}" in texts(compare)
        shown += grid(compare)
    assert len(shown) == len(expected)
    for (i, who), (pixels, right, words) in zip(expected, shown, strict=True):
        assert right == who
        assert np.array_equal(pixels, images[i])
        tick = {n: "✓" if n == who else test.classes[v[i]][:15] for n, v in (("a", one), ("b", other))}
        assert words == [test.classes[labels[i]][:15], f"a: {tick['a']}\nb: {tick['b']}"]
    told = texts(compare)
    assert f"a right, b wrong: {len(groups['a'])}" in told
    assert f"b right, a wrong: {len(groups['b'])}" in told
    assert f"both wrong in different ways: {len(groups['neither'])}" in told
    assert f"disagree on {len(expected)} of {CLASSES} images" in compare.caption(compare.state)
    pairs = (one == labels).sum() - (other == labels).sum()
    exact = stats.binomtest(len(groups["a"]), len(groups["a"]) + len(groups["b"])).pvalue
    assert any(f"{100 * pairs / CLASSES:+.1f} ± " in t and f"p = {exact:.2g}" in t for t in told)


def test_what_cannot_be_shown_is_said_and_the_numbers_stay(compare, store, monkeypatch):
    compare.show(a="afa", b="l2", seed=2)
    assert any("AFA was not trained with seed 2" in t for t in texts(compare))
    assert "disagree" not in compare.caption(compare.state)
    compare.show(a="l2", b="l2")
    assert any("a and b are the same method" in t for t in texts(compare))
    assert "ours:l2:mean" in drawn(compare)


def test_pictures_that_have_moved_leave_the_counts(tmp_path):
    recipe, rng = lab.Recipe(dataset=str(tmp_path / "gone"), **SMALL), np.random.default_rng(1)
    for method in ("l2", "afa"):
        write(tmp_path / "runs", recipe.replace(method=method), 0.5, rng)
    compare = MethodComparison(tmp_path / "runs")
    told = texts(compare)
    assert any(t.startswith("The test images cannot be loaded") and "gone" in t for t in told)
    assert any(t.startswith("a right, b wrong: ") for t in told)
    assert "ours:afa:mean" in drawn(compare)
    assert grid(compare) == []
    assert "gone" in compare.state.setting


def test_runs_of_other_pictures_are_not_laid_over_these(tmp_path):
    rng = np.random.default_rng(1)
    for method in ("l2", "afa"):
        recipe = lab.Recipe(method=method, **SMALL)
        write(tmp_path, recipe, 0.5, rng, labels=np.roll(np.arange(CLASSES), 1))
    assert any("no longer those that the runs were tested on" in t for t in texts(MethodComparison(tmp_path)))


def test_a_run_without_answers_still_has_its_accuracy(tmp_path):
    rng = np.random.default_rng(1)
    for method in ("l2", "afa"):
        folder = write(tmp_path, lab.Recipe(method=method, **SMALL), 0.5, rng)
    (folder / "predictions.csv").unlink()
    compare = MethodComparison(tmp_path)
    assert any("The predictions of AFA were not saved" in t.replace("\n", " ") for t in texts(compare))
    assert "ours:afa:mean" in drawn(compare)


def test_agreeing_on_everything_is_said(tmp_path):
    for method in ("l2", "afa"):
        write(tmp_path, lab.Recipe(method=method, **SMALL), 1.0, np.random.default_rng(1))
    compare = MethodComparison(tmp_path)
    assert any("make the same prediction for every test image" in t for t in texts(compare))
    assert "disagree on 0 of 48 images" in compare.caption(compare.state)


# --- words


def test_the_caption_counts_seeds_comparisons_and_what_stands_out(compare, files):
    compare.show(table="all")
    base = by_seed(files, "uniform")
    gaps = {k: (by_seed(files, k) - base).dropna() for k in ("l2", "afa", "spgca", "spa", "gca", OWN)}
    stands = sum(stats.ttest_1samp(g, 0.0).pvalue < 0.05 for g in gaps.values())
    gap = gaps["spgca"]
    half = stats.t.ppf(0.975, 2) * gap.std() / 3**0.5
    side = "above" if gap.mean() >= 0 else "below"
    words = compare.caption(compare.state)
    assert words.startswith(
        f"With 3 seeds, SPA→GCA is {abs(gap.mean()):.1f} ± {half:.1f} points {side} uniform; "
    )
    assert f"of {len(gaps)} comparisons at 95 %, {stands or 'none'} exclude" in words
    assert "one in twenty would by chance alone" in words


def test_one_seed_has_no_interval(compare, files):
    compare.show(a="l2_fe", baseline="l2", seed=1)
    gap = by_seed(files, "l2_fe").iloc[0] - by_seed(files, "l2")[1]
    side = "above" if gap >= 0 else "below"
    said = f"With one seed, L2-FE is {abs(gap):.1f} points {side} L2 (one seed: no interval)"
    assert compare.caption(compare.state).startswith(said)
    assert "gap:l2_fe:interval" not in drawn(compare)
    assert f"{gap:+.1f} (n = 1)" in texts(compare)
    compare.show(setting=MID, baseline="l2", a="spgca")
    assert "one seed: no interval" in compare.caption(compare.state)


def test_what_was_not_trained_or_not_finished_is_said(compare):
    assert "not trained here: L2-SP, DELTA" in compare.status(compare.state)
    assert "not finished: L2-SP seed 0 begun" in compare.status(compare.state)
    assert texts(compare).count("not trained") == 2


def test_names_are_escaped_wherever_the_page_shows_them(compare):
    compare.show(table="all", baseline=OWN, a=OWN, b="l2")
    for shown in (compare.details.value, compare.caption_line.value, compare.status_line.value):
        assert "<b>" not in shown
        assert "&lt;b&gt;mine" in shown
    assert "<b>" not in compare.image.value
    assert Cells(compare.details.value).tags <= {"table", "tr", "td", "th", "br", "div"}
    assert "<b>mine" in texts(compare)


def test_class_and_folder_names_are_shown_as_they_are(tmp_path):
    data, rng = tmp_path / "<i>5$ $pets", np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("<b>wolf", "cat$ $"):
            (data / part / name).mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(data / part / name / f"{i}.png")
    small = SMALL | {"test_per_class": None, "dataset": str(data), "batch_size": 2}
    labels = np.array([0, 0, 1, 1])
    write(tmp_path / "runs", lab.Recipe(method="l2", **small), 1.0, rng, labels)
    write(tmp_path / "runs", lab.Recipe(method="spgca", **small), 0.0, rng, labels)
    compare = MethodComparison(tmp_path / "runs")
    words = [words for _, _, words in grid(compare)]
    assert ["<b>wolf", "a: cat\\$ \\$\nb: ✓"] in words
    assert compare.state.setting == "mini → <i>5$ $pets, 1 a class, 150 steps"
    assert "&lt;i&gt;5$ $pets" in compare.details.value
    assert "<i>" not in compare.details.value + compare.status_line.value


# --- settings


def test_several_alphas_are_kept_apart_and_the_default_stands_for_the_method(compare, files):
    assert "SPA→GCA with α 3 r 4 (its defaults; 1 others not shown)" in compare.status(compare.state)
    assert drawn(compare)["ours:spgca:mean"][0].get_xdata()[0] == pytest.approx(
        by_seed(files, "spgca").mean()
    )
    compare.variants_choice.value = "all apart"
    labels = [row.label for row in compare.rows()]
    assert labels[-2:] == ["SPA→GCA α 3 r 4", "SPA→GCA α 1 r 8"]
    other = drawn(compare)["ours:spgca α 1 r 8:seeds"][0].get_xdata()
    assert list(other) == pytest.approx(list(by_seed(files, "spgca α 1 r 8")))
    compare.show(a="spgca α 1 r 8")
    compare.variants_choice.value = "one per method"
    assert compare.state.a == "spgca"


def test_a_store_may_be_given_in_many_ways(store, files):
    runs = list(lab.RunStore(store))
    everything = settings_of(store)
    count = {name: {k: sorted(e.runs) for k, e in s.variants.items()} for name, s in everything.items()}
    assert sum(len(seeds) for keys in count.values() for seeds in keys.values()) == len(files)
    for given in (str(store), lab.RunStore(store), runs, [lab.RunStore(store)], tuple(runs)):
        found = settings_of(given)
        assert {n: {k: sorted(e.runs) for k, e in s.variants.items()} for n, s in found.items()} == count
    again = settings_of([store, store])
    assert again[NEAR].again == sum(len(e.runs) for e in again[NEAR].variants.values())
    (alone,) = settings_of(runs[0]).values()
    assert len(alone.variants) == 1
    MethodComparison(runs[0])


# --- the explorer


def test_every_control_moves_the_state_and_says_what_it_is(compare):
    moves = {
        "table_choice": ("table", "Table 5"),
        "setting_choice": ("setting", MID),
        "baseline_choice": ("baseline", "l2"),
        "sort_choice": ("sort", "name"),
        "paper_choice": ("paper", "MIT Indoor 67"),
        "variants_choice": ("variants", "all apart"),
        "a_choice": ("a", "afa"),
        "b_choice": ("b", "spa"),
        "seed_choice": ("seed", 1),
        "page_slider": ("page", 2),
    }
    for control, (name, value) in moves.items():
        compare.reset_button.click()
        assert compare.state == compare._first
        png = compare.image.png
        getattr(compare, control).value = value
        assert getattr(compare.state, name) == value, control
        assert compare.image.png != png, control
        assert len(getattr(compare, control).tooltip) > 20
    compare.reset_button.click()
    assert compare.state == compare._first


def test_another_setting_keeps_what_it_has_and_replaces_what_it_lacks(compare):
    compare.show(baseline="uniform", a="spgca", b="spa", seed=2, page=2)
    compare.setting_choice.value = MID
    state = compare.state
    assert (state.baseline, state.a, state.b, state.seed, state.page) == ("l2", "spgca", "l2", 1, 1)
    assert [key for _, key in compare.b_choice.options] == ["l2", "spgca"]
    assert compare.variants_choice.disabled
    compare.setting_choice.value = NEAR
    assert compare.baseline_choice.value == compare.state.baseline == "l2"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"setting": "far"}, "setting must be one of ['mini → stickers near"),
        ({"table": "Table 6"}, "table must be one of ['Table 4', 'Table 5', 'all'], got 'Table 6'"),
        ({"sort": "best"}, "sort must be one of"),
        ({"paper": "CIFAR-10"}, "paper must be one of ['Stanford Dogs 120'"),
        ({"variants": "each"}, "variants must be one of"),
        ({"baseline": "delta"}, "got 'delta': trained in 'mini → stickers near"),
        ({"a": "nope"}, "a must be one of"),
        ({"b": "spgca α 1 r 8"}, "b must be one of"),
        ({"seed": 7}, "seed must be one of [0, 1, 2], got 7"),
        ({"page": 9}, "page must be a whole number from 1 to"),
        ({"page": 0}, "got 0"),
        ({"alpha": 1}, "has no 'alpha'; its values are table, setting, baseline"),
    ],
)
def test_what_does_not_exist_is_refused_and_nothing_changes(compare, values, message):
    before = compare.state, compare.image.png
    with pytest.raises(ExplorerError, match=re.escape(message)):
        compare.show(**values)
    assert (compare.state, compare.image.png) == before
    compare.table_choice.value = "all"
    assert compare.state.table == "all"


def test_a_first_state_that_does_not_exist_is_refused(store):
    with pytest.raises(ExplorerError, match="baseline must be one of"):
        MethodComparison(store, MethodComparisonState(baseline="nope"))


@pytest.mark.parametrize("first", [None, MethodComparisonState(table="Table 5", sort="name")])
def test_it_keeps_the_promises_of_every_explorer(store, first, monkeypatch):
    monkeypatch.setattr(lab.explorers, "MethodComparison", MethodComparison, raising=False)
    changes = {
        "table": "all",
        "baseline": "l2",
        "sort": "difference",
        "a": "afa",
        "b": OWN,
        "seed": 1,
        "page": 2,
    }
    keeps_the_promises(MethodComparison(store, first), **changes)


def test_the_picture_keeps_its_size(compare):
    sizes = set()
    for values in (
        {},
        {"table": "all", "variants": "all apart"},
        {"table": "Table 5"},
        {"a": "l2", "b": "l2"},
        {"setting": MID},
        {"page": compare.pages(compare.state)},
    ):
        compare.reset()
        compare.show(**values)
        sizes.add(size(compare))
    assert sizes == {(900, 690)}


def test_more_methods_than_fit_are_counted(tmp_path):
    rng = np.random.default_rng(0)
    for alpha in range(1, 26):
        write(tmp_path, lab.Recipe(method="spgca", alpha=float(alpha), **SMALL), 0.5, rng)
    compare = MethodComparison(tmp_path)
    compare.show(table="all", variants="all apart")
    assert "and 10 more in" in texts(compare)
    assert len(table(compare)[0]) == 25
    to_png(compare.figure())

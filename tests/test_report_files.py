"""What the report command writes, and that its figures show what the frame has."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import spgca_lab as lab
from spgca_lab import cli
from spgca_lab.experiments.report import report
from spgca_lab.plots import PlotError, to_png
from spgca_lab.plots.report import convergence_curves, report_dots
from tests.report_runs import fill, four_of_table4, near, runs_of_figure2, write_plan


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Table 4 on CUB-200-2011: the store, and the accuracies."""
    store = tmp_path_factory.mktemp("four")
    return store, four_of_table4(store)


@pytest.fixture(scope="module")
def figure2(tmp_path_factory):
    """The store of Figure 2."""
    store = tmp_path_factory.mktemp("figure2")
    runs_of_figure2(store)
    return store


def run(*words, status=0):
    assert cli.main(["report", *map(str, words)]) == status


def test_the_command_prints_and_writes_markdown_csv_and_figure(four, tmp_path, capsys):
    run("table4", "--store", four[0], "--out", tmp_path / "new" / "out")
    out, err = capsys.readouterr()
    folder = tmp_path / "new" / "out"
    assert sorted(file.name for file in folder.iterdir()) == ["table4.csv", "table4.md", "table4.png"]
    found = report("table4", four[0])
    assert (
        out.strip() == found.markdown().strip() == (folder / "table4.md").read_text(encoding="utf-8").strip()
    )
    again = pd.read_csv(folder / "table4.csv")
    assert list(again.columns) == list(found.frame.columns)
    assert np.allclose(again["diff"], found.frame["diff"], atol=1e-6, equal_nan=True)
    with Image.open(folder / "table4.png") as picture:
        assert picture.width > 1200
    assert err.count("wrote ") == 3


def test_several_tables_go_beside_the_runs_by_default(figure2, capsys):
    run("fig2", "table7", "fig2", "--store", figure2)
    names = sorted(file.name for file in (figure2 / "reports").iterdir())
    figure_files = ["fig2.csv", "fig2.md", "fig2.png", "fig2_convergence.csv", "fig2_curves.csv"]
    assert names == sorted([*figure_files, "table7.csv", "table7.md", "table7.png"])
    assert capsys.readouterr().out.count("# Figure 2") == 1
    again = pd.read_csv(figure2 / "reports" / "fig2_convergence.csv")
    assert len(again) == 6
    assert len(lab.RunStore(figure2)) == 10


def test_an_error_comes_before_any_file(four, tmp_path, capsys):
    run("table4", "table9", "--store", four[0], "--out", tmp_path / "out", status=2)
    assert "there is no report 'table9'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Figures


def dots(axes, filled):
    """Places of the dots: ours are filled, the published open."""
    lines = [line for line in axes.lines if line.get_marker() == "o"]
    return sorted(line.get_xdata()[0] for line in lines if (line.get_markerfacecolor() != "white") == filled)


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_dots_stand_where_the_frame_says(four):
    found = report("table4", four[0])
    figure = report_dots(found.shown, found.references)
    (axes,) = figure.axes
    rows = found.shown.set_index("column")
    near_ones = rows.drop("l2_fe")
    assert dots(axes, filled=True) == pytest.approx(sorted(near_ones["mean"]))
    assert dots(axes, filled=False) == pytest.approx(sorted(near_ones["published_mean"].dropna()))
    # L2-FE lies 16 points below: at the edge, in figures.
    assert f"{rows.loc['l2_fe', 'mean']:.1f}" in words(axes)
    assert "62.1" in words(axes)
    lines = [line for line in axes.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2]
    assert any(line.get_xdata()[0] == pytest.approx(rows.loc["l2", "mean"]) for line in lines)
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["L2", "L2-FE", "L2-SP", "DELTA", "AFA", "SPA→GCA", "uniform"]
    low, high = axes.get_ylim()
    assert low > high


def test_not_run_is_written_where_it_was_not(tmp_path):
    fill(tmp_path, "table5", {"ast": near(80.3), "spa": {}, "uniform": near(80.0)}, baseline="uniform")
    found = report("table5", tmp_path)
    (axes,) = report_dots(found.shown, found.references).axes
    assert words(axes).count("not run") == 3
    assert len(dots(axes, filled=True)) == 2
    nothing = report("table4", tmp_path)
    figure = report_dots(nothing.shown, nothing.references)
    assert [words(axes).count("not run") for axes in figure.axes] == [7] * 5
    assert all(len(dots(axes, filled=False)) >= 5 for axes in figure.axes)


def test_wide_intervals_and_far_published_values_do_not_flatten_ours(tmp_path):
    values = {"l2": {0: 5.0, 1: 15.0}, "spgca": {0: 16.0, 1: 9.0}}
    fill(tmp_path, "table4", values, seeds=(0, 1), iterations=2)
    found = report("table4", tmp_path)
    (axes,) = report_dots(found.shown, found.references).axes
    low, high = axes.get_xlim()
    assert high - low < 12
    assert "80.6" in words(axes)
    assert axes.get_title().endswith("†")


def test_figures_of_every_table_and_state_can_be_drawn(figure2, tmp_path):
    fill(tmp_path, "table5", {"spa": near(60.0)}, dataset="costs $5", baseline="uniform", backbone="lite0")
    for store in (figure2, tmp_path):
        for table in ("table4", "table5", "table6", "table7", "fig2"):
            figure = cli.report_figure(report(table, store))
            with Image.open(io.BytesIO(to_png(figure, dpi=40))) as picture:
                assert picture.width == pytest.approx(360, abs=2)


def test_nothing_in_a_figure_lies_outside_it_or_over_the_title(four, tmp_path):
    methods, cells = {"ast": near(50, 5), "spa": near(50, 5)}, []
    for i in range(5):
        cells += fill(tmp_path, "table5", methods, f"set {i}", (0, 1, 2, 3, 4))
    write_plan(tmp_path, "table5", cells, baseline="uniform")
    for found in (report("table4", four[0]), report("table4", tmp_path), report("table5", tmp_path)):
        figure = cli.report_figure(found)
        to_png(figure)
        renderer = figure.canvas.get_renderer()
        title = figure.texts[0].get_window_extent(renderer)
        (legend,) = figure.legends
        box = legend.get_window_extent(renderer)
        assert not title.overlaps(box)
        assert box.x1 <= figure.bbox.x1 + 1
        for axes in figure.axes:
            inside = axes.get_tightbbox(renderer)
            assert not inside.overlaps(box)
            assert inside.x0 >= -1
            assert inside.x1 <= figure.bbox.x1 + 1


def test_curves_are_the_means_and_say_what_was_not_run(figure2):
    found = report("fig2", figure2)
    figure = convergence_curves(found.mean_curves(), [("ast", "spa"), ("act", "afa"), ("l2", "l2_sp")])
    first, second, third = figure.axes
    spa = found.curves[found.curves["column"] == "spa"].groupby("step")["top1"].mean()
    drawn = next(line for line in first.lines if line.get_label().startswith("SPA"))
    assert drawn.get_xdata().tolist() == spa.index.tolist()
    assert drawn.get_ydata().tolist() == pytest.approx(spa.tolist())
    assert drawn.get_label() == f"SPA: {spa.iloc[-1]:.1f} % (3 seeds)"
    assert any(line.get_label() == "AFA: not run" for line in second.lines)
    assert words(third) == ["not run"]


def test_wrong_frames_are_refused_with_what_they_lack():
    with pytest.raises(PlotError, match="the frame lacks 'column', 'n'"):
        report_dots(pd.DataFrame({"dataset": ["d"]}))
    curves = pd.DataFrame(columns=["dataset", "column", "n", "mean", "half", "step"])
    with pytest.raises(PlotError, match="no row"):
        report_dots(curves.assign(published_mean=[], published_sd=[]))
    with pytest.raises(PlotError, match="the curves lack 'half'"):
        convergence_curves(curves.drop(columns="half"), [("ast", "spa")])
    with pytest.raises(PlotError, match="name no data set, or there is no pair"):
        convergence_curves(curves, [("ast", "spa")])

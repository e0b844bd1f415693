"""TrainingMonitor: what it shows of a run, and its buttons on a real process."""

import time

import numpy as np
import pytest

import spgca_lab as lab
from spgca_lab.explorers import ExplorerError, TrainingMonitor
from spgca_lab.plots.panels.attention import ChannelView, SpatialView
from spgca_lab.plots.panels.monitor import TERMS
from spgca_lab.runs.lock import lock_owner, send_request
from tests.explorers import keeps_the_promises, said, size, words
from tests.tiny_runs import SMALL


def texts(explorer):
    return [text.get_text() for text in explorer.figure().texts]


def until(monitor, condition, seconds=120):
    """Poll as the clock would until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, (monitor.handle.status, monitor.status_line.value)
        time.sleep(0.1)
        monitor.poll()


def test_it_keeps_what_every_explorer_promises(kept_run):
    keeps_the_promises(TrainingMonitor(kept_run), picture=2, opacity=0.3)


def test_a_finished_run_is_shown_from_its_tables(kept_run):
    monitor = TrainingMonitor(kept_run)
    steps, view = kept_run.steps, monitor.view(monitor.state)
    assert np.array_equal(view.steps, steps["step"])
    assert view.terms["cross-entropy"] == pytest.approx(steps["cross_entropy"])
    assert view.terms["α · penalty"] == pytest.approx(3.0 * steps["penalty"])
    assert view.terms["β · decay"] == pytest.approx(0.01 * steps["decay"])
    assert sum(view.terms.values()) == pytest.approx(steps["loss"], rel=1e-6)
    assert view.tests == list(zip(kept_run.evaluations["step"], kept_run.evaluations["top1"], strict=True))
    assert view.changes == [(0, "SPA"), (2, "GCA")]
    last = kept_run.snapshots()[-1]
    assert isinstance(view.attention, ChannelView)
    for tap, w in last.weights.items():
        assert np.array_equal(view.attention.weights[tap], w[0].astype(float))
    share = 100 * 3.0 * steps["penalty"].iloc[-1] / steps["loss"].iloc[-1]
    assert f"Step 4 of 4, GCA: cross-entropy {steps['cross_entropy'].iloc[-1]:.3g} nats" in said(monitor)
    assert f"α · penalty {share:.2g} % of the loss; test top-1 {kept_run.result['top1']:.1f} %" in said(
        monitor
    )
    assert "step 4 of 4" in monitor.clock.value
    assert [monitor.resume_button.disabled, monitor.pause_button.disabled, monitor.stop_button.disabled] == [
        True
    ] * 3
    assert monitor.bar.value == 4


def test_the_lines_are_the_terms(tiny_store):
    monitor = TrainingMonitor(tiny_store.find(method="spa")[0])
    lines = {line.get_color(): line for line in monitor.figure().artists if hasattr(line, "get_ydata")}
    raw = monitor.view(monitor.state).terms
    drawn = lines[TERMS["α · penalty"]]
    assert drawn.get_xdata().tolist() == [1, 2, 3, 4]
    assert raw["α · penalty"].min() > 0
    assert isinstance(monitor.view(monitor.state).attention, SpatialView)


def test_a_method_without_attention_says_so(tmp_path):
    recipe = lab.Recipe(method="l2", **SMALL)
    for _ in lab.fit(recipe, tmp_path, device="cpu"):
        pass
    monitor = TrainingMonitor(recipe, tmp_path)
    assert "L2 has no attention to show" in texts(monitor)
    assert size(monitor) == (900, 475)


def test_start_pause_stop_resume_and_a_new_kernel(tmp_path):
    """One long story, since every process costs seconds: the run ends with the numbers of an undisturbed one."""
    recipe = lab.Recipe(method="spgca", **SMALL | {"iterations": 300})
    monitor = TrainingMonitor(recipe, tmp_path, device="cpu")
    assert "press Start" in said(monitor)
    assert "the run has not begun" in texts(monitor)
    assert monitor.resume_button.description == "Start"
    assert monitor.pause_button.disabled
    monitor.resume_button.click()
    assert monitor.resume_button.disabled
    until(monitor, lambda: len(monitor.steps) >= 3)
    assert "training by process" in words(monitor)
    monitor.pause_button.click()
    until(monitor, lambda: monitor.handle.status == "paused")
    monitor.poll()
    held = len(monitor.steps)
    assert "paused" in monitor.clock.value
    assert monitor.pause_button.disabled
    assert not monitor.resume_button.disabled
    second = TrainingMonitor(monitor.handle.path)  # another watcher, or a restarted kernel
    assert len(second.steps) == held
    assert second.handle.status == "paused"
    second.resume_button.click()
    until(second, lambda: len(second.steps) > held)
    second.stop_button.click()
    until(second, lambda: second.handle.status == "interrupted")
    assert lock_owner(second.handle.path) is None
    assert second.resume_button.description == "Resume"
    assert not second.resume_button.disabled
    assert "stopped, with a checkpoint" in second.clock.value
    stopped_at = len(second.steps)
    assert stopped_at < 300
    third = TrainingMonitor(recipe, tmp_path, device="cpu")
    assert len(third.steps) == stopped_at
    third.resume_button.click()
    until(third, lambda: third.handle.status == "finished" and third.tail.done)
    assert [step.step for step in third.steps] == list(range(1, 301))
    monitor.poll()
    assert monitor.steps == third.steps  # the first watcher missed nothing and saw nothing twice
    assert f"test top-1 {third.handle.run.result['top1']:.1f} %" in said(third)


def test_a_run_that_fails_says_why(tmp_path):
    folder = tmp_path / "pictures" / "only"
    folder.mkdir(parents=True)
    recipe = lab.Recipe(dataset=folder.parent, backbone="mini", weights="random", iterations=4)
    monitor = TrainingMonitor(recipe, tmp_path / "runs")
    monitor.resume_button.click()
    until(monitor, lambda: monitor.handle.status == "failed")
    monitor.poll()
    assert "The run failed." in words(monitor)
    assert "no images" in words(monitor)
    assert monitor.resume_button.description == "Resume"
    assert not monitor.resume_button.disabled


def test_what_cannot_be_monitored(tmp_path):
    with pytest.raises(ExplorerError, match="must be a Recipe, a RunHandle, a Run or a run's folder, got 3"):
        TrainingMonitor(3)
    with pytest.raises(lab.RunError, match="is not a run folder"):
        TrainingMonitor(tmp_path)


def test_a_request_that_nobody_reads_is_taken_back(tmp_path):
    monitor = TrainingMonitor(lab.Recipe(method="l2", **SMALL), tmp_path)
    send_request(monitor.handle.path, "stop")
    monitor.poll()
    assert not (monitor.handle.path / "request").exists()

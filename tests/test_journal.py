"""The journal and its readers: every event once and whole, whatever happens to the file in between."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import spgca_lab as lab
from spgca_lab.runs.follow import NAME, EventLog, EventReader, ordered_events, progress
from tests import tiny_runs


def plain(event):
    """An event as something that `==` compares."""
    if isinstance(event, lab.Snapshot):
        weights = {tap: (w.dtype.str, w.shape, w.tobytes()) for tap, w in event.weights.items()}
        return (event.step, event.stage, event.kind, weights)
    return event


def step(number, **changes):
    fields = {"loss": 0.1 * number, "cross_entropy": 1 / 3, "penalty": 1e-300, "decay": 0.0, "accuracy": 12.5}
    return lab.Step(step=number, stage="α", lr=0.01, extra={"entropy/a": number / 7}, **fields | changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two stages, what `fit` yielded, and what two readers saw meanwhile."""
    store = tmp_path_factory.mktemp("store")
    recipe = lab.Recipe(method="spgca", **tiny_runs.SMALL)
    folder = lab.RunStore(store).folder(recipe)
    yielded, beside, halfway = [], [], []
    eager, lazy = EventReader(folder), EventReader(folder)
    assert eager.read() == []
    for event in lab.fit(recipe, store=store, device="cpu"):
        yielded.append(event)
        beside += eager.read()
        if len(yielded) == 5:
            halfway += lazy.read()
    return lab.Run(folder), yielded, beside, [*halfway, *lazy.read()]


def test_readers_during_and_after_a_run_see_what_fit_yields(finished):
    run, yielded, beside, later = finished
    expected = [plain(event) for event in yielded]
    assert {type(e) for e in yielded} == {lab.Step, lab.Snapshot, lab.Evaluation, lab.HandOver, lab.Done}
    assert [plain(event) for event in beside] == expected
    assert [plain(event) for event in later] == expected
    afterwards = EventReader(run.path)
    assert [plain(event) for event in afterwards.read()] == expected
    assert afterwards.done
    assert afterwards.read() == []
    assert not (run.path / NAME).exists()


def test_two_stages_of_one_name_keep_their_events_apart(tmp_path):
    recipe = lab.Recipe(method="spa->spa", **tiny_runs.SMALL)
    yielded = list(lab.fit(recipe, store=tmp_path, device="cpu"))
    assert [plain(e) for e in EventReader(lab.RunStore(tmp_path)[recipe].path).read()] == list(
        map(plain, yielded)
    )


@given(st.data())
def test_a_reader_gets_every_event_once_through_cuts_and_half_lines(data):
    """Bytes arrive in pieces; at times the writer dies in a line, and its successor cuts the file back."""
    events = [step(n) for n in range(1, 8)]
    with tempfile.TemporaryDirectory() as name:
        journal = EventLog(Path(name))
        journal.begin()
        journal.append(events, 0, 1.25)
        whole = journal.path.read_bytes()
        lines = whole.splitlines(keepends=True)[1:]
        journal.begin()
        tail, seen, rest = EventReader(name), [], b"".join(lines)
        for _ in range(data.draw(st.integers(0, 8))):
            if data.draw(st.booleans()):
                size = data.draw(st.integers(0, len(rest)))
                with journal.path.open("ab") as file:
                    file.write(rest[:size])
                rest = rest[size:]
            else:
                complete = journal.path.read_bytes().count(b"\n") - 1
                kept = data.draw(st.integers(0, complete))
                journal.resume(kept, list)
                rest = b"".join(lines[kept:])
            if data.draw(st.booleans()):
                seen += tail.read()
                assert seen == events[: len(seen)]
        with journal.path.open("ab") as file:
            file.write(rest)
        assert seen + tail.read() == events
        assert tail.seconds == 1.25
        journal.close()


def test_a_journal_that_is_gone_is_written_again_from_what_the_checkpoint_knows(tmp_path):
    recipe = lab.Recipe(method="afa", iterations=4)
    steps = [step(n) for n in (1, 2, 3)]
    accuracy = lab.Evaluation(2, "ast", 40.0, 1.5)
    expected = [steps[0], steps[1], accuracy, lab.HandOver(2, "ast", "act"), steps[2]]
    journal = EventLog(tmp_path)
    journal.resume(5, lambda: ordered_events(recipe, steps, [accuracy], [], stages=2))
    assert journal.count == 5
    assert EventReader(tmp_path).read() == journal.last(5) == expected
    journal.close()


def test_progress_goes_by_the_pace_of_the_last_steps(tmp_path, finished):
    assert progress(tmp_path, 100).left is None
    journal = EventLog(tmp_path)
    journal.begin()
    for number in range(1, 11):
        journal.append([step(number)], 0, 2.0 * number)
    journal.close()
    found = progress(tmp_path, 100)
    assert (found.step, found.iterations, found.seconds) == (10, 100, 20.0)
    assert found.left == pytest.approx(180.0)
    run = finished[0]
    last = progress(run.path, run.recipe.iterations)
    assert (last.step, last.left) == (run.recipe.iterations, 0.0)

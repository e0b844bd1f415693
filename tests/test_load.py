"""A store of 5,000 runs, one file of a million rows, and broken folders among whole ones."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import spgca_lab as lab
from spgca_lab.explorers import RunExplorer
from spgca_lab.explorers.run_table import RunTable
from spgca_lab.plots.training import thinned
from spgca_lab.runs import store as runs

COUNT = 5000
ROWS = 1_000_000


def shipped() -> Path:
    return next((lab.data_dir() / "runs").glob("spgca-*"))


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> lab.RunStore:
    """Runs that differ in seed and α, with nothing but recipe and result."""
    store = lab.RunStore(tmp_path_factory.mktemp("large"))
    base = lab.Run(shipped()).recipe
    result = json.loads((shipped() / "result.json").read_text(encoding="utf-8"))
    for number in range(COUNT):
        recipe = base.replace(seed=number % 50, alpha=round(0.1 * (number // 50 + 1), 1))
        folder = store.folder(recipe)
        folder.mkdir()
        (folder / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
        (folder / "result.json").write_text(json.dumps(result | {"top1": number / 100}), encoding="utf-8")
    return store


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Names of the files of runs that are read."""
    names: list[str] = []
    content, table = runs._content, runs.Run._read_csv

    def counted(file):
        names.append(file.name)
        return content(file)

    def counted_table(self, name, **options):
        names.append(name)
        return table(self, name, **options)

    monkeypatch.setattr(runs, "_content", counted)
    monkeypatch.setattr(runs.Run, "_read_csv", counted_table)
    return names


def test_5000_runs_are_listed_with_two_small_files_each(large, read):
    store = lab.RunStore(large.path)
    table = store.table()
    assert len(table) == len(store) == COUNT
    assert table["hash"].is_unique
    assert sorted(set(read)) == ["recipe.json", "result.json"]
    assert len(read) == 2 * COUNT
    read.clear()
    # Once known, recipes are not read again.
    assert len(store.find(seed=3)) == COUNT // 50
    assert len(list(store)) == COUNT
    assert read == []
    assert store[table["hash"][7]].recipe in store
    assert read == ["recipe.json"]


def test_a_recipe_that_was_written_anew_is_read_anew(large, read):
    store = lab.RunStore(large.path)
    first = next(iter(store))
    read.clear()
    file = first.path / "recipe.json"
    text = file.read_text(encoding="utf-8")
    try:
        file.write_text(first.recipe.replace(r=32).to_json(), encoding="utf-8")
        assert next(iter(store)).recipe.r == 32
        assert read == ["recipe.json"]
    finally:
        file.write_text(text, encoding="utf-8")


def test_the_explorer_of_5000_runs_moves_without_reading_them_again(large, read):
    explorer = RunExplorer(lab.RunStore(large.path))
    read.clear()
    for alpha in (0.1, 1.0, 7.3, 10.0):
        explorer.show(alpha=alpha)
        explorer.figure()
    assert set(read) <= {"steps.csv", "evaluations.csv", "result.json"}
    assert len(read) < 200
    read.clear()
    explorer.poll()
    assert "recipe.json" not in read
    assert len(read) < 200
    table = RunTable(lab.RunStore(large.path))
    read.clear()
    assert not table.refresh()
    assert read == []


def test_a_run_of_a_million_steps_is_read_when_it_is_asked_for_and_only_what_is_asked(tmp_path, read):
    folder = tmp_path / "runs" / shipped().name
    shutil.copytree(shipped(), folder)
    head, *rows = (folder / "steps.csv").read_text(encoding="utf-8").splitlines()
    fields = [row.split(",") for row in rows]
    stage, lr = head.split(",").index("stage"), head.split(",").index("lr")
    for row in fields:
        row[lr] = "0.01"
    with (folder / "steps.csv").open("w", encoding="utf-8") as file:
        file.write(head + "\n")
        for number in range(ROWS):
            row = fields[number % len(fields)]
            row[0], row[stage] = str(number + 1), "spa" if number < ROWS // 2 else "gca"
            file.write(",".join(row) + "\n")
    run = lab.Run(folder)
    assert run.status == "finished"
    assert run.result
    assert lab.RunStore(folder.parent).table()["top1"].notna().all()
    assert "steps.csv" not in read
    some = run.columns("loss", "step")
    assert (list(some), len(some), some["step"].iloc[-1]) == (["loss", "step"], ROWS, ROWS)
    with pytest.raises(lab.RunError, match=r"have no column 'lost': step, stage, loss"):
        run.columns("lost")
    explorer = RunExplorer(lab.RunStore(folder.parent))
    explorer.figure()
    table = explorer.data.table
    curve = table.curve(table.frame["run"][0])
    assert len(curve.step) <= 4000
    assert curve.step[[0, -1]].tolist() == [1, ROWS]
    assert len(curve.meets) == 1


def test_thinning_keeps_both_ends():
    for count in (1, 2, 3999, 4000, 4001, 10**6):
        places = thinned(count)
        assert (places[0], places[-1], len(places)) == (0, count - 1, min(count, 4000))
        assert (np.diff(places) > 0).all()


DAMAGES = {
    "recipe.json": [b"", b"{", b"[]", b"\xff\xfe", b'{"colour": 1}', b'{"method": "nothing"}', b"[" * 10**5],
    "result.json": [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"top1": ', b"[" * 10**5],
}


@pytest.mark.parametrize(("name", "content"), [(n, c) for n, each in DAMAGES.items() for c in each])
def test_a_broken_folder_is_left_out_and_named_and_hides_no_other(name, content, tmp_path):
    store = lab.RunStore(tmp_path)
    for number, run in enumerate(sorted((lab.data_dir() / "runs").iterdir())[:3]):
        (tmp_path / run.name).mkdir()
        for part in ("recipe.json", "result.json"):
            shutil.copy(run / part, tmp_path / run.name / part)
        if number == 1:
            broken = tmp_path / run.name
    (broken / name).write_bytes(content)
    with pytest.warns(UserWarning, match=r"^1 run folders of .* cannot be used and are left out") as told:
        assert len(store.table()) == 2
    assert str(broken) in str(told[0].message)
    assert len(told) == 1
    if name == "recipe.json":
        with pytest.warns(UserWarning, match="left out"):
            assert len(list(store)) == 2
        with pytest.raises(lab.RunError, match="cannot be used"):
            store[broken.name.rsplit("-", 1)[1]]
    else:
        assert len(list(store)) == 3
        with pytest.raises(
            lab.RunError, match=r"result\.json' is damaged .*: train the run again, or remove it"
        ):
            assert lab.Run(broken).result
    # Mended, it is there again.
    source = lab.data_dir() / "runs" / broken.name
    shutil.copy(source / name, broken / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(store.table()) == 3


def test_a_recipe_of_a_newer_version_says_what_to_do(tmp_path):
    shutil.copytree(shipped(), tmp_path / shipped().name)
    file = tmp_path / shipped().name / "recipe.json"
    file.write_text(
        json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"colour": 3}), encoding="utf-8"
    )
    with pytest.raises(lab.RunError, match="has no field 'colour'.*may be of a newer version of the lab"):
        lab.Run(tmp_path / shipped().name)


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("probe.npz", lambda run: run.probe),
        ("snapshots", lambda run: run.snapshots()),
        ("steps.csv", lambda run: run.steps),
        ("weights.safetensors", lambda run: run.weights()),
    ],
)
def test_a_damaged_file_is_named(name, look, tmp_path):
    source = next(
        f for f in (lab.data_dir() / "runs").glob("spgca-*") if (f / "weights.safetensors").exists()
    )
    random = np.random.RandomState(0)
    named = 0
    for trial in range(12):
        folder = tmp_path / str(trial)
        shutil.copytree(source, folder)
        file = folder / name if name != "snapshots" else sorted((folder / name).iterdir())[0]
        body = file.read_bytes()
        # Cut, empty, or other bytes in its head, where what follows is told.
        damaged = bytearray(body[: random.randint(0, len(body))] if trial % 2 else body)
        for place in random.randint(0, min(60, len(damaged)), 4) if damaged else ():
            damaged[place] ^= 0x55
        file.write_bytes(bytes(damaged))
        try:
            look(lab.Run(folder))
        except lab.RunError as error:
            named += file.name in str(error)
    assert named >= (9 if name != "steps.csv" else 1)

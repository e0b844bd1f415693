"""`spgca-lab data`: from the command line to the installed set and back, on small archives of the real layouts."""

import dataclasses
import importlib
import json

import pytest

from spgca_lab.cli import main
from spgca_lab.data.install import files_root
from spgca_lab.data.published import PUBLISHED
from spgca_lab.data.rehearsal import rehearse
from tests.file_server import file_server

SIZE = {"classes": 2, "train": 2, "test": 1}


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run `spgca-lab data …` with the data home in this test's own folder; gives status, output and errors."""
    monkeypatch.setenv("SPGCA_LAB_DATA", str(tmp_path / "home"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")

    def run(*words):
        status = main(["data", *map(str, words)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_list_says_what_there_is_and_where(command, tmp_path):
    status, text, _ = command("list")
    assert status == 0
    rows = {
        line.split()[0]: line for line in text.splitlines() if line.split() and line.split()[0] in PUBLISHED
    }
    for each in PUBLISHED.values():
        assert f"{each.train:>6} {each.test:>6} {each.classes:>7}  no" in text
        assert each.terms in text
        assert each.homepage in text
    assert set(rows) >= set(PUBLISHED)
    assert str(tmp_path / "home") in text
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_small_archives_are_made_served_fetched_and_checked(command, tmp_path, name):
    each = PUBLISHED[name]
    rehearse(name, tmp_path / "small", **SIZE)

    with file_server() as server:
        server.files = {path.name: path.read_bytes() for path in (tmp_path / "small").iterdir()}
        words = ("fetch", name, "--mirror", server.url, "--unverified", "--allow-http")
        status, text, errors = command(*words)
        assert status == 0, errors
        asked = len(server.asked)
        assert command(*words)[0] == 0
        assert len(server.asked) == asked == len(each.archives)
    root = tmp_path / "home" / each.folder / "files"
    for part in (
        repr(str(root)),
        each.title,
        each.terms,
        each.homepage,
        f"data check {name}",
        str(each.train),
    ):
        assert part in text
    assert text.count("not verified: ") == len(each.archives)
    assert files_root(name) == root
    assert f"not verified, in {tmp_path / 'home' / each.folder}" in command("list")[1]

    status, text, errors = command("check", name)
    assert status == 1, errors  # for it holds far fewer images than Table 1
    assert text.count("not verified: ") == len(each.archives)
    assert f"{each.train:,}" in text
    assert f"{each.test:,}" in text
    assert "CORRUPT" not in text


def test_import_of_archives(command, tmp_path):
    rehearse("cub200", tmp_path / "small", **SIZE)
    status, _, errors = command("import", "cub200", tmp_path / "small")
    assert status == 2
    assert "is refused: it has" in errors
    assert "--unverified" in errors
    status, text, _ = command(
        "import", "cub200", tmp_path / "small", "--unverified", "--home", tmp_path / "one"
    )
    assert status == 0
    assert f"data check cub200 --home {tmp_path / 'one'}" in text
    assert "its checksum is not the one published (sha256:0c68" in text
    assert files_root("cub200", tmp_path / "one").is_dir()
    again = ("import", "cub200", tmp_path / "small", "--unverified", "--home", tmp_path / "one")
    assert "installed already" in command(*again)[2]


def test_check_names_a_corrupt_picture(command, tmp_path):
    rehearse("ants_bees", tmp_path / "small", **SIZE)
    command("import", "ants_bees", tmp_path / "small", "--unverified")
    picture = next(path for path in sorted(files_root("ants_bees").rglob("*.jpg")) if path.stat().st_size)
    picture.write_bytes(picture.read_bytes()[:40])
    status, text, _ = command("check", "ants_bees")
    assert status == 1
    assert f"CORRUPT: {picture.relative_to(files_root('ants_bees')).as_posix()}" in text


def test_check_succeeds_on_a_set_of_the_published_size(command, tmp_path, monkeypatch):
    """As it would on the real one; a damaged picture more, and it fails."""
    small = dataclasses.replace(PUBLISHED["cub200"], train=8, test=4, classes=4)
    monkeypatch.setitem(PUBLISHED, "cub200", small)
    rehearse("cub200", tmp_path / "small", classes=4, train=2, test=1)
    command("import", "cub200", tmp_path / "small", "--unverified")
    status, text, _ = command("check", "cub200")
    assert status == 0, text
    assert "DIFFERS" not in text
    next(files_root("cub200").rglob("*0002_*.jpg")).write_bytes(b"")
    assert command("check", "cub200")[0] == 1


def test_seed_and_all_classes_reach_the_check(command, tmp_path, monkeypatch):
    rehearse("caltech256_30", tmp_path / "small")
    command("import", "caltech256_30", tmp_path / "small", "--unverified")
    module = importlib.import_module("spgca_lab.data.check")
    monkeypatch.setattr(module, "SHORT", 2)
    seeds = []
    read = module.read_index
    monkeypatch.setattr(
        module,
        "read_index",
        lambda spec, root, seed, **options: seeds.append(seed) or read(spec, root, seed, **options),
    )
    text = command("check", "caltech256_30")[1]
    assert "and 2 more classes" in text
    full = command("check", "caltech256_30", "--seed", "3", "--full")[1]
    assert "more classes" not in full
    assert "clutter" in full.splitlines()[-2]
    assert seeds == [0, 3]


def test_errors_are_one_line_and_come_before_any_work(command, tmp_path):
    status, text, errors = command("fetch", "ants_bees", "cub20")
    assert (status, text) == (2, "")
    assert errors.startswith("spgca-lab: there is no published data set 'cub20'. Did you mean 'cub200'?")
    assert errors.count("\n") == 1
    status, _, errors = command("check", "cub200")
    assert status == 2
    assert f"in '{tmp_path / 'home' / 'cub200'}'" in errors
    assert "spgca-lab data fetch cub200" in errors
    status, _, errors = command("fetch", "mit_indoor67")
    assert status == 2
    assert "--allow-http" in errors
    assert not (tmp_path / "home").exists()


def test_a_damaged_manifest_does_not_hide_the_other_sets(command, tmp_path):
    rehearse("ants_bees", tmp_path / "small", **SIZE)
    command("import", "ants_bees", tmp_path / "small", "--unverified")
    file = tmp_path / "home" / "ants_bees" / "manifest.json"
    stored = json.loads(file.read_text())
    del stored["archives"][0]["sha256"]
    file.write_text(json.dumps(stored))
    status, text, _ = command("list")
    assert status == 0
    assert f"{str(file)!r} is damaged (TypeError: " in text
    assert "cub200" in text

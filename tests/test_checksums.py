"""What ships with the lab has a checksum: a flipped bit, a cut end or a missing file is named before it counts."""

import json
import shutil
from pathlib import Path

import pytest

import spgca_lab as lab
from spgca_lab.analysis.grounding import truth
from spgca_lab.backbones import lite0
from spgca_lab.backbones import mini as mini_source
from spgca_lab.backbones.download import BackboneUnavailable
from spgca_lab.data import shipped
from spgca_lab.data.shipped import (
    CHECKSUMS,
    ShippedDataError,
    check_shipped,
    data_dir,
    rewrite,
    shipped_files,
    verify_shipped,
)
from spgca_lab.data.sticker_bank import Bank
from spgca_lab.experiments.factorial import factorial

SMALL = (
    "mini/report.json",
    "mini/mini.safetensors",
    "stickers/index.json",
    "truth/scores.csv",
    "factorial/runs.csv",
)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of some of the shipped data that the lab takes for its own."""
    root = tmp_path / "data"
    one = next(name for name in shipped_files(data_dir()) if name.startswith("runs/"))
    for name in (
        *SMALL,
        *(n for n in shipped_files(data_dir()) if n.startswith(one.rsplit("/", 1)[0] + "/")),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data_dir() / name, root / name)
    rewrite(root)
    for module in (
        "spgca_lab.data.shipped",
        "spgca_lab.analysis.grounding",
        "spgca_lab.experiments.factorial",
    ):
        monkeypatch.setattr(f"{module}.data_dir", lambda: root)
    shipped._root.cache_clear()
    yield root
    shipped._root.cache_clear()


def flip(file: Path, place: int = -40) -> None:
    body = bytearray(file.read_bytes())
    body[place] ^= 1
    file.write_bytes(bytes(body))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def test_every_shipped_file_has_its_checksum():
    told = json.loads((data_dir() / CHECKSUMS).read_text(encoding="utf-8"))
    named = {f"{folder}/{name}" for folder, files in told["folders"].items() for name in files}
    assert named == set(shipped_files(data_dir()))
    assert len(named) > 900
    for name in named:
        verify_shipped(data_dir() / name)


def test_checksums_are_those_that_writing_them_anew_gives(tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data_dir() / "mini", root / "mini")
    shutil.copytree(data_dir() / "truth", root / "truth")
    assert rewrite(root) == len(shipped_files(root))
    ours = json.loads((data_dir() / CHECKSUMS).read_text(encoding="utf-8"))["folders"]
    theirs = json.loads((root / CHECKSUMS).read_text(encoding="utf-8"))["folders"]
    assert theirs == {name: files for name, files in ours.items() if name in theirs}


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", SMALL)
def test_a_damaged_file_is_named(copy, name, damage):
    damage(copy / name)
    with pytest.raises(
        ShippedDataError, match=r"(?s)is damaged: its SHA-256 is .* says|is missing"
    ) as caught:
        check_shipped(copy / name)
    assert repr(str(copy / name)) in str(caught.value)
    assert "Reinstall the package" in str(caught.value)
    with pytest.raises(ShippedDataError):
        check_shipped(copy / name.split("/")[0])


@pytest.mark.parametrize(("read", "name"), [(truth, "truth/scores.csv"), (factorial, "factorial/runs.csv")])
def test_a_damaged_table_is_not_read(copy, read, name):
    assert len(read()) > 100
    flip(copy / name)
    with pytest.raises(ShippedDataError, match=name.split("/")[1]):
        read()


def test_a_damaged_run_is_not_read(copy):
    (folder,) = (copy / "runs").iterdir()
    assert len(lab.Run(folder).steps) > 10
    for name in ("recipe.json", "steps.csv", "result.json", "evaluations.csv"):
        whole = (folder / name).read_bytes()
        cut(folder / name)
        with pytest.raises(lab.RunError, match=f"{name}.* is damaged") as caught:
            _read(folder)
        assert "Reinstall" in str(caught.value)
        (folder / name).write_bytes(whole)


def _read(folder: Path) -> None:
    run = lab.Run(folder)
    assert run.result
    assert len(run.steps)
    assert len(run.evaluations)


def test_runs_of_ones_own_beside_the_shipped_ones_are_left_alone(copy, tmp_path):
    own = copy / "runs" / "own-123"
    own.mkdir()
    (own / "result.json").write_text("{}")
    check_shipped(own)
    check_shipped(own / "result.json")
    check_shipped(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.write_text("{"), "is damaged"),
        (lambda f: f.write_text("[]"), "is damaged"),
        (lambda f: f.write_text("[" * 100_000), "is damaged"),
        (lambda f: f.write_text(f.read_text().replace("index.json", "index.jsom")), "SHA-256 of its folders"),
        (Path.unlink, "is missing"),
    ],
)
def test_a_damaged_list_of_checksums_blames_itself(copy, change, message):
    change(copy / CHECKSUMS)
    shipped._sums.cache_clear()
    with pytest.raises(ShippedDataError, match=message) as caught:
        check_shipped(copy / "mini")
    assert CHECKSUMS in str(caught.value)


def test_a_damaged_bank_is_named(tmp_path):
    folder = tmp_path / "stickers"
    shutil.copytree(data_dir() / "stickers", folder)
    bank = Bank(folder)
    flip(folder / "fluent-targets.webp", 2000)
    bank.sprite("noto", bank.targets[0])
    with pytest.raises(ValueError, match=r"fluent-targets\.webp' is damaged: its sha256 is"):
        bank.sprite("fluent", bank.targets[0])
    for damage in ("{", "[]", '{"concepts": [{"name": 1}]}', '{"concepts": []}'):
        (folder / "index.json").write_text(damage)
        with pytest.raises(ValueError, match=r"index\.json' is damaged"):
            Bank(folder)


def test_damaged_weights_of_mini_are_named(copy, monkeypatch):
    monkeypatch.setattr(mini_source, "data_dir", lambda: copy)
    flip(copy / "mini" / "mini.safetensors")
    with pytest.raises(BackboneUnavailable, match=r"mini\.safetensors.* is damaged.*Reinstall"):
        lab.load_backbone("mini")


def test_damaged_weights_of_lite0_are_named(tmp_path, monkeypatch):
    file = tmp_path / "models" / lite0.FILE
    file.parent.mkdir()
    shutil.copy(str(lite0.files(lite0.PACKAGE) / "models" / lite0.FILE), file)
    flip(file, 100_000)
    monkeypatch.setattr(lite0, "files", lambda _: tmp_path)
    with pytest.raises(BackboneUnavailable, match=r"is damaged: its SHA-256 begins with .*Reinstall"):
        lab.load_backbone("lite0")
    file.unlink()
    with pytest.raises(BackboneUnavailable, match=r"should be at .*, and are not\. Reinstall"):
        lab.load_backbone("lite0")

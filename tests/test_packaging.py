"""What is shipped: the wheel with its data, and what files may name."""

import ast
import fnmatch
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
DATA_IN_WHEEL = (
    "data/stickers/",
    "data/mini/",
    "data/runs/",
    "data/comparison/",
    "data/factorial/",
    "data/truth/",
    "data/checksums.json",
)
MAX_DATA_BYTES = 18_500_000

# In pieces, so that this file does not name what it looks for.
HOSTS = ("py" + r"pi\.org", "pythonhosted" + r"\.org", "npm" + r"js\.(org|com)", "deb" + r"\.debian\.org")
REGISTRIES = re.compile("|".join([*HOSTS, "anaconda" + r"\.(org|com)"]))
MACHINE_PATH = re.compile("/(" + "|".join(["work", "root", "home", "Users"]) + r")/\w")


def committed() -> list[Path]:
    """The files that .gitignore does not leave out: by git, or without it by .gitignore's plain names."""
    listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if shutil.which("git") and (REPO / ".git").exists():
        command = ["git", "-c", "safe.directory=*", "-C", str(REPO), *listing]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        names = [Path(name) for name in run.stdout.split("\0") if name]
    else:
        patterns = [
            line.rstrip("/") for line in (REPO / ".gitignore").read_text(encoding="utf-8").splitlines()
        ]
        ignored = re.compile("|".join(map(fnmatch.translate, [".git", *filter(None, patterns)])))
        names = [path.relative_to(REPO) for path in REPO.rglob("*")]
        names = [
            name
            for name in names
            if not any(
                ignored.match(part)
                for part in name.parts
                if name.parts[:2] not in (("data", "runs"), ("spgca_lab", "runs"))
            )
        ]
    return [REPO / name for name in names if (REPO / name).is_file()]


def run_python(code: str, cwd: Path) -> str:
    """Run code in an interpreter that sees the environment's packages, and not this checkout."""
    command = [sys.executable, "-I", "-c", code]
    run = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    return run.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel; needs no network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--quiet", "--wheel-dir", str(folder), str(REPO)]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    (path,) = folder.glob("spgca_lab-*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as it would lie in site-packages."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_wheel_carries_all_data_and_nothing_stray(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [path.relative_to(REPO).as_posix() for path in committed()]
    expected = {name for name in files if name.startswith("spgca_lab/")}
    data = {name for name in files if name.startswith(DATA_IN_WHEEL) and not name.endswith(".py")}
    assert {name.split("/")[1] for name in data} >= {"stickers", "mini", "runs", "comparison"}
    expected |= {"spgca_lab/_" + name for name in data}
    assert names == expected


def test_wheel_has_licences_and_the_command(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        assert "spgca-lab = spgca_lab.cli:main" in archive.read(entry_points).decode()
    for name in ("LICENSE", "THIRD_PARTY_NOTICES.md"):
        assert any(entry.endswith(f".dist-info/licenses/{name}") for entry in names), name


def test_unpacked_wheel_works_away_from_the_checkout(unpacked: Path, tmp_path: Path):
    code = f"""
import sys
sys.path[:] = [{str(unpacked)!r}] + [entry for entry in sys.path if entry != {str(REPO)!r}]
import spgca_lab as lab
assert lab.__file__.startswith({str(unpacked)!r}), lab.__file__
train, test = lab.load_dataset("stickers", per_class=1, test_per_class=1)
print(len(train), len(train.classes), tuple(train.images.shape[1:]))
source = lab.load_backbone("mini")
print(source.weights)
from spgca_lab.cli import main
try:
    main(["--help"])
except SystemExit as ended:
    assert not ended.code, ended.code
"""
    lines = run_python(code, tmp_path).splitlines()
    count, classes, *shape = map(int, re.findall(r"\d+", lines[0]))
    assert count == classes >= 40
    assert shape == [3, 73, 73]
    assert lines[1] == "pretrained"
    assert "spgca-lab" in "\n".join(lines[2:])


def test_data_stays_small():
    sizes = {path: path.stat().st_size for path in committed() if (REPO / "data") in path.parents}
    assert 0 < sum(sizes.values()) < MAX_DATA_BYTES


def texts() -> Iterator[tuple[Path, str]]:
    """Every committed text file."""
    for path in committed():
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def test_no_file_names_a_registry_host_or_a_machine_path():
    found = [
        f"{path.relative_to(REPO)}: {match[0]}"
        for path, text in texts()
        for match in [*REGISTRIES.finditer(text), *MACHINE_PATH.finditer(text)]
    ]
    assert found == []


def test_training_needs_neither_matplotlib_nor_widgets():
    code = f"import sys; sys.path.insert(0, {str(REPO)!r}); import spgca_lab.runs.fit; print(*sys.modules)"
    loaded = set(run_python(code, REPO).split())
    assert "spgca_lab.runs.fit" in loaded
    assert loaded & {"matplotlib", "seaborn", "ipywidgets", "IPython", "captum"} == set()


# What a training must not touch, so that its loop is the same in a notebook, a run folder and a test.
IMPURE = {
    "datetime",
    "filelock",
    "io",
    "os",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
}


@pytest.mark.parametrize(
    "path", sorted((REPO / "spgca_lab" / "training").glob("*.py")), ids=lambda path: path.name
)
def test_training_touches_no_files_clocks_locks_or_signals(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} & IMPURE == set()
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert used & {"open", "read_text", "read_bytes", "write_text", "write_bytes", "unlink", "mkdir"} == set()

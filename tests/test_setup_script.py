"""`make setup` on machines of every kind, played with stand-ins for python and uv; nothing is installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
TOOLS = ("sh", "cat", "cksum", "dirname", "rm", "mkdir", "cp", "chmod")

# Passes for a Python 3.12; `-m venv` copies itself to .venv/bin; what pip is asked goes to calls.txt.
PYTHON = """#!/bin/sh
case "$*" in
    *"import ensurepip"*) exit ${FAKE_NO_ENSUREPIP:-0} ;;
    *print*) echo 3.12 ;;
    "-m venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && chmod +x .venv/bin/python ;;
    "-m pip "*) echo "pip: $*" >>calls.txt; exit ${FAKE_PIP_FAILS:-0} ;;
esac
"""
UV = """#!/bin/sh
echo "uv: $*" >>calls.txt
[ "$1" = venv ] || exit 0
mkdir -p .venv/bin && cp "$FAKE_PYTHON" .venv/bin/python && chmod +x .venv/bin/python
"""


class Machine:
    """A checkout in a folder with a space, and a PATH of its own."""

    def __init__(self, folder: Path) -> None:
        self.lab = folder / "my lab"
        self.bin = folder / "bin"
        (self.lab / "tools").mkdir(parents=True)
        self.bin.mkdir()
        for name in ("tools/setup.sh", "pyproject.toml", "constraints.txt"):
            shutil.copy(REPO / name, self.lab / name)
        for tool in TOOLS:
            path = shutil.which(tool)
            assert path is not None, tool
            (self.bin / tool).symlink_to(path)

    def add(self, name: str, text: str) -> Path:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def setup(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.bin / "sh"), str(self.lab / "tools" / "setup.sh"), *arguments]
        variables = {"PATH": str(self.bin), "HOME": os.environ.get("HOME", "/"), **environment}
        return subprocess.run(
            command, env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )

    def calls(self) -> list[str]:
        """What was asked of pip and uv since the last look."""
        log = self.lab / "calls.txt"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_no_python_says_how_to_get_one(machine: Machine):
    run = machine.setup()
    assert run.returncode != 0
    assert "No Python 3.11 to 3.14 was found" in run.stderr
    assert "apt install python3" in run.stderr
    assert not (machine.lab / ".venv").exists()


def test_unsuited_python_is_passed_over_or_quoted(machine: Machine):
    machine.add("python3", "#!/bin/sh\nexit 1\n")
    assert "No Python 3.11" in machine.setup().stderr
    run = machine.setup(PYTHON="python3")
    assert run.returncode != 0
    assert "PYTHON=python3 is not a Python 3.11" in run.stderr


def test_python_without_venv_names_the_package(machine: Machine):
    machine.add("python3", PYTHON)
    run = machine.setup(FAKE_NO_ENSUREPIP="1")
    assert run.returncode != 0
    assert "apt install python3.12-venv" in run.stderr
    assert not (machine.lab / ".venv").exists()


def test_installs_once_and_again_only_when_something_changed(machine: Machine):
    machine.add("python3", PYTHON)
    assert machine.setup().returncode == 0
    (first,) = machine.calls()
    assert first.endswith("-c constraints.txt -e .")

    assert machine.setup().returncode == 0
    assert machine.calls() == [], "a second time needs neither pip nor a network"

    assert machine.setup("test").returncode == 0
    (tests,) = machine.calls()
    assert tests.endswith("-e .[test]")
    assert machine.setup().returncode == machine.setup("test").returncode == 0
    assert machine.calls() == [], "what the tests need includes what the lab needs"

    with (machine.lab / "constraints.txt").open("a") as file:
        file.write("# newer\n")
    machine.setup()
    assert len(machine.calls()) == 1

    moved = machine.lab.with_name("moved lab")
    machine.lab.rename(moved)
    machine.lab = moved
    machine.setup()
    assert len(machine.calls()) == 1, "an editable install points to the folder's old place"


def test_failed_install_is_tried_again(machine: Machine):
    machine.add("python3", PYTHON)
    assert machine.setup(FAKE_PIP_FAILS="1").returncode != 0
    assert len(machine.calls()) == 1
    assert machine.setup().returncode == 0
    assert len(machine.calls()) == 1


def test_venv_whose_python_is_gone_is_made_afresh(machine: Machine):
    machine.add("python3", PYTHON)
    machine.setup()
    machine.calls()
    (machine.lab / ".venv" / "bin" / "python").unlink()
    run = machine.setup()
    assert run.returncode == 0
    assert "making .venv afresh" in run.stderr
    assert len(machine.calls()) == 1


def test_uv_is_used_where_it_is_found_and_can_be_declined(machine: Machine):
    python = machine.add("python3", PYTHON)
    machine.add("uv", UV)
    assert machine.setup(FAKE_PYTHON=str(python)).returncode == 0
    made, installed = machine.calls()
    assert made.startswith("uv: venv --seed --python")
    assert installed == "uv: pip install --python .venv/bin/python -c constraints.txt -e ."

    shutil.rmtree(machine.lab / ".venv")
    assert machine.setup(UV="").returncode == 0
    (pip,) = machine.calls()
    assert pip.startswith("pip: ")


def test_uv_brings_a_python_where_there_is_none(machine: Machine):
    python = machine.add("fake", PYTHON)
    machine.add("uv", UV)
    assert machine.setup(FAKE_PYTHON=str(python)).returncode == 0
    assert ">=3.11,<3.15" in machine.calls()[0]

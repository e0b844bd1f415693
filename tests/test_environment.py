"""pyproject.toml, environment.yml and constraints.txt say the same."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

REPO = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib", "seaborn-base": "seaborn"}
LINE = re.compile(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)")


def requirements(lines: list[str]) -> dict[str, SpecifierSet]:
    """Name to range."""
    return {
        canonicalize_name(requirement.name): requirement.specifier for requirement in map(Requirement, lines)
    }


RUNTIME = requirements(PROJECT["dependencies"])
CLUSTER = requirements(PROJECT["optional-dependencies"]["cluster"])
TEST = requirements(PROJECT["optional-dependencies"]["test"])
# The tests need what a cluster needs.
assert TEST.pop("spgca-lab") == SpecifierSet()
TEST |= CLUSTER


def constraint_lines() -> list[str]:
    lines = (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pins() -> dict[str, Version]:
    """Name to the one version of constraints.txt."""
    matches = [LINE.fullmatch(line) for line in constraint_lines()]
    return {match[1]: Version(match[2]) for match in matches if match}


def test_environment_has_the_ranges_of_pyproject():
    environment = yaml.safe_load((REPO / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip[-1] == "-e .", "the checkout itself comes last"
    found: dict[str, SpecifierSet] = {}
    for entry in conda + pip[:-1]:
        name = re.split(r"[<>=!~ ]", entry)[0]
        found |= requirements([CONDA_NAMES.get(name, name) + entry[len(name) :]])
    assert found.pop("python") == SpecifierSet(PROJECT["requires-python"])
    assert "pip" in found
    del found["pip"]
    assert found == RUNTIME


def test_constraints_are_plain_pins():
    assert [line for line in constraint_lines() if not LINE.fullmatch(line)] == []
    names = [line.split("==")[0] for line in constraint_lines()]
    assert names == sorted(set(names))


def test_constraints_name_nothing_of_one_platform():
    platform = [
        name for name in pins() if name.startswith(("nvidia-", "cuda-", "triton")) or name == "spgca-lab"
    ]
    assert platform == []


@pytest.mark.parametrize("name", sorted(RUNTIME | TEST))
def test_every_dependency_is_pinned_within_its_range(name: str):
    assert name in pins(), f"constraints.txt has no {name}"
    assert pins()[name] in (RUNTIME | TEST)[name]


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0", "3.14.0"])
def test_pins_install_on_every_python(python: str):
    """Debian 12 has Python 3.11.2: a pin that asks for 3.11.5 would leave its users without a lab."""
    checked = 0
    for name, version in pins().items():
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if Version(metadata["Version"]) == version:
            checked += 1
            assert python in SpecifierSet(metadata["Requires-Python"] or ""), f"{name} {version}"
    assert checked > 50


@pytest.mark.parametrize("name", sorted(RUNTIME | CLUSTER))
def test_every_dependency_states_a_least_version(name: str):
    assert any(specifier.operator == ">=" for specifier in (RUNTIME | CLUSTER)[name])

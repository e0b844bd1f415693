"""Nothing in the project's own code runs a string, or builds objects from a file that only says what they are."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
FOLDERS = ("spgca_lab", "tools", "benchmarks")

# Called by any name that an import gives them.
FORBIDDEN = {
    "eval": "runs a string",
    "exec": "runs a string",
    "builtins.eval": "runs a string",
    "builtins.exec": "runs a string",
    "os.system": "gives a string to a shell",
    "os.popen": "gives a string to a shell",
    "subprocess.getoutput": "gives a string to a shell",
    "subprocess.getstatusoutput": "gives a string to a shell",
    "asyncio.create_subprocess_shell": "gives a string to a shell",
    "pickle.load": "builds whatever the file says",
    "pickle.loads": "builds whatever the bytes say",
    "pickle.Unpickler": "builds whatever the file says",
    "marshal.load": "builds code from a file",
    "marshal.loads": "builds code from bytes",
    "shelve.open": "unpickles what it finds",
    "pandas.read_pickle": "unpickles a file",
    "shutil.unpack_archive": "unpacks what it is given, with no look at it",
    "torch.jit.load": "loads a program",
    "torch.hub.load": "fetches code and runs it",
    "tempfile.mktemp": "names a file that somebody else may make first",
    "yaml.load": "may build any object: use yaml.safe_load",
    "yaml.unsafe_load": "builds any object",
    "yaml.full_load": "may build more than plain values: use yaml.safe_load",
}
# Modules that are pickle by another name.
FORBIDDEN_MODULES = ("dill", "cloudpickle", "joblib", "shelve")
# Allowed with this keyword, written out: what the default is differs from version to version.
NEEDED = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
}
# A method of whatever object: no import says which.
NEEDED_OF_METHODS = {"extractall": ("filter", "data"), "extract": ("filter", "data")}


def faults_in(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, call and reason of everything that is forbidden in a file's text."""
    tree = ast.parse(source)
    names = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            )
            for module in modules:
                if module.split(".")[0] in FORBIDDEN_MODULES:
                    yield node.lineno, module, "is pickle by another name"
        # Also what is handed on without a call: `map(eval, lines)`.
        if isinstance(node, ast.Name | ast.Attribute):
            called = _full_name(node, names)
            if called in FORBIDDEN:
                yield node.lineno, called, FORBIDDEN[called]
        if isinstance(node, ast.Call):
            yield from _faults_of(node, _full_name(node.func, names))


def _faults_of(call: ast.Call, called: str) -> Iterator[tuple[int, str, str]]:
    for keyword in call.keywords:
        if keyword.arg == "shell" and not _is(keyword.value, False):
            yield call.lineno, called or "a call", "shell=: gives a string to a shell"
    if called in NEEDED:
        name, value = NEEDED[called]
        if not _has(call, name, value):
            yield call.lineno, called, f"needs {name}={value!r}"
    # Of a thing that came out of another call there is no full name, but still the method's.
    method = call.func.attr if isinstance(call.func, ast.Attribute) else called
    if method in NEEDED_OF_METHODS:
        name, value = NEEDED_OF_METHODS[method]
        if not _has(call, name, value):
            yield call.lineno, method, f"needs {name}={value!r}"


def _imported(tree: ast.AST) -> dict[str, str]:
    """What each name of a file stands for: `np` for `numpy`, `loads` for `pickle.loads`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _full_name(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        front = _full_name(node.value, names)
        return f"{front}.{node.attr}" if front else ""
    return ""


def _has(call: ast.Call, name: str, value: object) -> bool:
    return any(keyword.arg == name and _is(keyword.value, value) for keyword in call.keywords)


def _is(node: ast.expr, value: object) -> bool:
    # 1 == True, yet it says less.
    return isinstance(node, ast.Constant) and type(node.value) is type(value) and node.value == value


def sources() -> list[Path]:
    files = [file for folder in FOLDERS for file in (REPO / folder).rglob("*.py")]
    return sorted([*files, *(REPO / "data").glob("*.py"), *(REPO / "notebooks").rglob("*.py")])


def test_no_code_of_ours_runs_a_string_or_unpickles_a_file():
    found = [
        f"{file.relative_to(REPO)}:{line}: {called} {reason}"
        for file in sources()
        for line, called, reason in faults_in(file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_every_folder_with_code_is_read():
    read = {file.relative_to(REPO).parts[0] for file in sources()}
    assert read == {*FOLDERS, "data", "notebooks"}
    assert len(sources()) > 150


@pytest.mark.parametrize(
    ("bad", "called"),
    [
        ("import subprocess\nsubprocess.run('ls', shell=True)", "subprocess.run"),
        ("import subprocess\nsubprocess.Popen('ls', shell=flag)", "subprocess.Popen"),
        ("from subprocess import check_output as run\nrun('ls', shell=1)", "subprocess.check_output"),
        ("eval('1 + 1')", "eval"),
        ("exec(text)", "exec"),
        ("list(map(eval, lines))", "eval"),
        ("import builtins\nbuiltins.eval('1')", "builtins.eval"),
        ("import os\nos.system('ls')", "os.system"),
        ("from os import system as do\ndo('ls')", "os.system"),
        ("import os as o\no.popen('ls')", "os.popen"),
        ("import subprocess\nsubprocess.getoutput('ls')", "subprocess.getoutput"),
        ("import pickle\npickle.load(file)", "pickle.load"),
        ("from pickle import loads\nloads(content)", "pickle.loads"),
        ("import pickle\npickle.Unpickler(file).load()", "pickle.Unpickler"),
        ("import pandas as pd\npd.read_pickle(file)", "pandas.read_pickle"),
        ("import joblib", "joblib"),
        ("from cloudpickle import loads", "cloudpickle"),
        ("import torch\ntorch.load(file)", "torch.load"),
        ("import torch\ntorch.load(file, weights_only=False)", "torch.load"),
        ("import torch\ntorch.load(file, weights_only=safe)", "torch.load"),
        ("import torch\ntorch.load(file, weights_only=1)", "torch.load"),
        ("from torch import load\nload(file, map_location='cpu')", "torch.load"),
        ("import torch\ntorch.jit.load(file)", "torch.jit.load"),
        ("import torch\ntorch.hub.load('a/b', 'net')", "torch.hub.load"),
        ("import numpy as np\nnp.load(file)", "numpy.load"),
        ("import numpy as np\nnp.load(file, allow_pickle=True)", "numpy.load"),
        ("import numpy as np\nnp.load(file, **options)", "numpy.load"),
        ("import yaml\nyaml.load(text)", "yaml.load"),
        ("import yaml\nyaml.load(text, Loader=yaml.SafeLoader)", "yaml.load"),
        ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp"),
        ("import tarfile\ntarfile.open(file).extractall(folder)", "extractall"),
        ("tar.extractall(folder, filter='fully_trusted')", "extractall"),
        ("tar.extract(member)", "extract"),
        ("import shutil\nshutil.unpack_archive(file)", "shutil.unpack_archive"),
        ("from shutil import unpack_archive\nunpack_archive(file)", "shutil.unpack_archive"),
    ],
)
def test_bad_code_is_found(bad, called):
    assert [name for _, name, _ in faults_in(bad)] == [called]


@pytest.mark.parametrize(
    "good",
    [
        "model.eval()",
        "self.model.eval()",
        "import torch\ntorch.load(file, map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load(file, allow_pickle=False)",
        "import yaml\nyaml.safe_load(text)",
        "import json\njson.load(file)",
        "tar.extractall(folder, filter='data')",
        "import subprocess\nsubprocess.run(['ls'], check=True, shell=False)",
        "import pickle\npickle.dumps(error)",
        "import safetensors.torch\nsafetensors.torch.load_file(file)",
        "'eval(1) in words'",
    ],
)
def test_good_code_is_left_alone(good):
    assert not list(faults_in(good))

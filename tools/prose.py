"""Check docstrings, comments, messages and Markdown for habits of prose that CONTRIBUTING bans.

    python -m tools.prose            # the package, tools, benchmarks and Markdown
    python -m tools.prose tools      # files or folders of your choice

Prints `file:line: rule: text` for each finding and exits with 1 if there is one. The phrases in this file are exempt.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
DEFAULT = ("spgca_lab", "tools", "benchmarks", "docs", "README.md", "CONTRIBUTING.md")
# Quotations of the paper, and reports as the package writes them.
EXEMPT = ("tools/prose.py", "docs/paper_notes.md", "benchmarks/caltech101-mini/")
# Names that files, columns, keys or notebooks fix; a text that holds nothing else of the habit is accepted.
ALLOWED = re.compile(
    r"`[^`]*`|\b\w*_\w+|\w+[./]\w[\w./]*|\[[^\]]*\]\([^)]*\)|--[\w-]+|\d a class, \d+ steps"
    # Outputs that notebooks store, and compare when they are run again.
    r"|\d pictures of \d"
)

IDIOMS = {
    "write `per` for a distributive article": (
        r"\b(one|two|three|five|ten|\d+|images?|pictures?|steps?|numbers?|weights?|values?) an? "
        r"(class|tap|step|layer|channel|method|stage|run|cell|value|image|picture)\b"
    ),
    "avoid `told` and `tell of`": r"\btold\b|\btells? of\b",
    "avoid `held fast`": r"\bheld fast\b",
    "write `gradient norm`, not `pull`": r"\bpulls?\b(?! request)",
    "write `uniform weights`": r"\b(even|equal) weights\b",
    "avoid `at hand`": r"\bat hand\b",
    "avoid personification": r"\bobeys?\b|\bdies\b",
}
NOUNS = {"write `image`": r"\bpictures?\b", "write `prediction`": r"\banswers\b"}
QUESTION = re.compile(r"(What|Whether|How|Who|Whoever|Which|Why|Where)\b")

Finding = tuple[int, str, str]


def check_text(text: str, line: int, rules: dict[str, str]) -> Iterator[Finding]:
    """Yield a finding for each rule's pattern that occurs outside allowed names.

    Args:
        text: one or more lines.
        line: number of the first line.
        rules: pattern by advice.
    """
    # Blanks of the same length keep line numbers; a phrase may run over the end of a line.
    plain = ALLOWED.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    for advice, pattern in rules.items():
        for found in re.finditer(pattern.replace(" ", r"\s+"), plain, re.IGNORECASE):
            yield line + plain[: found.start()].count("\n"), advice, " ".join(found[0].split())


def check_python(source: str) -> Iterator[Finding]:
    """Yield the findings in the docstrings, comments and messages of a module."""
    documented = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if not isinstance(first, ast.Expr) or not isinstance(first.value, ast.Constant):
                continue
            text = first.value.value
            if isinstance(text, str):
                documented.add(first.value)
                if QUESTION.match(text):
                    yield first.lineno, "begin with an imperative or a noun phrase", text.split()[0]
                yield from check_text(text, first.lineno, IDIOMS | NOUNS)
        # A single word is a key or a name, not prose.
        elif isinstance(node, ast.Constant) and node not in documented and " " in str(node.value):
            yield from check_text(str(node.value), node.lineno, IDIOMS)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from check_text(token.string, token.start[0], IDIOMS)


def check_file(path: Path) -> list[Finding]:
    """Return the findings in a Python or Markdown file, by line."""
    text = path.read_text(encoding="utf-8")
    found = check_python(text) if path.suffix == ".py" else check_text(text, 1, IDIOMS)
    return sorted(set(found))


def files(given: Iterable[str]) -> Iterator[Path]:
    """Yield the Python and Markdown files under the given files and folders of the repository."""
    for name in given:
        path = REPO / name
        if not path.exists():
            raise SystemExit(f"there is no file or folder {name!r} in {REPO.name}")
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.suffix in (".py", ".md") and not file.relative_to(REPO).as_posix().startswith(EXEMPT):
                yield file


def main(given: Sequence[str] | None = None) -> int:
    """Print all findings; return 1 if there are any."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", default=DEFAULT, help="relative to the repository")
    count = 0
    for file in files(parser.parse_args(given).paths):
        for line, advice, text in check_file(file):
            print(f"{file.relative_to(REPO)}:{line}: {advice}: {text}")
            count += 1
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())

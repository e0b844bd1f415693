"""Texts about the published data sets: which are installed, from which archives, under which terms."""

from pathlib import Path

from spgca_lab.data.install import data_home, files_root, read_manifest
from spgca_lab.data.published import PUBLISHED, published

__all__ = ["describe_installed", "list_published", "unverified_archives"]


def list_published(home: Path | None = None) -> str:
    """Return a table of the published data sets and where they are installed, with their terms."""
    lines = [f"{'name':<14} {'title':<18} {'train':>6} {'test':>6} {'classes':>7}  installed"]
    for name, each in PUBLISHED.items():
        try:
            manifest, state = read_manifest(name, home), "no"
            if manifest is not None:
                state = f"{'' if manifest.verified else 'not '}verified, in {data_home(home) / each.folder}"
        except ValueError as error:
            state = str(error)
        lines.append(f"{name:<14} {each.title:<18} {each.train:>6} {each.test:>6} {each.classes:>7}  {state}")
    lines.append(f"\nHomepages and terms (data sets lie in {data_home(home)}):")
    for folder, each in {each.folder: each for each in PUBLISHED.values()}.items():
        lines.append(f"{folder:<14} {each.homepage}\n{'':<14} {each.terms}")
    return "\n".join(lines)


def describe_installed(name: str, home: Path | None = None) -> str:
    """Return where a set is installed, its published counts, its terms, and its archives that are not verified."""
    each, option = published(name), f" --home {home}" if home else ""
    lines = [
        f"{name}: {each.title}, in {str(files_root(name, home))!r}",
        f"  published with {each.train} + {each.test} images of {each.classes} classes; count these with: "
        f"spgca-lab data check {name}{option}",
        f"  terms: {each.terms} ({each.homepage})",
    ]
    return "\n".join([*lines, *unverified_archives(name, home)])


def unverified_archives(name: str, home: Path | None = None) -> list[str]:
    """Return a line for each archive of an installed set that agrees with no published checksum, with the reason."""
    manifest = read_manifest(name, home)
    known = {archive.file: archive.checksum for archive in published(name).archives}
    lines = []
    for record in manifest.archives if manifest else ():
        why = f"its checksum is not the one published ({known.get(record.file)})"
        if record.file not in known:
            why = "it was given unpacked, so that no checksum could be compared"
        elif known[record.file] is None:
            why = "nobody publishes a checksum of it"
        if not record.verified:
            text = f"{record.file} from {record.source}: {why}; its SHA-256 is {record.sha256}"
            lines.append(f"  not verified: {text}")
    return lines

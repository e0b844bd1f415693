"""The paper's data sets: install them, look at what is there, and make small ones of the same layout."""

import argparse
from pathlib import Path
from typing import Any

from spgca_lab.data.fetch import fetch, import_archives
from spgca_lab.data.home import VARIABLE, Manifest, data_home, read_manifest
from spgca_lab.data.published import PUBLISHED, PublishedSet, published

__all__ = ["add_commands"]

_HOME = f"folder of the data sets (default: ${VARIABLE}, else the user's data folder)"
_UNVERIFIED = "take archives whose size or checksum is not the published one"
_FRESH = "install anew what is installed already"


def add_commands(commands: Any) -> None:
    """Add `data` with its own commands to the command line."""
    data = commands.add_parser("data", help="fetch, import and check the paper's data sets")
    inner = data.add_subparsers(required=True, metavar="COMMAND")

    listing = inner.add_parser("list", help="list the published sets, and which of them are installed")
    listing.add_argument("--home", type=Path, metavar="DIR", help=_HOME)
    listing.set_defaults(run=_list)

    get = inner.add_parser(
        "fetch", help="download, check and unpack a set; the same command resumes a broken one"
    )
    get.add_argument("names", nargs="+", metavar="NAME", help=", ".join(PUBLISHED))
    get.add_argument("--mirror", metavar="URL", help="folder on a server that holds files of the same names")
    get.add_argument("--unverified", action="store_true", help=_UNVERIFIED)
    get.add_argument(
        "--allow-http",
        action="store_true",
        help="fetch unencrypted even what no published SHA-256 protects",
    )
    get.add_argument("--keep", action="store_true", help="keep the archives after they are unpacked")
    get.add_argument("--fresh", action="store_true", help=_FRESH)
    get.add_argument("--home", type=Path, metavar="DIR", help=_HOME)
    get.set_defaults(run=_fetch)

    give = inner.add_parser("import", help="install a set from archives or an unpacked folder that you have")
    give.add_argument("name", metavar="NAME", help=", ".join(PUBLISHED))
    give.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="archives, or a folder")
    give.add_argument("--unverified", action="store_true", help=_UNVERIFIED)
    give.add_argument("--fresh", action="store_true", help=_FRESH)
    give.add_argument("--home", type=Path, metavar="DIR", help=_HOME)
    give.set_defaults(run=_import)

    check = inner.add_parser("check", help="count pictures against Table 1 and name every corrupt file")
    check.add_argument("name", metavar="NAME", help=", ".join(PUBLISHED))
    check.add_argument("--seed", type=int, default=0, help="of a split drawn by seed (default: %(default)s)")
    check.add_argument("--full", action="store_true", help="list every class, however many there are")
    check.add_argument("--home", type=Path, metavar="DIR", help=_HOME)
    check.set_defaults(run=_check)

    rehearse = inner.add_parser("rehearse", help="write small archives in the exact layout of a real set")
    rehearse.add_argument("name", metavar="NAME", help=", ".join(PUBLISHED))
    rehearse.add_argument("folder", type=Path, metavar="FOLDER", help="to write them to")
    rehearse.add_argument("--classes", type=int, default=4, help="how many (default: %(default)s)")
    rehearse.add_argument(
        "--train", type=int, default=3, help="training pictures a class (default: %(default)s)"
    )
    rehearse.add_argument("--test", type=int, default=2, help="test pictures a class (default: %(default)s)")
    rehearse.set_defaults(run=_rehearse)


def _list(options: argparse.Namespace) -> None:
    print(f"{'name':<14} {'title':<18} {'train':>6} {'test':>6} {'classes':>7}  installed")
    for each in PUBLISHED.values():
        try:
            manifest = read_manifest(each.name, options.home)
            state = _state(each, manifest, options.home)
        except ValueError as error:
            state = str(error)
        print(f"{each.name:<14} {each.title:<18} {each.train:>6} {each.test:>6} {each.classes:>7}  {state}")
    print(f"\nHomepages and terms (data sets lie in {data_home(options.home)}):")
    told: set[str] = set()
    for each in PUBLISHED.values():
        if each.folder not in told:
            print(f"{each.folder:<14} {each.homepage}\n{'':<14} {each.terms}")
        told.add(each.folder)


def _state(each: PublishedSet, manifest: Manifest | None, home: Path | None) -> str:
    if manifest is None:
        return "no"
    return f"{'verified' if manifest.verified else 'not verified'}, in {data_home(home) / each.folder}"


def _fetch(options: argparse.Namespace) -> None:
    # An unknown name is told before the first of many gigabytes.
    for name in options.names:
        published(name)
    for name in options.names:
        fetch(
            name,
            options.home,
            mirror=options.mirror,
            unverified=options.unverified,
            allow_http=options.allow_http,
            keep=options.keep,
            fresh=options.fresh,
        )
        _report(name, options.home)


def _import(options: argparse.Namespace) -> None:
    import_archives(
        options.name, options.paths, options.home, unverified=options.unverified, fresh=options.fresh
    )
    _report(options.name, options.home)


def _report(name: str, home: Path | None) -> None:
    each, manifest = published(name), read_manifest(name, home)
    assert manifest is not None
    folder = data_home(home) / each.folder
    print(f"{name}: {manifest.files} files in {str(folder / 'files')!r}")
    counts = "published are" if name == "ants_bees" else "Table 1 counts"
    print(
        f"  {each.title}: {counts} {each.train} + {each.test} pictures of {each.classes} classes; "
        f"count these with: spgca-lab data check {name}" + (f" --home {home}" if home else "")
    )
    print(f"  terms: {each.terms} ({each.homepage})")
    _warn(each, manifest)


def _warn(each: PublishedSet, manifest: Manifest) -> None:
    """Which archives nobody vouches for, and why."""
    known = {archive.file: archive for archive in each.archives}
    for record in manifest.archives:
        if record.verified:
            continue
        archive = known.get(record.file)
        if archive is None:
            why = "it was given unpacked, so that no checksum could be compared"
        elif archive.checksum is None:
            why = "nobody publishes a checksum of it"
        else:
            why = f"its checksum is not the one published ({archive.checksum})"
        print(f"  not verified: {record.file} from {record.source}: {why}; its SHA-256 is {record.sha256}")


def _check(options: argparse.Namespace) -> int:
    from spgca_lab.data.check import check

    found = check(options.name, options.home, options.seed)
    print(found.text(full=options.full))
    manifest = read_manifest(options.name, options.home)
    if manifest is not None:
        _warn(published(options.name), manifest)
    return 0 if found.ok else 1


def _rehearse(options: argparse.Namespace) -> None:
    from spgca_lab.data.rehearsal import rehearse

    files = rehearse(
        options.name, options.folder, classes=options.classes, train=options.train, test=options.test
    )
    for file in files:
        print(file)
    print(
        f"Small stand-ins, not the data: spgca-lab data import {options.name} {options.folder} --unverified"
        " --home DIR"
    )

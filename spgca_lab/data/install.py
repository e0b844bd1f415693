"""Install published data sets: download or take given archives, check, unpack, and put them in place in one move."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

import filelock

from spgca_lab.data.download import FetchError, download
from spgca_lab.data.extract import ExtractError, extract
from spgca_lab.data.published import PUBLISHED, Archive, PublishedSet, published

VARIABLE = "SPGCA_LAB_DATA"
MANIFEST = "manifest.json"
# Lists of images are small; a web page in their place is not downloaded completely.
MOST_TEXT = 16 * 2**20


class DataMissing(LookupError):
    """A published data set that is not installed in the folder that was searched."""


@dataclass(frozen=True)
class ArchiveRecord:
    """An installed archive; `verified` if it agrees with a published checksum."""

    file: str
    size: int
    sha256: str
    verified: bool
    source: str


Given = list[tuple[Path, ArchiveRecord]]


@dataclass(frozen=True)
class Manifest:
    """Content of `manifest.json`: the archives of an installed set, and the time of its installation."""

    folder: str
    when: str
    archives: tuple[ArchiveRecord, ...]
    files: int

    @property
    def verified(self) -> bool:
        """True if every archive agrees with a published checksum."""
        return all(archive.verified for archive in self.archives)

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that depend only on the bytes of the archives."""
        hashes = "\n".join(sorted(archive.sha256 for archive in self.archives))
        return hashlib.sha256(hashes.encode()).hexdigest()[:12]


def data_home(home: str | Path | None = None) -> Path:
    """Return the folder of all data sets: `home`, else `$SPGCA_LAB_DATA`, else one in the user's data folder."""
    given = home or os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser().absolute()
    import platformdirs

    return platformdirs.user_data_path("spgca-lab") / "datasets"


def read_manifest(name: str, home: str | Path | None = None) -> Manifest | None:
    """Read the manifest of a published set; None if it is not installed, a `ValueError` if it is damaged."""
    file = _folder(data_home(home), published(name).folder) / MANIFEST
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        return Manifest(**fields | {"archives": tuple(ArchiveRecord(**a) for a in fields["archives"])})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{str(file)!r} is damaged ({type(error).__name__}: {error}); install the set anew: "
            f"`spgca-lab data fetch {name} --fresh`"
        ) from error


def files_root(name: str, home: str | Path | None = None) -> Path:
    """Return the folder with the unpacked files of an installed set; `DataMissing` says how to install others."""
    folder = _folder(data_home(home), published(name).folder)
    if read_manifest(name, home) is not None and (folder / "files").is_dir():
        return folder / "files"
    option = f" --home {home}" if home else ""
    raise DataMissing(
        f"{name!r} is not installed: there is no data set in {str(folder)!r}. "
        f"Download it with `spgca-lab data fetch {name}{option}`, or give archives that you have: "
        f"`spgca-lab data import {name} PATH{option}`"
        + ("" if home else f". Another folder: --home, or the environment variable {VARIABLE}")
    )


def fingerprint(name: str, home: str | Path | None = None) -> str | None:
    """Return 12 hexadecimal digits of the archives of an installed set; None for others."""
    manifest = read_manifest(name, home) if name in PUBLISHED else None
    return manifest.fingerprint if manifest else None


def fetch(
    name: str,
    home: str | Path | None = None,
    *,
    mirror: str | None = None,
    unverified: bool = False,
    allow_http: bool = False,
    keep: bool = False,
    fresh: bool = False,
    progress: bool = True,
) -> Path:
    """Download, check, unpack and install a published data set; the same call resumes a broken transfer.

    Args:
        name: one of `PUBLISHED`.
        home: folder of the data sets, see `data_home`.
        mirror: URL of a folder with files of the same names; they must agree with the published checksums as well.
        unverified: accept archives whose size or checksum is not the published one; the manifest records it.
        allow_http: accept an unencrypted connection even without a published SHA-256.
        keep: keep the archives in `<home>/<folder>.downloads`.
        fresh: install again even if the set is installed.
        progress: report on standard error, with a progress bar per archive.

    Returns:
        folder of the unpacked files.

    Raises:
        FetchError: quoting the URL and the remedy.
        ExtractError: if an archive is damaged or unsafe.
    """
    spec, base = published(name), data_home(home)
    urls = [_url(archive, mirror, unverified, allow_http) for archive in spec.archives]
    downloads = base / f"{spec.folder}.downloads"
    given: Given = []

    def get() -> Given:
        if not unverified:
            _check_space(base, downloads, spec)
        for archive, url in zip(spec.archives, urls, strict=True):
            file = downloads / archive.file
            size = None if unverified else archive.size
            most = MOST_TEXT if file.suffix == ".txt" else spec.most_bytes
            try:
                if not file.exists() or file.stat().st_size != size:
                    download(url, file, size=size, most=most, progress=progress)
            except OSError as error:
                raise FetchError(
                    f"{url} could not be written to {str(file)!r}: {error}; make room or another folder: --home"
                ) from error
            try:
                given.append((file, _verify(archive, file, url, unverified)))
            except FetchError:
                file.unlink()
                raise
        return given

    try:
        root = _install(spec, base, get, fresh, progress)
    except ExtractError:
        shutil.rmtree(downloads)
        raise
    if given and not keep:
        shutil.rmtree(downloads)
    return root


def import_archives(
    name: str,
    paths: Sequence[str | Path],
    home: str | Path | None = None,
    *,
    unverified: bool = False,
    fresh: bool = False,
    progress: bool = True,
) -> Path:
    """Install a published data set from archives on this machine, which stay as they are.

    Args:
        name: one of `PUBLISHED`.
        paths: archives, recognised by their name or size, or folders that hold them.
        home: folder of the data sets, see `data_home`.
        unverified: accept archives whose size or checksum is not the published one; the manifest records it.
        fresh: install again even if the set is installed.
        progress: report on standard error.

    Returns:
        folder of the unpacked files.

    Raises:
        FetchError: quoting the path and the remedy.
        ExtractError: if an archive is damaged or unsafe.
    """
    spec = published(name)
    given = [paths] if isinstance(paths, str | Path) else paths
    matched = _match(spec, [Path(path).expanduser() for path in given])

    def get() -> Given:
        return [(f, _verify(archive, f, str(f.absolute()), unverified)) for archive, f in matched.items()]

    return _install(spec, data_home(home), get, fresh, progress)


def _install(spec: PublishedSet, base: Path, get: Callable[[], Given], fresh: bool, progress: bool) -> Path:
    """Unpack the archives that `get` returns beside the place of the set, and move it there."""
    base.mkdir(parents=True, exist_ok=True)
    current, old, part = (base / f"{spec.folder}{suffix}" for suffix in ("", ".old", ".part"))
    lock = filelock.FileLock(base / f".{spec.folder}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        _report(f"another process installs {str(current)!r}; waiting for it", progress)
        lock.acquire()
    try:
        # A killed process may have left these.
        if old.exists() and not current.exists():
            old.rename(current)
        for left in (old, part):
            if left.exists():
                shutil.rmtree(left)
        if not fresh and read_manifest(spec.name, base):
            _report(f"{spec.name} is installed already in {current}; --fresh would install it anew", progress)
            return current / "files"
        files = part / "files"
        files.mkdir(parents=True)
        given = get()
        most_files, most_bytes = spec.most_files, spec.most_bytes
        for path, _ in given:
            _report(f"unpacking {path}", progress)
            count, size = extract(path, files, most_bytes=most_bytes, most_files=most_files)
            most_files, most_bytes = most_files - count, most_bytes - size
        when = datetime.now().astimezone().isoformat(timespec="seconds")
        records = tuple(record for _, record in given)
        manifest = asdict(Manifest(spec.folder, when, records, spec.most_files - most_files))
        (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        # `_folder` finds the old set if the process is killed between the two moves.
        if current.exists():
            current.rename(old)
        part.rename(current)
        if old.exists():
            shutil.rmtree(old)
        return current / "files"
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        lock.release()


def _report(line: str, progress: bool) -> None:
    if progress:
        print(line, file=sys.stderr, flush=True)


def _url(archive: Archive, mirror: str | None, unverified: bool, allow_http: bool) -> str:
    """Return the address of an archive, or refuse one that is not safe."""
    url = f"{mirror.rstrip('/')}/{quote(archive.file)}" if mirror else archive.url
    scheme, pinned = urlsplit(url).scheme, (archive.checksum or "").startswith("sha256:")
    if scheme not in ("http", "https"):
        raise FetchError(
            f"{url} is no address of https:// or http://; archives on this machine go to `spgca-lab data import`"
        )
    if scheme == "http" and not allow_http and (unverified or not pinned):
        why = "its checksum is not to be checked" if pinned else "no SHA-256 of it is published"
        raise FetchError(
            f"{url} is not encrypted, and {why}: it could be changed on the way unnoticed. "
            "To fetch it all the same add --allow-http, or name a server of https:// with --mirror"
        )
    return url


def _check_space(base: Path, downloads: Path, spec: PublishedSet) -> None:
    # Images unpack to about the size of their archive.
    sizes = sum(archive.size or 0 for archive in spec.archives)
    have = sum(path.stat().st_size for path in downloads.glob("*"))
    need, free = 2 * sizes - min(have, sizes), shutil.disk_usage(base).free
    if need > free:
        raise FetchError(
            f"{spec.name}, archives and unpacked files together, needs about {need / 1e9:.1f} GB in {str(base)!r}, "
            f"and {free / 1e9:.1f} GB are free; make room, or choose another folder with --home or {VARIABLE}"
        )


def _verify(archive: Archive, file: Path, source: str, unverified: bool) -> ArchiveRecord:
    """Describe a file, or refuse it if it is not the published one."""
    size, sha256 = file.stat().st_size, _digest(file, "sha256")
    kind, _, expected = (archive.checksum or "sha256:").partition(":")
    found = sha256 if kind == "sha256" else _digest(file, kind)
    wrong = ""
    if archive.size not in (None, size):
        wrong = f"it has {size} bytes, and {archive.size} are published"
    elif expected and found != expected:
        wrong = f"its {kind.upper()} is {found}, and {expected} is published"
    if wrong and not unverified:
        by = f" (published by {archive.published_by})" if archive.published_by else ""
        raise FetchError(
            f"{source} is refused: {wrong}{by}. The file was damaged on the way, or it is another one: fetch it again, "
            "or from elsewhere; if you trust it as it is, add --unverified"
        )
    return ArchiveRecord(archive.file, size, sha256, found == expected, source)


def _digest(file: Path, kind: str) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()


def _match(spec: PublishedSet, paths: list[Path]) -> dict[Archive, Path]:
    """Assign the given files to the archives of a set, in the order of the registry."""
    names = ", ".join(archive.file for archive in spec.archives)
    found: dict[Archive, Path] = {}
    for path in paths:
        if not path.exists():
            raise FetchError(f"{str(path)!r} does not exist")
        files = [path]
        if path.is_dir():
            files = [path / a.file for a in spec.archives if (path / a.file).is_file()]
            if not files:
                raise FetchError(f"{str(path)!r} holds no archive of {spec.name} ({names})")
        for file in files:
            named = [archive for archive in spec.archives if archive.file == file.name]
            same = named or [archive for archive in spec.archives if archive.size == file.stat().st_size]
            if len(same) != 1:
                raise FetchError(
                    f"{str(file)!r} has neither the name nor the size of an archive of {spec.name}: {names}; "
                    "rename it to the one that it is"
                )
            if not found.setdefault(same[0], file).samefile(file):
                raise FetchError(
                    f"{str(found[same[0]])!r} and {str(file)!r} are both {same[0].file}: give one"
                )
    missing = [archive for archive in spec.archives if archive not in found]
    if missing:
        raise FetchError(
            f"{spec.name} needs {names}, and {', '.join(a.file for a in missing)} "
            f"{'was' if len(missing) == 1 else 'were'} not given; published at {' and '.join(a.url for a in missing)}"
        )
    return {archive: found[archive] for archive in spec.archives}


def _folder(base: Path, folder: str) -> Path:
    current, old = base / folder, base / f"{folder}.old"
    return old if not current.exists() and (old / MANIFEST).exists() else current

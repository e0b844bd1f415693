"""Installing a published data set: fetched or given, checked, unpacked, and put in place in one move."""

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

from spgca_lab.data.extract import extract
from spgca_lab.data.home import MANIFEST, ArchiveRecord, Manifest, alone, data_home, read_manifest, repair
from spgca_lab.data.layouts import LANDMARKS
from spgca_lab.data.published import Archive, PublishedSet, published
from spgca_lab.data.transfer import FetchError, fetched_from, transfer

__all__ = ["FetchError", "fetch", "import_archives"]

# Lists of pictures are small; a page in their place need not be fetched whole.
MOST_TEXT = 16 * 2**20
CHUNK = 1 << 20


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
    """Download, check, unpack and install a published data set; a broken transfer is resumed by the same call.

    Args:
        name: one of `PUBLISHED`.
        home: see `data_home`.
        mirror: URL of a folder that holds files of the same names; they must agree with the published checksums all
            the same.
        unverified: take archives whose size or checksum is not the published one; the manifest says so.
        allow_http: fetch over an unencrypted connection even where no published SHA-256 protects the file.
        keep: leave the archives in `<home>/<folder>.downloads`.
        fresh: install anew where the set is installed already.
        progress: whether to tell on standard error what is done, with a bar for each archive.

    Returns:
        the folder of the unpacked files.

    Raises:
        FetchError: quoting the URL, with what would help.
        ExtractError: when an archive is damaged or unsafe.
        LookupError: when there is no such set.
        OSError: when the disk is full or cannot be written.

    Example:
        >>> fetch("ants_bees")  # doctest: +SKIP
    """
    wanted = published(name)
    base = data_home(home)
    tell = _telling(progress)
    sources = [(archive, _source(archive, mirror, unverified, allow_http)) for archive in wanted.archives]
    downloads = base / f"{wanted.folder}.downloads"
    with alone(base, wanted.folder, tell):
        repair(base, wanted.folder)
        if not fresh and read_manifest(name, home):
            tell(f"{name} is installed already in {base / wanted.folder}; --fresh would install it anew")
            return base / wanted.folder / "files"
        if not unverified:
            _room(base, downloads, wanted)
        given = []
        for archive, url in sources:
            file = downloads / archive.file
            try:
                size = None if unverified else archive.size
                most = MOST_TEXT if file.suffix == ".txt" else wanted.most_bytes
                if not _there(file, url, size):
                    transfer(url, file, size=size, most=most, progress=progress)
            except OSError as error:
                raise FetchError(
                    f"{url} could not be written to {str(file)!r}: {error}; make room or another folder: --home"
                ) from error
            try:
                record = _verified(archive, file, url, unverified)
            except FetchError:
                file.unlink()
                raise
            given.append((file, record))
        root = _install(wanted, base, given, tell)
        if not keep:
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
    """Install a published data set from archives, or an unpacked folder, that are on this machine already.

    What is given is read or copied, and left as it is. A file is told by its name, else by its checksum or size.

    Args:
        name: one of `PUBLISHED`.
        paths: archives, folders that hold them, or one folder as the archives unpack to.
        home: see `data_home`.
        unverified: take archives whose size or checksum is not the published one; the manifest says so. A folder can
            never be verified, and is taken without.
        fresh: install anew where the set is installed already.
        progress: whether to tell on standard error what is done.

    Returns:
        the folder of the unpacked files.

    Raises:
        FetchError: quoting the path, with what would help.
        ExtractError: when an archive is damaged or unsafe.
        LookupError: when there is no such set.
        OSError: when something cannot be read or written.

    Example:
        >>> import_archives("cub200", ["no/such.tgz"], "no/such/folder")
        Traceback (most recent call last):
        ...
        spgca_lab.data.transfer.FetchError: 'no/such.tgz' does not exist
    """
    wanted = published(name)
    base = data_home(home)
    tell = _telling(progress)
    asked = [Path(path).expanduser() for path in ([paths] if isinstance(paths, str | Path) else paths)]
    for path in asked:
        if not path.exists():
            raise FetchError(f"{str(path)!r} does not exist")
    unpacked = _unpacked(wanted, asked)
    files = {} if unpacked else _matched(wanted, asked)
    with alone(base, wanted.folder, tell):
        repair(base, wanted.folder)
        if not fresh and read_manifest(name, home):
            tell(f"{name} is installed already in {base / wanted.folder}; --fresh would install it anew")
            return base / wanted.folder / "files"
        if unpacked:
            return _install_folder(wanted, base, unpacked, tell)
        given = [
            (file, _verified(archive, file, str(file.absolute()), unverified))
            for archive, file in files.items()
        ]
        return _install(wanted, base, given, tell)


def _telling(progress: bool) -> Callable[[str], None]:
    def tell(line: str) -> None:
        if progress:
            print(line, file=sys.stderr, flush=True)

    return tell


def _source(archive: Archive, mirror: str | None, unverified: bool, allow_http: bool) -> str:
    """Where to fetch an archive, if that is safe."""
    url = f"{mirror.rstrip('/')}/{quote(archive.file)}" if mirror else archive.url
    scheme, pinned = urlsplit(url).scheme, (archive.checksum or "").startswith("sha256:")
    if scheme not in ("http", "https"):
        raise FetchError(
            f"{url} is no address of https:// or http://; archives on this machine go to `spgca-lab data import`"
        )
    if scheme == "http" and not allow_http and (unverified or not pinned):
        why = "its checksum is not to be checked" if pinned else "no SHA-256 of it is published"
        raise FetchError(
            f"{url} is not encrypted, and {why}: whoever sits on the way could change it unseen. "
            "To fetch it all the same add --allow-http, or name a server of https:// with --mirror"
        )
    return url


def _there(file: Path, url: str, size: int | None) -> bool:
    """Whether an earlier call fetched this file from there, and kept it."""
    if not file.exists() or (size is not None and file.stat().st_size != size):
        return False
    return fetched_from(file) == url


def _room(base: Path, downloads: Path, wanted: PublishedSet) -> None:
    """Refuse before the first byte what the disk could not hold; pictures unpack to about their archive's size."""
    sizes = sum(archive.size or 0 for archive in wanted.archives)
    have = sum(path.stat().st_size for path in downloads.glob("*")) if downloads.exists() else 0
    _enough(base, 2 * sizes - min(have, sizes), f"{wanted.name}, archives and unpacked files together,")


def _enough(base: Path, need: int, what: str) -> None:
    free = shutil.disk_usage(base).free
    if need > free:
        raise FetchError(
            f"{what} needs about {need / 1e9:.1f} GB in {str(base)!r}, and {free / 1e9:.1f} GB are free; "
            "make room, or choose another folder with --home or SPGCA_LAB_DATA"
        )


def _verified(archive: Archive, file: Path, source: str, unverified: bool) -> ArchiveRecord:
    """What the file is, refused when it is not the published one."""
    size, sums = file.stat().st_size, {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with file.open("rb") as stream:
        while block := stream.read(CHUNK):
            for each in sums.values():
                each.update(block)
    kind, _, told = (archive.checksum or "").partition(":")
    by = f" (as told by {archive.told_by})" if archive.told_by else ""
    remedy = (
        "The file was damaged on the way, or it is another one: fetch it again, or from elsewhere; "
        "if you trust it as it is, add --unverified"
    )
    if not unverified and archive.size not in (None, size):
        raise FetchError(
            f"{source} is refused: it has {size} bytes, and {archive.size} are published{by}. {remedy}"
        )
    if not unverified and told and sums[kind].hexdigest() != told:
        raise FetchError(
            f"{source} is refused: its {kind.upper()} is {sums[kind].hexdigest()}, "
            f"and {told} is published{by}. {remedy}"
        )
    agrees = bool(told) and sums[kind].hexdigest() == told
    return ArchiveRecord(archive.file, size, sums["sha256"].hexdigest(), agrees, source)


# --- What is given to import -------------------------------------------------------------------------------------


def _matched(wanted: PublishedSet, asked: Iterable[Path]) -> dict[Archive, Path]:
    """Which file is which archive; in the order of the registry."""
    found: dict[Archive, Path] = {}
    for path in asked:
        if path.is_dir():
            inside = {a: path / a.file for a in wanted.archives if (path / a.file).is_file()}
            if not inside:
                raise FetchError(
                    f"{str(path)!r} holds neither an archive of {wanted.name} ({_names(wanted.archives)}) nor what "
                    f"they unpack to ({', '.join(LANDMARKS[wanted.layout])})"
                )
        else:
            inside = {_which(wanted, path): path}
        for archive, file in inside.items():
            if archive in found and not found[archive].samefile(file):
                raise FetchError(
                    f"{str(found[archive])!r} and {str(file)!r} are both {archive.file}: give one"
                )
            found[archive] = file
    missing = [archive for archive in wanted.archives if archive not in found]
    if missing:
        raise FetchError(
            f"{wanted.name} needs {_names(wanted.archives)}, and {_names(missing)} "
            f"{'was' if len(missing) == 1 else 'were'} not given; published at {' and '.join(a.url for a in missing)}"
        )
    return {archive: found[archive] for archive in wanted.archives}


def _which(wanted: PublishedSet, file: Path) -> Archive:
    for archive in wanted.archives:
        if file.name == archive.file:
            return archive
    size = file.stat().st_size
    near = [archive for archive in wanted.archives if archive.size == size]
    if len(near) == 1:
        return near[0]
    raise FetchError(
        f"{str(file)!r} has neither the name nor the size of an archive of {wanted.name}: {_names(wanted.archives)}; "
        "rename it to the one that it is"
    )


def _names(archives: Iterable[Archive]) -> str:
    return ", ".join(archive.file for archive in archives)


def _unpacked(wanted: PublishedSet, asked: list[Path]) -> dict[str, Path] | None:
    """Name and place of what to copy, when one folder is given and holds what the archives unpack to."""
    if len(asked) != 1 or not asked[0].is_dir():
        return None
    folder = asked[0].resolve()
    landmarks = LANDMARKS[wanted.layout]
    tops = list(dict.fromkeys(landmark.split("/")[0] for landmark in landmarks))
    # Given may be the folder around, or the one that the archive brings itself.
    for root in (folder, folder.parent):
        if root == folder.parent and tops != [folder.name]:
            continue
        if all((root / landmark).exists() for landmark in landmarks):
            return {top: root / top for top in tops}
    return None


# --- Putting it in place -----------------------------------------------------------------------------------------


def _install(
    wanted: PublishedSet,
    base: Path,
    given: list[tuple[Path, ArchiveRecord]],
    tell: Callable[[str], None],
) -> Path:
    part = base / f"{wanted.folder}.part"
    part.mkdir()
    files = size = 0
    try:
        for path, _ in given:
            tell(f"unpacking {path}")
            unpacked = extract(
                path,
                part / "files",
                most_bytes=wanted.most_bytes - size,
                most_files=wanted.most_files - files,
            )
            files, size = files + unpacked.files, size + unpacked.size
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return _place(wanted, base, tuple(record for _, record in given), files)


def _install_folder(
    wanted: PublishedSet, base: Path, tops: dict[str, Path], tell: Callable[[str], None]
) -> Path:
    listed = sorted(
        (f"{top}/{file.relative_to(path).as_posix()}" if path.is_dir() else top, file)
        for top, path in tops.items()
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.is_file()
    )
    sizes = [(name, file.stat().st_size) for name, file in listed]
    total = sum(size for _, size in sizes)
    source = next(iter(tops.values())).parent
    _enough(base, total, f"a copy of {str(source)!r}")
    tell(f"copying {len(listed)} files from {source}")
    part = base / f"{wanted.folder}.part"
    part.mkdir()
    try:
        for name, file in listed:
            target = part / "files" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    digest = hashlib.sha256(
        "".join(f"{name}\0{size}\n" for name, size in sizes).encode(errors="surrogateescape")
    )
    record = ArchiveRecord("/".join(tops), total, digest.hexdigest(), False, str(source))
    return _place(wanted, base, (record,), len(listed))


def _place(wanted: PublishedSet, base: Path, records: tuple[ArchiveRecord, ...], files: int) -> Path:
    """Two moves at most; `home.files_root` knows what a death between them leaves."""
    current, old, part = base / wanted.folder, base / f"{wanted.folder}.old", base / f"{wanted.folder}.part"
    when = datetime.now().astimezone().isoformat(timespec="seconds")
    (part / MANIFEST).write_text(Manifest(wanted.folder, when, records, files).to_json(), encoding="utf-8")
    if current.exists():
        current.rename(old)
    part.rename(current)
    if old.exists():
        shutil.rmtree(old)
    return current / "files"

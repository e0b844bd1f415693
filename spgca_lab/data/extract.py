"""Unpacking archives that come from elsewhere: nothing gets out of the folder, and nothing grows without end."""

import bz2
import gzip
import io
import lzma
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

__all__ = ["ExtractError", "Unpacked", "extract"]

CHUNK = 1 << 20
# Of a picture's archive neither is ever seen: names of many megabytes, and files that shrink to a 200th.
MOST_AT_ONCE = 16 << 20
MOST_RATIO, RATIO_FROM = 200, 16 << 20
HEADER = 4096
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
    struct.error,
    NotImplementedError,
)


class ExtractError(ValueError):
    """An archive that is damaged, of an unknown kind, or would write where or what it must not."""


class Unpacked(NamedTuple):
    """What an archive gave.

    Args:
        files: how many; links count as files.
        size: of all of them, in bytes.
    """

    files: int
    size: int


def extract(archive: Path, into: Path, *, most_bytes: int, most_files: int) -> Unpacked:
    """Unpack a tar (plain, gzip, bzip2, xz) or zip archive, or copy a `.txt`; its kind is read from its first bytes.

    All members are looked at before the first is written. Refused are absolute paths, `..`, links that lead outside
    or that other names pass through, devices, names that occur twice or are there already, encrypted members, and more
    bytes or files than allowed. A refused archive leaves nothing behind.

    Args:
        archive: the file.
        into: folder to unpack to; created when it is not there.
        most_bytes: that it may unpack to.
        most_files: that it may hold.

    Returns:
        how many files and bytes came out.

    Raises:
        ExtractError: quoting the archive and the member.
        OSError: when the disk is full or cannot be written.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with tarfile.open(folder / "a.tgz", "w:gz") as tar:
        ...     tar.add(__file__, "inner/extract.py")
        >>> extract(folder / "a.tgz", folder / "out", most_bytes=10**6, most_files=10).files
        1
        >>> [path.name for path in (folder / "out").rglob("*.py")]
        ['extract.py']
    """
    archive, into = Path(archive), Path(into)
    into.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{into.name}.", dir=into.parent))
    try:
        plan = _Plan(archive, into, most_bytes, most_files)
        try:
            _unpack(archive, staging, plan)
        except ExtractError:
            raise
        except _DAMAGE as error:
            raise ExtractError(
                f"{str(archive)!r} is damaged: {str(error) or type(error).__name__}; fetch it again"
            ) from error
        _merge(staging, into, plan)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Unpacked(len(plan.files), plan.size)


class _Plan:
    """What an archive would write, refused member by member."""

    def __init__(self, archive: Path, into: Path, most_bytes: int, most_files: int):
        self.archive, self.into = archive, into
        self.most_bytes, self.most_files = most_bytes, most_files
        self.files: dict[PurePosixPath, int] = {}
        self.links: set[PurePosixPath] = set()
        self.folders: set[PurePosixPath] = set()
        self.members = self.size = 0

    def refuse(self, name: str, why: str) -> ExtractError:
        return ExtractError(
            f"{str(self.archive)!r} is refused: its member {name!r} {why}. Nothing was unpacked"
        )

    def path(self, name: str, *, backslashes: bool = False, what: str = "") -> PurePosixPath:
        """The name as a path below the folder."""
        member, words = what or name, f"links to {name!r}, which" if what else ""
        if name.startswith("/") or re.match(r"[A-Za-z]:[\\/]|\\\\", name):
            raise self.refuse(member, f"{words} is an absolute path".strip())
        if "\0" in name or ("\\" in name and not backslashes):
            raise self.refuse(member, f"{words} has a backslash or a zero byte in its name".strip())
        if ".." in PurePosixPath(name).parts:
            raise self.refuse(member, f"{words} goes up with '..'".strip())
        return PurePosixPath(name)

    def count(self, name: str) -> None:
        self.members += 1
        if self.members > self.most_files:
            raise self.refuse(name, f"is one more than the {self.most_files} that are expected at most")

    def add_folder(self, name: str, path: PurePosixPath) -> None:
        self.count(name)
        self.folders.add(path)

    def add_file(self, name: str, path: PurePosixPath, size: int, link: bool = False) -> None:
        self.count(name)
        if size < 0:
            raise self.refuse(name, f"says that it has {size} bytes")
        if not path.parts:
            raise self.refuse(name, "has no name")
        if path in self.files:
            raise self.refuse(name, "occurs twice and would overwrite itself")
        self.size += size
        if self.size > self.most_bytes:
            raise self.refuse(name, f"brings it above the {self.most_bytes} bytes that are expected at most")
        self.files[path] = size
        if link:
            self.links.add(path)

    def finish(self) -> None:
        """What can be told only when all members are known."""
        if not self.files:
            raise ExtractError(f"{str(self.archive)!r} is refused: it holds no file")
        for path in (*self.files, *self.folders):
            for above in path.parents:
                if above in self.links:
                    raise self.refuse(str(path), f"passes through the link {str(above)!r}")
                if above in self.files:
                    raise self.refuse(str(path), f"lies below {str(above)!r}, which is a file")
            there = self.into / path
            if (there.is_symlink() or there.exists()) and (path in self.files or not there.is_dir()):
                raise self.refuse(str(path), "is there already and would be overwritten")
        for path in self.folders:
            if path in self.files:
                raise self.refuse(str(path), "is both a file and a folder")
        free = shutil.disk_usage(self.into.parent).free
        if self.size > free:
            raise OSError(
                f"{str(self.archive)!r} unpacks to {self.size} bytes, and {str(self.into.parent)!r} has {free} left; "
                "make room, or choose another folder with --home or SPGCA_LAB_DATA"
            )


def _unpack(archive: Path, staging: Path, plan: _Plan) -> None:
    with archive.open("rb") as file:
        start = file.read(512)
        file.seek(0)
        if archive.suffix.lower() == ".txt":
            size = archive.stat().st_size
            plan.add_file(archive.name, PurePosixPath(archive.name), size)
            plan.finish()
            with (staging / archive.name).open("xb") as copy:
                _copy(file, copy, size, archive.name)
        elif start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            _unzip(file, staging, plan)
        else:
            _untar(file, start, staging, plan)


# --- tar ---------------------------------------------------------------------------------------------------------


class _Reader(io.RawIOBase):
    """A stream that a bomb cannot make large: neither one read, nor all that it unpacks to."""

    def __init__(self, stream: Any, plan: _Plan):
        self.stream, self.plan = stream, plan
        self.most = plan.most_bytes + plan.most_files * HEADER + MOST_AT_ONCE

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self.stream.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        self._check(offset)
        return int(self._call(self.stream.seek, offset, whence))

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MOST_AT_ONCE:
            raise ExtractError(
                f"{str(self.plan.archive)!r} is refused: one of its headers is of {size} bytes"
            )
        data = bytes(self._call(self.stream.read, size))
        self._check(self.tell())
        return data

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except OSError as error:
            # So decompressors report damage; an error of the disk has a number.
            if error.errno is None:
                raise tarfile.ReadError(str(error)) from error
            raise

    def _check(self, position: int) -> None:
        if position > self.most:
            raise ExtractError(
                f"{str(self.plan.archive)!r} is refused: it unpacks to more than "
                f"the {self.plan.most_bytes} bytes that are expected at most"
            )


def _untar(file: IO[bytes], start: bytes, staging: Path, plan: _Plan) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise ExtractError(
            "this Python cannot unpack tar archives safely; update it to 3.11.4 or later (of 3.11), or to any 3.12"
        )
    stream: Any = file
    if start.startswith(b"\x1f\x8b"):
        stream = gzip.GzipFile(fileobj=file)
    elif start.startswith(b"BZh"):
        stream = bz2.BZ2File(file)
    elif start.startswith(b"\xfd7zXZ\0"):
        stream = lzma.LZMAFile(file)  # noqa: SIM115 - closed with the file
    elif start[257:262] != b"ustar" and not _old_tar(start):
        raise ExtractError(
            f"{str(plan.archive)!r} is neither a tar (plain, gzip, bzip2, xz) nor a zip archive: "
            f"it begins with {start[:24]!r}"
        )
    reader: Any = _Reader(stream, plan)
    with tarfile.open(fileobj=reader, mode="r:") as tar:
        members = []
        for member in tar:
            _check_tar(member, plan)
            members.append(member)
        # tarfile takes a damaged header for the end.
        reader.seek(tar.offset)
        if any(reader.read(512)):
            raise ExtractError(
                f"{str(plan.archive)!r} is damaged after {len(members)} members; fetch it again"
            )
        _check_links(tar, members, plan)
        plan.finish()
        tar.extractall(staging, members, filter="data")


def _old_tar(start: bytes) -> bool:
    """Whether it is a header of before POSIX, which has no magic, but a checksum."""
    try:
        return len(start) == 512 and bool(tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape").name)
    except tarfile.HeaderError:
        return False


def _check_tar(member: tarfile.TarInfo, plan: _Plan) -> None:
    path = plan.path(member.name, backslashes=True)
    if member.isdir():
        plan.add_folder(member.name, path)
    elif member.isreg():
        plan.add_file(member.name, path, member.size)
    elif member.issym() or member.islnk():
        plan.add_file(member.name, path, 0, link=member.issym())
    else:
        raise plan.refuse(
            member.name, "is a device, a pipe, or something else that is neither file nor folder"
        )
    if member.size < 0:
        raise plan.refuse(member.name, f"says that it has {member.size} bytes")


def _check_links(tar: tarfile.TarFile, members: list[tarfile.TarInfo], plan: _Plan) -> None:
    sizes: dict[PurePosixPath, int] = {}
    for member in members:
        name, path = member.name, PurePosixPath(member.name)
        if member.isreg():
            sizes[path] = member.size
        elif member.islnk():
            target = plan.path(member.linkname, backslashes=True, what=name)
            if target not in sizes:
                raise plan.refuse(name, f"is a hard link to {member.linkname!r}, which is no file before it")
            # Where the disk knows no hard links, it becomes a copy.
            sizes[path] = sizes[target]
            plan.size += sizes[target]
            if plan.size > plan.most_bytes:
                raise plan.refuse(
                    name, f"brings it above the {plan.most_bytes} bytes that are expected at most"
                )
        elif member.issym():
            _check_symlink(path, member.linkname, plan)


def _check_symlink(path: PurePosixPath, target: str, plan: _Plan) -> None:
    """Its target, step by step, stays inside and passes through no other link."""
    if PurePosixPath(target).is_absolute() or re.match(r"[A-Za-z]:[\\/]", target):
        raise plan.refuse(str(path), f"links to {target!r}, which is an absolute path")
    here = list(path.parent.parts)
    for step in PurePosixPath(target).parts:
        if PurePosixPath(*here) in plan.links:
            raise plan.refuse(str(path), f"links to {target!r}, which passes through another link")
        if step != "..":
            here.append(step)
        elif here:
            here.pop()
        else:
            raise plan.refuse(str(path), f"links to {target!r}, which lies outside")


# --- zip ---------------------------------------------------------------------------------------------------------


def _unzip(file: IO[bytes], staging: Path, plan: _Plan) -> None:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        packed = 0
        paths = []
        for entry in entries:
            name = _zip_name(entry)
            path = plan.path(name)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise plan.refuse(name, "is a link or a device, which no zip archive of pictures needs")
            if entry.flag_bits & 1:
                raise plan.refuse(name, "is encrypted")
            packed += entry.compress_size
            if entry.file_size > max(RATIO_FROM, MOST_RATIO * entry.compress_size):
                raise plan.refuse(name, f"unpacks from {entry.compress_size} to {entry.file_size} bytes")
            if name.endswith("/"):
                plan.add_folder(name, path)
            else:
                plan.add_file(name, path, entry.file_size)
            paths.append((entry, path))
        if packed > plan.archive.stat().st_size:
            raise ExtractError(f"{str(plan.archive)!r} is refused: its members overlap")
        plan.finish()
        for entry, path in paths:
            target = staging / path
            if path in plan.folders:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as member, target.open("xb") as copy:
                _copy(member, copy, entry.file_size, str(path))


def _zip_name(entry: zipfile.ZipInfo) -> str:
    """The whole name as written; many programs write UTF-8 without the flag that says so."""
    name = entry.orig_filename
    if entry.flag_bits & 0x800:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return name


def _copy(source: IO[bytes], target: IO[bytes], size: int, name: str) -> None:
    """Exactly `size` bytes: what a header promises is not what a stream must give."""
    left = size
    while data := source.read(CHUNK):
        left -= len(data)
        if left < 0:
            raise zipfile.BadZipFile(f"{name!r} should have {size} bytes and has more")
        target.write(data)
    if left:
        raise zipfile.BadZipFile(f"{name!r} should have {size} bytes and ends {left} before")


# --- both --------------------------------------------------------------------------------------------------------


def _merge(staging: Path, into: Path, plan: _Plan) -> None:
    """Move what was unpacked to where it belongs; `finish` made sure that nothing is in the way."""
    found = [path for path in staging.rglob("*") if path.is_symlink() or not path.is_dir()]
    if len(found) != len(plan.files):
        raise ExtractError(
            f"{str(plan.archive)!r} holds {len(plan.files)} files, but {len(found)} were written: "
            f"the disk of {str(into)!r} does not tell some of their names apart (capitals?)"
        )
    if not into.exists():
        # mkdtemp lets nobody else in; the data may well be for all who share the machine.
        staging.chmod(into.parent.stat().st_mode & 0o777 | 0o700)
        staging.rename(into)
        return
    for folder in plan.folders:
        (into / folder).mkdir(parents=True, exist_ok=True)
    for path in found:
        target = into / path.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)

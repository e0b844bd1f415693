"""Unpack archives of unknown origin: nothing is written outside of the folder, and sizes are limited."""

import lzma
import os
import platform
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, ValueError, OverflowError, RuntimeError),
)


class ExtractError(ValueError):
    """An archive that is damaged, of an unknown kind, or unsafe."""


def extract(archive: Path, into: Path, *, most_bytes: int, most_files: int) -> tuple[int, int]:
    """Unpack a tar (plain, gzip, bzip2, xz) or zip archive, or copy a `.txt`; the first bytes decide.

    Absolute paths, `..`, links that lead outside or that other members pass through, devices, names that exist
    already, and more bytes or members than expected are refused. After an error `into` holds a part of the archive:
    the caller deletes it.

    Returns:
        number of files (links count), and their size in bytes.

    Raises:
        ExtractError: quoting the archive and the member.
        OSError: if the disk is full or cannot be written.
        ImportError: for a tar archive, if this Python's `tarfile` lacks the filter for archives of unknown origin.
    """
    into.mkdir(parents=True, exist_ok=True)
    members = _Members(archive, into, most_bytes, most_files)
    try:
        if archive.suffix.lower() == ".txt":
            shutil.copyfile(archive, members.admit(archive.name, archive.stat().st_size))
        elif zipfile.is_zipfile(archive):
            _unzip(members)
        else:
            _untar(members)
    except ExtractError:
        raise
    except (*_DAMAGE, OSError) as error:
        # Decompressors report damage as an OSError without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ExtractError(
            f"{str(archive)!r} is damaged: {str(error) or type(error).__name__}; fetch it again"
        ) from error
    if not members.files:
        raise ExtractError(f"{str(archive)!r} is refused: it holds no file")
    return members.files, members.size


class _Members:
    """The members of an archive so far, and the rules that the next one must meet."""

    def __init__(self, archive: Path, into: Path, most_bytes: int, most_files: int):
        self.archive, self.into = archive, into
        self.most_bytes, self.most_files = most_bytes, most_files
        self.count = self.files = self.size = 0

    def refuse(self, name: str, why: str) -> ExtractError:
        return ExtractError(f"{str(self.archive)!r} is refused: its member {name!r} {why}")

    def admit(self, name: str, size: int, *, folder: bool = False) -> Path:
        """Return where to write the next member, or raise an `ExtractError`."""
        path, target = PurePosixPath(name), self.into / name
        self.count, self.files, self.size = self.count + 1, self.files + (not folder), self.size + size
        why = ""
        if self.count > self.most_files:
            why = f"is one more than the {self.most_files} that are expected at most"
        elif size < 0 or self.size > self.most_bytes:
            why = f"of {size} bytes brings it above the {self.most_bytes} bytes that are expected at most"
        elif name.startswith("/") or re.match(r"[A-Za-z]:|.*[\\\0]", name) or ".." in path.parts:
            why = "is an absolute path, goes up with '..', or has a backslash or a zero byte"
        elif above := [p for p in path.parents if (self.into / p).is_symlink() or (self.into / p).is_file()]:
            why = f"lies below {str(above[0])!r}, which is a link or a file"
        elif os.path.lexists(target) and not (folder and target.is_dir() and not target.is_symlink()):
            why = "is there already and would be overwritten"
        if why:
            raise self.refuse(name, why)
        return target


def _untar(members: _Members) -> None:
    if not hasattr(tarfile, "data_filter"):
        # Not an ExtractError: the archive is in order, and is not deleted.
        raise ImportError(
            f"{str(members.archive)!r} cannot be unpacked safely by Python {platform.python_version()}, whose tarfile "
            "has no filter for archives of unknown origin: use Python 3.11.4 or later"
        )
    links: list[tuple[str, Path]] = []
    try:
        tar = tarfile.open(members.archive)  # noqa: SIM115 - closed below
    except tarfile.ReadError as error:
        with members.archive.open("rb") as file:
            raise ExtractError(
                f"{str(members.archive)!r} is damaged, or neither a tar (plain, gzip, bzip2, xz) nor a zip archive: "
                f"it begins with {file.read(24)!r}"
            ) from error
    with tar:
        for member in tar:
            target = members.admit(member.name, member.size, folder=member.isdir())
            if member.issym() or member.islnk():
                links.append((member.name, target))
            linked = members.into / member.linkname
            if member.islnk() and (linked.is_symlink() or not linked.is_file()):
                raise members.refuse(member.name, f"is a hard link to {member.linkname!r}, no file before it")
            try:
                tar.extract(member, members.into, filter="data")
            except tarfile.FilterError as error:
                raise members.refuse(member.name, f"is unsafe: {error}") from error
        # tarfile takes a damaged header for the end of the archive.
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)
        if any(tar.fileobj.read(512)):
            raise tarfile.ReadError(f"unreadable after {members.count} members")
    # A chain of links can lead outside although each link, when it was made, did not.
    for name, link in links:
        if not link.resolve().is_relative_to(members.into.resolve()):
            raise members.refuse(name, "is a link that leads outside")


def _unzip(members: _Members) -> None:
    with zipfile.ZipFile(members.archive) as archive:
        for entry in archive.infolist():
            target = members.admit(entry.filename, entry.file_size, folder=entry.is_dir())
            # Links in a zip archive become files with the name of their target.
            (target if entry.is_dir() else target.parent).mkdir(parents=True, exist_ok=True)
            if entry.is_dir():
                continue
            with archive.open(entry) as source, target.open("xb") as copy:
                shutil.copyfileobj(source, copy)
            if (found := target.stat().st_size) != entry.file_size:
                raise zipfile.BadZipFile(
                    f"{entry.filename!r} should have {entry.file_size} bytes and has {found}"
                )

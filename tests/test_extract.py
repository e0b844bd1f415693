"""Unpacking: honest archives whole, malicious ones not at all."""

import importlib
import io
import os
import stat
import struct
import tarfile
import zipfile

import pytest

from spgca_lab.data.extract import ExtractError, extract

# By name: the package may well export the function under the module's name.
module = importlib.import_module("spgca_lab.data.extract")

LIMITS = {"most_bytes": 10**6, "most_files": 100}


def member(name, content=b"x", kind=tarfile.REGTYPE, link="", size=None):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = (len(content) if kind == tarfile.REGTYPE else 0) if size is None else size
    return info, content


def tar_of(path, *members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def zip_of(path, entries, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def tree(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def box(tmp_path):
    """A folder to unpack into lies deep inside, so that whatever gets out is seen."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    return tmp_path


def refused(box, archive, message, **limits):
    before = tree(box)
    with pytest.raises(ExtractError, match=message) as caught:
        extract(archive, box / "a" / "b" / "out", **(LIMITS | limits))
    assert archive.name in str(caught.value)
    assert tree(box) == before


@pytest.mark.parametrize(
    ("suffix", "mode"), [("tar", "w"), ("tgz", "w:gz"), ("tbz", "w:bz2"), ("txz", "w:xz")]
)
@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_every_kind_of_tar_comes_out_whole(tmp_path, suffix, mode, kind):
    long = "deep/" * 15 + "picture " + "é" * 20 + ".jpg"
    contents = {"./a/1.jpg": os.urandom(70_000), long: b"long", "empty.txt": b""}
    path = tmp_path / f"set.{suffix}"
    with tarfile.open(path, mode, format=kind) as tar:
        tar.addfile(member("./a", kind=tarfile.DIRTYPE)[0])
        for name, content in contents.items():
            info, _ = member(name, content)
            info.mode = 0o4777
            tar.addfile(info, io.BytesIO(content))
    got = extract(path, tmp_path / "out", **LIMITS)
    assert got == (3, sum(map(len, contents.values())))
    assert {name: (tmp_path / "out" / name).read_bytes() for name in contents} == contents
    assert (
        stat.S_IMODE((tmp_path / "out" / "empty.txt").stat().st_mode) == 0o755
    )  # neither setuid nor for all to write
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == stat.S_IMODE(tmp_path.stat().st_mode)
    assert tree(tmp_path) >= {"out", path.name}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_tar_from_before_posix_and_links_inside(tmp_path):
    path = tar_of(
        tmp_path / "old.tar",
        member("v/data.txt", b"12345"),
        member("v/same.txt", kind=tarfile.LNKTYPE, link="v/data.txt"),
        member("w/up.txt", kind=tarfile.SYMTYPE, link="../v/data.txt"),
    )
    raw = bytearray(path.read_bytes())
    for start in (0, 1024, 1536):  # the magic goes, and with it its part of the checksum
        block = raw[start : start + 512]
        block[257:265] = bytes(8)
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        raw[start : start + 512] = block
    path.write_bytes(raw)
    assert extract(path, tmp_path / "out", **LIMITS).files == 3
    for name in ("v/data.txt", "v/same.txt", "w/up.txt"):
        assert (tmp_path / "out" / name).read_bytes() == b"12345"


def test_a_zip_with_names_in_utf8_with_and_without_the_flag(tmp_path):
    path = zip_of(tmp_path / "set.zip", [("ants/", b""), ("ants/é.jpg", b"1" * 5000), ("ants/ab.jpg", b"22")])
    extract(path, tmp_path / "one", **LIMITS)
    assert (tmp_path / "one/ants/é.jpg").read_bytes() == b"1" * 5000
    # As some programs write it: the bytes of "ü" without the flag that tells their encoding.
    raw = path.read_bytes().replace(b"ab.jpg", "ü.jpg".encode())
    path.write_bytes(raw)
    extract(path, tmp_path / "two", **LIMITS)
    assert tree(tmp_path / "two") == {"ants", "ants/é.jpg", "ants/ü.jpg"}
    path.write_bytes(raw.replace("ü".encode(), b"\xff\xfe"))
    assert extract(path, tmp_path / "three", **LIMITS).files == 2


def test_a_list_is_copied_and_several_archives_share_a_folder(tmp_path):
    (tmp_path / "TrainImages.txt").write_text("bar/1.jpg\n")
    tar_of(tmp_path / "one.tar", member("Images/bar/1.jpg"))
    tar_of(tmp_path / "two.tar", member("Images", kind=tarfile.DIRTYPE), member("Images/bar/2.jpg"))
    for name in ("one.tar", "TrainImages.txt", "two.tar"):
        extract(tmp_path / name, tmp_path / "out", **LIMITS)
    expected = {"Images", "Images/bar", "Images/bar/1.jpg", "Images/bar/2.jpg", "TrainImages.txt"}
    assert tree(tmp_path / "out") == expected
    with pytest.raises(ExtractError, match=r"one\.tar.*'Images/bar/1.jpg' is there already"):
        extract(tmp_path / "one.tar", tmp_path / "out", **LIMITS)
    with pytest.raises(ExtractError, match=r"'TrainImages.txt' brings it above the 3 bytes"):
        extract(tmp_path / "TrainImages.txt", tmp_path / "new", most_bytes=3, most_files=1)
    assert tree(tmp_path / "out") == expected
    assert not (tmp_path / "new").exists()


SYM, HARD = {"kind": tarfile.SYMTYPE}, {"kind": tarfile.LNKTYPE}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("../out.txt")], r"'\.\./out\.txt' goes up with '\.\.'"),
        ([member("a/../../out.txt")], r"goes up with"),
        ([member("..", kind=tarfile.DIRTYPE)], r"goes up with"),
        ([member("/tmp/out.txt")], r"'/tmp/out\.txt' is an absolute path"),
        ([member("C:\\out.txt")], r"is an absolute path"),
        ([member("l", link="../../x", **SYM)], r"'l' links to '\.\./\.\./x', which lies outside"),
        ([member("d/l", link="../..", **SYM)], r"which lies outside"),
        ([member("l", link="/etc/passwd", **SYM)], r"'/etc/passwd', which is an absolute path"),
        ([member("l", link=".", **SYM), member("l/x")], r"'l/x' passes through the link 'l'"),
        ([member("l/x"), member("l", link=".", **SYM)], r"passes through the link 'l'"),
        # Each of the two looks harmless alone: e/.. is the folder above where e leads to.
        (
            [member("a/b/c"), member("e", link="a", **SYM), member("f", link="e/../x", **SYM)],
            r"'e/\.\./x', which passes through another link",
        ),
        ([member("h", link="../../x", **HARD)], r"'h' links to '\.\./\.\./x', which goes up with"),
        ([member("h", link="/etc/passwd", **HARD)], r"absolute path"),
        ([member("h", link="later", **HARD), member("later")], r"is no file before it"),
        ([member("s", link="x", **SYM), member("h", link="s", **HARD)], r"is no file before it"),
        ([member("dev", kind=tarfile.CHRTYPE)], r"'dev' is a device"),
        ([member("dev", kind=tarfile.BLKTYPE)], r"is a device"),
        ([member("pipe", kind=tarfile.FIFOTYPE)], r"a pipe"),
        ([member("a", b"1"), member("./a", b"2")], r"'\./a' occurs twice"),
        ([member("a"), member("a/b")], r"'a/b' lies below 'a', which is a file"),
        ([member("a"), member("a", kind=tarfile.DIRTYPE)], r"both a file and a folder"),
        ([member("d", kind=tarfile.DIRTYPE)], r"holds no file"),
        ([member("a" * 300 + "/\0b")], r"zero byte"),
    ],
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_malicious_tar_is_refused_and_leaves_nothing(box, members, message, mode):
    # What is in order stands first: it must not be there either.
    tar_of(box / "evil.tar", member("fine.txt", b"fine"), *members, mode=mode)
    if "holds no file" in message:
        tar_of(box / "evil.tar", *members, mode=mode)
    refused(box, box / "evil.tar", message)


def test_a_tar_above_the_limits_is_refused(box):
    path = tar_of(box / "big.tar", *(member(str(i), bytes(100)) for i in range(20)))
    assert extract(path, box / "fits", most_bytes=2000, most_files=20) == (20, 2000)
    refused(box, path, r"'19' is one more than the 19 that", most_files=19)
    refused(box, path, r"'19' brings it above the 1999 bytes", most_bytes=1999)
    linked = [member("a", bytes(600)), *(member(str(i), link="a", **HARD) for i in range(9))]
    refused(box, tar_of(box / "links.tar", *linked), r"above the 5000 bytes", most_bytes=5000)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_bomb_is_refused_by_its_first_header(box, mode, monkeypatch):
    bomb = tar_of(box / "bomb.tar", member("zeros", bytes(40 << 20)), mode=mode)
    read = []
    call = module._Reader._call

    def counted(self, method, *arguments):
        result = call(self, method, *arguments)
        read.append(self.tell())
        return result

    monkeypatch.setattr(module._Reader, "_call", counted)
    assert bomb.stat().st_size < 100_000
    refused(box, bomb, r"'zeros' brings it above the 1000000 bytes")
    assert max(read) < 10_000


@pytest.mark.parametrize("kind", [b"x", b"L"])
def test_a_bomb_in_a_header_is_refused(box, kind):
    """Names too long for a header stand in one of their own, which tarfile reads whole into memory."""
    content = bytes(40 << 20)
    info = tarfile.TarInfo("name")
    info.type, info.size = kind, len(content)
    with tarfile.open(box / "bomb.tgz", "w:gz") as tar:
        tar.fileobj.write(info.tobuf(tarfile.GNU_FORMAT) + content)
    refused(box, box / "bomb.tgz", r"one of its headers is of \d+ bytes")


def test_a_tar_that_lies_about_sizes_is_refused(box):
    negative, _ = member("loop", b"", size=0)
    block = bytearray(negative.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 10 + struct.pack(">h", -512)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    tar_of(box / "evil.tar", member("fine"))
    whole = (box / "evil.tar").read_bytes()
    (box / "evil.tar").write_bytes(whole[:1024] + bytes(block) + bytes(2048))
    refused(box, box / "evil.tar", r"'loop' says that it has -512 bytes")
    (box / "short.tar").write_bytes(member("big", b"", size=50_000)[0].tobuf() + bytes(100))
    refused(box, box / "short.tar", "damaged: unexpected end of data; fetch it again")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_damaged_tar_is_refused(box, mode):
    path = tar_of(box / "set.tar", *(member(f"{i}.bin", os.urandom(5000)) for i in range(8)), mode=mode)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(box, path, "is damaged")
    broken = bytearray(whole)
    at = 3 * (512 + 5120) if mode == "w" else len(whole) // 2
    broken[at : at + 40] = b"?" * 40
    path.write_bytes(broken)
    refused(box, path, "is damaged")


def test_what_is_no_archive_is_named_by_how_it_begins(box):
    (box / "set.tgz").write_text("<!DOCTYPE html><html>Please log in</html>" * 30)
    refused(box, box / "set.tgz", r"neither a tar .* nor a zip archive: it begins with b'<!DOCTYPE html>")
    (box / "empty.tar").write_bytes(b"")
    refused(box, box / "empty.tar", "it begins with b''")


def linked(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("../out.txt", b"")], r"'\.\./out\.txt' goes up"),
        ([("a/../../out.txt", b"")], r"goes up"),
        ([("/tmp/out.txt", b"")], r"absolute path"),
        ([("C:/out.txt", b"")], r"absolute path"),
        ([("a\\out.txt", b"")], r"backslash"),
        ([("..\\out.txt", b"")], r"backslash"),
        ([("\\\\host\\out.txt", b"")], r"absolute path"),
        ([(linked("link", stat.S_IFLNK | 0o777), "/etc")], r"'link' is a link or a device"),
        ([(linked("dev", stat.S_IFCHR | 0o777), "")], r"'dev' is a link or a device"),
        ([("a", b"1"), ("./a", b"2")], r"'\./a' occurs twice"),
        ([("a", b""), ("a/b", b"")], r"lies below 'a'"),
        ([("a/", b"")], r"holds no file"),
    ],
)
def test_a_malicious_zip_is_refused_and_leaves_nothing(box, entries, message):
    first = [] if "holds no file" in message else [("fine.txt", b"fine")]
    refused(box, zip_of(box / "evil.zip", first + entries), message)


def test_a_zip_above_the_limits_is_refused(box):
    path = zip_of(box / "big.zip", [(str(i), bytes(100)) for i in range(20)])
    assert extract(path, box / "fits", most_bytes=2000, most_files=20) == (20, 2000)
    refused(box, path, r"one more than the 19", most_files=19)
    refused(box, path, r"above the 1999 bytes", most_bytes=1999)
    bomb = zip_of(box / "bomb.zip", [("zeros", bytes(20 << 20))])
    refused(box, bomb, r"'zeros' unpacks from \d+ to 20971520 bytes", most_bytes=10**9)


def test_a_zip_that_lies_is_refused(box):
    body = os.urandom(3000)
    path = zip_of(box / "set.zip", [("a.bin", body), ("b.bin", bytes(50))])
    whole = path.read_bytes()
    # One byte less than is there: the directory at the end, and the header before the file.
    path.write_bytes(whole.replace(struct.pack("<L", 3000), struct.pack("<L", 2900)))
    refused(box, path, "is damaged: Bad CRC-32")
    path.write_bytes(whole.replace(struct.pack("<L", 3000), struct.pack("<L", 3100)))
    refused(box, path, "is damaged: .*ends 100 before")
    central = whole.index(b"PK\x01\x02")
    encrypted = bytearray(whole)
    encrypted[6] |= 1
    encrypted[central + 8] |= 1
    path.write_bytes(encrypted)
    refused(box, path, r"'a\.bin' is encrypted")
    # Both entries of the directory at the same bytes, as the quoted-overlap bombs do.
    second = whole.index(b"PK\x01\x02", central + 4)
    overlap = bytearray(whole)
    overlap[second + 20 : second + 24] = overlap[central + 20 : central + 24]
    path.write_bytes(overlap)
    refused(box, path, "members overlap")
    path.write_bytes(whole[:-30])
    refused(box, path, "is damaged")


def test_names_that_the_disk_does_not_tell_apart_are_noticed(box, monkeypatch):
    """As on disks that ignore capitals: the second file of two takes the first one's place."""
    path = tar_of(box / "set.tar", member("a.jpg", b"1"), member("A.jpg", b"2"))
    extractall = tarfile.TarFile.extractall

    def lossy(tar, folder, *arguments, **options):
        extractall(tar, folder, *arguments, **options)
        (folder / "A.jpg").replace(folder / "a.jpg")

    monkeypatch.setattr(tarfile.TarFile, "extractall", lossy)
    refused(box, path, "holds 2 files, but 1 were written")


def test_a_python_without_the_data_filter_is_to_be_updated(box, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    path = tar_of(box / "set.tar", member("a"))
    before = tree(box)
    with pytest.raises(ExtractError, match=r"update it to 3\.11\.4"):
        extract(path, box / "out", **LIMITS)
    assert tree(box) == before


def test_a_full_disk_is_told_before_anything_is_written(box, monkeypatch):
    path = tar_of(box / "set.tar", member("a", bytes(5000)))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _path: Usage(4999))
    before = tree(box)
    with pytest.raises(OSError, match=r"set\.tar' unpacks to 5000 bytes.* has 4999 left"):
        extract(path, box / "out", **LIMITS)
    assert tree(box) == before
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _path: Usage(5000))
    assert extract(path, box / "out", **LIMITS).files == 1


class Usage:
    def __init__(self, free):
        self.free = free

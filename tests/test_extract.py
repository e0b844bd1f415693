"""Unpacking: honest archives whole, malicious ones not at all."""

import io
import os
import shutil
import stat
import struct
import tarfile
import zipfile

import pytest

from spgca_lab.data.extract import ExtractError, extract

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
    before, out = tree(box), box / "a" / "b" / "out"
    with pytest.raises(ExtractError, match=message) as caught:
        extract(archive, out, **(LIMITS | limits))
    assert archive.name in str(caught.value)
    shutil.rmtree(out)  # as its caller does
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
    assert extract(path, tmp_path / "out", **LIMITS)[0] == 3
    for name in ("v/data.txt", "v/same.txt", "w/up.txt"):
        assert (tmp_path / "out" / name).read_bytes() == b"12345"


def test_a_python_without_the_filter_unpacks_no_tar_and_says_which_does(tmp_path, monkeypatch):
    path = tar_of(tmp_path / "set.tar", member("a.txt"))
    monkeypatch.delattr(tarfile, "data_filter")
    monkeypatch.delattr(tarfile, "FilterError")
    with pytest.raises(
        ImportError, match=r"set\.tar' cannot be unpacked safely .*: use Python 3\.11\.4 or later"
    ):
        extract(path, tmp_path / "out", **LIMITS)
    assert tree(tmp_path / "out") == set()
    assert extract(zip_of(tmp_path / "set.zip", [("a", b"1")]), tmp_path / "out", **LIMITS) == (1, 1)


def test_a_zip_comes_out_whole(tmp_path):
    path = zip_of(tmp_path / "set.zip", [("ants/", b""), ("ants/é.jpg", b"1" * 5000), ("ants/ab.jpg", b"22")])
    assert extract(path, tmp_path / "out", **LIMITS) == (2, 5002)
    assert (tmp_path / "out/ants/é.jpg").read_bytes() == b"1" * 5000
    assert tree(tmp_path / "out") == {"ants", "ants/é.jpg", "ants/ab.jpg"}


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
    with pytest.raises(ExtractError, match=r"'TrainImages.txt' of 10 bytes brings it above the 3 bytes"):
        extract(tmp_path / "TrainImages.txt", tmp_path / "new", most_bytes=3, most_files=1)
    assert tree(tmp_path / "out") == expected
    assert tree(tmp_path / "new") == set()


UNSAFE = r"is an absolute path, goes up with '\.\.', or has a backslash or a zero byte"
SYM, HARD = {"kind": tarfile.SYMTYPE}, {"kind": tarfile.LNKTYPE}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("../out.txt")], r"'\.\./out\.txt' is an absolute path, goes up with '\.\.'"),
        ([member("a/../../out.txt")], UNSAFE),
        ([member("..", kind=tarfile.DIRTYPE)], UNSAFE),
        ([member("/tmp/out.txt")], UNSAFE),
        ([member("C:\\out.txt")], UNSAFE),
        ([member("l", link="../../x", **SYM)], r"'l' is unsafe: .*outside the destination"),
        ([member("d/l", link="../..", **SYM)], r"outside the destination"),
        ([member("l", link="/etc/passwd", **SYM)], r"'l' is unsafe: .* absolute path"),
        ([member("l", link=".", **SYM), member("l/x")], r"'l/x' lies below 'l', which is a link"),
        ([member("l/x"), member("l", link=".", **SYM)], r"'l' is there already"),
        # Each of the two looks harmless when it is made; together they lead outside.
        (
            [member("a/b"), member("d/f", link="e/../../x", **SYM), member("d/e", link="..", **SYM)],
            r"'d/f' is a link that leads outside",
        ),
        ([member("h", link="../../x", **HARD)], r"'\.\./\.\./x', no file before it"),
        ([member("h", link="/etc/passwd", **HARD)], r"'h' is unsafe: .*absolute"),
        ([member("h", link="later", **HARD), member("later")], r"no file before it"),
        ([member("s", link="fine.txt", **SYM), member("h", link="s", **HARD)], r"no file before it"),
        ([member("dev", kind=tarfile.CHRTYPE)], r"'dev' is unsafe: .*special file"),
        ([member("dev", kind=tarfile.BLKTYPE)], r"special file"),
        ([member("pipe", kind=tarfile.FIFOTYPE)], r"special file"),
        ([member("a", b"1"), member("./a", b"2")], r"'\./a' is there already"),
        ([member("a"), member("a/b")], r"'a/b' lies below 'a', which is a link or a file"),
        ([member("a"), member("a", kind=tarfile.DIRTYPE)], r"'a' is there already"),
        ([member("d", kind=tarfile.DIRTYPE)], r"holds no file"),
        ([member("a" * 300 + "/\0b")], UNSAFE),
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
    refused(box, path, r"'19' of 100 bytes brings it above the 1999 bytes", most_bytes=1999)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_bomb_is_refused_by_its_first_header(box, mode):
    bomb = tar_of(box / "bomb.tar", member("zeros", bytes(40 << 20)), mode=mode)
    assert bomb.stat().st_size < 100_000
    refused(box, bomb, r"'zeros' of 41943040 bytes brings it above the 1000000 bytes")


def test_a_tar_that_lies_about_sizes_is_refused(box):
    negative, _ = member("loop", b"", size=0)
    block = bytearray(negative.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 10 + struct.pack(">h", -512)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    tar_of(box / "evil.tar", member("fine"))
    whole = (box / "evil.tar").read_bytes()
    (box / "evil.tar").write_bytes(whole[:1024] + bytes(block) + bytes(2048))
    refused(box, box / "evil.tar", r"'loop' of -512 bytes")
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


def test_a_link_in_a_zip_becomes_a_file(box):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    extract(zip_of(box / "set.zip", [(info, "/etc")]), box / "out", **LIMITS)
    assert not (box / "out" / "link").is_symlink()
    assert (box / "out" / "link").read_text() == "/etc"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("../out.txt", b"")], UNSAFE),
        ([("a/../../out.txt", b"")], UNSAFE),
        ([("/tmp/out.txt", b"")], UNSAFE),
        ([("C:/out.txt", b"")], UNSAFE),
        ([("a\\out.txt", b"")], UNSAFE),
        ([("..\\out.txt", b"")], UNSAFE),
        ([("\\\\host\\out.txt", b"")], UNSAFE),
        ([("a", b"1"), ("./a", b"2")], r"'\./a' is there already"),
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
    refused(
        box,
        zip_of(box / "bomb.zip", [("zeros", bytes(20 << 20))]),
        r"'zeros' of 20971520 bytes brings it above",
    )


def test_a_zip_that_lies_is_refused(box):
    body = os.urandom(3000)
    path = zip_of(box / "set.zip", [("a.bin", body), ("b.bin", bytes(50))])
    whole = path.read_bytes()
    # One byte less than is there: the directory at the end, and the header before the file.
    path.write_bytes(whole.replace(struct.pack("<L", 3000), struct.pack("<L", 2900)))
    refused(box, path, "is damaged: Bad CRC-32")
    path.write_bytes(whole.replace(struct.pack("<L", 3000), struct.pack("<L", 3100)))
    refused(box, path, "is damaged: .*should have 3100 bytes and has 3000")
    central = whole.index(b"PK\x01\x02")
    encrypted = bytearray(whole)
    encrypted[6] |= 1
    encrypted[central + 8] |= 1
    path.write_bytes(encrypted)
    refused(box, path, r"'a\.bin'.* is encrypted")
    path.write_bytes(whole[:-30])
    refused(box, path, "is damaged")

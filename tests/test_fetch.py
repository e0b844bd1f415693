"""Fetching data sets: the real code against a real server with every fault that servers have."""

import hashlib
import io
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from spgca_lab.cli import main
from spgca_lab.data import download as wire
from spgca_lab.data import install as module
from spgca_lab.data.extract import ExtractError
from spgca_lab.data.install import FetchError, fetch, files_root, fingerprint, read_manifest
from tests.archives import BODY, PICTURES, REPO, ZIP, contents, entries, republish, sha256, tarred, zipped
from tests.file_server import file_server


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No proxy between the test and this machine, no data set of the user's, and no waiting between tries."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("SPGCA_LAB_DATA", raising=False)
    monkeypatch.setattr(wire, "WAIT", 0.001)


@pytest.fixture
def server():
    with file_server() as state:
        state.files[ZIP] = BODY
        state.tags[ZIP] = '"one"'
        yield state


@pytest.fixture
def publish(server, monkeypatch):
    """Publish a set's archives at the server, with the given fields."""
    at_the_server = partial(republish, monkeypatch, server.url)
    at_the_server()
    return at_the_server


# --- All goes well -----------------------------------------------------------------------------------------------


def test_a_set_is_fetched_once_and_its_manifest_says_what_it_is(publish, server, tmp_path, capfd):
    root = fetch("ants_bees", tmp_path)
    assert root == files_root("ants_bees", tmp_path) == tmp_path / "ants_bees" / "files"
    assert contents(root) == PICTURES
    assert entries(tmp_path) == {"ants_bees"}
    manifest = read_manifest("ants_bees", tmp_path)
    assert (manifest.folder, manifest.verified, manifest.files) == ("ants_bees", True, 8)
    stored = json.loads((tmp_path / "ants_bees" / "manifest.json").read_text())
    assert stored["archives"] == [
        {"file": ZIP, "size": len(BODY), "sha256": sha256(BODY), "verified": True, "source": server.url + ZIP}
    ]
    assert fingerprint("ants_bees", tmp_path) == sha256(sha256(BODY).encode())[:12]
    assert "100%" in capfd.readouterr().err  # the progress bar
    assert fetch("ants_bees", tmp_path) == root
    assert "installed already" in capfd.readouterr().err
    assert server.asked == [(ZIP, None, None)]


def test_a_kept_archive_serves_again_and_fresh_replaces_the_set(publish, server, tmp_path):
    root = fetch("ants_bees", tmp_path, keep=True, progress=False)
    (root / "scribble.txt").write_text("x")
    fetch("ants_bees", tmp_path, fresh=True, progress=False)
    assert contents(root) == PICTURES
    assert len(server.asked) == 1
    assert entries(tmp_path) == {"ants_bees"}  # without keep, the archive goes


def test_a_mirror_serves_the_same_names_and_is_checked_all_the_same(publish, server, tmp_path):
    server.files["elsewhere/" + ZIP] = BODY
    root = fetch("ants_bees", tmp_path, mirror=server.url + "elsewhere/", progress=False)
    assert contents(root) == PICTURES
    assert server.asked == [("elsewhere/" + ZIP, None, None)]
    server.files["elsewhere/" + ZIP] = BODY[:-1] + b"?"
    with pytest.raises(FetchError, match=r"elsewhere/.* is refused: its SHA256"):
        fetch("ants_bees", tmp_path, mirror=server.url + "elsewhere", fresh=True, progress=False)
    assert contents(root) == PICTURES


def test_two_sets_of_one_folder_are_fetched_once(server, publish, tmp_path):
    file = "256_ObjectCategories.tar"
    server.files[file] = tarred({"256_ObjectCategories/001.ak47/001_0001.jpg": b"x"})
    for name in ("caltech256_30", "caltech256_60"):
        publish(name, file, server.files[file], checksum=f"md5:{hashlib.md5(server.files[file]).hexdigest()}")
    root = fetch("caltech256_30", tmp_path, allow_http=True, progress=False)
    assert fetch("caltech256_60", tmp_path, allow_http=True, progress=False) == root
    assert len(server.asked) == 1
    assert read_manifest("caltech256_60", tmp_path).verified
    assert fingerprint("caltech256_30", tmp_path) == fingerprint("caltech256_60", tmp_path) is not None


# --- Broken transfers --------------------------------------------------------------------------------------------


def test_a_transfer_that_breaks_off_goes_on_where_it_ended(publish, server, tmp_path):
    server.cuts = [100_000, 150_000, None]
    assert contents(fetch("ants_bees", tmp_path, progress=False)) == PICTURES
    assert server.asked == [
        (ZIP, None, None),
        (ZIP, "bytes=100000-", '"one"'),
        (ZIP, "bytes=250000-", '"one"'),
    ]
    assert server.sent == [100_000, 150_000, len(BODY) - 250_000]


def test_progress_begins_the_count_of_tries_anew(publish, server, tmp_path):
    server.cuts = [20_000] * (3 * wire.TRIES) + [None]
    assert contents(fetch("ants_bees", tmp_path, progress=False)) == PICTURES
    assert len(server.asked) == 3 * wire.TRIES + 1


def test_a_server_that_never_sends_more_is_given_up_and_the_part_is_kept(publish, server, tmp_path):
    server.cuts = [100_000] + [0] * 50
    with pytest.raises(FetchError) as caught:
        fetch("ants_bees", tmp_path, progress=False)
    for part in (
        server.url + ZIP,
        f"in {wire.TRIES} tries",
        "100000 bytes are there",
        "--mirror",
        "data import",
    ):
        assert part in str(caught.value)
    assert (tmp_path / "ants_bees.downloads" / f"{ZIP}.part").read_bytes() == BODY[:100_000]
    assert len(server.asked) == wire.TRIES
    server.cuts = []
    assert contents(fetch("ants_bees", tmp_path, progress=False)) == PICTURES
    assert server.ranges_asked[-1] == "bytes=100000-"


def test_a_server_without_ranges_starts_over(publish, server, tmp_path):
    server.ranges = False
    server.cuts = [100_000, None]
    assert contents(fetch("ants_bees", tmp_path, progress=False)) == PICTURES
    assert server.sent == [100_000, len(BODY)]


def test_a_server_that_names_no_version_is_not_asked_for_a_part(publish, server, tmp_path):
    server.tags.clear()
    server.cuts = [100_000, None]
    assert contents(fetch("ants_bees", tmp_path, progress=False)) == PICTURES
    assert server.ranges_asked == [None, None]


def test_a_weak_tag_does_not_vouch_for_bytes_but_a_date_does(publish, server, tmp_path):
    server.tags[ZIP] = 'W/"one"'
    server.modified = "Wed, 21 Oct 2015 07:28:00 GMT"
    server.cuts = [100_000, None]
    assert contents(fetch("ants_bees", tmp_path, progress=False)) == PICTURES
    assert server.asked[1] == (ZIP, "bytes=100000-", server.modified)


@pytest.mark.parametrize("honoured", [True, False])
def test_a_file_that_changes_between_two_tries_is_fetched_whole(publish, server, tmp_path, honoured):
    """Also from a server that sends the rest of the new file after the beginning of the old one."""
    server.if_range = honoured
    server.files[ZIP] = b"an older file " * 30_000
    server.cuts = [100_000] + [0] * 50
    with pytest.raises(FetchError):
        wire.download(server.url + ZIP, tmp_path / "ants_bees.downloads" / ZIP, progress=False)
    server.files[ZIP], server.tags[ZIP], server.cuts = BODY, '"two"', []
    before = len(server.asked)
    assert contents(fetch("ants_bees", tmp_path, progress=False)) == PICTURES
    assert server.ranges_asked[before:] == ["bytes=100000-"] + [None] * (not honoured)


def test_a_part_of_another_address_is_not_gone_on_with(publish, server, tmp_path):
    server.files["old"] = b"?" * 400_000
    server.tags["old"] = '"one"'
    server.cuts = [100_000] + [0] * 50
    with pytest.raises(FetchError):
        wire.download(server.url + "old", tmp_path / "ants_bees.downloads" / ZIP, progress=False)
    server.cuts = []
    assert contents(fetch("ants_bees", tmp_path, progress=False)) == PICTURES
    assert server.ranges_asked[-1] is None


def test_a_part_longer_than_the_file_starts_over(server, tmp_path):
    """What 416 is for; and where no size is published, it also tells that a part is already whole."""
    target = tmp_path / "a.bin"
    server.files["a.bin"], server.tags["a.bin"] = b"12345", '"a"'
    note = [server.url + "a.bin", "ETag", '"a"']
    for part, answers in ((b"12345678", 2), (b"12345", 1)):
        server.asked.clear()
        (tmp_path / "a.bin.part").write_bytes(part)
        (tmp_path / "a.bin.json").write_text(json.dumps(note))
        wire.download(server.url + "a.bin", target, progress=False)
        assert target.read_bytes() == b"12345"
        assert len(server.asked) == answers
        assert not (tmp_path / "a.bin.part").exists()


def test_a_connection_that_ends_early_without_a_length_is_noticed(publish, server, tmp_path):
    server.lengths[ZIP] = None
    server.cuts = [100_000, None]
    assert contents(fetch("ants_bees", tmp_path, progress=False)) == PICTURES
    assert server.ranges_asked == [None, "bytes=100000-"]


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(publish, server, tmp_path):
    server.busy = wire.TRIES - 1
    assert contents(fetch("ants_bees", tmp_path, progress=False)) == PICTURES
    server.busy = wire.TRIES
    with pytest.raises(FetchError, match="answers 503 Service Unavailable"):
        fetch("ants_bees", tmp_path, fresh=True, progress=False)
    server.files.clear()
    server.asked.clear()
    with pytest.raises(FetchError, match=r"hymenoptera_data\.zip .*answers 404 Not Found.*data import"):
        fetch("ants_bees", tmp_path, fresh=True, progress=False)
    assert len(server.asked) == 1
    assert contents(files_root("ants_bees", tmp_path)) == PICTURES  # the old one is still there


def test_nobody_there_gives_an_error_that_says_what_helps(tmp_path):
    with pytest.raises(
        FetchError, match=r"http://127\.0\.0\.1:9/.*refused.*HTTPS_PROXY.*--mirror.*data import"
    ):
        fetch("ants_bees", tmp_path, mirror="http://127.0.0.1:9", progress=False)  # the discard port
    with pytest.raises(FetchError, match="is no address that can be fetched"):
        wire.download("http://127.0.0.1:port/a.bin", tmp_path / "a.bin", progress=False)


def test_a_killed_process_leaves_a_part_that_the_same_command_goes_on_from(server, tmp_path):
    words = ["data", "fetch", "ants_bees", "--unverified", "--allow-http", "--mirror", server.url]
    words += ["--home", str(tmp_path)]
    server.stall = 5_000  # less than a file's buffer
    command = [sys.executable, "-m", "spgca_lab", *words]
    part = tmp_path / "ants_bees.downloads" / f"{ZIP}.part"
    with subprocess.Popen(command, cwd=REPO, stderr=subprocess.DEVNULL) as child:
        until = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size == 5_000):
            assert time.monotonic() < until
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    server.go.set()
    server.stall = None
    assert child.returncode == -signal.SIGKILL
    assert read_manifest("ants_bees", tmp_path) is None
    assert main(words) == 0
    assert server.asked == [(ZIP, None, None), (ZIP, "bytes=5000-", '"one"')]
    assert server.sent[-1] == len(BODY) - 5_000
    assert contents(files_root("ants_bees", tmp_path)) == PICTURES
    assert entries(tmp_path) == {"ants_bees"}


def test_ctrl_c_keeps_the_part(publish, server, tmp_path, monkeypatch):
    class Interrupted(wire.tqdm):
        def update(self, n=1):
            super().update(n)
            if self.n > 100_000:
                raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(wire, "tqdm", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch("ants_bees", tmp_path)
    have = (tmp_path / "ants_bees.downloads" / f"{ZIP}.part").stat().st_size
    assert have > 100_000
    assert contents(fetch("ants_bees", tmp_path, progress=False)) == PICTURES
    assert server.ranges_asked == [None, f"bytes={have}-"]


# --- Wrong files -------------------------------------------------------------------------------------------------


def test_another_size_is_refused_before_it_is_fetched(publish, server, tmp_path):
    server.files[ZIP] = BODY + b"more"
    with pytest.raises(
        FetchError, match=rf"has {len(BODY) + 4} bytes, and {len(BODY)} are published.*--unverified"
    ):
        fetch("ants_bees", tmp_path, progress=False)
    assert not (tmp_path / "ants_bees.downloads" / f"{ZIP}.part").exists()
    assert entries(tmp_path) <= {"ants_bees.downloads"}


def test_a_false_length_is_found_out(publish, server, tmp_path):
    """Announced as the published size, but more bytes come, or fewer."""
    server.files[ZIP] = BODY + b"more"
    server.lengths[ZIP] = None
    with pytest.raises(FetchError, match=rf"sends more than the {len(BODY)} bytes expected"):
        fetch("ants_bees", tmp_path, progress=False)
    assert not (tmp_path / "ants_bees.downloads" / f"{ZIP}.part").exists()
    server.files[ZIP], server.lengths[ZIP] = BODY[:-10], len(BODY)
    with pytest.raises(FetchError, match=rf"has {len(BODY) - 10} bytes, and {len(BODY)} are published"):
        fetch("ants_bees", tmp_path, progress=False)


def test_a_server_that_never_ends_is_hung_up_on(publish, server, tmp_path):
    server.files[ZIP] = BODY + bytes(10**6)
    server.lengths[ZIP] = None
    server.stall = len(BODY) + 10**5  # the rest would come after a minute
    with pytest.raises(FetchError, match="sends more than"):
        fetch("ants_bees", tmp_path, progress=False)
    assert server.sent == []


@pytest.mark.parametrize("length", [20 * 2**20, None])
def test_a_list_of_unknown_size_has_a_limit_too(server, tmp_path, length):
    server.files["TrainImages.txt"] = bytes(20 * 2**20)
    server.lengths["TrainImages.txt"] = length
    with pytest.raises(FetchError, match=r"TrainImages\.txt .*more than the 16777216"):
        wire.download(
            server.url + "TrainImages.txt",
            tmp_path / "TrainImages.txt",
            most=module.MOST_TEXT,
            progress=False,
        )
    assert entries(tmp_path) <= {"TrainImages.txt.json"}


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum_is_refused_with_both_sums(publish, server, tmp_path, kind):
    wrong = BODY[:-1] + bytes([BODY[-1] ^ 1])
    told, actual = (hashlib.new(kind, body).hexdigest() for body in (BODY, wrong))
    publish(checksum=f"{kind}:{told}")
    server.files[ZIP] = wrong
    with pytest.raises(FetchError) as caught:
        fetch("ants_bees", tmp_path, allow_http=True, progress=False)
    for part in (server.url + ZIP, kind.upper(), told, actual, "this test", "--unverified"):
        assert part in str(caught.value)
    server.files[ZIP] = BODY
    assert contents(fetch("ants_bees", tmp_path, allow_http=True, progress=False)) == PICTURES
    assert server.ranges_asked == [None, None]


def test_unverified_takes_another_file_and_the_manifest_says_so(publish, server, tmp_path):
    server.files[ZIP] = zipped({"hymenoptera_data/train/ants/1.jpg": b"small"})
    root = fetch("ants_bees", tmp_path, unverified=True, allow_http=True, progress=False)
    assert contents(root) == {"hymenoptera_data/train/ants/1.jpg": b"small"}
    assert not read_manifest("ants_bees", tmp_path).verified
    other = fingerprint("ants_bees", tmp_path)
    server.files[ZIP] = BODY
    fetch("ants_bees", tmp_path, unverified=True, allow_http=True, fresh=True, progress=False)
    assert read_manifest("ants_bees", tmp_path).verified  # for it is the published one
    assert fingerprint("ants_bees", tmp_path) != other


def test_an_unsafe_archive_leaves_the_old_set_and_nothing_else(publish, server, tmp_path):
    root = fetch("ants_bees", tmp_path, progress=False)
    evil = zipped({"fine.txt": b"", "../../../escaped.txt": b"evil"})
    server.files[ZIP] = evil
    publish(body=evil)
    with pytest.raises(ExtractError, match=r"escaped\.txt' is an absolute path, goes up"):
        fetch("ants_bees", tmp_path, fresh=True, progress=False)
    assert contents(root) == PICTURES
    assert entries(tmp_path) == {"ants_bees"}
    assert not list(tmp_path.parent.glob("escaped.txt"))


def test_a_page_compressed_on_the_way_is_not_taken_for_the_file(server, tmp_path):
    server.encoding = "gzip"
    with pytest.raises(FetchError, match=r"is sent as 'gzip', which was not asked for"):
        wire.download(server.url + ZIP, tmp_path / ZIP, progress=False)


# --- Wrong ways --------------------------------------------------------------------------------------------------


def test_without_encryption_only_what_a_sha256_protects(publish, server, tmp_path):
    for checksum, options in (
        (None, {}),
        ("md5:" + "0" * 32, {}),
        (f"sha256:{sha256(BODY)}", {"unverified": True}),
    ):
        publish(checksum=checksum)
        with pytest.raises(FetchError, match=r"is not encrypted, and .*--allow-http"):
            fetch("ants_bees", tmp_path, progress=False, **options)
    assert server.asked == []
    publish(checksum=None)
    fetch("ants_bees", tmp_path, allow_http=True, progress=False)
    assert not read_manifest("ants_bees", tmp_path).verified
    with pytest.raises(FetchError, match=r"ftp://host/hymenoptera_data\.zip is no address of https"):
        fetch("ants_bees", tmp_path, mirror="ftp://host", fresh=True)
    with pytest.raises(FetchError, match=r"data import"):
        fetch("ants_bees", tmp_path, mirror=f"file://{tmp_path}", fresh=True)


def test_the_second_archive_is_looked_at_before_the_first_is_fetched(publish, server, tmp_path):
    publish("mit_indoor67", "indoorCVPR_09.tar", BODY)
    with pytest.raises(
        FetchError, match=r"TrainImages\.txt is not encrypted, and no SHA-256 of it is published"
    ):
        fetch("mit_indoor67", tmp_path)
    assert server.asked == []


def test_redirects_are_followed_to_http_and_nowhere_else(publish, server, tmp_path):
    server.files["real"], server.tags["real"] = BODY, '"real"'
    server.redirects = {ZIP: "/hop", "hop": server.url + "real"}
    server.cuts = [100_000, None]
    assert contents(fetch("ants_bees", tmp_path, progress=False)) == PICTURES
    assert [name for name, *_ in server.asked] == [ZIP, "hop", "real"] * 2
    assert server.asked[-1] == ("real", "bytes=100000-", '"real"')
    secret = tmp_path / "secret"
    secret.write_bytes(BODY)
    for location in (f"file://{secret}", "ftp://127.0.0.1/x", "data:text/plain,x"):
        server.redirects = {ZIP: location}
        with pytest.raises(FetchError, match=r"redirects from http to .*not followed|is no address that can"):
            fetch("ants_bees", tmp_path, fresh=True, progress=False)
    server.asked.clear()
    server.redirects = {ZIP: "/" + ZIP}
    with pytest.raises(FetchError, match="Exceeded maximum allowed redirects"):
        fetch("ants_bees", tmp_path, fresh=True, progress=False)
    assert len(server.asked) == 6


def test_from_https_nothing_leads_back_to_http(server, tmp_path, monkeypatch):
    openssl = shutil.which("openssl")
    if openssl is None:
        message = "needs the openssl command to make a certificate"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with file_server(context) as safe:
        safe.files[ZIP] = BODY
        with pytest.raises(FetchError, match="could not be fetched.*certificate"):
            wire.download(safe.url + ZIP, tmp_path / ZIP, progress=False)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        wire.download(safe.url + ZIP, tmp_path / ZIP, progress=False)
        assert (tmp_path / ZIP).read_bytes() == BODY
        server.redirects = {"up": safe.url + ZIP}
        wire.download(server.url + "up", tmp_path / "up", progress=False)
        assert (tmp_path / "up").read_bytes() == BODY
        safe.redirects = {ZIP: server.url + ZIP}
        with pytest.raises(FetchError, match=r"redirects from https to http://127.*not followed"):
            wire.download(safe.url + ZIP, tmp_path / "down", progress=False)
    assert not any(name == ZIP for name, *_ in server.asked)


# --- The disk, and others on it ----------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(server, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module.shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9**9, 9**9, 90_000_000)
    )
    with pytest.raises(FetchError, match=r"ants_bees.* about 0\.1 GB in .*, and 0\.1 GB are free.*--home"):
        fetch("ants_bees", tmp_path, mirror=server.url)
    assert server.asked == []


def test_a_home_that_cannot_be_written_says_so(publish, server, tmp_path):
    (tmp_path / "ants_bees.downloads").write_text("a file where a folder should be")
    with pytest.raises(FetchError, match=r"could not be written to .*ants_bees\.downloads.*--home"):
        fetch("ants_bees", tmp_path, progress=False)


def test_of_two_that_fetch_at_once_one_works_and_the_other_waits(publish, server, tmp_path, monkeypatch):
    # Not capfd: what is written between its reading and its clearing of the file is lost.
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    server.stall = 100_000
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch("ants_bees", tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 60
    while "another process installs" not in said.getvalue():
        assert time.monotonic() < until
        time.sleep(0.01)
    server.go.set()
    for thread in threads:
        thread.join()
    assert found == [files_root("ants_bees", tmp_path)] * 2
    assert len(server.asked) == 1
    assert "installed already" in said.getvalue()
    assert entries(tmp_path) == {"ants_bees"}


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_a_death_at_any_move_leaves_the_old_set_or_the_new_one(publish, server, tmp_path, monkeypatch, moves):
    root = fetch("ants_bees", tmp_path, progress=False)
    old = fingerprint("ants_bees", tmp_path)
    new = zipped(PICTURES | {"hymenoptera_data/new.txt": b"new"})
    server.files[ZIP] = new
    publish(body=new)
    rename, left = Path.rename, [moves]

    def die(path, target):
        if path.parent == tmp_path and not path.name.endswith(".downloads"):
            if not left[0]:
                raise SystemExit("killed")
            left[0] -= 1
        return rename(path, target)

    with monkeypatch.context() as context:
        context.setattr(Path, "rename", die)
        context.setattr(module.shutil, "rmtree", lambda *_, **__: None)
        if moves < 2:
            with pytest.raises(SystemExit):
                fetch("ants_bees", tmp_path, fresh=True, progress=False)
        else:
            fetch("ants_bees", tmp_path, fresh=True, progress=False)
    assert (fingerprint("ants_bees", tmp_path) == old) == (moves < 2)
    assert PICTURES.items() <= contents(files_root("ants_bees", tmp_path)).items()
    fetch("ants_bees", tmp_path, progress=False)  # finds it installed, whichever it is
    assert entries(tmp_path) == {"ants_bees", "ants_bees.downloads"}
    assert (fingerprint("ants_bees", tmp_path) == old) == (moves < 2)
    fetch("ants_bees", tmp_path, fresh=True, progress=False)
    assert contents(root) == PICTURES | {"hymenoptera_data/new.txt": b"new"}
    assert entries(tmp_path) == {"ants_bees"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"folder": "ants_bees", "when": "", "files": 1, "archives": [{"file": "a"}]}',
        "\x00",
    ],
)
def test_a_damaged_manifest_is_named_and_fresh_repairs_it(publish, tmp_path, text):
    fetch("ants_bees", tmp_path, progress=False)
    (tmp_path / "ants_bees" / "manifest.json").write_text(text)
    for use in (read_manifest, files_root, fingerprint, fetch):
        with pytest.raises(ValueError, match=r"manifest\.json' is damaged.*--fresh"):
            use("ants_bees", tmp_path)
    fetch("ants_bees", tmp_path, fresh=True, progress=False)
    assert read_manifest("ants_bees", tmp_path).verified

"""Small archives of published sets, and what the registry says of them."""

import dataclasses
import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

from spgca_lab.data.published import PUBLISHED

ZIP = "hymenoptera_data.zip"
REPO = Path(__file__).resolve().parents[1]


def zipped(entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(entries):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


PICTURES = {
    f"hymenoptera_data/{split}/{kind}/{i}.jpg": os.urandom(40_000)
    for split in ("train", "val")
    for kind in ("ants", "bees")
    for i in range(2)
}
BODY = zipped(PICTURES)
LISTS = {"TrainImages.txt": b"bar/1.jpg\n", "TestImages.txt": b"bar/2.jpg\n"}


def sha256(body):
    return hashlib.sha256(body).hexdigest()


def republish(monkeypatch, base, name="ants_bees", file=ZIP, body=BODY, **fields):
    """Let a set's archives be published below an address; `fields` are those of the one that is `body`."""
    facts = {"size": len(body), "checksum": f"sha256:{sha256(body)}", "published_by": "this test"} | fields
    archives = tuple(
        dataclasses.replace(a, url=base + a.file, **(facts if a.file == file else {}))
        for a in PUBLISHED[name].archives
    )
    monkeypatch.setitem(PUBLISHED, name, dataclasses.replace(PUBLISHED[name], archives=archives))


def contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def entries(folder):
    """The visible entries of a folder; lock files are hidden."""
    return {p.name for p in folder.iterdir() if not p.name.startswith(".")} if folder.exists() else set()

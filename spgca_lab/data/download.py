"""Download one file over HTTP: resumed after a break, limited in size, never redirected to another protocol."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    import httpx

# Attempts without a new byte, and the seconds before the second of them; each later one waits twice as long.
TRIES, WAIT = 5, 1.0
REDIRECTS = 5


class FetchError(RuntimeError):
    """A data set that cannot be fetched or imported; the message says what helps."""


class _BrokenOff(Exception):
    """A transfer that another attempt may finish."""


def download(
    url: str, target: Path, *, size: int | None = None, most: int = 8 * 2**30, progress: bool = True
) -> None:
    """Download `url` to `target`; a broken transfer is resumed from `target.part`.

    A part is resumed only if the server confirms that its file is unchanged, by the `ETag` or `Last-Modified` of the
    first response. Failed attempts are repeated with growing pauses; one that brought bytes resets the count.

    Args:
        url: address of the file.
        target: file to write; its folder is created.
        size: size that the file must have in bytes; None if unknown.
        most: largest size in bytes if `size` is None.
        progress: show a progress bar on standard error.

    Raises:
        FetchError: quoting the URL and the remedy; the part stays, and the same call resumes it.
    """
    import httpx

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    schemes: list[str] = []

    def check_redirect(request: httpx.Request) -> None:
        scheme = request.url.scheme
        if schemes and (scheme not in ("http", "https") or schemes[-1] == "https" != scheme):
            raise FetchError(
                f"{url} redirects from {schemes[-1]} to {request.url}, which is not followed; "
                "look at that address yourself, and give the file to `spgca-lab data import`"
            )
        schemes.append(scheme)

    failures = 0
    with (
        httpx.Client(
            headers={"User-Agent": "spgca-lab", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(60, connect=20),
            follow_redirects=True,
            max_redirects=REDIRECTS,
            event_hooks={"request": [check_redirect]},
        ) as client,
        tqdm(desc=target.name, total=size, unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        while True:
            before = _length(part)
            schemes.clear()
            try:
                _attempt(client, url, part, size, most if size is None else size, bar)
                break
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
                raise FetchError(f"{url} is no address that can be fetched: {error}") from error
            except (httpx.TransportError, _BrokenOff) as error:
                why = str(error) or type(error).__name__
            have = _length(part)
            failures = 1 if have > before else failures + 1
            if failures >= TRIES:
                there = f"{have} bytes are there; the same command resumes from them. " if have else ""
                raise FetchError(
                    f"{url} could not be fetched in {TRIES} tries: {why}. {there}"
                    "Look at the network (a proxy is read from HTTPS_PROXY), name another server with --mirror, or "
                    "import the archive from where you have it: `spgca-lab data import`"
                )
            time.sleep(WAIT * 2 ** (failures - 1))
    part.replace(target)
    part.with_suffix(".json").unlink(missing_ok=True)


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _attempt(
    client: "httpx.Client", url: str, part: Path, size: int | None, limit: int, bar: "tqdm[Any]"
) -> None:
    """Fetch what is missing of a part; its note has the URL, and the header that names the version of the file."""
    note, have = part.with_suffix(".json"), _length(part)
    try:
        noted, header, version = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        noted = header = version = None
    if noted != url or have > limit:
        part.unlink(missing_ok=True)
        have = 0
    if have == size:
        return
    resume = {"Range": f"bytes={have}-", "If-Range": version} if have else {}
    with client.stream("GET", url, headers=resume) as response:
        headers, code = response.headers, response.status_code
        if have and code in (206, 416):
            # Not every server honours `If-Range`.
            same, span = headers.get(header, version) == version, headers.get("Content-Range", "")
            if same and code == 416 and span == f"bytes */{have}":
                return
            if not same or not span.startswith(f"bytes {have}-"):
                part.unlink()
                raise _BrokenOff("the file on the server has changed since")
        elif code == 200:
            # The part is deleted first, so that a note never describes the part of another file.
            have = 0
            part.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
            # A weak tag promises the same meaning, not the same bytes.
            header = "Last-Modified" if headers.get("ETag", "W/").startswith("W/") else "ETag"
            if header in headers:
                note.write_text(json.dumps([url, header, headers[header]]), encoding="utf-8")
        elif code == 429 or code >= 500:
            raise _BrokenOff(f"the server answers {code} {response.reason_phrase}")
        else:
            raise FetchError(
                f"{url} could not be fetched: the server answers {code} {response.reason_phrase}. Look whether "
                "the file moved (the set's homepage: `spgca-lab data list`), name another server with --mirror, "
                "or import the archive from where you have it: `spgca-lab data import`"
            )
        # Some servers declare a .tgz as a tar that they compressed, and send its bytes unchanged.
        encoding = headers.get("Content-Encoding", "identity")
        if encoding != "identity" and not url.endswith("gz"):
            raise FetchError(
                f"{url} is sent as {encoding!r}, which was not asked for; name another server with --mirror"
            )
        length = headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else size
        if total is not None and (total > limit or size not in (None, total)):
            expected = f"and {size} are published" if size else f"more than the {limit} expected at most"
            raise FetchError(
                f"{url} has {total} bytes, {expected}: it is another file, or a page in its place. "
                "Name another server with --mirror, or, if you trust it, add --unverified"
            )
        bar.total, bar.n = total, have
        bar.refresh()
        with part.open("ab") as file:
            for chunk in response.iter_raw():
                have += len(chunk)
                if have > limit:
                    part.unlink()
                    raise FetchError(
                        f"{url} sends more than the {limit} bytes expected: it is another file. "
                        "Name another server with --mirror"
                    )
                file.write(chunk)
                file.flush()  # a killed process leaves what has arrived
                bar.update(len(chunk))
    if size is not None and have < size:
        raise _BrokenOff(f"the connection ended after {have} of {size} bytes")

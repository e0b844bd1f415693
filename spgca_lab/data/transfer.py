"""One file over HTTP: resumed where it broke off, never larger than expected, never led astray by a redirect."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from tqdm import tqdm

if TYPE_CHECKING:
    import httpx

__all__ = ["FetchError", "fetched_from", "transfer"]

# Tries without a new byte, and the seconds before the second of them; each later one waits twice as long.
TRIES, WAIT, LONGEST_WAIT = 5, 1.0, 60.0
REDIRECTS = 5
_MOVED = (301, 302, 303, 307, 308)
_BUSY = (408, 425, 429, 500, 502, 503, 504)


class FetchError(RuntimeError):
    """A data set that could not be fetched or imported; the message says what would help."""


class _BrokenOff(Exception):
    """A transfer that another try may finish."""

    def __init__(self, why: str, wait: float | None = None):
        super().__init__(why)
        self.wait = wait


def transfer(
    url: str, target: Path, *, size: int | None = None, most: int = 8 * 2**30, progress: bool = True
) -> None:
    """Fetch `url` into `target`, going on from `target.part` when the server still has the same file.

    The part counts as of the same file when the server says so: by the `ETag` or `Last-Modified` of the first
    answer, which are noted beside it and sent as `If-Range`. Without either it starts over. Several tries, each
    after a longer wait; a try that brought bytes begins the count anew.

    Args:
        url: of the file.
        target: to write; its folder is created.
        size: that it must have; None where nobody tells.
        most: bytes that it may have when `size` is None.
        progress: whether to show a bar on standard error.

    Raises:
        FetchError: quoting the URL; the part stays where the same command can go on from it.
    """
    import httpx

    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(target, url)
    failures = 0
    headers = {"User-Agent": "spgca-lab", "Accept-Encoding": "identity"}
    with (
        httpx.Client(headers=headers, timeout=httpx.Timeout(60, connect=20)) as client,
        tqdm(desc=target.name, total=size, unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        while True:
            before = part.have
            wait = None
            try:
                _try(client, url, part, size, most, bar)
                break
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise FetchError(f"{url} is no address that can be fetched: {error}") from error
            except (httpx.TransportError, _BrokenOff) as error:
                why = str(error) or type(error).__name__
                wait = getattr(error, "wait", None)
            failures = 1 if part.have > before else failures + 1
            if failures >= TRIES:
                raise FetchError(
                    f"{url} could not be fetched in {TRIES} tries: {why}. "
                    + (
                        f"{part.have} bytes are there; the same command goes on from them. "
                        if part.have
                        else ""
                    )
                    + "Look at the network (a proxy is read from HTTPS_PROXY), name another server with --mirror, or "
                    "import the archive from where you have it: `spgca-lab data import`"
                )
            pause = min(LONGEST_WAIT, wait if wait is not None else WAIT * 2 ** (failures - 1))
            bar.set_postfix_str(f"again in {pause:.0f} s: {why}")
            time.sleep(pause)
    part.finish()


def fetched_from(target: Path) -> str | None:
    """The URL that `transfer` fetched a file from; None when it did not.

    Example:
        >>> fetched_from(Path("no/such.tar")) is None
        True
    """
    return _noted(target).get("url")


class _Part:
    """What is there of a file, and a note of what it is a part of."""

    def __init__(self, target: Path, url: str):
        self.target, self.url = target, url
        self.file = target.with_name(target.name + ".part")
        noted = _noted(target)
        self.validator = noted if noted.pop("url", None) == url else {}
        if not self.validator:
            self.file.unlink(missing_ok=True)

    @property
    def have(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def start(self, response: "httpx.Response") -> None:
        """Begin anew. First the part goes, so that no note ever lies beside a part of something else."""
        self.file.unlink(missing_ok=True)
        etag, modified = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
        # A weak tag promises the same meaning, not the same bytes.
        found = {"ETag": "" if etag.startswith("W/") else etag, "Last-Modified": modified}
        self.validator = {name: value for name, value in found.items() if value}
        _note(self.target).write_text(
            json.dumps({"url": self.url, **self.validator}) + "\n", encoding="utf-8"
        )

    def headers(self) -> dict[str, str]:
        if self.have and self.validator:
            return {"Range": f"bytes={self.have}-", "If-Range": next(iter(self.validator.values()))}
        return {}

    def agrees(self, response: "httpx.Response") -> bool:
        """Whether the answer is about the same file: not every server honours `If-Range`."""
        return all(response.headers.get(name, value) == value for name, value in self.validator.items())

    def finish(self) -> None:
        self.file.replace(self.target)


def _note(target: Path) -> Path:
    return target.with_name(target.name + ".json")


def _noted(target: Path) -> dict[str, str]:
    """The URL that a file or its part is from, and `ETag` and `Last-Modified` of the server's first answer."""
    try:
        fields: Any = json.loads(_note(target).read_text(encoding="utf-8"))
        return {name: str(fields[name]) for name in ("url", "ETag", "Last-Modified") if name in fields}
    except (OSError, ValueError, TypeError):
        return {}


def _try(client: "httpx.Client", url: str, part: _Part, size: int | None, most: int, bar: Any) -> None:
    if size is not None and part.have == size:
        return
    if part.have > (most if size is None else size):
        part.file.unlink()
    asked = part.headers()
    with _open(client, url, asked) as response:
        if response.status_code == 206 and asked:
            if not part.agrees(response) or _first_byte(response) != part.have:
                part.file.unlink()
                raise _BrokenOff("the file on the server has changed since", wait=0)
        elif response.status_code == 416 and asked:
            if part.agrees(response) and response.headers.get("Content-Range") == f"bytes */{part.have}":
                return
            part.file.unlink()
            raise _BrokenOff("the file on the server is shorter than what is there of it", wait=0)
        elif response.status_code == 200:
            part.start(response)
        elif response.status_code in _BUSY:
            raise _BrokenOff(f"the server answers {_status(response)}", _retry_after(response))
        else:
            raise FetchError(
                f"{url} could not be fetched: the server answers {_status(response)}. Look whether the file moved "
                "(the set's homepage: `spgca-lab data list`), name another server with --mirror, or import "
                "the archive from where you have it: `spgca-lab data import`"
            )
        # Some servers call a .tgz a tar that they compressed, and send its bytes as they are.
        if response.headers.get("Content-Encoding", "identity") != "identity" and not url.endswith("gz"):
            raise FetchError(
                f"{url} is sent as {response.headers['Content-Encoding']!r}, which was not asked for; "
                "name another server with --mirror"
            )
        _receive(response, url, part, size, most, bar)


def _receive(
    response: "httpx.Response", url: str, part: _Part, size: int | None, most: int, bar: Any
) -> None:
    have = part.have
    length = response.headers.get("Content-Length")
    total = have + int(length) if length and length.isdecimal() else None
    if total is not None and size is not None and total != size:
        raise FetchError(
            f"{url} has {total} bytes, and {size} are published: it is another file, or a page in its place. "
            "Name another server with --mirror, or, if you trust it, add --unverified"
        )
    if total is not None and total > most:
        raise FetchError(f"{url} has {total} bytes, more than the {most} that are expected at most")
    bar.total = size or total
    bar.n = have
    bar.refresh()
    limit = most if size is None else size
    with part.file.open("ab") as file:
        for chunk in response.iter_raw():
            have += len(chunk)
            if have > limit:
                break
            file.write(chunk)
            file.flush()  # so that it is there even when the process is killed
            bar.update(len(chunk))
    if have > limit:
        part.file.unlink()
        raise FetchError(
            f"{url} sends more than the {limit} bytes that are expected"
            + (", the published size" if size is not None else " at most")
            + ": it is another file. Name another server with --mirror"
        )
    if size is not None and have < size:
        raise _BrokenOff(f"the connection ended after {have} of {size} bytes")


@contextmanager
def _open(client: "httpx.Client", url: str, headers: dict[str, str]) -> Iterator["httpx.Response"]:
    """The answer at the end of all redirects."""
    here = url
    for _ in range(REDIRECTS + 1):
        response = client.send(client.build_request("GET", here, headers=headers), stream=True)
        try:
            location = response.headers.get("Location")
            if response.status_code not in _MOVED or not location:
                yield response
                return
        finally:
            response.close()
        here = _redirected(url, here, location)
    raise FetchError(
        f"{url} redirects more than {REDIRECTS} times, last to {here}; name another server with --mirror"
    )


def _redirected(url: str, here: str, location: str) -> str:
    """Where a redirect leads; it may make a connection safer, never less safe."""
    there = urljoin(here, location)
    before, after = urlsplit(here).scheme, urlsplit(there).scheme
    if after not in ("http", "https") or (before == "https" and after != "https"):
        raise FetchError(
            f"{url} redirects from {before} to {there}, which is not followed; "
            "look at that address yourself, and give the file to `spgca-lab data import`"
        )
    return there


def _first_byte(response: "httpx.Response") -> int | None:
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    first = rest.split("-", 1)[0]
    return int(first) if unit == "bytes" and first.isdecimal() else None


def _retry_after(response: "httpx.Response") -> float | None:
    seconds = response.headers.get("Retry-After", "")
    return float(seconds) if seconds.isdecimal() else None


def _status(response: "httpx.Response") -> str:
    return f"{response.status_code} {response.reason_phrase}".strip()

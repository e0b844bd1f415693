"""A web server on this machine for tests of downloads, with faults that can be switched on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What is served, how, and what was asked for.

    Args:
        files: bytes by name.
        tags: `ETag` by name.
        modified: `Last-Modified` of all, when it is given.
        cuts: after how many bytes the next answers break off; used up one by one, None sends all.
        ranges: whether `Range` is understood.
        if_range: whether `If-Range` is honoured.
        lengths: a false `Content-Length` by name; None leaves it out.
        redirects: `Location` by name.
        busy: how many of the next requests are answered with 503.
        stall: after how many bytes an answer waits for `go`.
        asked: `(name, Range, If-Range)` of each request.
        sent: bytes of each answer's body.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    modified: str | None = None
    cuts: list[int | None] = field(default_factory=list)
    ranges: bool = True
    if_range: bool = True
    lengths: dict[str, int | None] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    encoding: str | None = None
    busy: int = 0
    stall: int | None = None
    go: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    @property
    def ranges_asked(self) -> list[str | None]:
        return [asked[1] for asked in self.asked]


def _handler(state: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            name = self.path.removeprefix("/")
            wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
            state.asked.append((name, wanted, condition))
            self.close_connection = True
            if name in state.redirects:
                self.reply(302, {"Location": state.redirects[name], "Content-Length": "0"})
            elif state.busy:
                state.busy -= 1
                self.reply(503, {"Retry-After": "0", "Content-Length": "0"})
            elif name not in state.files:
                self.reply(404, {"Content-Length": "0"})
            else:
                self.file(name, wanted if state.ranges else None, condition)

        def file(self, name, wanted, condition):
            body = state.files[name]
            headers = {"ETag": state.tags.get(name), "Last-Modified": state.modified}
            headers["Content-Encoding"] = state.encoding
            same = condition in (None, *filter(None, headers.values())) or not state.if_range
            code = 200
            if wanted and same:
                first = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if first >= len(body):
                    self.reply(
                        416, headers | {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"}
                    )
                    return
                code, headers["Content-Range"] = 206, f"bytes {first}-{len(body) - 1}/{len(body)}"
                body = body[first:]
            length = state.lengths.get(name, len(body))
            self.reply(code, headers | {"Content-Length": None if length is None else str(length)})
            body = body[: state.cuts.pop(0)] if state.cuts else body
            if state.stall is not None:
                self.wfile.write(body[: state.stall])
                self.wfile.flush()
                state.go.wait(60)
                body = body[state.stall :]
            state.sent.append(len(body))
            self.wfile.write(body)

        def reply(self, code, headers):
            self.send_response(code)
            for key, value in headers.items():
                if value is not None:
                    self.send_header(key, value)
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, *args):
            pass

    return Handler


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that was killed, or that hangs up on purpose, is what these tests are about."""


@contextmanager
def file_server(context=None) -> Iterator[FileServer]:
    """Serve until the block ends; with an `ssl.SSLContext`, over TLS."""
    state = FileServer()
    http = _Quiet(("127.0.0.1", 0), _handler(state))
    if context:
        http.socket = context.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http{'s' if context else ''}://127.0.0.1:{http.server_port}/"
    try:
        yield state
    finally:
        state.go.set()
        http.shutdown()
        http.server_close()
        thread.join()

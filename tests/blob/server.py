"""An HTTP server that serves ranges of one object, and misbehaves when it is told to."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

__all__ = ["FAULTS", "PASSING", "ObjectServer"]

PASSING = {
    "status-500",
    "status-503",
    "hangs-up",
    "hangs-up-in-the-headers",
    "hangs-up-in-the-body",
    "hangs-up-in-a-chunk",
    "no-http",
}
"""What may go well the next time."""
FAULTS = PASSING | {
    "status-200",
    "status-200-of-the-range",
    "status-416",
    "status-404",
    "announces-less",
    "announces-more",
    "chunks-of-more",
    "chunks-of-less",
    "another-range",
    "no-range",
    "strange-range",
    "multipart",
    "compressed",
    "another-tag",
    "no-tag",
    "another-size",
    "changed",
    "redirects-for-ever",
    "redirects-nowhere",
    "redirects-to-a-file",
}


class ObjectServer:
    """Serves `content` at every path.

    ``fault(number)`` names what goes wrong with a request, counted from 1, or is empty.
    """

    def __init__(
        self,
        content: bytes,
        tag: str = '"one"',
        fault: Callable[[int], str] = lambda number: "",
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.content, self.tag, self.fault = content, tag, fault
        self.redirect = ""
        self.requests: list[tuple[str, dict[str, str]]] = []
        self._count = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "http" if context is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}/object"

    @property
    def ranges(self) -> list[str]:
        return [headers["Range"] for _, headers in self.requests]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def next_fault(self, path: str, headers: dict[str, str]) -> str:
        with self._count:
            self.requests.append((path, headers))
            return self.fault(len(self.requests))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(_Handler):
            owner = server

        return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: ObjectServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        owner = self.owner
        fault = owner.next_fault(self.path, dict(self.headers))
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        last = min(last, len(owner.content) - 1)
        body = owner.content[first : last + 1]
        total = len(owner.content)
        tag = owner.tag
        if fault.startswith("status-"):
            status = int(fault.split("-")[1])
            whole = body if fault.endswith("range") else owner.content
            self._send(status, whole if status == 200 else b"", {"ETag": tag})
        elif fault.startswith("redirects") or owner.redirect:
            nowhere = {"redirects-nowhere": "", "redirects-to-a-file": "file:///etc/passwd"}
            to = owner.redirect or nowhere.get(fault, self.path + "x")
            self._send(302, b"", {"Location": to})
        elif fault == "hangs-up":
            self.close_connection = True
        elif fault == "no-http":
            self.wfile.write(b"\x00\xff" * 100 + b"\r\n\r\n")
            self.close_connection = True
        elif fault == "changed" or self.headers.get("If-Match", tag) != tag:
            self._send(412, b"", {})
        elif first >= total:
            self._send(416, b"", {"Content-Range": f"bytes */{total}"})
        else:
            span = f"bytes {first}-{last}/{total}"
            if fault == "another-range":
                span = f"bytes {first + 1}-{last + 1}/{total}"
            elif fault == "strange-range":
                span = f"bytes {first}-{last}/*"
            elif fault == "another-size":
                span = f"bytes {first}-{last}/{total + 512}"
            headers = {"Content-Range": span, "ETag": tag}
            if fault in ("no-range", "multipart"):
                del headers["Content-Range"]
            if fault == "multipart":
                headers["Content-Type"] = "multipart/byteranges; boundary=x"
            if fault == "no-tag":
                del headers["ETag"]
            elif fault == "another-tag":
                headers["ETag"] = '"two"'
            if fault == "compressed":
                headers["Content-Encoding"] = "gzip"
            self._send(206, body, headers, fault)

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: str = "") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault.startswith("chunks") or fault == "hangs-up-in-a-chunk":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            more = {"chunks-of-more": body + b"more", "chunks-of-less": body[:-1]}.get(fault, body)
            end = b"" if fault == "hangs-up-in-a-chunk" else b"\r\n0\r\n\r\n"
            self.wfile.write(b"%x\r\n" % len(more) + (more if end else more[:-1]) + end)
            self.close_connection = not end
            return
        length = len(body) + {"announces-less": -1, "announces-more": 1}.get(fault, 0)
        self.send_header("Content-Length", str(length))
        if fault == "hangs-up-in-the-headers":
            self._headers_buffer.pop()  # type: ignore[attr-defined]
            self.flush_headers()
            self.close_connection = True
            return
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "hangs-up-in-the-body" else body)
        self.close_connection = bool(fault)

"""An object behind plain HTTP: ranges of it, and nothing that is not exactly the range asked for.

The standard library's client, since what must be seen to is in the headers of every answer (RFC
9110): the status, the range, the length, the entity tag.
"""

from __future__ import annotations

import errno
import re
import ssl
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Final, NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit, urlunsplit

from drivebay.disk.backends.blob import CONNECTIONS, changed
from drivebay.disk.errors import DiskOpenError, IoError

__all__ = ["HttpSource"]

SECONDS: Final = 30.0
"""A server that says nothing for so long is gone."""
PAUSES: Final = (0.0, 0.2, 1.0)
"""Seconds before each further attempt. The first is at once: a server may close what is idle."""
MOST_REDIRECTS: Final = 5
REDIRECTS: Final = (301, 302, 303, 307, 308)
TRY_AGAIN: Final = (408, 429, 500, 502, 503, 504)
EXPIRED: Final = (401, 403, 404, 410)
CHANGED: Final = 412
SECRETS: Final = re.compile(r"(?<=//)[^/?#]*@|[?#].*")
SAFE: Final = "/?:@!$&'()*+,;=%-._~"
CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


class _Bad(Exception):
    """An answer that will not be better next time."""


class _Passing(Exception):
    """A failure that may pass."""


class _Answer(NamedTuple):
    connection: HTTPConnection
    response: HTTPResponse
    url: SplitResult


class HttpSource:
    """The object at `url`, ``http`` or ``https``.

    Raises `DiskOpenError` if it is not there, or its server does not serve ranges.
    """

    def __init__(self, url: str) -> None:
        self.name = SECRETS.sub("", url)
        self._lock = threading.Lock()
        self._idle: list[HTTPConnection] = []
        self._busy: set[HTTPConnection] = set()
        self._closed = False
        self._context: ssl.SSLContext | None = None
        self._tag = self._date = ""
        self._headers: dict[str, str] = {}
        self.size = 0
        try:
            self._origin = self._target = _split(url)
            self._open()
        except (_Bad, _Passing, IoError) as error:
            self.close()
            raise DiskOpenError(f"{self.name}: {error}") from error
        if self._tag and not self._tag.startswith("W/"):  # a weak one matches nothing (13.1.1)
            self._headers["If-Match"] = self._tag
        self.pinned = "etag" if self._tag else "date" if self._date else "size"
        self.version = self._tag or self._date or str(self.size)

    def _open(self) -> None:
        """Ask for the first byte: what may be read is not always what HEAD may ask for."""
        answer = self._ask(self._origin, 0, 1)
        headers = answer.response.headers
        try:
            self._check_status(answer.response)
            _, _, self.size = _content_range(answer.response)
            self._tag, self._date = headers.get("ETag", ""), headers.get("Last-Modified", "")
            self._body(answer.response, 0, 1)
        except BaseException:
            self._drop(answer.connection)
            raise
        self._target = answer.url
        self._keep(answer.connection, answer.response)

    def read(self, offset: int, length: int) -> memoryview:
        """See `Source`. What may pass is tried again, on a new connection."""
        for pause in (*PAUSES, None):
            try:
                return self._read(offset, length)
            except _Bad as error:
                raise IoError(errno.EIO, f"{self.name}: {error}") from error
            except _Passing as error:
                if pause is None or self._closed:
                    raise IoError(errno.EIO, f"{self.name}: {error}") from error
                time.sleep(pause)
        raise AssertionError("the last pause is None")

    def _read(self, offset: int, length: int) -> memoryview:
        answer = self._ask(self._target, offset, length)
        response = answer.response
        try:
            if response.status in EXPIRED and self._target != self._origin:
                self._target = self._origin  # where we were sent may be good for a while only
                raise _Passing(f"the server answered {response.status}")
            self._check_status(response)
            self._check_same(response)
            data = self._body(response, offset, length)
        except BaseException:
            self._drop(answer.connection)
            raise
        self._keep(answer.connection, response)
        return data

    # -- answers ---------------------------------------------------------------------------------

    def _ask(self, url: SplitResult, offset: int, length: int) -> _Answer:
        """The answer to a range of `url`, which may be elsewhere."""
        for _ in range(MOST_REDIRECTS + 1):
            connection = self._connection(url)
            path = urlunsplit(("", "", url.path or "/", url.query, ""))
            span = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
            try:
                connection.request("GET", path, headers=span | self._headers)
                response = connection.getresponse()
            except (OSError, HTTPException) as error:
                self._drop(connection)
                raise _passing(error) from error
            if response.status not in REDIRECTS:
                return _Answer(connection, response, url)
            self._drop(connection)
            url = _redirected(url, response.headers.get("Location", ""))
        raise _Bad(f"more than {MOST_REDIRECTS} redirects")

    def _check_status(self, response: HTTPResponse) -> None:
        if response.status == CHANGED:
            raise changed(self.name)
        if response.status in TRY_AGAIN:
            raise _Passing(f"the server answered {response.status}")
        if response.status == 200:
            raise _Bad("the server knows no ranges: it answered 200")
        if response.status != 206:
            raise _Bad(f"the server answered {response.status}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _Bad("the server sent it compressed")

    def _check_same(self, response: HTTPResponse) -> None:
        """Raise unless the answer is of the object that was opened."""
        headers = response.headers
        tag, date = headers.get("ETag", ""), headers.get("Last-Modified", "")
        same = tag == self._tag if self._tag else date == self._date
        if not same or _content_range(response)[2] != self.size:
            raise changed(self.name)

    def _body(self, response: HTTPResponse, offset: int, length: int) -> memoryview:
        first, last, _ = _content_range(response)
        if (first, last) != (offset, offset + length - 1):
            raise _Bad(f"the server sent bytes {first}-{last}, not {offset}-{offset + length - 1}")
        if response.length not in (None, length):  # None: chunked, or up to the end of it all
            raise _Bad(f"the server announced {response.length} bytes, not {length}")
        data = memoryview(bytearray(length))
        done = 0
        try:
            while done < length:
                if not (count := response.readinto(data[done:])):
                    raise _Passing(f"the connection ended after {done} of {length} bytes")
                done += count
            if response.read(1):
                raise _Bad(f"the server sent more than {length} bytes")
        except (OSError, HTTPException) as error:
            raise _passing(error) from error
        return data

    # -- connections -----------------------------------------------------------------------------

    def _connection(self, url: SplitResult) -> HTTPConnection:
        host, port = _host(url)
        with self._lock:
            if self._closed:
                raise _Passing("closed")
            while self._idle:
                connection = self._idle.pop()
                if (connection.host, connection.port) == (host, port):
                    self._busy.add(connection)
                    return connection
                connection.close()
            if url.scheme == "https":
                self._context = self._context or ssl.create_default_context()
                connection = HTTPSConnection(host, port, timeout=SECONDS, context=self._context)
            else:
                connection = HTTPConnection(host, port, timeout=SECONDS)
            self._busy.add(connection)
            return connection

    def _keep(self, connection: HTTPConnection, response: HTTPResponse) -> None:
        with self._lock:
            self._busy.discard(connection)
            if not self._closed and len(self._idle) < CONNECTIONS and response.isclosed():
                self._idle.append(connection)
                return
        connection.close()

    def _drop(self, connection: HTTPConnection) -> None:
        """Close it, and those that may have gone the same way."""
        with self._lock:
            self._busy.discard(connection)
            idle, self._idle = self._idle, []
        for one in (connection, *idle):
            one.close()

    def close(self) -> None:
        """See `Source`."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            under_way = [connection.sock for connection in self._busy]
        for connection in idle:
            connection.close()
        for sock in under_way:
            with suppress(OSError, AttributeError):  # it may not have one yet, or no longer
                sock.shutdown(2)


def _split(url: str) -> SplitResult:
    """`url` in parts, with what may not stand in it quoted."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise _Bad(str(error)) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _Bad("this is no URL of a server")
    if parts.username is not None:
        raise _Bad("a URL with a user's name is not followed")
    return parts._replace(path=quote(parts.path, SAFE), query=quote(parts.query, SAFE))


def _host(url: SplitResult) -> tuple[str, int]:
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def _redirected(url: SplitResult, location: str) -> SplitResult:
    if not location:
        raise _Bad("the server redirects to nowhere")
    try:
        new = _split(urljoin(urlunsplit(url), location))
    except ValueError as error:
        raise _Bad(f"the server redirects to nowhere: {error}") from error
    if url.scheme == "https" and new.scheme != "https":
        raise _Bad("the server redirects from https to http")
    return new


def _content_range(response: HTTPResponse) -> tuple[int, int, int]:
    """The first and the last byte that it holds, and the size of the whole."""
    found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is None:
        raise _Bad("the server does not say which range it sent")
    first, last, size = map(int, found.groups())
    return first, last, size


def _passing(error: Exception) -> _Passing:
    text = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return _Passing(" ".join(text.split()) or type(error).__name__)

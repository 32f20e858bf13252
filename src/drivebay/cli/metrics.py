"""``--metrics ADDRESS:PORT|PATH``: what Prometheus reads of a server."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from drivebay.hosts.control.messages import Refused
from drivebay.hosts.control.scrape import ScrapeServer
from drivebay.hosts.listening import ServerError, listen, listen_tcp

if TYPE_CHECKING:
    from collections.abc import Callable

    from drivebay.hosts.control.bay import Bay
    from drivebay.lab.dialects import Dialect
    from drivebay.lab.metrics import Metrics
    from drivebay.platform.engine import Engine

__all__ = ["MetricsDesk", "listen_metrics", "where"]


def listen_metrics(address: str) -> socket.socket:
    """A socket that listens at ``ADDRESS:PORT``, or at a path, which has a slash in it or no colon.
    Raises `ServerError`.
    """
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address:
        return listen(address, "--metrics ADDRESS:PORT|PATH")
    if not port.isdecimal() or int(port) > 0xFFFF:
        raise ServerError(f"--metrics {address}: {port!r} is no port", "127.0.0.1:9100, or a path")
    return listen_tcp(host.strip("[]"), int(port), "--metrics ADDRESS:PORT|PATH")


def where(listener: socket.socket) -> str:
    """Where a socket listens, as a person would open it."""
    if listener.family == socket.AF_UNIX:
        return str(listener.getsockname())
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"


class MetricsDesk:
    """Measures the commands of `bay` from `start` to `stop`, and tells it to whoever asks."""

    def __init__(
        self, bay: Bay, engine: Engine, dialects: Mapping[str, Callable[[], Dialect]]
    ) -> None:
        self._bay, self._engine, self._dialects = bay, engine, dialects
        self._metrics: Metrics | None = None
        self._server: ScrapeServer | None = None

    def start(self, address: str) -> str:
        """Begin to measure, and serve that at `address`, unless it is empty. Raises `Refused`."""
        if self._metrics is not None:
            raise Refused("metrics are measured already", "metrics.stop ends that")
        try:
            listener = listen_metrics(address) if address else None
        except ServerError as error:
            raise Refused(str(error), error.hint) from None
        return self.begin(listener)

    def begin(self, listener: socket.socket | None, *, owned: bool = True) -> str:
        """The same on a socket that listens; `owned` is that of `Acceptor`."""
        from drivebay.lab.metrics import Metrics

        self._metrics = Metrics(self._bay, self._dialects)
        if listener is None:
            return ""
        self._server = ScrapeServer(self._metrics.text, self._engine, listener, owned=owned)
        return where(listener)

    def stop(self) -> None:
        """Measure no more."""
        if self._server is not None:
            self._server.close()
        if self._metrics is not None:
            self._metrics.close()
        self._server = self._metrics = None

    def text(self) -> str:
        """What was measured. Raises `Refused`."""
        if self._metrics is None:
            raise Refused("nothing is measured", "metrics.start begins")
        return self._metrics.text()

    def refresh(self) -> None:
        """Drives may have come or gone."""
        if self._metrics is not None:
            self._metrics.refresh()

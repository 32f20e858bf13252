"""NBD URIs (doc/uri.md of NetworkBlockDevice/nbd)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from drivebay.disk.nbd.messages import PORT, NbdError

__all__ = ["SCHEMES", "Address"]

SCHEMES: Final = ("nbd", "nbd+unix", "nbds", "nbds+unix")
PARAMETERS: Final = {"socket", "tls-certificates", "tls-hostname", "tls-verify-peer"}


@dataclass(frozen=True)
class Address:
    """Where an export is."""

    export: str
    host: str
    hostname: str
    """What its certificate must be for."""
    port: int
    socket: str | None
    """The path of a UNIX socket; then host and port mean nothing."""
    tls: bool
    certificates: str | None
    """The folder of ``ca-cert.pem``, ``client-cert.pem`` and ``client-key.pem``."""
    verify_peer: bool

    @classmethod
    def parse(cls, uri: str) -> Address:
        """Raises `NbdError` where the text is no NBD URI."""
        try:
            parts = urlsplit(uri)
            host, port = parts.hostname or "localhost", parts.port or PORT
            given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError as error:
            raise NbdError(f"{uri}: {error}") from None
        query = dict(given)
        if parts.scheme not in SCHEMES or not uri.startswith(f"{parts.scheme}://"):
            raise NbdError(f"{uri}: an NBD URI begins with one of {', '.join(SCHEMES)} and ://")
        if unknown := query.keys() - PARAMETERS:
            raise NbdError(f"{uri}: {min(unknown)} is not known")
        unix = parts.scheme.endswith("+unix")
        if unix != bool(query.get("socket")):
            text = "needs" if unix else "has no"
            raise NbdError(f"{uri}: {parts.scheme} {text} ?socket=PATH")
        return cls(
            export=unquote(parts.path.removeprefix("/")),
            host=host,
            hostname=query.get("tls-hostname", host),
            port=port,
            socket=query.get("socket"),
            tls=parts.scheme.startswith("nbds"),
            certificates=query.get("tls-certificates"),
            verify_peer=query.get("tls-verify-peer", "1") != "0",
        )

    @property
    def place(self) -> str:
        """For people."""
        return self.socket or f"{self.host} port {self.port}"

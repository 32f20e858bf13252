"""TLS for NBD: plain bytes on one side, what goes through the socket on the other; no socket."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Iterable
from typing import cast

from drivebay.disk.nbd.messages import NbdError

__all__ = ["TlsStream", "client_context", "server_context"]

CA, SERVER, CLIENT = "ca-cert.pem", "server", "client"


class TlsStream:
    """One side of a TLS session. One thread may read while another writes."""

    def __init__(self, context: ssl.SSLContext, hostname: str | None = None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = context.protocol == ssl.PROTOCOL_TLS_SERVER
        self._session = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server, server_hostname=hostname
        )
        self._lock = threading.Lock()

    def handshake(self) -> bool:
        """Go on with the handshake; whether it is done. Raises `NbdError`."""
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise NbdError(f"TLS: {error.reason or error}") from None
        return True

    def feed(self, data: bytes) -> None:
        """Take what came from the socket; nothing is its end."""
        with self._lock:
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    def read_into(self, view: memoryview) -> int:
        """Plain bytes into `view`; 0 at the end. Raises `BlockingIOError` until more is fed."""
        with self._lock:
            try:
                # The type stub knows the form without a buffer only, which returns bytes.
                return cast("int", self._session.read(len(view), view))
            except ssl.SSLWantReadError:
                raise BlockingIOError from None
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0
            except ssl.SSLError as error:
                raise NbdError(f"TLS: {error.reason or error}") from None

    def write(self, parts: Iterable[memoryview | bytes]) -> bytes:
        """Encrypt `parts`; what is to go to the socket, in this order. Raises `NbdError`."""
        with self._lock:
            try:
                for part in parts:
                    if part:
                        self._session.write(part)
            except ssl.SSLError as error:
                raise NbdError(f"TLS: {error.reason or error}") from None
            return self._outgoing.read()


def server_context(folder: str, verify_peer: bool = False) -> ssl.SSLContext:
    """From ``server-cert.pem`` and ``server-key.pem``; with `verify_peer` clients need a
    certificate that ``ca-cert.pem`` has signed. Raises `OSError`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_pair(context, folder, SERVER)
    if verify_peer:
        context.load_verify_locations(os.path.join(folder, CA))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(folder: str | None, verify_peer: bool = True) -> ssl.SSLContext:
    """Trusting ``ca-cert.pem``, else what the system trusts; showing ``client-cert.pem`` if there
    is one. Raises `OSError`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority = os.path.join(folder, CA) if folder else ""
    if authority and os.path.exists(authority):
        context.load_verify_locations(authority)
    else:
        context.load_default_certs()
    if folder and os.path.exists(os.path.join(folder, f"{CLIENT}-cert.pem")):
        _load_pair(context, folder, CLIENT)
    if not verify_peer:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_pair(context: ssl.SSLContext, folder: str, side: str) -> None:
    certificate, key = (os.path.join(folder, f"{side}-{what}.pem") for what in ("cert", "key"))
    context.load_cert_chain(certificate, key)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

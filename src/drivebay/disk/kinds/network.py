"""Kinds of disk that are somewhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from drivebay.disk.errors import DiskOpenError
from drivebay.disk.scanner import Kind, Opener, Scanner

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["KINDS"]

BLOB_FORMATS: Final = ("flat", "vhd1")
NBD_SCHEMES: Final = ("nbd", "nbd+unix", "nbds", "nbds+unix")
MOST_CONNECTIONS: Final = 16


def _blob(scanner: Scanner) -> Opener:
    """``blob:FORMAT:URL``."""
    from drivebay.disk.backends.blob_sources import SCHEMES

    start = scanner.position
    if (form := scanner.name()) not in BLOB_FORMATS:
        raise scanner.error(f"one of {', '.join(BLOB_FORMATS)}", start)
    if not scanner.take(":"):
        raise scanner.error("':' and a URL")
    start = scanner.position
    url = scanner.word("a URL")
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise scanner.error("a URL", start, str(error)) from error
    if scheme not in SCHEMES:
        raise scanner.error(f"a URL with {', '.join(SCHEMES)}", start)
    scanner.options({})

    def opener(read_only: bool) -> Disk:
        from drivebay.disk.backends.blob_sources import open_blob

        if not read_only:
            raise DiskOpenError(
                "an object is only read", "add ,ro, or keep the writes elsewhere: memdiff:blob:..."
            )
        return open_blob(url, vhd=form == "vhd1")

    return opener


def _rbd(scanner: Scanner) -> Opener:
    """``rbd:IMAGE[;conf=PATH][;user=NAME]``, IMAGE being ``POOL[/NAMESPACE]/NAME[@SNAPSHOT]``."""
    start = scanner.position
    where, _, snapshot = scanner.word("POOL/IMAGE").partition("@")
    names = where.split("/")
    if len(names) not in (2, 3) or not all(names):
        raise scanner.error("POOL/IMAGE or POOL/NAMESPACE/IMAGE", start)
    options = scanner.options(
        {"conf": lambda value: value.word("a path"), "user": lambda value: value.word("a name")}
    )
    values = {name: option.value for name, option in options.items()}

    def opener(read_only: bool) -> Disk:
        from drivebay.disk.backends.rbd import RbdDisk

        namespace = names[1] if len(names) == 3 else ""
        return RbdDisk(
            names[0],
            names[-1],
            namespace=namespace,
            snapshot=snapshot or None,
            read_only=read_only,
            **values,
        )

    return opener


def _nbd(scheme: str) -> Kind:
    """``nbd://WHERE[;connections=N][;retry=SECONDS]``: an NBD URI."""

    def parse(scanner: Scanner) -> Opener:
        from drivebay.disk.nbd.messages import NbdError
        from drivebay.disk.nbd.uri import Address

        start = scanner.position
        uri = f"{scheme}:{scanner.word('an NBD URI')}"
        try:
            Address.parse(uri)
        except NbdError as error:
            raise scanner.error("an NBD URI", start, str(error)) from None
        options = scanner.options({"connections": _connections, "retry": Scanner.size})
        values = {name: option.value for name, option in options.items()}

        def opener(read_only: bool) -> Disk:
            from drivebay.disk.backends.nbd import NbdDisk

            return NbdDisk(uri, read_only=read_only, **values)

        return opener

    return Kind(scheme, f"{scheme}://WHERE[;connections=N][;retry=SECONDS]", parse)


def _connections(scanner: Scanner) -> int:
    start = scanner.position
    if not 1 <= (number := scanner.size()) <= MOST_CONNECTIONS:
        raise scanner.error(f"a number from 1 to {MOST_CONNECTIONS}", start)
    return number


KINDS: Final = (
    Kind("blob", "blob:FORMAT:URL", _blob),
    Kind("rbd", "rbd:IMAGE[;conf=PATH][;user=NAME]", _rbd),
    *map(_nbd, NBD_SCHEMES),
)

"""Kinds of disk that are images with a format of their own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from drivebay.disk.scanner import Kind, Opener, Scanner

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["KINDS"]

CHAIN: Final = "chain:"
SNAPSHOT: Final = "snapshot="


def _image(format: str, scanner: Scanner) -> Opener:
    """``vhd:[chain:]DISK``, and the like; `format` is a name of `chain.FORMATS`.

    ``qcow2:[chain:][snapshot=NAME:]DISK`` opens a snapshot inside the image.
    """
    chain = _take(scanner, CHAIN)
    options: dict[str, str] = {}
    if format == "qcow2" and _take(scanner, SNAPSHOT):
        options["snapshot"] = scanner.word("the name of a snapshot", stops=":")
        if not scanner.take(":"):
            raise scanner.error("':' and a disk")
    scanner.bare = scanner.position  # a bare path is a file here, whatever its extension
    below = scanner.disk()

    def opener(read_only: bool) -> Disk:
        from drivebay.disk.formats.chain import FORMATS, open_image

        return open_image(partial(FORMATS[format], **options), below, read_only, chain=chain)

    return opener


def _take(scanner: Scanner, text: str) -> bool:
    if found := scanner.text.startswith(text, scanner.position):
        scanner.position += len(text)
    return found


KINDS: Final[tuple[Kind, ...]] = (
    Kind("qcow2", "qcow2:[chain:][snapshot=NAME:]DISK", partial(_image, "qcow2")),
    Kind("vhd", "vhd:[chain:]DISK", partial(_image, "vpc")),
    Kind("vhdx", "vhdx:[chain:]DISK", partial(_image, "vhdx")),
)

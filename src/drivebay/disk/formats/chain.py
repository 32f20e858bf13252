"""Images that stand on others: differencing VHD and VHDX, qcow2 with a backing file.

A format is a `Layer` that is also an `Image`: its `parent` says what its header names, and nothing
follows that unasked. `open_image` is the whole of it for a kind of disk::

    def opener(read_only: bool) -> Disk:
        return open_image(Qcow2Disk, below, read_only, chain=chain)

Without `chain` an image that has a parent is refused, and the refusal names the parent. With it the
parents are opened read-only, each in the format that the image below the child is said to have, and
all become one `LayeredDisk`. What the header of an image may name is a regular file and nothing
else: no protocol, device, FIFO, no file twice, and no more than `DEEPEST` files in all.

A new format joins by a line in `FORMATS`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.errors import DiskOpenError
from drivebay.disk.kinds.files import FileOpener
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.layer import Layer
from drivebay.disk.layers.layered import LayeredDisk

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk
    from drivebay.disk.scanner import Node

__all__ = ["FORMATS", "Format", "Image", "Parent", "open_image", "open_store"]

DEEPEST: Final = 256


@dataclass(frozen=True)
class Parent:
    """What an image's header says of the image it stands on."""

    paths: tuple[str, ...]
    """Where it may be, the likeliest first; relative ones from the folder of the child."""
    format: str
    """A name of `FORMATS`, or what the header has in its place; empty if it says nothing."""


class Image(Layer):
    """A layer that knows what it stands on."""

    parent: Parent | None = None

    def check_parent(self, parent: Disk) -> None:
        """Raise `DiskOpenError` unless `parent`, which was found by its path, is the right one."""


Format = Callable[..., Layer]
"""Called with the disk that an image is in and ``read_only=``; raises `DiskOpenError`."""


def _raw(disk: Disk, *, read_only: bool) -> Layer:
    return DiskLayer(disk)


def _qcow2(disk: Disk, *, read_only: bool, snapshot: str = "") -> Layer:
    from drivebay.disk.formats.qcow2 import Qcow2Disk

    return Qcow2Disk(disk, read_only=read_only, snapshot=snapshot)


def _vhd(disk: Disk, *, read_only: bool) -> Layer:
    from drivebay.disk.formats.vhd.image import open_vhd

    with _named(disk):
        return open_vhd(disk, read_only=read_only)


def _vhdx(disk: Disk, *, read_only: bool) -> Layer:
    from drivebay.disk.formats.vhdx.image import open_vhdx

    with _named(disk):
        return open_vhdx(disk, read_only=read_only)


@contextmanager
def _named(disk: Disk) -> Iterator[None]:
    """Say of which file an error speaks."""
    try:
        yield
    except DiskOpenError as error:
        name = getattr(disk, "path", None)
        raise DiskOpenError(f"{name}: {error}" if name else str(error), error.hint) from error


FORMATS: Final[Mapping[str, Format]] = {"raw": _raw, "qcow2": _qcow2, "vhdx": _vhdx, "vpc": _vhd}
"""How the bytes of a file become a layer, by the name that qcow2 has for the format."""


def open_store(node: Node, read_only: bool) -> Disk:
    """The disk of `node` for an image, which may end in the middle of a sector if it is a file."""
    if isinstance(node.opener, FileOpener):
        return node.opener(read_only, ragged=True)
    return node.open(read_only)


def open_image(
    format: Format, below: Node, read_only: bool, *, chain: bool, writes_parent: bool = False
) -> Disk:
    """The image in the disk `below`, over its parents if `chain` says so. Raises `DiskOpenError`.

    The disks under it are closed with it. With `writes_parent` the image can be merged into the
    first of its parents, which are only read otherwise.
    """
    store = open_store(below, read_only)
    try:
        top = format(store, read_only=read_only)
    except BaseException:
        store.close()
        raise
    if not isinstance(top, Image) or top.parent is None:
        return top
    layers: list[Layer] = [top]
    try:
        if not chain:
            raise DiskOpenError(
                f"{below.text}: stands on {_shown(top.parent.paths[0])}, which was not asked for",
                f"write {top.kind}:chain:{below.text} to let its header name files",
            )
        _add_parents(layers, getattr(store, "path", None), writes_parent)
        return LayeredDisk(layers, read_only=read_only)
    except BaseException:
        for layer in layers:
            layer.close()
        raise


def _add_parents(layers: list[Layer], path: str | None, writes_first: bool) -> None:
    """Put every ancestor of the image ``layers[0]``, which is in the file `path`, under it."""
    seen = {_identity(os.stat(path))} if path is not None else set()
    child = layers[-1]
    while isinstance(child, Image) and child.parent is not None:
        if len(layers) == DEEPEST:
            raise DiskOpenError(f"{path}: more than {DEEPEST} images on each other")
        parent = child.parent
        path = _find(parent.paths, path)
        status = os.stat(path)
        if _identity(status) in seen:
            raise DiskOpenError(f"{_shown(path)}: stands on itself")
        seen.add(_identity(status))
        layer = _open_parent(path, parent.format, not writes_first or len(layers) > 1)
        layers.append(layer)
        child.check_parent(layer)
        child = layer


def _open_parent(path: str, format: str, read_only: bool) -> Layer:
    if format not in FORMATS:
        raise DiskOpenError(
            f"{_shown(path)}: a parent of the format {format!r}"
            if format
            else f"{_shown(path)}: the image on it does not say what format it has",
            f"formats are {', '.join(FORMATS)}; qemu-img rebase -u -F FORMAT -b {_shown(path)} says"
            " it",
        )
    disk = FileDisk(path, read_only=read_only, ragged=True)
    try:
        return FORMATS[format](disk, read_only=read_only)
    except BaseException:
        disk.close()
        raise


def _find(paths: tuple[str, ...], child: str | None) -> str:
    """The first of `paths` that is a regular file; what is no path at all is refused."""
    for text in paths:
        # A protocol ("nbd:", "json:") is what has a colon before its first slash.
        if not text or "\0" in text or ":" in text.partition("/")[0]:
            raise DiskOpenError(f"{_shown(text)}: a parent that is not the path of a file")
        if not text.startswith("/") and child is None:
            raise DiskOpenError(
                f"{_shown(text)}: a relative path, of an image that lies in no folder",
                "open the image as a file",
            )
    failure = DiskOpenError("an image names no parent")
    for text in paths:
        path = os.path.join(os.path.dirname(child or ""), text)
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no path"
            failure = DiskOpenError(f"{_shown(path)}, which the image {child} stands on: {reason}")
            continue
        if stat.S_ISREG(status.st_mode):
            return path
        failure = DiskOpenError(f"{_shown(path)}: a parent that is not a regular file")
    raise failure


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _shown(text: str) -> str:
    """`text` from a header, for a person: on one line, whatever is in it."""
    return text if text.isprintable() else repr(text)

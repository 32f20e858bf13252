"""Disk specs: the text that names a disk, as ``mem:64M`` or ``memdiff:file:base.img;direct``.

A spec is a kind, a colon and what that kind reads; a kind that stands on another disk reads a spec
again. A bare path is opened by its extension, and ``@PATH`` stands for the disk that a file
describes. `register` adds a kind; a package adds one by an entry point in the group
``drivebay.disks`` whose name is the kind and whose object is a `Kind`. ``docs/disks.md`` is the
reference.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from drivebay.disk.errors import DiskOpenError
from drivebay.disk.kinds import KINDS
from drivebay.disk.kinds.files import FILE
from drivebay.disk.scanner import Kind, Node, Opener, Option, Scanner, SpecError, sector_size

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = [
    "Attachment",
    "Kind",
    "Node",
    "Opener",
    "Option",
    "Scanner",
    "SpecError",
    "forms",
    "known_kinds",
    "open_disk",
    "parse",
    "parse_attachment",
    "register",
    "sector_size",
]

ENTRY_POINTS: Final = "drivebay.disks"
EXTENSIONS: Final = {
    ".iso": "iso",
    ".vhd": "vhd",
    ".vhdx": "vhdx",
    ".qcow2": "qcow2",
    ".dbhd": "sql",
}
"""The kinds of bare paths. Nobody looks into a file to find out: what is in it is the guest's."""

_kinds: dict[str, Kind] = {kind.name: kind for kind in KINDS}


def register(kind: Kind) -> None:
    """Make specs know `kind`. Raises `ValueError` if the name is taken."""
    if kind.name in _kinds:
        raise ValueError(f"there is a disk kind {kind.name} already")
    _kinds[kind.name] = kind


def known_kinds() -> list[str]:
    """The names of all kinds, of installed packages too."""
    from importlib.metadata import entry_points

    return sorted({*_kinds, *entry_points(group=ENTRY_POINTS).names})


def forms() -> list[str]:
    """How each kind that is registered is written, as in ``mem:SIZE[;sector=N]``."""
    return [kind.form for kind in _kinds.values()]


def _find(name: str) -> Kind | None:
    if name not in _kinds:
        from importlib.metadata import entry_points  # 20 ms: only for a kind that is not ours

        for entry in entry_points(group=ENTRY_POINTS, name=name):
            try:
                _kinds[name] = entry.load()
            except Exception as error:  # whatever the package's import raises
                raise DiskOpenError(f"{name}: {entry.value} cannot be loaded: {error}") from error
    return _kinds.get(name)


def _disk(scanner: Scanner) -> Node:
    """Read a kind and what belongs to it, a bare path, or the name of a description."""
    start = scanner.position
    head = scanner.rest.split(";")[0].split(",")[0]
    name, colon, _ = head.partition(":")
    if not head:
        raise scanner.error("a disk such as mem:64M or a path", hint=_kinds_hint())
    if scanner.take("@"):
        return _described(scanner)
    if not colon or name.startswith(("/", ".")):
        kind = _of_path(scanner)
    elif found := _find(name):
        kind = found
        scanner.position += len(name) + 1
    else:
        import difflib

        near = difflib.get_close_matches(name, known_kinds(), 1)
        guess = f"did you mean {near[0]}:? " if near else ""
        raise scanner.error("a kind of disk", hint=f"{guess}{_kinds_hint()}")
    opener = kind.parse(scanner)
    text = scanner.text[start : scanner.position]
    return Node(kind.name, text, opener, tuple(scanner.inner))


def _of_path(scanner: Scanner) -> Kind:
    """The kind of the bare path that comes next: by its extension, once."""
    start = scanner.position
    if scanner.bare == start:  # its format has been told; now come its bytes
        return FILE
    scanner.bare = start
    path = scanner.word("a path")
    scanner.position = start
    return _kinds.get(EXTENSIONS.get(os.path.splitext(path)[1].lower(), ""), FILE)


def _described(scanner: Scanner) -> Node:
    """Read the path of a description, and the disk it describes."""
    from drivebay.disk.described import Rendered, load

    path = scanner.word("the path of a description")
    rendered = Rendered(path, load(path), _find)
    inner = Scanner(rendered.text, _disk, scanner.depth)
    try:
        return _whole(inner)
    except SpecError as error:
        message = f"{path}: {rendered.field_at(error.position)}: {error}"
        raise DiskOpenError(message, error.hint) from error


def _whole(scanner: Scanner) -> Node:
    node = scanner.disk()
    if scanner.next:
        raise scanner.error("the end of the disk", hint="a comma in a path is written twice")
    return node


def _kinds_hint() -> str:
    return f"kinds of disk: {', '.join(known_kinds())}; a path with a colon is file:PATH"


def parse(text: str) -> Node:
    """The disk that `text` names. Raises `SpecError`; `DiskOpenError` for a bad description."""
    return _whole(Scanner(text, _disk))


def open_disk(text: str, read_only: bool = False) -> Disk:
    """Open the disk that `text` names. Raises `DiskOpenError`."""
    return parse(text).open(read_only)


@dataclass(frozen=True)
class Attachment:
    """A disk and how to attach it: ``SPEC[,flag][,key=value]...``."""

    text: str
    disk: Node
    options: tuple[Option, ...]
    """In the order given; the value is a string, or None where there was no ``=``."""

    def checked(self, flags: Iterable[str] = (), keys: Iterable[str] = ()) -> dict[str, str | bool]:
        """The options by name: `flags` as booleans (bare, ``=on`` or ``=off``), `keys` with values.

        Raises `SpecError` for one that is unknown, comes twice, or lacks its value.
        """
        flags, keys = tuple(flags), tuple(keys)
        found: dict[str, str | bool] = {}
        for name, value, position in ((o.name, o.value, o.position) for o in self.options):
            if name in found:
                raise SpecError(self.text, position, f"{name} only once")
            if name in flags:
                if value not in (None, "on", "off"):
                    raise SpecError(self.text, position + len(name) + 1, "on or off")
                found[name] = value != "off"
            elif name not in keys:
                known = ", ".join([*flags, *(f"{key}=" for key in keys)])
                late = any(mark in name for mark in ":./")
                raise SpecError(
                    self.text,
                    position,
                    f"one of {known}" if known else "no option",
                    "the disk comes first, then what is said of it: mem:64M,ro" if late else "",
                )
            elif not value:
                raise SpecError(self.text, position + len(name), f"'=' and a value for {name}")
            else:
                found[name] = value
        return found


def parse_attachment(text: str) -> Attachment:
    """A disk and the options after it. Raises `SpecError`."""
    scanner = Scanner(text, _disk)
    node = scanner.disk()
    options = []
    while scanner.take(","):
        start = scanner.position
        name = scanner.word("an option", stops=",=")
        value = None
        if scanner.take("="):
            value = scanner.word("a value", stops=",") if scanner.next not in ("", ",") else ""
        options.append(Option(name, value, start))
    if scanner.next:
        raise scanner.error("',' or the end")
    return Attachment(text, node, tuple(options))

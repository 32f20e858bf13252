"""Reading a disk spec from left to right, so that an error can name the character it stopped at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from drivebay.disk.contract import MAX_BYTES, MAX_SECTOR_SIZE
from drivebay.disk.errors import DiskOpenError

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["Kind", "Node", "Option", "Scanner", "SpecError", "sector_size"]

DEEPEST: Final = 128
UNITS: Final = {"b": 1, "s": 512, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30} | {
    "t": 1 << 40,
    "p": 1 << 50,
    "e": 1 << 60,
}
SIZE_HINT: Final = "a size is a whole number and K, M, G, T, P or E, in steps of 1024, or no letter"


class SpecError(DiskOpenError):
    """A disk spec makes no sense from character `position` (counted from 0) on.

    `found` is the character there, or empty at the end of the text; `expected` says what would have
    made sense.
    """

    def __init__(self, text: str, position: int, expected: str, hint: str = "") -> None:
        self.text, self.position, self.expected = text, position, expected
        self.found = text[position : position + 1]
        where = f"character {position + 1} is {self.found!r}" if self.found else "it ends there"
        super().__init__(f"{text!r}: {where}, expected {expected}", hint)


class Opener(Protocol):
    """Opens the disk that a spec describes."""

    def __call__(self, read_only: bool) -> Disk:
        """Open it. Raises `DiskOpenError`."""


@dataclass
class Node:
    """A disk spec that makes sense; nothing is open yet."""

    kind: str
    text: str
    opener: Opener
    inner: tuple[Node, ...] = ()
    """The disks under it, in the order of the text."""
    written: bool = False
    """It is opened to be written even by what would only read it, which is how layers merge."""

    def open(self, read_only: bool = False) -> Disk:
        """Open the disk and all it stands on. Raises `DiskOpenError`."""
        return self.opener(read_only and not self.written)


@dataclass(frozen=True)
class Kind:
    """A kind of disk. `parse` reads what follows ``name:`` and returns what opens the disk."""

    name: str
    form: str
    """How it is written, as in ``mem:SIZE[;sector=N]``. `drivebay.disk.described` takes the names
    of its fields from here.
    """
    parse: Callable[[Scanner], Opener]


@dataclass(frozen=True)
class Option:
    """``name`` or ``name=value``, and the position of its name in the text."""

    name: str
    value: Any
    position: int


class Scanner:
    """A spec and how far it has been read. A kind's `parse` takes what belongs to it.

    Every method raises `SpecError` where the text does not hold what it reads.
    """

    def __init__(self, text: str, disk: Callable[[Scanner], Node], depth: int = 0) -> None:
        self.text = text
        self.position = 0
        self.depth = depth
        """Disks that the one being read stands in."""
        self.bare = -1
        """Where the last bare path begins that was opened by its extension."""
        self.inner: list[Node] = []
        """The disks that the one being read stands on, as far as they were read."""
        self._disk = disk
        self._end = len(text)

    def error(self, expected: str, at: int | None = None, hint: str = "") -> SpecError:
        """The error for something else than `expected`, here or at character `at`."""
        return SpecError(self.text, self.position if at is None else at, expected, hint)

    @property
    def next(self) -> str:
        """The next character; empty at the end."""
        return self.text[self.position : min(self.position + 1, self._end)]

    @property
    def rest(self) -> str:
        """What has not been read."""
        return self.text[self.position : self._end]

    def take(self, character: str) -> bool:
        """Read `character` if it comes next."""
        if found := self.next == character:
            self.position += 1
        return found

    def name(self) -> str:
        """Read letters, digits, ``-`` and ``_``; possibly none."""
        start = self.position
        while self.next.isalnum() or self.next in ("-", "_"):
            self.position += 1
        return self.text[start : self.position]

    def word(self, expected: str, stops: str = ";,") -> str:
        """Read up to one of `stops`. A stop written twice stands for itself."""
        parts = []
        start = self.position
        while (character := self.next) and (
            character not in stops or self.text.startswith(character * 2, self.position)
        ):
            self.position += 1 + (character in stops)
            parts.append(character)
        if not parts:
            raise self.error(expected, start)
        return "".join(parts)

    def size(self) -> int:
        """Read a size in bytes, by nbdkit's rules: ``64M``, ``1s`` (512), ``4096``."""
        start = self.position
        while self.next.isascii() and self.next.isdigit():
            self.position += 1
        if self.position == start:
            raise self.error("a size such as 64M", hint=SIZE_HINT)
        number = int(self.text[start : self.position].lstrip("0")[:20] or 0)
        unit = UNITS.get(self.next.lower())
        if unit:
            self.position += 1
        if self.next.isalnum() or self.next == ".":
            raise self.error("the end of the size", hint=SIZE_HINT)
        if number * (unit or 1) > MAX_BYTES:
            raise self.error("a size of less than 8E", start)
        return number * (unit or 1)

    def options(self, known: Mapping[str, Callable[[Scanner], Any] | None]) -> dict[str, Option]:
        """Read ``;name`` and ``;name=value`` to the end of the disk.

        `known` says by name what reads the value; None for a name that has no value.
        """
        found: dict[str, Option] = {}
        while self.next not in ("", ","):
            if not self.take(";"):
                raise self.error("';', ',' or the end")
            start = self.position
            name = self.name()
            if name not in known or name in found:
                again = f"{name} only once" if name in found else f"one of {', '.join(known)}"
                raise self.error(again if known else "no option", start)
            if (read := known[name]) is None:
                found[name] = Option(name, True, start)
            elif self.take("="):
                found[name] = Option(name, read(self), start)
            else:
                raise self.error(f"'=' and a value for {name}")
        return found

    def bracketed(self) -> Node:
        """Read a disk in brackets, which may hold brackets that match."""
        if not self.take("["):
            raise self.error("'[' and a disk")
        depth = 1
        for end in range(self.position, self._end):
            depth += {"[": 1, "]": -1}.get(self.text[end], 0)
            if not depth:
                break
        else:
            raise self.error("']' after the disk", self._end)
        outer, self._end = self._end, end
        node = self.disk()
        if self.next:
            raise self.error("the end of the disk")
        self._end = outer
        self.position += 1
        return node

    def disk(self) -> Node:
        """Read the disk that stands under this one."""
        if self.depth == DEEPEST:
            raise self.error(f"no more than {DEEPEST} disks in each other")
        self.depth += 1
        beside, self.inner = self.inner, []
        node = self._disk(self)
        self.inner = [*beside, node]
        self.depth -= 1
        return node


def sector_size(scanner: Scanner) -> int:
    """Read a sector size in bytes."""
    start = scanner.position
    size = scanner.size()
    if size & (size - 1) or not 512 <= size <= MAX_SECTOR_SIZE:
        raise scanner.error("a power of two from 512 to 65536", start)
    return size

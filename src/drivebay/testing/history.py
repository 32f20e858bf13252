"""What was asked of a disk, and what a power cut may leave of it.

What had ended when a flush began, which has ended too, is there, and so is a write with FUA that
has ended. Of what else had begun any part may be there, in any combination, torn where a multiple
of `History.atom` bytes of the disk ends: writes, zeroes, holes, changes of the size. What was
written twice shows either (virtio 1.2, 5.2.6.2).
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from drivebay.disk.buffers import zero

__all__ = [
    "ATOM",
    "Change",
    "Cut",
    "Data",
    "Flush",
    "History",
    "Image",
    "Kept",
    "Mark",
    "Memory",
    "Pieces",
]

ATOM: Final = 512
END: Final = 1 << 63
FEW: Final = 64
"""A change of so many atoms is torn at any of them."""


class Data(Protocol):
    """What was written, wherever it is kept."""

    def fill(self, start: int, into: memoryview) -> None:
        """Copy its bytes from `start` on, until `into` is full."""


@dataclass(frozen=True, slots=True)
class Memory:
    """`Data` in memory."""

    data: bytes

    def fill(self, start: int, into: memoryview) -> None:
        """Copy."""
        into[:] = memoryview(self.data)[start : start + len(into)]


@dataclass(eq=False, slots=True)
class Change:
    """`length` bytes from `offset` on become `data`, or zeroes; or the disk has a new `size`."""

    number: int
    """Its place in the order in which changes began, from 1."""
    began: int
    offset: int = 0
    length: int = 0
    data: Data | None = None
    fua: bool = False
    ended: int | None = None
    size: int | None = None

    def is_stable(self, moment: int, covered: int) -> bool:
        """Whether it is at `moment`, when a flush has ended that began at `covered`."""
        ended = self.ended
        return ended is not None and (ended <= covered or (self.fua and ended <= moment))


@dataclass(slots=True)
class Flush:
    """A flush that succeeded."""

    began: int
    ended: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What somebody said at a moment."""

    moment: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """A change that a power cut has left, or those of its `atoms`, by number from 0, ascending."""

    change: Change
    atoms: tuple[int, ...] | None = None

    def __str__(self) -> str:
        if self.atoms is None:
            return str(self.change.number)
        runs = (f"{low}-{high}" if high > low else f"{low}" for low, high in _runs(self.atoms))
        return f"{self.change.number}@{'+'.join(runs)}"


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """The first and the last of each run of `numbers`, which ascend."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


_Piece = tuple[int, int, Change]
"""The first byte, the byte after the last, and what shows there."""


class Pieces:
    """Which change shows where; elsewhere it is what was there in the beginning."""

    def __init__(self, other: Pieces | None = None) -> None:
        self._starts: list[int] = [] if other is None else other._starts.copy()
        self._pieces: list[_Piece] = [] if other is None else other._pieces.copy()
        self.key: int = 0 if other is None else other.key
        """The same for the same pieces."""

    def paint(self, start: int, end: int, change: Change) -> bool:
        """Show `change` from byte `start` to `end`, but not where a later one shows; whether it
        shows anywhere.
        """
        starts, pieces = self._starts, self._pieces
        first = bisect_right(starts, start)
        if first and pieces[first - 1][1] > start:
            first -= 1
        last = bisect_left(starts, end, first)
        new: list[_Piece] = []
        at, shown = start, False
        for low, high, other in pieces[first:last]:
            if other.number > change.number:
                if at < low:
                    new.append((at, low, change))
                    shown = True
                new.append((low, high, other))
                at = high
            elif low < start:
                new.append((low, start, other))
        if at < end:
            new.append((at, end, change))
            shown = True
        if first < last:
            _, high, other = pieces[last - 1]
            if high > end and other.number <= change.number:
                new.append((end, high, other))
        for piece in itertools.chain(pieces[first:last], new):
            self.key ^= hash((piece[0], piece[1], piece[2].number))
        pieces[first:last] = new
        starts[first:last] = [piece[0] for piece in new]
        return shown

    def shown(self, start: int, end: int) -> Iterator[_Piece]:
        """The pieces that lie in the range, cut at its ends."""
        at = max(bisect_right(self._starts, start) - 1, 0)
        for low, high, change in self._pieces[at : bisect_left(self._starts, end, at)]:
            if high > start:
                yield max(low, start), min(high, end), change

    def fill(self, start: int, into: memoryview) -> None:
        """Put what shows from byte `start` on over what is in `into`."""
        for low, high, change in self.shown(start, start + len(into)):
            part = into[low - start : high - start]
            if change.data is None:
                zero([part])
            else:
                change.data.fill(low - change.offset, part)


@dataclass(eq=False)
class Image:
    """What a power cut may leave."""

    cut: Cut
    kept: tuple[Kept, ...]
    """Of what nothing had made stable, by number."""
    pieces: Pieces = field(repr=False)
    size: int
    """In bytes."""

    def __str__(self) -> str:
        """Its name, by which `History.image` finds it: the moment, and what was left."""
        return f"{self.cut.moment}:{','.join(map(str, self.kept))}"


@dataclass(eq=False)
class Cut:
    """A moment at which the power may fail."""

    history: History = field(repr=False)
    moment: int
    stable: Pieces = field(repr=False)
    """What is there in any case."""
    changes: Sequence[Change] = field(repr=False)
    """What had begun and may be there or not, by number; not what a later change hides."""

    def image(self, kept: Iterable[Kept]) -> Image:
        """What there is if all but `kept` of the `changes` is lost."""
        kept = tuple(
            sorted((each for each in kept if each.atoms != ()), key=lambda each: each.change.number)
        )
        pieces = Pieces(self.stable)
        atom = self.history.atom
        for each in kept:
            start, end = _span(each.change)
            if each.atoms is None:
                pieces.paint(start, end, each.change)
            else:
                first = start // atom
                for low, high in _runs(each.atoms):
                    run = (first + low) * atom, (first + high + 1) * atom
                    pieces.paint(max(run[0], start), min(run[1], end), each.change)
        return Image(self, kept, pieces, self.history.size_with(self.moment, kept))

    def atoms(self, change: Change) -> int:
        """Into how many parts a change may be torn."""
        atom = self.history.atom
        return max(1, -(-(change.offset % atom + change.length) // atom))

    def draw(self, chance: random.Random, *, tear: bool = True) -> Image:
        """One of those that may be left: nothing, little, half, most or all of each change."""
        keep = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        kept = []
        for change in self.changes:
            if chance.random() < keep:
                torn = tear and self.atoms(change) > 1 and chance.random() < 0.5
                kept.append(self.torn(change, chance) if torn else Kept(change))
        return self.image(kept)

    def torn(self, change: Change, chance: random.Random) -> Kept:
        """Any part of it; of a long one, up to three runs."""
        count = self.atoms(change)
        if count <= FEW:
            chosen = chance.sample(range(count), chance.randint(0, count))
        else:
            edges = sorted(chance.sample(range(count + 1), 2 * chance.randint(1, 3)))
            runs = itertools.starmap(range, zip(edges[::2], edges[1::2], strict=True))
            chosen = list(itertools.chain.from_iterable(runs))
        return Kept(change, tuple(sorted(chosen)))


class History:
    """Changes and flushes of a disk of `size` bytes.

    Moments count what began or ended, from 1: at a moment that has happened, and nothing after it.
    """

    def __init__(self, size: int, atom: int = ATOM) -> None:
        self.size, self.atom = size, atom
        self.moment = 0
        self.changes: list[Change] = []
        self.flushes: list[Flush] = []
        self.marks: list[Mark] = []
        self._resized = False

    def tick(self) -> int:
        """Something begins or ends."""
        self.moment += 1
        return self.moment

    def begin(
        self,
        offset: int = 0,
        length: int = 0,
        data: Data | None = None,
        *,
        fua: bool = False,
        size: int | None = None,
    ) -> Change:
        """A change begins; `ended` is set when it has."""
        number, began = len(self.changes) + 1, self.tick()
        change = Change(number, began, offset, length, data, fua, size=size)
        self.changes.append(change)
        self._resized = self._resized or size is not None
        return change

    def cut(self, moment: int) -> Cut:
        """The power fails at `moment`."""
        [cut] = self.cuts_at([moment])
        return cut

    def cuts(self) -> Iterator[Cut]:
        """The last moment before each at which more became stable, and the end.

        What may be left at any other moment may be left at the next one of these, too.
        """
        ends = {change.ended for change in self.changes if change.fua}
        ends |= {flush.ended for flush in self.flushes}
        moments = sorted({end - 1 for end in ends if end is not None} | {self.moment})
        cuts = self.cuts_at(moments)
        last = next(cuts)
        for cut in cuts:
            if cut.stable is not last.stable:
                yield last
            last = cut
        yield last

    def cuts_at(self, moments: Iterable[int]) -> Iterator[Cut]:
        """The power fails at each of `moments`, which ascend."""
        stable = Pieces()
        begun: list[Change] = []
        number = covered = 0
        flushes = deque(sorted(self.flushes, key=lambda flush: flush.ended))
        for moment in moments:
            while number < len(self.changes) and self.changes[number].began <= moment:
                begun.append(self.changes[number])
                number += 1
            while flushes and flushes[0].ended <= moment:
                covered = max(covered, flushes.popleft().began)
            certain = [change for change in begun if change.is_stable(moment, covered)]
            if certain:
                begun = [change for change in begun if not change.is_stable(moment, covered)]
                stable = Pieces(stable)
                for change in certain:
                    stable.paint(*_span(change), change)
            yield Cut(self, moment, stable, [each for each in begun if _shows(stable, each)])

    def size_with(self, moment: int, kept: Sequence[Kept]) -> int:
        """Bytes of the disk at `moment` if `kept` is left of what nothing had made stable."""
        size = self.size
        if not self._resized:
            return size
        covered = max((f.began for f in self.flushes if f.ended <= moment), default=0)
        left = [change for change in self.changes if change.is_stable(moment, covered)]
        left += [each.change for each in kept]
        for change in sorted(left, key=lambda change: change.number):
            grown = max(size, change.offset + change.length)
            size = change.size if change.size is not None else grown
        return size

    def said(self, moment: int) -> bytes:
        """All that was said until `moment`."""
        return b"".join(mark.text for mark in self.marks if mark.moment <= moment)

    def image(self, name: str) -> Image:
        """The image of that name, as ``str(image)`` says it. Raises `ValueError`."""
        moment, colon, rest = name.partition(":")
        if not colon or not 0 <= int(moment) <= self.moment:
            raise ValueError(f"{name}: no moment of this history")
        cut = self.cut(int(moment))
        known = {change.number: change for change in cut.changes}
        kept = []
        for text in rest.split(",") if rest else ():
            number, torn, atoms = text.partition("@")
            if (change := known.get(int(number))) is None:
                raise ValueError(f"{name}: change {number} is stable then, or has not begun")
            kept.append(Kept(change, _numbers(atoms, cut.atoms(change)) if torn else None))
        return cut.image(kept)


def _span(change: Change) -> tuple[int, int]:
    """The bytes that it changes: what a new size cuts off is zero if it ever comes back."""
    if change.size is not None:
        return change.size, END
    return change.offset, change.offset + change.length


def _shows(stable: Pieces, change: Change) -> bool:
    """Whether any of it could be seen."""
    at, end = _span(change)
    for low, high, other in stable.shown(at, end):
        if low > at or other.number < change.number:
            return True
        at = high
    return at < end


def _numbers(text: str, end: int) -> tuple[int, ...]:
    """What a name says of parts. Raises `ValueError` for numbers from `end` on."""
    numbers: list[int] = []
    for part in text.split("+"):
        low, _, high = part.partition("-")
        if int(high or low) >= end:
            raise ValueError(f"{part}: a change of {end} parts")
        numbers += range(int(low), int(high or low) + 1)
    return tuple(numbers)

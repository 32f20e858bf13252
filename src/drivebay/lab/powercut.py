"""Everything that a power cut may leave of a disk, looked at: see ``docs/powercut.md``."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

from drivebay.disk.contract import Disk
from drivebay.lab.powercut_disk import ImageDisk, open_image
from drivebay.lab.powercut_log import Log
from drivebay.testing.history import Cut, History, Image, Kept

__all__ = [
    "MOST_TRIES",
    "Check",
    "Choice",
    "Finding",
    "ImageDisk",
    "Log",
    "Report",
    "examine",
    "open_image",
    "shrink",
]

MOST_TRIES: Final = 300
"""Images that are looked at to find the smallest that fails."""
MOST_TORN: Final = 1 << 16
"""Parts of a write that are looked at one by one."""

T = TypeVar("T")

Check = Callable[[Image, Disk], str | None]
"""Told an image, and the disk as it was: what is wrong with it, or None."""


# -- which of them ---------------------------------------------------------------------------------


@dataclass
class Choice:
    """Images of `history`: all there are if `limit` allows, or else drawn, the same for a `seed`.

    With `tear` writes may be torn. `moments` are when the power may fail: at any from `first` on,
    unless said. When they have been iterated over, `complete` says whether there are no others.
    """

    history: History
    limit: int
    seed: int = 0
    tear: bool = True
    moments: Sequence[int] | None = None
    first: int = 0
    complete: bool = False

    def _cuts(self) -> Iterator[Cut]:
        history, moments = self.history, self.moments
        cuts = history.cuts() if moments is None else history.cuts_at(sorted(moments))
        return (cut for cut in cuts if cut.moment >= self.first)

    def __iter__(self) -> Iterator[Image]:
        rooms = [_room(cut, self.tear, self.limit) for cut in self._cuts()]
        self.complete = sum(rooms) <= self.limit
        shares = _shares(rooms, self.limit, random.Random(self.seed))
        seen: set[tuple[int, int]] = set()
        for cut, room, share in zip(self._cuts(), rooms, shares, strict=True):
            said = sum(mark.moment <= cut.moment for mark in self.history.marks)
            chance, found = random.Random(f"{self.seed} {cut.moment}"), 0
            if share >= room:
                images = _all(cut, self.tear)
            else:
                images = (_draw(cut, chance, self.tear) for _ in range(8 * share))
            for image in images if share else ():
                if (key := (image.pieces.key, said)) not in seen:
                    seen.add(key)
                    found += 1
                    yield image
                if found == share:
                    break


def _units(cut: Cut, tear: bool) -> list[Kept]:
    """What is there or not, each for itself."""
    if not tear:
        return [Kept(change) for change in cut.changes]
    return [Kept(each, (n,)) for each in cut.changes for n in range(cut.atoms(each))]


def _room(cut: Cut, tear: bool, limit: int) -> int:
    """How many images of `cut` there are, as far as that is at most `limit`, or more."""
    units = sum(cut.atoms(change) for change in cut.changes) if tear else len(cut.changes)
    return 1 << min(units, limit.bit_length())


def _all(cut: Cut, tear: bool) -> Iterator[Image]:
    units = _units(cut, tear)
    for count in range(len(units) + 1):
        for chosen in itertools.combinations(units, count):
            yield cut.image(_joined(cut, chosen))


def _joined(cut: Cut, parts: Iterable[Kept]) -> Iterator[Kept]:
    """Parts of the same change, by number, as one."""
    for change, group in itertools.groupby(parts, lambda part: part.change):
        atoms = tuple(n for part in group for n in part.atoms or range(cut.atoms(change)))
        yield Kept(change, atoms if len(atoms) < cut.atoms(change) else None)


def _shares(rooms: Sequence[int], limit: int, chance: random.Random) -> list[int]:
    """How many images of each cut, `limit` at most together: as many of each, but no more than
    there are, and what one leaves over is for the others.
    """
    order = chance.sample(range(len(rooms)), len(rooms))
    if limit > len(rooms):
        order.sort(key=rooms.__getitem__)
    shares = [0] * len(rooms)
    for done, number in enumerate(order):
        shares[number] = min(rooms[number], -(-limit // (len(order) - done)))
        limit -= shares[number]
    return shares


def _draw(cut: Cut, chance: random.Random, tear: bool) -> Image:
    """One of `cut`: those that tell most of a bug more often than chance alone would."""
    changes = [Kept(change) for change in cut.changes]
    one = chance.randrange(len(changes))
    match chance.randrange(8):
        case 0:
            return cut.image(changes[:one])  # in order, up to there
        case 1 | 2:
            return cut.image(changes[one : one + 1])  # this alone
        case 3 | 4:
            return cut.image(changes[:one] + changes[one + 1 :])  # all but this
        case _:
            return cut.draw(chance, tear=tear)


# -- the smallest ----------------------------------------------------------------------------------


def shrink(image: Image, fails: Callable[[Image], bool], tries: int = MOST_TRIES) -> Image:
    """The image that fails and has least of what nothing had made stable, found in so many tries.

    First whole changes are left out, then parts of those that are left.
    """
    cut, left = image.cut, itertools.count(tries, -1)
    seen: dict[int, bool] = {image.pieces.key: True}

    def still(kept: Sequence[Kept]) -> bool:
        smaller = cut.image(_joined(cut, kept))
        key = smaller.pieces.key
        if key not in seen:
            seen[key] = next(left) > 0 and fails(smaller)
        return seen[key]

    def beside(before: Sequence[Kept], after: Sequence[Kept]) -> Callable[[Sequence[Kept]], bool]:
        return lambda some: still([*before, *some, *after])

    kept = _fewest(image.kept, still)
    for each in tuple(kept):
        at = kept.index(each)
        if cut.atoms(each.change) <= MOST_TORN:
            parts = [Kept(each.change, (n,)) for n in each.atoms or range(cut.atoms(each.change))]
            smaller = _fewest(parts, beside(kept[:at], kept[at + 1 :]))
            kept[at : at + 1] = _joined(cut, smaller)
    return cut.image(kept)


def _fewest(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """A part of `items` that fails, and no longer does with any one of it left out (Zeller and
    Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", ddmin).
    """
    items = list(items)
    if not items or fails([]):
        return []
    pieces = 2
    while len(items) >= 2:
        size = -(-len(items) // pieces)
        parts = [items[at : at + size] for at in range(0, len(items), size)]
        if (alone := next(filter(fails, parts), None)) is not None:
            items, pieces = alone, 2
            continue
        for number in range(len(parts)):
            others = [item for part in parts[:number] + parts[number + 1 :] for item in part]
            if fails(others):
                items, pieces = others, max(pieces - 1, 2)
                break
        else:
            if size == 1:
                break
            pieces = min(len(items), 2 * pieces)
    return items


# -- looked at -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """An image that failed the check, and what that said."""

    image: Image
    said: str


@dataclass
class Report:
    """What came of it."""

    images: int = 0
    """How many were looked at."""
    cuts: int = 0
    """At so many moments the power failed."""
    findings: list[Finding] = field(default_factory=list)
    """In the order of their moments."""
    smallest: Finding | None = None
    """The one with least of what nothing had made stable."""
    tries: int = 0
    """Images that were looked at besides, to find it."""
    seconds: float = 0.0


def examine(
    images: Iterable[Image],
    open_base: Callable[[], Disk],
    check: Check,
    *,
    jobs: int = 1,
    tries: int = MOST_TRIES,
    progress: Callable[[int, int], None] = lambda images, findings: None,
) -> Report:
    """Check `images` by `jobs` threads, then shrink the smallest that failed.

    Each thread opens the disk as it was when the history began for itself. `progress` is told how
    many images were looked at and how many of them failed. Raises what `check` raises.
    """
    report = Report()
    started, moments = time.monotonic(), set[int]()
    opened = _Opened(open_base)

    def look(image: Image) -> Finding | None:
        said = check(image, opened.disk)
        return None if said is None else Finding(image, said)

    waiting: deque[Future[Finding | None]] = deque()

    def take() -> None:
        finding = waiting.popleft().result()
        report.images += 1
        if finding is not None:
            report.findings.append(finding)
        progress(report.images, len(report.findings))

    with opened, ThreadPoolExecutor(jobs, "drivebay-powercut") as pool:
        try:
            for image in images:
                moments.add(image.cut.moment)
                waiting.append(pool.submit(look, image))
                if len(waiting) >= 2 * jobs:
                    take()
            while waiting:
                take()
            if report.findings:
                pool.submit(_find_smallest, report, look, tries).result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    report.cuts, report.seconds = len(moments), time.monotonic() - started
    return report


def _find_smallest(report: Report, look: Callable[[Image], Finding | None], tries: int) -> None:
    smallest = min(report.findings, key=lambda finding: _weight(finding.image))

    def fails(image: Image) -> bool:
        nonlocal smallest
        report.tries += 1
        finding = look(image)
        if finding is not None and _weight(image) < _weight(smallest.image):
            smallest = finding
        return finding is not None

    shrink(smallest.image, fails, tries)
    report.smallest = smallest


def _weight(image: Image) -> tuple[int, int]:
    """Changes that are left, and parts of them."""
    parts = sum(
        image.cut.atoms(each.change) if each.atoms is None else len(each.atoms)
        for each in image.kept
    )
    return len(image.kept), parts


class _Opened:
    """A disk for each thread that wants one, until it is left."""

    def __init__(self, opener: Callable[[], Disk]) -> None:
        self._opener, self._local = opener, threading.local()
        self._disks: list[Disk] = []

    @property
    def disk(self) -> Disk:
        if not hasattr(self._local, "disk"):
            self._local.disk = self._opener()
            self._disks.append(self._local.disk)
        return self._local.disk  # type: ignore[no-any-return]

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        for disk in self._disks:
            disk.close()

"""What is served, as whoever controls it sees it: controllers, places, the disks in them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskError
from drivebay.hosts.control.messages import QueueState, Refused, Traced
from drivebay.hosts.control.slot import Slot
from drivebay.platform.observer import Observed
from drivebay.suspend import sleep

__all__ = ["Bay", "Controller", "Described", "Faults", "Health", "Metrics", "Saved", "Tracing"]

LOOK_AGAIN: Final = 0.005
"""Seconds between two looks at whether a disk is still used."""


class Faults(Protocol):
    """What is to go wrong on a controller, as rules by their text."""

    def add(self, text: str) -> None:
        """Have another rule work. Raises `DiskOpenError` for one that makes no sense."""

    def rules(self) -> Mapping[str, int]:
        """The rules, and how often each has fired."""

    def release(self) -> int:
        """Let go the commands that are held; how many there were."""

    def clear(self) -> None:
        """No rule works any more."""


class Health(Protocol):
    """What a drive says of how it is: numbers by name."""

    def values(self) -> Mapping[str, int]:
        """As they are."""

    def set(self, text: str) -> None:
        """Change some: ``NAME=VALUE,...``, or the name of a profile. Raises `Refused`."""


class Metrics(Protocol):
    """Counters and histograms for Prometheus."""

    def start(self, address: str) -> str:
        """Begin to measure, and let whoever connects to ADDRESS:PORT or PATH read, unless `address`
        is empty; where that is. Raises `Refused` and `ServerError`.
        """

    def stop(self) -> None:
        """Measure no more."""

    def text(self) -> str:
        """What was measured. Raises `Refused` if nothing is."""


class Tracing(Protocol):
    """Records commands and what else happens."""

    def start(self, text: str) -> None:
        """Begin, as ``--trace`` says it. Raises `Refused`."""

    def stop(self) -> Coroutine[Any, Any, Traced]:
        """Record no more; ends when all is written. Raises `Refused`."""


class Saved(Protocol):
    """What can be saved and restored as a whole."""

    def save(self) -> Mapping[str, Any]:
        """Its state, as plain data."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `save` gave. Raises anything if it cannot."""


class Described(NamedTuple):
    """A command for a person: its name, and what it is about."""

    name: str
    place: str


def _unnamed(_queue: int, _command: Any) -> Described:
    return Described("command", "")


@dataclass(eq=False)
class Controller:
    """A controller on a socket, with places by name; the one of a controller that has only one has
    none.
    """

    id: str
    kind: str
    socket: str
    slots: dict[str, Slot]
    connected: Callable[[], bool]
    statistics: Callable[[], Mapping[str, int]] = dict
    add: Callable[[str], Coroutine[Any, Any, str]] | None = None
    """Opens the disk that a text names, with options as on the command line, puts it into a place
    and gives that its name; None where no disk can come. Raises `Refused` and `DiskOpenError`."""

    swap: Callable[[str, str, Callable[[], None]], Coroutine[Any, Any, None]] | None = None
    """The same for a place that is taken: told which, the text, and what frees the place when the
    disk is open; None where no disk can come."""

    faults: Faults | None = None
    """None where there can be none."""
    parts: Callable[[], Mapping[str, Observed]] = dict
    """What takes commands: by the place of each, or one that has no name."""
    describe: Callable[[int, Any], Described] = _unnamed
    """Reads a command of theirs, with its queue."""
    queues: Callable[[], Iterable[QueueState]] = list
    """The queues that its guest has made."""
    hold: Callable[[bool], None] | None = None
    """Has it take no commands, and let go of it; None where that cannot be."""
    at_rest: Callable[[], bool] = lambda: True
    """Whether nothing that it has taken is under way."""
    saved: Saved | None = None
    """Its whole state; None if that is nowhere but in its guest."""
    health: Callable[[], Mapping[str, Health]] = dict
    """That of its drives by their places, or its own without a name."""
    stopped: bool = False

    def name(self, slot: str) -> str:
        """What a place of it is called."""
        return f"{self.id}/{slot}" if slot else self.id


class Bay:
    """The controllers. `changed` is called after what a restart would not bring back."""

    def __init__(
        self, controllers: Iterable[Controller] = (), changed: Callable[[], None] = lambda: None
    ) -> None:
        self.controllers = {controller.id: controller for controller in controllers}
        self.changed = changed
        self.metrics: Metrics | None = None
        self.tracing: Tracing | None = None
        self._leaving: dict[Disk, Callable[[], bool]] = {}

    @property
    def slots(self) -> Iterator[tuple[str, Slot]]:
        """Every place by its name."""
        for controller in self.controllers.values():
            for place, slot in controller.slots.items():
                yield controller.name(place), slot

    def controller(self, name: str) -> Controller:
        """Raises `Refused` if there is none of that name."""
        found = self.controllers.get(name)
        if found is None:
            known = ", ".join(self.controllers)
            raise Refused(f"there is no controller {name[:80]}", f"controllers: {known or 'none'}")
        return found

    def slot(self, name: str) -> Slot:
        """The place of that name. Raises `Refused`."""
        slot, inner = self._find(name)
        if inner:
            raise Refused(f"{name[:80]} is part of a disk", "a whole disk is wanted here")
        return slot

    def disk(self, name: str) -> Disk:
        """The disk of that name, or the one inside another. Raises `Refused`."""
        slot, inner = self._find(name)
        disk = slot.disk
        if disk is None:
            raise Refused(f"{name[:80]}: there is no medium", "media.insert puts one in")
        for number in inner:
            below = disk.inner
            if not number.isdecimal() or len(number) > 9 or int(number) >= len(below):
                kinds = ", ".join(f"{at} {each.kind}" for at, each in enumerate(below))
                raise Refused(f"there is no disk {name[:80]}", f"in {disk.kind}: {kinds or 'none'}")
            disk = below[int(number)]
        return disk

    def health(self, name: str) -> Health:
        """That of a controller or a drive. Raises `Refused`."""
        known = {
            controller.name(place): health
            for controller in self.controllers.values()
            for place, health in controller.health().items()
        }
        found = known.get(name)
        if found is None:
            names = ", ".join(known)
            raise Refused(f"{name[:80]} has no health", f"these have: {names or 'none'}")
        return found

    def _find(self, name: str) -> tuple[Slot, list[str]]:
        first, *rest = name.split("/")
        controller = self.controllers.get(first)
        if controller is not None:
            if (slot := controller.slots.get("")) is not None:
                return slot, rest
            if rest and (slot := controller.slots.get(rest[0])) is not None:
                return slot, rest[1:]
        known = ", ".join(name for name, _ in self.slots)
        raise Refused(f"there is no disk {name[:80]}", f"disks: {known or 'none'}")

    @property
    def at_rest(self) -> bool:
        """Whether nothing is under way of disks that were taken away."""
        return all(at_rest() for at_rest in self._leaving.values())

    @property
    def disks(self) -> list[Disk]:
        """Every disk that is open."""
        inside = [slot.disk for _, slot in self.slots]
        return [*(disk for disk in inside if disk is not None), *self._leaving]

    async def pull(self, name: str) -> None:
        """Take a disk from its guest, and close it when nothing uses it. Raises `Refused`, and
        `DiskError` of the last flush, after which it is closed, too.
        """
        await self.release(*self._take(name))

    def _take(self, name: str) -> tuple[Disk | None, Callable[[], bool]]:
        """Take a disk from its guest: what it is, and what says whether nothing uses it any more.
        Raises `Refused`.
        """
        slot, pull = self._loose(name)
        disk, at_rest = slot.disk, pull()
        for controller in self.controllers.values():
            for place in [place for place, each in controller.slots.items() if each is slot]:
                del controller.slots[place]
        self.changed()
        return disk, at_rest

    def _loose(self, name: str) -> tuple[Slot, Callable[[], Callable[[], bool]]]:
        """A place whose disk can be taken, and what does that. Raises `Refused`."""
        slot = self.slot(name)
        if slot.pull is None:
            raise Refused(f"{name[:80]} cannot be taken away", "it lives as long as its controller")
        return slot, slot.pull

    async def swap(self, name: str, text: str) -> Slot:
        """Put the disk that `text` names in the place of another, which is closed when nothing uses
        it. Raises `Refused`, `DiskOpenError`, and what `pull` raises.
        """
        slot, _ = self._loose(name)
        controller, place = next(
            (controller, place)
            for controller in self.controllers.values()
            for place, each in controller.slots.items()
            if each is slot
        )
        if controller.swap is None:
            raise Refused(f"{name[:80]}: no disk can come to {controller.kind} while it runs")
        taken: list[tuple[Disk | None, Callable[[], bool]]] = []

        def free() -> None:
            if self.slot(name) is not slot:
                raise Refused(f"{name[:80]} is another disk by now")
            taken.append(self._take(name))

        try:
            await controller.swap(place, text, free)
        finally:
            for each in taken:
                await self.release(*each)
        self.changed()
        return self.slot(name)

    async def release(self, disk: Disk | None, at_rest: Callable[[], bool]) -> None:
        """Flush and close a disk that is in no place any more, when it is `at_rest`. Raises
        `DiskError` of the flush. One that was given up before that is still in `disks`.
        """
        if disk is None:  # an empty drive
            return
        self._leaving[disk] = at_rest
        while not at_rest():
            await sleep(LOOK_AGAIN)
        try:
            if not disk.read_only:
                await disk.flush()
        except DiskError:
            self._close(disk)
            raise
        self._close(disk)

    def _close(self, disk: Disk) -> None:
        del self._leaving[disk]
        disk.close()

"""Replays a recording into the same function, without its guest: does it do the same?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import msgspec

from drivebay.disk.contract import Disk, Operation
from drivebay.hosts.vfio_user.memory import ClientMemory
from drivebay.lab.replay.log import CONFIG, INPUTS, Entry, Recording
from drivebay.lab.replay.memory import TapedMemory
from drivebay.lab.replay.standins import (
    TapedDisk,
    TapedEngine,
    error_of,
    messages_of,
    raised,
)
from drivebay.platform.engine import Callback, Timer
from drivebay.platform.interrupts import Line
from drivebay.platform.mmio import MmioRegion, MmioSpace
from drivebay.platform.pci import PciFunction
from drivebay.platform.ports import PortRegion, PortSpace
from drivebay.suspend import Resume, Suspension, Workers, perform

__all__ = ["Divergence", "Player"]

OVER: Final[Entry] = ("over",)
PATIENCE: Final = 60.0
"""Seconds that a wait of the function's own (a fault rule's delay) may take in a replay."""


class Divergence(Exception):
    """The function does something else than it did: at entry `number` there is `expected`."""

    def __init__(self, number: int, expected: Entry, done: Entry) -> None:
        super().__init__(f"entry {number}: recorded was {_short(expected)}, now {_short(done)}")
        self.number, self.expected, self.done = number, expected, done


class _Stop(BaseException):
    """Ends the function's work in the middle. Nothing of it may catch this."""


class Player:
    """Plays `recording`. The function is to be made with `engine`, `memory` and `disk` of this as
    it was made when it was recorded; `recording.header` may say how.
    """

    def __init__(self, recording: Recording) -> None:
        self.engine = _Engine(self)
        self.memory = TapedMemory(self)
        self._disks: list[TapedDisk] = []
        self.number = 0
        """Entries that were played, the next one's number."""
        self._entries: Iterator[Entry] = iter(recording)
        self._entry = next(self._entries, OVER)
        self._operations = 0
        self._divergence: Divergence | None = None
        self._function: PciFunction

    def disk(self) -> TapedDisk:
        """The next disk of the function."""
        number = len(self._disks)
        facts = self._expect("disk is", number)[-1]
        self._disks.append(TapedDisk(self, number, facts))
        return self._disks[number]

    def play(self, function: PciFunction) -> int:
        """Have `function` do it all again; how many entries there were. Raises `Divergence`."""
        self._function = function
        try:
            while self._entry is not OVER:
                if self._entry[0] not in INPUTS:
                    self._diverge("nothing")
                kind, *fields = self._take()
                try:
                    getattr(self, f"_on_{kind}")(*fields)
                except Exception as error:
                    self.told(*raised(error))
        except _Stop:
            if self._divergence is not None:
                raise self._divergence from None
        return self.number

    # -- the tape --------------------------------------------------------------------------------

    def _take(self) -> Entry:
        entry, self._entry = self._entry, next(self._entries, OVER)
        self.number += 1
        return entry

    def _diverge(self, *done: Any) -> None:
        self._divergence = Divergence(self.number, self._entry, done)
        raise _Stop

    def _expect(self, *wanted: Any) -> Entry:
        """The next entry, which must begin like this."""
        if self._entry is OVER:
            raise _Stop
        if tuple(self._entry[: len(wanted)]) != wanted:
            self._diverge(*wanted)
        return self._take()

    def told(self, *entry: Any) -> None:
        """It must be the same that was told then. Who was told may have had copies written back."""
        self._expect(*entry)
        while self._entry[0] == "settled":
            self._take()
            self._on_settle()

    def answer(self, kind: str, *question: Any, find: Callable[[], Any]) -> Any:
        """What was found then, if the same was asked."""
        return self._expect(kind, *question)[-1]

    def laid_out(self, relaid: Callable[[], None]) -> None:
        """The recording says when; here is none."""

    def settle(self, write_back: Callable[[], bool]) -> bool:
        """Nobody but the recording has copies written back."""
        return write_back()

    async def operate(
        self, start: Callable[[Disk], Operation], below: Disk | None, result: Callable[[], bytes]
    ) -> bytes:
        """What came of it then; and it waits, if it waited."""
        self._operations += 1
        number = self._operations
        if self._entry[:2] != ("disk", number):
            await _Held(self, number)
        _, _, error, data = self._expect("disk", number)
        if error is not None:
            raise error_of(error)
        return bytes(data)

    # -- inputs ----------------------------------------------------------------------------------

    def _on_plugged(self, takes: bool, piece: int) -> None:
        self.memory.piece = piece
        for number, each in enumerate(messages_of(self._function)):
            forward = partial(self.told, "message", number)
            if takes:
                each.take = forward
            else:
                each.send = forward
        pin = Line(partial(self.told, "line"))
        self._function.plugged(PortSpace(), MmioSpace(), pin)

    def _on_unplugged(self) -> None:
        for each in messages_of(self._function):
            each.take = None
        self._function.unplugged()

    def _on_reset(self) -> None:
        self._function.reset()

    def _on_read(self, index: int, offset: int, width: int) -> None:
        region = self._region(index)
        if region is None:
            value = self._function.config_read(offset, width)
        elif isinstance(region, PortRegion):
            value = region.port_read(offset, width)
        else:
            value = region.mmio_read(offset, width)
        self.told("value", value)

    def _on_write(self, index: int, offset: int, width: int, value: int) -> None:
        region = self._region(index)
        if region is None:
            self._function.config_write(offset, width, value)
        elif isinstance(region, PortRegion):
            region.port_write(offset, width, value)
        else:
            region.mmio_write(offset, width, value)

    def _region(self, index: int) -> PortRegion | MmioRegion | None:
        if index == CONFIG:
            return None
        region = self._function.bars[index].region
        assert region is not None
        return region

    def _on_run(self, ticket: int) -> None:
        self.engine.run_ticket(ticket)

    def _on_end(self) -> None:
        self.engine.end_turn()

    def _on_settle(self) -> None:
        ClientMemory.write_back(self.memory)

    def _on_relaid(self) -> None:
        self.memory.relaid()

    def _on_resized(self, disk: int, sector_count: int) -> None:
        self._disks[disk].resized(sector_count)

    def _on_save(self) -> None:
        now = msgspec.msgpack.decode(msgspec.msgpack.encode(self._function.save()))
        if self._entry[0] == "saved":
            for path, was, found in _differences("", self._entry[1], now):
                self._entry = ("saved", path, was)
                self._diverge("saved", path, found)
        self._expect("saved")


class _Held(Suspension[None]):
    """An operation that waits as long as it did."""

    def __init__(self, player: Player, number: int) -> None:
        self._player, self._number = player, number

    def begin(self, workers: Workers, resume: Resume) -> None:
        """The recording says when it goes on."""
        resume(None, None)

    def cancel(self) -> bool:
        """Give up, if that could be done."""
        return bool(self._player._expect("cancel", self._number)[-1])


class _Engine(TapedEngine):
    """Does what it is asked to when the recording says so."""

    def __init__(self, player: Player) -> None:
        super().__init__(player, lambda: 0.0)
        self._waiting: dict[int, Callback] = {}
        self._changed = threading.Condition()

    def _wait(self, ticket: int, callback: Callback) -> None:
        with self._changed:
            self._waiting[ticket] = callback
            self._changed.notify()

    def run_ticket(self, ticket: int) -> None:
        """It is its turn."""
        with self._changed:  # a delay of a fault rule takes its time in a replay, too
            self._changed.wait_for(lambda: ticket in self._waiting, PATIENCE)
            callback = self._waiting.pop(ticket, None)
        if callback is None:
            raise LookupError(f"nothing waits with ticket {ticket}")
        self.guard(callback)

    def later(self, callback: Callback) -> None:
        """Call `callback` some time."""
        self._wait(self.ticket(), callback)

    def after(self, seconds: float, callback: Callback) -> Timer:
        """Call `callback` when the recording says that it is time."""
        timer = Timer(callback)
        self._wait(self.ticket(), lambda: timer.callback and timer.callback())
        return timer

    def resumer(self, step: Resume) -> Resume:
        """What has `step` called."""
        ticket = self.ticket()
        return lambda value, error: self._wait(ticket, lambda: step(value, error))

    def submit(self, call: Callable[[], Any], resume: Resume) -> None:
        """Make the call."""
        perform(call, resume)


def _differences(path: str, was: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Where two states are not the same."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in was.keys() | now.keys():
            yield from _differences(f"{path}.{key}".strip("."), was.get(key), now.get(key))
    elif was != now:
        yield path, was, now


def _short(entry: Entry) -> str:
    """An entry as a person reads it."""
    return " ".join(_word(field) for field in entry)


def _word(field: Any) -> str:
    if isinstance(field, bytes):
        return f"[{len(field)} bytes {field[:16].hex()}{'...' if len(field) > 16 else ''}]"
    return f"{field:#x}" if isinstance(field, int) and field > 9 else f"{field}"[:80]

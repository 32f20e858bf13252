"""Records a PCI function while a guest works it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from drivebay.disk.contract import Disk, Operation
from drivebay.lab.replay.log import CONFIG, Log
from drivebay.lab.replay.memory import TapedMemory
from drivebay.lab.replay.standins import (
    TapedDisk,
    TapedEngine,
    disk_facts,
    error_facts,
    messages_of,
    raised,
)
from drivebay.platform.engine import Callback, Engine, Task, Timer
from drivebay.platform.interrupts import Line
from drivebay.platform.mmio import MmioRegion, MmioSpace
from drivebay.platform.pci import PciFunction
from drivebay.platform.ports import Hold, PortRegion, PortSpace
from drivebay.suspend import Promise, Resume

__all__ = ["Recorder"]

T = TypeVar("T")

NO_HEADER: Final[Mapping[str, Any]] = {}


class Recorder:
    """Records to `path`. The function to be recorded is made with `engine`, `memory` and disks of
    this, and `show` gives what the host shall have in its place::

        recorder = Recorder(path, engine)
        nvme = Nvme(recorder.memory, recorder.engine)
        nvme.add(1, recorder.disk(disk))
        VfioUserServer(recorder.show(nvme), recorder.memory, engine, listener)

    `header` is for whoever is to make the function again. Raises `RecordingError`.
    """

    def __init__(self, path: Path, engine: Engine, header: Mapping[str, Any] = NO_HEADER) -> None:
        self.log = Log(path, header)
        self.below = engine
        self.engine = _Engine(self, engine)
        self.memory = TapedMemory(self)
        self._disks: list[TapedDisk] = []
        self._function: PciFunction | None = None
        self._operations = 0
        self._telling = False

    def disk(self, below: Disk) -> TapedDisk:
        """What the function gets in place of a disk."""
        number, facts = len(self._disks), disk_facts(below)
        self.log("disk is", number, facts)
        self._disks.append(TapedDisk(self, number, facts, below))
        below.on_resize(partial(self._resized, number))
        return self._disks[number]

    def show(self, function: PciFunction) -> PciFunction:
        """What the host gets: the same function, and all that it does to that is written down."""
        self._function = function
        for index, bar in tuple(function.bars.items()):
            if bar.region is not None:
                function.bars[index] = replace(bar, region=_region(self, index, bar.region))
        return cast(PciFunction, _Shown(self, function))

    def close(self) -> None:
        """Write down the state that the function is in; the recording is complete."""
        self.save()
        self.log.close()

    def save(self) -> None:
        """Write down the state that the function is in: a replay must come to the same."""
        if self._function is not None:
            self.log("save")
            self.log("saved", self._function.save())

    # -- the tape --------------------------------------------------------------------------------

    def told(self, *entry: Any) -> None:
        """Write it down."""
        self.log(*entry)

    def answer(self, kind: str, *question: Any, find: Callable[[], Any]) -> Any:
        """Find it, and write it down."""
        found = find()
        self.log(kind, *question, found)
        return found

    def laid_out(self, relaid: Callable[[], None]) -> None:
        """Write down that it was."""
        self.input(relaid, "relaid")

    def settle(self, write_back: Callable[[], bool]) -> bool:
        """Write down that it happened now."""
        self.log("settled" if self._telling else "settle")
        return write_back()

    def tell(self, host: Callable[..., None], *entry: Any) -> None:
        """The host is told the last fields of an output, and may do something about it."""
        self.log(*entry)
        told = entry[2:] if entry[0] == "message" else entry[1:]
        self._telling = True
        try:
            host(*told)
        finally:
            self._telling = False

    async def operate(
        self, start: Callable[[Disk], Operation], below: Disk | None, result: Callable[[], bytes]
    ) -> bytes:
        """Have the real engine do it, since how often it waits is no business of the function's."""
        assert below is not None
        if self.log.closed:
            await start(below)
            return result()
        self._operations += 1
        wait = _Wait(self, self._operations)
        wait.task = self.below.start(start(below), wait.ended)
        if wait.task is not None:
            await wait
        data = b"" if wait.error is not None else result()
        self.log("disk", wait.number, error_facts(wait.error), data)
        if wait.error is not None:
            raise wait.error
        return data

    def _resized(self, number: int, sector_count: int) -> None:
        self.log("resized", number, sector_count)
        self._disks[number].resized(sector_count)

    def input(self, call: Callable[[], T], *entry: Any) -> T:
        """Something comes to the function now, by `call`. Raises what that raises."""
        self.log(*entry)
        try:
            return call()
        except Exception as error:
            self.log(*raised(error))
            raise


class _Wait(Promise[None]):
    """For an operation of a real disk. Whether it can be given up is up to that."""

    def __init__(self, recorder: Recorder, number: int) -> None:
        super().__init__()
        self._recorder, self.number = recorder, number
        self.task: Task | None = None
        self.error: BaseException | None = None

    def ended(self, _value: Any, error: BaseException | None) -> None:
        """Called by the real engine."""
        self.error = error
        self.give(None)

    def cancel(self) -> bool:
        """Give up, if the disk does."""
        given_up = self.task is not None and self.task.cancel()
        self._recorder.log("cancel", self.number, given_up)
        return given_up


class _Engine(TapedEngine):
    """The real engine does the work."""

    def __init__(self, recorder: Recorder, below: Engine) -> None:
        super().__init__(recorder, lambda: below.now)
        self._recorder, self._below = recorder, below

    def _run(self, ticket: int, callback: Callback) -> None:
        self._recorder.log("run", ticket)
        self.guard(callback)

    def later(self, callback: Callback) -> None:
        """Call `callback` in the next turn."""
        self._below.later(partial(self._run, self.ticket(), callback))

    def after(self, seconds: float, callback: Callback) -> Timer:
        """Call `callback` in `seconds`."""
        return self._below.after(seconds, partial(self._run, self.ticket(), callback))

    def at_end_of_turn(self, callback: Callback) -> None:
        """Call `callback` when the turn is over."""
        if not self._at_end:
            self._below.at_end_of_turn(self._turn_is_over)
        super().at_end_of_turn(callback)

    def _turn_is_over(self) -> None:
        self._recorder.log("end")
        self.end_turn()

    def resumer(self, step: Resume) -> Resume:
        """What has `step` called."""
        ticket = self.ticket()

        def resume(value: Any, error: BaseException | None) -> None:
            self._below.later(partial(self._run, ticket, lambda: step(value, error)))

        return resume

    def submit(self, call: Callable[[], Any], resume: Resume) -> None:
        """Have a worker make the call."""
        self._below.submit(call, resume)


# -- the function ----------------------------------------------------------------------------------


class _Shown:
    """The function as its host has it."""

    def __init__(self, recorder: Recorder, function: PciFunction) -> None:
        self._recorder, self._function = recorder, function

    def __getattr__(self, name: str) -> Any:
        """Everything but what follows is the function's own."""
        return getattr(self._function, name)

    def config_read(self, offset: int, width: int) -> int:
        """The guest reads its configuration space."""
        return _read(self._recorder, CONFIG, self._function.config_read, offset, width)

    def config_write(self, offset: int, width: int, value: int) -> None:
        """The guest writes to it."""
        call = partial(self._function.config_write, offset, width, value)
        self._recorder.input(call, "write", CONFIG, offset, width, value)

    def reset(self) -> None:
        """It is reset: what state it was in is lost with that."""
        self._recorder.save()
        self._recorder.input(self._function.reset, "reset")

    def plugged(self, ports: PortSpace, mmio: MmioSpace, pin: Line) -> None:
        """It has a host now."""
        recorder, messages = self._recorder, messages_of(self._function)
        takes = any(each.take is not None for each in messages)
        for number, each in enumerate(messages):
            if each.take is not None:
                each.take = partial(recorder.tell, each.take, "message", number)
            else:
                each.send = partial(recorder.tell, each.send, "message", number)

        raised = Line(partial(recorder.tell, pin.set, "line"))
        call = partial(self._function.plugged, ports, mmio, raised)
        recorder.input(call, "plugged", takes, recorder.memory.piece)

    def unplugged(self) -> None:
        """It has none any more."""
        self._recorder.input(self._function.unplugged, "unplugged")


class _Mmio:
    """A BAR's registers."""

    def __init__(self, recorder: Recorder, index: int, region: MmioRegion) -> None:
        self._recorder, self._index, self._region = recorder, index, region
        self.size = region.size

    def mmio_read(self, offset: int, width: int) -> int:
        """A load."""
        return _read(self._recorder, self._index, self._region.mmio_read, offset, width)

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """A store."""
        call = partial(self._region.mmio_write, offset, width, value)
        self._recorder.input(call, "write", self._index, offset, width, value)


class _Ports(PortRegion):
    """A BAR's ports."""

    def __init__(self, recorder: Recorder, index: int, region: PortRegion) -> None:
        self._recorder, self._index, self._region = recorder, index, region
        self.size = region.size

    def port_read(self, offset: int, width: int) -> int:
        """IN."""
        return _read(self._recorder, self._index, self._region.port_read, offset, width)

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """OUT."""
        call = partial(self._region.port_write, offset, width, value)
        return self._recorder.input(call, "write", self._index, offset, width, value)


def _region(
    recorder: Recorder, index: int, region: PortRegion | MmioRegion
) -> PortRegion | MmioRegion:
    if isinstance(region, PortRegion):
        return _Ports(recorder, index, region)
    return _Mmio(recorder, index, region)


def _read(
    recorder: Recorder, region: int, read: Callable[[int, int], int], offset: int, width: int
) -> int:
    value = recorder.input(partial(read, offset, width), "read", region, offset, width)
    recorder.told("value", value)
    return value

"""A SCSI target: logical units by number, their tasks, and what manages those (SAM-5).

Transports whose commands come with all their memory (virtio-scsi, StorVSP) hand them to `submit`
and are told how each ended. One transport is one initiator.
"""

from __future__ import annotations

import enum
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

from drivebay.disk.buffers import cut
from drivebay.disk.contract import Buffers, Operation, byte_length
from drivebay.platform.engine import Engine
from drivebay.platform.engine import Task as Running
from drivebay.platform.logs import RationedLog
from drivebay.platform.observer import Dropped, Escort, InFlight, Observer, Tap
from drivebay.scsi import cdb as cdbs
from drivebay.scsi.inquiry import StandardInquiry
from drivebay.scsi.opcodes import Opcode
from drivebay.scsi.replies import Action, Reply, nothing
from drivebay.scsi.sense import (
    COMMANDS_CLEARED_BY_ANOTHER_INITIATOR,
    INTERNAL_TARGET_FAILURE,
    INVALID_FIELD_IN_CDB,
    LOGICAL_UNIT_NOT_SUPPORTED,
    NO_SENSE,
    REPORTED_LUNS_DATA_HAS_CHANGED,
    CheckCondition,
    Sense,
)
from drivebay.scsi.server import DeviceServer, request_sense
from drivebay.scsi.status import Aborted, Busy, Conflict, Status
from drivebay.scsi.task import Direction, Task
from drivebay.suspend import DONE, Cancelled

__all__ = [
    "MOST_LUNS",
    "Attribute",
    "Carrier",
    "Done",
    "Outcome",
    "Request",
    "Target",
    "lun_field",
    "lun_of",
]

log = logging.getLogger(__name__)
guest_log = RationedLog(log)

MOST_LUNS: Final = 1 << 14
"""Of flat space addressing, SAM-5 section 4.7.7.3."""
WELL_KNOWN: Final = MOST_LUNS
"""The number of the REPORT LUNS well known logical unit, SPC-4 section 8.2; all targets have it."""
WELL_KNOWN_FIELD: Final = 0xC101
WELL_KNOWN_UNIT: Final = 0x1E
NO_UNIT: Final = 0x7F
"""Peripheral qualifier 3, device type 1F: there can be no unit here (SPC-4 table 173)."""


class Attribute(enum.Enum):
    """When a task may begin (SAM-5 section 8.6)."""

    SIMPLE = "simple"
    ORDERED = "ordered"
    HEAD_OF_QUEUE = "head of queue"


@dataclass(slots=True)
class Outcome:
    """How a command ended."""

    status: Status
    sense: bytes = b""
    transferred: int = 0
    """Bytes of data moved."""
    overrun: bool = False
    """The command has more data than there was memory for: nothing was done."""
    aborted: bool = False
    """It was given up: its initiator wants no answer, or is told that it was aborted."""
    reset: bool = False
    """It was given up by a reset."""


Done = Callable[[Outcome], None]
Then = Callable[[], None]


@dataclass(eq=False, slots=True)
class Request:
    """A command on its way. `tag` is the transport's own name for it."""

    unit: DeviceServer
    tasks: _TaskSet
    cdb: bytes
    tag: int
    data_in: Buffers
    data_out: Buffers
    done: Done
    attribute: Attribute
    since: float
    running: Running | None = None
    ended: bool = False
    escort: Escort[bytes, Outcome] | None = None
    """Who meddles."""
    lost: Callable[[], None] | None = None
    """Ends it, where it has acted and nobody was told."""
    reset: bool = False
    """It is given up by a reset."""
    then: Sequence[Then] = ()
    """Called when it has ended, after `done`."""

    def cancel(self) -> None:
        """Give it up. Its `done` is told that it was aborted, at once or when it could be."""
        if self.lost is not None:
            self.lost()
        elif self.running is not None:
            self.running.cancel()
        elif self in self.tasks.waiting:
            self.tasks.waiting.remove(self)
            self.end(Outcome(Status.TASK_ABORTED, aborted=True, reset=self.reset))

    def end(self, outcome: Outcome) -> None:
        """It has ended."""
        self.ended = True
        self.done(outcome)
        if self.escort is not None and self.escort.twice:
            self.done(outcome)
        for then in self.then:
            then()


@dataclass(eq=False, slots=True)
class _TaskSet:
    """The tasks of a unit: those that run, and those that wait for them (SAM-5 section 8)."""

    running: dict[Request, None] = field(default_factory=dict)
    waiting: deque[Request] = field(default_factory=deque)
    firsts: int = 0
    """Of those that run: ordered ones and heads of the queue, which no simple one passes."""
    going_on: bool = False

    def must_wait(self, request: Request) -> bool:
        """Whether it has to wait for one that runs."""
        if request.attribute is Attribute.SIMPLE:
            return self.firsts > 0
        return request.attribute is Attribute.ORDERED and bool(self.running)


class Carrier(Protocol):
    """The transport of a target, to which things can be done that no transport does."""

    def mute(self) -> None:
        """What ends in this turn is told without an interrupt."""

    def fail(self, why: str) -> None:
        """Serve nothing before the initiator resets the transport."""


class Target:
    """Logical units by number."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.tap: Tap | None = None
        """Shown the unit's number as the queue, a CDB, and its `Outcome`."""
        self.observer: Observer[bytes, Outcome] | None = None
        """May meddle with commands that a unit does, shown as to `tap`."""
        self.carrier: Carrier | None = None
        """Its transport."""
        self._units: dict[int, DeviceServer] = {}
        self._tasks: dict[int, _TaskSet] = {}
        self._leaving: list[_TaskSet] = []
        self._listeners: list[Callable[[int, bool], None]] = []
        self._told: list[Callable[[int, Sense], None]] = []

    # -- units -----------------------------------------------------------------------------------

    @property
    def luns(self) -> list[int]:
        """The numbers of the units, in order."""
        return sorted(self._units)

    def unit(self, lun: int) -> DeviceServer | None:
        """The unit of that number."""
        return self._units.get(lun)

    def add(self, lun: int, unit: DeviceServer) -> None:
        """Give `unit` the number `lun`. Raises `ValueError` if it is taken or too large."""
        if not 0 <= lun < MOST_LUNS:
            raise ValueError(f"LUN {lun}: not from 0 to {MOST_LUNS - 1}")
        if lun in self._units:
            raise ValueError(f"LUN {lun} is taken")
        self._changed()
        self._units[lun] = unit
        self._tasks[lun] = _TaskSet()
        unit.when_told = partial(self._tell, lun)
        unit.when_aborted = partial(self._preempted, lun)
        for listener in self._listeners:
            listener(lun, True)

    def remove(self, lun: int, then: Then = nothing) -> DeviceServer:
        """Take the unit away. What it was doing is aborted; `then` is called when nothing of it is
        under way any more. Raises `KeyError` if there is none.
        """
        unit, tasks = self._units.pop(lun), self._tasks.pop(lun)
        unit.when_told, unit.when_aborted = ignore, nothing
        self._leaving.append(tasks)

        def gone() -> None:
            self._leaving.remove(tasks)
            then()

        _abort([*tasks.running, *tasks.waiting], gone)
        self._changed()
        for listener in self._listeners:
            listener(lun, False)
        return unit

    def on_change(self, listener: Callable[[int, bool], None]) -> None:
        """Call ``listener(lun, added)`` when a unit has come or gone."""
        self._listeners.append(listener)

    def on_attention(self, listener: Callable[[int, Sense], None]) -> None:
        """Call ``listener(lun, sense)`` when a unit has a unit attention to tell."""
        self._told.append(listener)

    def _tell(self, lun: int, sense: Sense) -> None:
        for listener in self._told:
            listener(lun, sense)

    def _changed(self) -> None:
        for unit in self._units.values():
            unit.attention(REPORTED_LUNS_DATA_HAS_CHANGED)

    @property
    def at_rest(self) -> bool:
        """Whether no command is under way."""
        return not self._leaving and not any(
            tasks.running or tasks.waiting for tasks in self._tasks.values()
        )

    def task_set(self, lun: int) -> dict[str, int]:
        """How many tasks of a unit run, and how many wait for them. Raises `KeyError`."""
        tasks = self._tasks[lun]
        return {"running": len(tasks.running), "waiting": len(tasks.waiting)}

    def in_flight(self) -> Iterator[InFlight]:
        """The commands under way, and those that wait for them."""
        for lun in self.luns:
            for request in self._requests(lun):
                yield InFlight(lun, request.tag, request.cdb, request.since)

    # -- commands --------------------------------------------------------------------------------

    def submit(
        self,
        lun: int,
        cdb: bytes,
        tag: int,
        data_in: Buffers,
        data_out: Buffers,
        done: Done,
        attribute: Attribute = Attribute.SIMPLE,
    ) -> Request | None:
        """Do the command `cdb` of unit `lun`; `done` is told how it ended, perhaps at once.

        Returns the command, for its transport to give up, unless it has ended.
        """
        if self.tap is not None:
            self.tap.began(lun, tag, cdb)
            done = partial(_tell_both, partial(self.tap.ended, lun, tag), done)
        unit = self._units.get(lun)
        if unit is None or (cdb and cdb[0] == Opcode.REPORT_LUNS):
            done(self._answer(lun, cdb, data_in))
            return None
        tasks = self._tasks[lun]
        escort = None if self.observer is None else self.observer.command(lun, tag, cdb)
        alone = tasks.firsts or tasks.waiting or escort is not None
        direct = None
        if attribute is Attribute.SIMPLE and not alone:
            try:
                direct = unit.direct(cdb, data_in, data_out)
            except Exception as error:
                done(_failed(unit, cdb, error))
                return None
            if direct is not None and direct[1] is DONE:  # mostly: nothing more is made of it
                done(Outcome(Status.GOOD, b"", direct[0]))
                return None
        now = self._engine.now
        request = Request(unit, tasks, cdb, tag, data_in, data_out, done, attribute, now)
        request.escort = escort
        if tasks.must_wait(request) or (tasks.waiting and attribute is not Attribute.HEAD_OF_QUEUE):
            tasks.waiting.append(request)
        else:
            self._start(tasks, request, direct)
        return None if request.ended else request

    def _start(
        self, tasks: _TaskSet, request: Request, direct: tuple[int, Operation] | None = None
    ) -> None:
        moved, operation = direct or (None, _perform(request))
        tasks.running[request] = None
        tasks.firsts += request.attribute is not Attribute.SIMPLE
        ended = partial(self._ended, tasks, request, moved)
        request.running = self._engine.start(operation, ended)

    def _ended(
        self,
        tasks: _TaskSet,
        request: Request,
        moved: int | None,
        outcome: Any,
        error: BaseException | None,
    ) -> None:
        """It has ended. Of one that was direct, `moved` are the bytes it has moved."""
        if isinstance(error, Dropped):
            request.lost = partial(self._ended, tasks, request, None, None, Cancelled())
            return
        del tasks.running[request]
        tasks.firsts -= request.attribute is not Attribute.SIMPLE
        if error is not None:
            outcome = _failed(request.unit, request.cdb, error, reset=request.reset)
        elif moved is not None:
            outcome = Outcome(Status.GOOD, transferred=moved)
        request.end(outcome)
        if tasks.going_on:  # those that end at once must not stand on each other's shoulders
            return
        tasks.going_on = True
        try:
            while tasks.waiting and not tasks.must_wait(tasks.waiting[0]):
                self._start(tasks, tasks.waiting.popleft())
        finally:
            tasks.going_on = False

    def _answer(self, lun: int, cdb: bytes, data_in: Buffers) -> Outcome:
        """What is answered by the target itself: REPORT LUNS, and whatever asks no unit."""
        try:
            if cdb and cdb[0] == Opcode.REPORT_LUNS:
                task = self._report_luns(cdb)
                for each in self._units.values():  # they all have been told (SPC-4 section 6.33)
                    each.forget(REPORTED_LUNS_DATA_HAS_CHANGED)
            elif cdb and cdb[0] == Opcode.INQUIRY:
                asked = _unpack(cdbs.Inquiry, cdb)
                if asked.flags:
                    raise CheckCondition(INVALID_FIELD_IN_CDB)
                what = WELL_KNOWN_UNIT if lun == WELL_KNOWN else NO_UNIT
                task = Reply(StandardInquiry(peripheral=what).pack(), asked.allocation_length)
            elif cdb and cdb[0] == Opcode.REQUEST_SENSE:
                sense = NO_SENSE if lun == WELL_KNOWN else LOGICAL_UNIT_NOT_SUPPORTED
                task = request_sense(_unpack(cdbs.RequestSense, cdb), sense)
            elif cdb and cdb[0] == Opcode.TEST_UNIT_READY and lun == WELL_KNOWN:
                task = Action()
            else:
                raise CheckCondition(LOGICAL_UNIT_NOT_SUPPORTED)
        except CheckCondition as condition:
            return Outcome(Status.CHECK_CONDITION, condition.sense.fixed())
        ends: list[Outcome] = []
        self._engine.start(_move(task, data_in, ()), lambda outcome, error: ends.append(outcome))
        return ends[0]

    def _report_luns(self, cdb: bytes) -> Task:
        asked = _unpack(cdbs.ReportLuns, cdb)
        if asked.select_report > 2:
            raise CheckCondition(INVALID_FIELD_IN_CDB)
        luns = [] if asked.select_report == 1 else [lun_field(lun) for lun in self.luns or [0]]
        if asked.select_report:
            luns.append(lun_field(WELL_KNOWN))
        data = (8 * len(luns)).to_bytes(4) + bytes(4) + b"".join(luns)
        return Reply(data, asked.allocation_length)

    # -- task management (SAM-5 section 7) -------------------------------------------------------

    def has_task(self, lun: int, tag: int) -> bool:
        """QUERY TASK: whether the command is under way."""
        return any(request.tag == tag for request in self._requests(lun))

    def has_tasks(self, lun: int) -> bool:
        """QUERY TASK SET: whether any is."""
        return bool(self._requests(lun))

    def abort_task(self, lun: int, tag: int, then: Then = nothing) -> None:
        """ABORT TASK. The `done` of what is aborted is told so; `then` is called when nothing of
        it is under way any more, here and below.
        """
        _abort([each for each in self._requests(lun) if each.tag == tag], then)

    def abort_task_set(self, lun: int, then: Then = nothing) -> None:
        """ABORT TASK SET and CLEAR TASK SET: there is one initiator."""
        _abort(self._requests(lun), then)

    def _preempted(self, lun: int) -> None:
        """Another initiator has had this one's tasks aborted (SPC-4 section 5.13.11.2.6)."""
        if self._requests(lun):
            self._units[lun].attention(COMMANDS_CLEARED_BY_ANOTHER_INITIATOR)
        self.abort_task_set(lun)

    def reset_unit(self, lun: int, then: Then = nothing) -> None:
        """LOGICAL UNIT RESET. Raises `KeyError` if there is no such unit."""
        unit = self._units[lun]

        def reset() -> None:
            unit.reset()
            then()

        requests = self._requests(lun)
        for request in requests:
            request.reset = True
        _abort(requests, reset)

    def reset(self, then: Then = nothing) -> None:
        """I_T NEXUS RESET, or the transport's own: every unit."""
        left = len(self._units)

        def one_is() -> None:
            nonlocal left
            left -= 1
            if not left:
                then()

        for lun in self.luns:
            self.reset_unit(lun, one_is)
        if not self._units:
            then()

    def _requests(self, lun: int) -> Sequence[Request]:
        tasks = self._tasks.get(lun)
        return [*tasks.running, *tasks.waiting] if tasks else []


def _abort(requests: Sequence[Request], then: Then) -> None:
    """Give all of them up; `then` is called when they have ended."""
    left = len(requests)

    def one_has_ended() -> None:
        nonlocal left
        left -= 1
        if not left:
            then()

    for request in requests:
        request.then = [*request.then, one_has_ended]
    for request in reversed(requests):  # those that wait before those that they wait for
        request.cancel()
    if not requests:
        then()


def _tell_both(one: Done, other: Done, outcome: Outcome) -> None:
    one(outcome)
    other(outcome)


def ignore(_sense: Sense) -> None:
    """Tell nobody."""


async def _perform(request: Request) -> Outcome:
    if request.escort is not None:
        return await _escorted(request, request.escort)
    return await _move(request.unit.execute(request.cdb), request.data_in, request.data_out)


async def _escorted(request: Request, escort: Escort[bytes, Outcome]) -> Outcome:
    """The same, with somebody meddling."""
    data_in, data_out = request.data_in, request.data_out
    try:
        if await escort.before():
            task = request.unit.execute(escort.command)
            outcome = await _move(task, data_in, data_out, escort)
        else:
            outcome = Outcome(Status.GOOD, transferred=byte_length(data_in or data_out))
    except (Cancelled, Dropped):
        raise
    except Exception as error:
        outcome = _failed(request.unit, request.cdb, error)
    return await escort.after(outcome)


async def _move(
    task: Task,
    data_in: Buffers,
    data_out: Buffers,
    escort: Escort[bytes, Outcome] | None = None,
) -> Outcome:
    """Move all the data there is, then finish."""
    if task.prepares:
        await task.prepare()
    moved = 0
    if task.length:
        buffers = data_in if task.direction is Direction.IN else data_out
        moved, room = task.length, byte_length(buffers)
        if room < moved:
            return Outcome(Status.GOOD, overrun=True)
        if room > moved:
            buffers = cut(buffers, 0, moved)
        if escort is None:
            await task.transfer(0, buffers)
        else:
            await escort.move(0, buffers, partial(task.transfer, 0))
    await task.finish()
    return Outcome(Status.GOOD, transferred=moved)


def _failed(
    unit: DeviceServer, cdb: bytes, error: BaseException, *, reset: bool = False
) -> Outcome:
    if isinstance(error, CheckCondition):
        return Outcome(Status.CHECK_CONDITION, unit.told_sense(error.sense))
    if isinstance(error, Busy):
        return Outcome(error.status)
    if isinstance(error, Conflict):
        return Outcome(Status.RESERVATION_CONFLICT)
    if isinstance(error, Aborted | Cancelled):
        return Outcome(Status.TASK_ABORTED, aborted=True, reset=reset)
    guest_log.error("unexpected error in %s", cdb.hex(), exc_info=error)
    return Outcome(Status.CHECK_CONDITION, unit.told_sense(INTERNAL_TARGET_FAILURE))


def _unpack(kind: Any, cdb: bytes) -> Any:
    if len(cdb) < kind.size:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    return kind.unpack(cdb)


def lun_field(lun: int) -> bytes:
    """The 8 bytes of a LUN (SAM-5 section 4.7): peripheral addressing up to 255, then flat."""
    field = WELL_KNOWN_FIELD if lun == WELL_KNOWN else lun if lun < 256 else 0x4000 | lun
    return (field << 48).to_bytes(8)


def lun_of(field: int) -> int | None:
    """The number in a LUN's first two bytes; None of a form that nobody here has."""
    method = field >> 14
    if method == 0 and not field & 0x3F00:  # bus 0
        return field & 0xFF
    if method == 1:
        return field & 0x3FFF
    return WELL_KNOWN if field == WELL_KNOWN_FIELD else None

"""A driver for the virtio SCSI host, over MMIO or PCI: what a guest does, step by step.

::

    host = VirtioScsi(space, 0x10001000, Arena(memory, 0x10000, 1 << 20), poll=engine.turn)
    inquiry = host.ask(0, bytes([0x12, 0, 0, 0, 36, 0]), room=36)
    answer = host.command(0, bytes(6))  # TEST UNIT READY: a unit attention at first
    assert answer.status == 2 and answer.sense[12] == 0x29
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from drivebay.controllers.virtio.scsi_registers import (
    ScsiAnswer,
    ScsiConfig,
    ScsiControl,
    ScsiEvent,
    ScsiFunction,
    ScsiRequest,
    ScsiResponse,
    TaskManagementRequest,
)
from drivebay.drivers.virtio_driver import DeviceError, Offered, RegisterDriver
from drivebay.drivers.virtio_mmio import MmioDriver
from drivebay.drivers.virtio_pci import PciDriver
from drivebay.drivers.virtio_ring import Buffer

__all__ = ["Answer", "DeviceError", "PendingCommand", "VirtioScsi", "VirtioScsiPci"]

CONTROL, EVENT, REQUESTS = 0, 1, 2
FLAT: Final = 0x4000
NO_ANSWER: Final = 0xFF


class Answer(NamedTuple):
    """How a command ended."""

    response: int
    status: int
    residual: int
    sense: bytes
    data: bytes
    """What the device says that it wrote."""


class PendingCommand(Offered):
    """A command under way, and where its answer and its data are."""

    __slots__ = ("answer_at", "data_at", "room", "sense_size")

    def __init__(self, answer_at: int, data_at: int, room: int, sense_size: int) -> None:
        super().__init__()
        self.answer_at, self.data_at = answer_at, data_at
        self.room, self.sense_size = room, sense_size


class PendingFunction(Offered):
    """A task management function under way."""

    __slots__ = ("answer_at",)

    def __init__(self, answer_at: int) -> None:
        super().__init__()
        self.answer_at = answer_at


class PendingEvent(Offered):
    """Room for an event."""

    __slots__ = ("at",)

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at


def lun_field(lun: int, target: int = 0) -> bytes:
    """A LUN as Linux writes it, section 5.6.6.1: flat, whatever its number."""
    return bytes([1, target]) + (FLAT | lun).to_bytes(2) + bytes(4)


class ScsiDriver(RegisterDriver):
    """Commands, task management and events over rings that a transport has set up."""

    _free: dict[int, list[int]]
    _events: list[PendingEvent]
    _tag = 0

    @property
    def config(self) -> ScsiConfig:
        """The configuration space."""
        return ScsiConfig.unpack(self.read_config(ScsiConfig.size))

    def queues_of_device(self) -> int:
        """Control, event, and those for requests."""
        config = self.config
        self._sense_size, self._cdb_size = config.sense_size, config.cdb_size
        self._free, self._events = {}, []
        return REQUESTS + config.num_queues

    def choose_sizes(self, sense: int, cdb: int) -> None:
        """Have room for so many bytes of sense data, and CDBs of so many (section 5.6.4)."""
        self.write_config(20, sense, 4)
        self.write_config(24, cdb, 4)
        self._sense_size, self._cdb_size = sense, cdb

    # -- commands --------------------------------------------------------------------------------

    def submit(
        self,
        lun: int,
        cdb: bytes,
        *,
        data: bytes = b"",
        room: int = 0,
        tag: int | None = None,
        attribute: int = 0,
        queue: int = 0,
        kick: bool = True,
        indirect: bool = False,
        field: bytes | None = None,
    ) -> PendingCommand:
        """Start a command that sends `data`, or has `room` for what comes.

        `field` stands in place of the LUN.
        """
        if tag is None:
            self._tag = tag = self._tag + 1
        request = ScsiRequest(field or lun_field(lun), tag, attribute, 0, 0).pack()
        request += cdb.ljust(self._cdb_size, b"\0")
        answer_size = ScsiAnswer.size + self._sense_size
        at = self._take(len(request) + answer_size + max(room, len(data)))
        answer_at, data_at = at + len(request), at + len(request) + answer_size
        self.memory.view(at, len(request))[:] = request
        self.memory.view(answer_at, answer_size)[:] = bytes([NO_ANSWER]) * answer_size
        self.memory.view(data_at, len(data))[:] = data
        chain = [Buffer(at, len(request), False)]
        chain += [Buffer(data_at, len(data), False)] * bool(data)
        chain += [Buffer(answer_at, answer_size, True)]
        chain += [Buffer(data_at, room, True)] * bool(room)
        pending = PendingCommand(answer_at, data_at, room, self._sense_size)
        table = self.arena.take(16 * len(chain)) if indirect else None
        self.offer(REQUESTS + queue, chain, pending, indirect=table, kick=kick)
        return pending

    def _take(self, size: int) -> int:
        """Memory; what is given back is used again."""
        size = -(-size // 16) * 16
        free = self._free.get(size)
        return free.pop() if free else self.arena.take(size)

    def wait(self, pending: PendingCommand, turns: int = 100_000) -> Answer:
        """How a command ended. Raises `DeviceError` if it never does."""
        written = self.finish(pending, turns)
        answer = ScsiAnswer.unpack(self.memory.view(pending.answer_at, ScsiAnswer.size))
        sense = self.memory.view(pending.answer_at + ScsiAnswer.size, answer.sense_len)
        moved = max(written - ScsiAnswer.size - pending.sense_size, 0)
        data = self.memory.view(pending.data_at, moved)
        return Answer(answer.response, answer.status, answer.residual, bytes(sense), bytes(data))

    def command(
        self, lun: int, cdb: bytes, *, data: bytes = b"", room: int = 0, queue: int = 0
    ) -> Answer:
        """One command from start to end."""
        pending = self.submit(lun, cdb, data=data, room=room, queue=queue)
        answer = self.wait(pending)
        start = pending.answer_at - ScsiRequest.size - self._cdb_size
        size = pending.data_at - start + max(room, len(data))
        self._free.setdefault(-(-size // 16) * 16, []).append(start)
        return answer

    def ask(self, lun: int, cdb: bytes, *, data: bytes = b"", room: int = 0) -> bytes:
        """What a command that goes well answers. Raises `DeviceError` for another."""
        answer = self.command(lun, cdb, data=data, room=room)
        if answer.response != ScsiResponse.OK or answer.status:
            raise DeviceError(
                f"command {cdb.hex()} of LUN {lun}: response {answer.response}, sense"
                f" {answer.sense.hex()}",
                answer.status,
            )
        return answer.data

    # -- task management -------------------------------------------------------------------------

    def start_function(self, function: int, lun: int = 0, tag: int = 0) -> PendingFunction:
        """Start a task management function."""
        asked = TaskManagementRequest(ScsiControl.TASK_MANAGEMENT, function, lun_field(lun), tag)
        at = self._take(TaskManagementRequest.size + 1)
        answer_at = at + TaskManagementRequest.size
        self.memory.view(at, TaskManagementRequest.size)[:] = asked.pack()
        self.memory.view(answer_at, 1)[0] = NO_ANSWER
        chain = [Buffer(at, TaskManagementRequest.size, False), Buffer(answer_at, 1, True)]
        pending = PendingFunction(answer_at)
        self.offer(CONTROL, chain, pending)
        return pending

    def manage(self, function: ScsiFunction, lun: int = 0, tag: int = 0) -> int:
        """A task management function from start to end; its response."""
        pending = self.start_function(function, lun, tag)
        self.finish(pending)
        return self.memory.view(pending.answer_at, 1)[0]

    # -- events ----------------------------------------------------------------------------------

    def leave_room(self, count: int = 1) -> None:
        """Leave buffers for so many events."""
        for _ in range(count):
            pending = PendingEvent(self.arena.take(ScsiEvent.size))
            self._events.append(pending)
            self.offer(EVENT, [Buffer(pending.at, ScsiEvent.size, True)], pending)

    def events(self) -> Iterator[ScsiEvent]:
        """What has happened since the last look."""
        self.collect()
        while self._events and self._events[0].written is not None:
            yield ScsiEvent.unpack(self.memory.view(self._events.pop(0).at, ScsiEvent.size))


class VirtioScsi(MmioDriver, ScsiDriver):
    """The device at `base` of `space`, with its rings and buffers in `arena`; see `MmioDriver`."""


class VirtioScsiPci(PciDriver, ScsiDriver):
    """The device that is the PCI function `at`; see `PciDriver`."""

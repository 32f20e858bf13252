"""The SCSI host device, virtio 1.2 section 5.6: one target, its logical units by number."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from drivebay.controllers.virtio.device import QUEUE_SIZE, RingDevice, mask
from drivebay.controllers.virtio.requests import take
from drivebay.controllers.virtio.ring import Rows, gather
from drivebay.controllers.virtio.runner import Runner, Serve
from drivebay.controllers.virtio.scsi_command import Command, Sizes, frame_of, refusal
from drivebay.controllers.virtio.scsi_registers import (
    DEVICE_ID_SCSI,
    EVENTS_MISSED,
    FUNCTION_COMPLETE,
    RESET_REMOVED,
    RESET_RESCAN,
    NotificationAnswer,
    ScsiAttribute,
    ScsiConfig,
    ScsiControl,
    ScsiEvent,
    ScsiEventKind,
    ScsiFeature,
    ScsiFunction,
    ScsiResponse,
    TaskManagementRequest,
)
from drivebay.disk.buffers import scatter
from drivebay.disk.contract import Buffers, byte_length
from drivebay.platform.engine import Engine
from drivebay.platform.virtio import RingError
from drivebay.scsi.sense import Sense
from drivebay.scsi.target import MOST_LUNS, Attribute, Target, lun_field, lun_of

__all__ = ["ScsiDevice"]

log = logging.getLogger(__name__)

CONTROL, EVENT = 0, 1
MOST_EVENTS: Final = 64
"""Events that are kept for a driver that has left no buffer for them."""
MOST_SENSE, MOST_CDB = 0xFFFF, 0xFF
"""Bytes that a driver may ask for."""
SINGLE_LEVEL: Final = 0x01
"""The first byte of a LUN field, section 5.6.6.1: what follows are a target and a LUN."""
CHANGED: Final = (0x28, 0x2A)
"""Codes of the unit attentions that are changes of a unit's parameters: another medium, another
capacity, other mode parameters."""

ATTRIBUTES: Final[dict[int, Attribute]] = {
    ScsiAttribute.ORDERED: Attribute.ORDERED,
    ScsiAttribute.HEAD: Attribute.HEAD_OF_QUEUE,
}
SIMPLE: Final = Attribute.SIMPLE


class ScsiDevice(RingDevice):
    """A virtio SCSI host for the logical units of `target`, with `queues` request queues.

    What comes to `target` or goes from it while a driver runs is told it, and so is a unit's new
    size or medium. `packed` offers packed rings. Raises `ValueError` for what cannot be.
    """

    device_id = DEVICE_ID_SCSI
    name = "virtio-scsi"

    def __init__(
        self,
        target: Target,
        engine: Engine,
        *,
        queues: int = 1,
        queue_size: int = QUEUE_SIZE,
        packed: bool = True,
    ) -> None:
        super().__init__(engine, log, queues=queues, queue_size=queue_size, packed=packed, others=2)
        self.target = target
        self._sizes = Sizes()
        self._luns: dict[bytes, int] = {}  # of the units there are, as drivers write them
        self._events: deque[ScsiEvent] = deque()
        self._missed = False
        for lun in target.luns:
            self._know(lun)
        target.carrier = self
        target.on_change(self._changed)
        target.on_attention(self._told)

    # -- configuration ---------------------------------------------------------------------------

    @property
    def features(self) -> int:
        """The feature bits on offer."""
        return self.ring_features | mask(ScsiFeature.HOTPLUG, ScsiFeature.CHANGE)

    def set_features(self, features: int) -> None:
        """The driver has chosen these. None is a reset, which ends what the last one was told.

        The same again changes nothing: a front end has reconnected.
        """
        if features == self._features:
            return
        self._features = features
        self._events.clear()
        self._missed = False
        self._sizes = Sizes()
        if not features:
            self.target.reset()

    def read_config(self) -> bytes:
        """The configuration space."""
        return self._config().pack()

    def _config(self) -> ScsiConfig:
        return ScsiConfig(
            num_queues=len(self.queue_sizes) - 2,
            seg_max=max(self.queue_sizes[0] - 2, 1),
            sense_size=self._sizes.sense,
            cdb_size=self._sizes.cdb,
            max_lun=MOST_LUNS - 1,
        )

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver chooses the sizes of sense data and CDBs; it can write nothing else (section
        5.6.4.1).
        """
        config = bytearray(self.read_config())
        config[offset : offset + len(data)] = data
        asked = ScsiConfig.unpack(bytes(config[: ScsiConfig.size]))
        if asked.sense_size <= MOST_SENSE and asked.cdb_size <= MOST_CDB:
            self._sizes = Sizes(asked.sense_size, asked.cdb_size)
        elif self._transport is not None:
            self._transport.needs_reset()

    @property
    def driver_state(self) -> int:
        """The sizes that the driver has chosen; see `platform.virtio.Device`."""
        return self._sizes.cdb << 16 | self._sizes.sense

    @driver_state.setter
    def driver_state(self, state: int) -> None:
        self._sizes = Sizes(state & MOST_SENSE, state >> 16 & MOST_CDB)

    def server_of(self, index: int) -> Serve:
        """What serves queue `index`."""
        return {CONTROL: self._control, EVENT: self._event}.get(index, self._command)

    # -- commands --------------------------------------------------------------------------------

    def _command(self, runner: Runner, head: int, rows: Rows) -> int | None:
        """Parse the command and give it to the target. Returns the bytes written, or None."""
        sizes = self._sizes
        frame = asked, answer, data_in, data_out = frame_of(runner.queue.memory, rows, sizes)
        if asked is None or (data_in and data_out):  # INOUT is not on offer
            return refusal(answer, sizes, ScsiResponse.FAILURE)
        field, tag, attribute, _, _, cdb = asked
        lun = self._luns.get(field)
        if lun is None and (lun := _lun(field)) is None:
            return refusal(answer, sizes, ScsiResponse.BAD_TARGET)
        command = Command(runner, head, frame, sizes)
        request = self.target.submit(
            lun,
            cdb,
            tag,
            data_in,
            data_out,
            command.done,
            ATTRIBUTES.get(attribute, SIMPLE) if attribute else SIMPLE,
        )
        if request is None:
            return command.written
        command.request = request
        runner.hold(head, command)
        return None

    # -- control ---------------------------------------------------------------------------------

    def _control(self, runner: Runner, head: int, rows: Rows) -> int | None:
        readable, writable, fault = gather(runner.queue.memory, rows)
        room = byte_length(writable)
        if not room:
            raise RingError("a control request without room for its answer")
        asked = take(readable, TaskManagementRequest.size)
        kind = int.from_bytes(asked[:4], "little")
        whole = len(asked) == TaskManagementRequest.size and fault is None
        if kind == ScsiControl.TASK_MANAGEMENT and whole:
            return self._manage(runner, head, TaskManagementRequest.unpack(asked), writable)
        answer = bytes([ScsiResponse.FUNCTION_REJECTED])
        if kind in (ScsiControl.NOTIFICATION_QUERY, ScsiControl.NOTIFICATION_SUBSCRIBE):
            answer = NotificationAnswer().pack()[:room]  # there are none to subscribe to
        scatter(writable, memoryview(answer))
        return len(answer)

    def _manage(
        self, runner: Runner, head: int, asked: TaskManagementRequest, answer: Buffers
    ) -> int | None:
        """A task management function: it is answered when what it ended has ended."""
        lun, tag, target = _lun(asked.lun), asked.id, self.target
        function = _Management(runner, head, answer)
        if asked.subtype == ScsiFunction.I_T_NEXUS_RESET:
            target.reset(function.end)
        elif lun is None or target.unit(lun) is None:
            function.response = (
                ScsiResponse.BAD_TARGET if lun is None else ScsiResponse.INCORRECT_LUN
            )
            function.end()
        elif asked.subtype == ScsiFunction.ABORT_TASK:
            target.abort_task(lun, tag, function.end)
        elif asked.subtype in (ScsiFunction.ABORT_TASK_SET, ScsiFunction.CLEAR_TASK_SET):
            target.abort_task_set(lun, function.end)
        elif asked.subtype == ScsiFunction.LOGICAL_UNIT_RESET:
            target.reset_unit(lun, function.end)
        else:
            function.response = self._query(asked.subtype, lun, tag)
            function.end()
        if function.ended:
            return 1
        function.held = True
        runner.hold(head, function)
        return None

    def _query(self, subtype: int, lun: int, tag: int) -> ScsiResponse:
        """QUERY TASK and QUERY TASK SET: that the function succeeded says that there is one."""
        if subtype == ScsiFunction.QUERY_TASK:
            found = self.target.has_task(lun, tag)
        elif subtype == ScsiFunction.QUERY_TASK_SET:
            found = self.target.has_tasks(lun)
        else:
            return ScsiResponse.FUNCTION_REJECTED
        return ScsiResponse.FUNCTION_SUCCEEDED if found else FUNCTION_COMPLETE

    # -- events ----------------------------------------------------------------------------------
    # A buffer for an event stays in the ring until there is one: whoever takes the ring over finds
    # it there. An event stays here until there is a buffer, be the queue stopped meanwhile.

    def kick(self, index: int) -> None:
        """The driver says that there is work in a queue: in that of events, room for one."""
        if index == EVENT:
            self._tell_events()
        else:
            super().kick(index)

    def _know(self, lun: int) -> None:
        for field in (lun, lun | FLAT) if lun < 256 else (lun | FLAT,):
            self._luns[_field(field.to_bytes(2))] = lun

    def _changed(self, lun: int, added: bool) -> None:
        """A logical unit has come or gone."""
        if added:
            self._know(lun)
        else:
            self._luns = {field: each for field, each in self._luns.items() if each != lun}
        reason = RESET_RESCAN if added else RESET_REMOVED
        self._notify(ScsiFeature.HOTPLUG, ScsiEventKind.TRANSPORT_RESET, lun, reason)

    def _told(self, lun: int, sense: Sense) -> None:
        """A logical unit has something to tell."""
        if sense.asc in CHANGED:
            reason = sense.asc | sense.ascq << 8
            self._notify(ScsiFeature.CHANGE, ScsiEventKind.PARAM_CHANGE, lun, reason)

    def _notify(self, feature: ScsiFeature, kind: ScsiEventKind, lun: int, reason: int) -> None:
        if not self._features & mask(feature):
            return
        if len(self._events) == MOST_EVENTS:
            self._missed = True
            return
        self._events.append(ScsiEvent(kind, _field(lun_field(lun)[:2]), reason))
        self._tell_events()

    def _tell_events(self) -> None:
        runner = self._runners.get(EVENT)
        if runner is not None and self._events:
            runner.serve_some(len(self._events))

    def _event(self, runner: Runner, head: int, rows: Rows) -> int:
        """A buffer, for the oldest event."""
        _, writable, fault = gather(runner.queue.memory, rows)
        if byte_length(writable) < ScsiEvent.size or fault is not None:
            raise RingError("a buffer that has no room for an event")
        event = self._events.popleft()
        if self._missed:
            event.event |= EVENTS_MISSED
            self._missed = False
        scatter(writable, memoryview(event.pack()))
        return ScsiEvent.size


class _Management:
    """A task management function that waits for what it ends."""

    def __init__(self, runner: Runner, head: int, answer: Buffers) -> None:
        self._runner, self._head, self._answer = runner, head, answer
        self.response = FUNCTION_COMPLETE
        self.ended = self.held = self._dropped = False

    def cancel(self) -> None:
        """The queue is stopped: what it ends ends all the same, and nobody is told."""
        self._dropped = True
        self._runner.drop(self._head)

    def end(self) -> None:
        """It is done."""
        self.ended = True
        if self._dropped:
            return
        scatter(self._answer, memoryview(bytes([self.response])))
        if self.held:
            self._runner.finish(self._head, 1)


FLAT: Final = 0x4000
"""Flat space addressing, SAM-5 section 4.7.7.3: as Linux writes every LUN."""
WELL_KNOWN: Final = bytes([0xC1, 0x01]) + bytes(6)
"""The REPORT LUNS well known logical unit, section 5.6.6.1."""


def _field(lun: bytes) -> bytes:
    """The LUN field of a unit of our only target."""
    return bytes([SINGLE_LEVEL, 0]) + lun + bytes(4)


def _lun(field: bytes) -> int | None:
    """The LUN of a request; None unless it is in our only target (section 5.6.6.1)."""
    if field == WELL_KNOWN:
        return lun_of(int.from_bytes(field[:2]))
    if field[0] != SINGLE_LEVEL or field[1] or any(field[4:]):
        return None
    return lun_of(int.from_bytes(field[2:4]))

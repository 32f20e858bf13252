"""The SCSI host device, virtio 1.2 section 5.6: one target, its logical units by number."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from drivebay.controllers.virtio.device import QUEUE_SIZE, RingDevice, mask
from drivebay.controllers.virtio.requests import take
from drivebay.controllers.virtio.ring import Rows, gather
from drivebay.controllers.virtio.runner import Runner, Serve
from drivebay.controllers.virtio.scsi_registers import (
    DEVICE_ID_SCSI,
    EVENTS_MISSED,
    RESET_REMOVED,
    RESET_RESCAN,
    SENSE_BYTES,
    NotificationAnswer,
    ScsiAnswer,
    ScsiAttribute,
    ScsiConfig,
    ScsiControl,
    ScsiEvent,
    ScsiEventKind,
    ScsiFeature,
    ScsiFunction,
    ScsiRequest,
    ScsiResponse,
    TaskManagementRequest,
)
from drivebay.disk.buffers import cut, scatter
from drivebay.disk.contract import Buffers, byte_length
from drivebay.platform.engine import Engine
from drivebay.platform.virtio import RingError
from drivebay.scsi.sense import CAPACITY_DATA_HAS_CHANGED
from drivebay.scsi.target import Attribute, Outcome, Request, Target, lun_field, lun_of

__all__ = ["ScsiDevice"]

log = logging.getLogger(__name__)

CONTROL, EVENT = 0, 1
REQUEST, ANSWER = ScsiRequest.size, ScsiAnswer.size
OK: Final = ScsiResponse.OK
MOST_EVENTS: Final = 64
"""Events that are kept for a driver that has left no buffer for them."""
SINGLE_LEVEL: Final = 0x01
"""The first byte of a LUN field, section 5.6.6.1: what follows are a target and a LUN."""
unpack_request, pack_answer = ScsiRequest.layout.unpack, ScsiAnswer.layout.pack

ATTRIBUTES: Final = {
    ScsiAttribute.ORDERED: Attribute.ORDERED,
    ScsiAttribute.HEAD: Attribute.HEAD_OF_QUEUE,
}


class ScsiDevice(RingDevice):
    """A virtio SCSI host for the logical units of `target`, with `queues` request queues.

    What comes to `target` or goes from it while a driver runs is told it, and so is a disk's new
    size by `resized`. `packed` offers packed rings. Raises `ValueError` for what cannot be.
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
        self.driver_state = 0
        self._events: deque[ScsiEvent] = deque()
        self._missed = False
        target.on_change(self._changed)

    # -- configuration ---------------------------------------------------------------------------

    @property
    def features(self) -> int:
        """The feature bits on offer."""
        return self.ring_features | mask(ScsiFeature.HOTPLUG, ScsiFeature.CHANGE)

    def set_features(self, features: int) -> None:
        """The driver has chosen these."""
        self._features = features

    def read_config(self) -> bytes:
        """The configuration space."""
        return ScsiConfig(
            num_queues=len(self.queue_sizes) - 2,
            seg_max=max(self.queue_sizes[0] - 2, 1),
            max_lun=max([0xFF, *self.target.luns]),
        ).pack()

    def write_config(self, offset: int, data: bytes) -> None:
        """The sizes of sense data and CDBs stay what they are (section 5.6.4)."""

    def server_of(self, index: int) -> Serve:
        """What serves queue `index`."""
        return {CONTROL: self._control, EVENT: self._event}.get(index, self._command)

    # -- commands --------------------------------------------------------------------------------

    def _command(self, runner: Runner, head: int, rows: Rows) -> int | None:
        """Parse the command and give it to the target. Returns the bytes written, or None."""
        readable, writable, fault = gather(runner.queue.memory, rows)
        if byte_length(writable) < ANSWER:
            raise RingError("a command without room for its answer")
        header = take(readable, REQUEST)
        answer, data_in = cut(writable, 0, ANSWER), cut(writable, ANSWER, byte_length(writable))
        if len(header) < REQUEST or fault is not None:
            return _refuse(answer, ScsiResponse.FAILURE)
        field, tag, attribute, _, _, cdb = unpack_request(header)
        lun = _lun(field)
        if lun is None:
            return _refuse(answer, ScsiResponse.BAD_TARGET)
        command = _Command(runner, head, answer, data_in, readable)
        request = self.target.submit(
            lun,
            cdb,
            tag,
            data_in,
            readable,
            command.done,
            ATTRIBUTES.get(attribute, Attribute.SIMPLE),
        )
        if request is None:
            return command.written
        command.request = request
        runner.hold(head, command)
        return None

    # -- control ---------------------------------------------------------------------------------

    def _control(self, runner: Runner, head: int, rows: Rows) -> int | None:
        readable, writable, fault = gather(runner.queue.memory, rows)
        asked = take(readable, TaskManagementRequest.size)
        kind = int.from_bytes(asked[:4], "little")
        whole = len(asked) == TaskManagementRequest.size and fault is None
        if kind == ScsiControl.TASK_MANAGEMENT and whole:
            if not byte_length(writable):
                raise RingError("a control request without room for its answer")
            return self._manage(runner, head, TaskManagementRequest.unpack(asked), writable)
        answer = bytes([ScsiResponse.FUNCTION_REJECTED])
        if kind in (ScsiControl.NOTIFICATION_QUERY, ScsiControl.NOTIFICATION_SUBSCRIBE):
            answer = NotificationAnswer().pack()  # there are none to subscribe to
        scatter(writable, memoryview(answer)[: byte_length(writable)])
        return min(len(answer), byte_length(writable))

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
        return ScsiResponse.FUNCTION_SUCCEEDED if found else ScsiResponse.OK

    # -- events ----------------------------------------------------------------------------------
    # A buffer for an event stays in the ring until there is one: whoever takes the ring over finds
    # it there.

    def kick(self, index: int) -> None:
        """The driver says that there is work in a queue: in that of events, room for one."""
        if index == EVENT:
            self._tell_events()
        else:
            super().kick(index)

    def _changed(self, lun: int, added: bool) -> None:
        """A logical unit has come or gone."""
        reason = RESET_RESCAN if added else RESET_REMOVED
        self._notify(ScsiFeature.HOTPLUG, ScsiEventKind.TRANSPORT_RESET, lun, reason)

    def resized(self, lun: int) -> None:
        """A logical unit has another size."""
        _, code, qualifier, _ = CAPACITY_DATA_HAS_CHANGED
        reason = code | qualifier << 8
        self._notify(ScsiFeature.CHANGE, ScsiEventKind.PARAM_CHANGE, lun, reason)

    def _notify(self, feature: ScsiFeature, kind: ScsiEventKind, lun: int, reason: int) -> None:
        if not self._features & mask(feature) or EVENT not in self._runners:
            return
        if len(self._events) == MOST_EVENTS:
            self._missed = True
            return
        where = bytes([SINGLE_LEVEL, 0]) + lun_field(lun)[:2] + bytes(4)
        self._events.append(ScsiEvent(kind, where, reason))
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


class _Command:
    """A command on its way through the target."""

    def __init__(
        self, runner: Runner, head: int, answer: Buffers, data_in: Buffers, data_out: Buffers
    ) -> None:
        self._runner, self._head, self._answer = runner, head, answer
        self._in, self._out = byte_length(data_in), byte_length(data_out)
        self.request: Request | None = None
        """Once it has to wait."""
        self._dropped = False
        self.written = 0
        """Bytes, once it is done."""

    def cancel(self) -> None:
        """The queue is stopped, and nobody wants the answer."""
        self._dropped = True
        if self.request is not None:
            self.request.cancel()

    def done(self, outcome: Outcome) -> None:
        """Write the answer, and give the chain back if it had to wait."""
        if self._dropped:
            self._runner.drop(self._head)
            return
        moved = outcome.transferred
        response = OK
        if outcome.overrun:
            response = ScsiResponse.OVERRUN
        elif outcome.aborted:
            response = ScsiResponse.ABORTED
        sense = outcome.sense[:SENSE_BYTES]
        residual = (self._in or self._out) - moved
        answer = pack_answer(len(sense), residual, 0, outcome.status, response, sense)
        scatter(self._answer, memoryview(answer))
        self.written = ANSWER + (moved if self._in else 0)
        if self.request is not None:
            self._runner.finish(self._head, self.written)


class _Management:
    """A task management function that waits for what it ends."""

    def __init__(self, runner: Runner, head: int, answer: Buffers) -> None:
        self._runner, self._head, self._answer = runner, head, answer
        self.response = ScsiResponse.FUNCTION_SUCCEEDED
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


def _refuse(answer: Buffers, response: ScsiResponse) -> int:
    scatter(answer, memoryview(ScsiAnswer(response=response).pack()))
    return ANSWER


def _lun(field: bytes) -> int | None:
    """The LUN of a request; None unless it is in our only target (section 5.6.6.1)."""
    if field[0] != SINGLE_LEVEL or field[1] or any(field[4:]):
        return None
    return lun_of(int.from_bytes(field[2:4]))

"""SCSI requests: where their data are, and how their ends are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from drivebay.controllers.storvsp.packets import Packet, Range
from drivebay.controllers.storvsp.protocol import (
    MOST_SENSE,
    SCSI_REQUEST_V1,
    Header,
    NtStatus,
    Operation,
    QueueAction,
    ScsiPacket,
    SrbCode,
    SrbFlags,
    SrbStatus,
)
from drivebay.disk.contract import Buffers
from drivebay.platform.memory import GuestMemory
from drivebay.platform.vmbus import PAGE, ChannelError
from drivebay.scsi.status import Status
from drivebay.scsi.target import Attribute, Outcome, Target

if TYPE_CHECKING:
    from drivebay.controllers.storvsp.channel import StorVspChannel

__all__ = [
    "CDB_LENGTH",
    "STATUSES",
    "Command",
    "Management",
    "attribute_of",
    "data_of",
    "unpack_request",
]

SHORTEST: Final = Header.size + SCSI_REQUEST_V1
AUTOSENSE: Final = int(SrbStatus.AUTOSENSE_VALID)
CDB_LENGTH: Final = 16
COMPLETE_IO: Final = int(Operation.COMPLETE_IO)
IO_DEVICE_ERROR: Final = NtStatus.IO_DEVICE_ERROR
unpack_scsi: Final = ScsiPacket.layout.unpack_from
pack_scsi: Final = ScsiPacket.layout.pack

QUEUE_ACTION_ENABLE: Final = int(SrbFlags.QUEUE_ACTION_ENABLE)
ATTRIBUTES: Final[dict[int, Attribute]] = {
    QueueAction.HEAD_OF_QUEUE: Attribute.HEAD_OF_QUEUE,
    QueueAction.ORDERED: Attribute.ORDERED,
}

STATUSES: Final = {
    SrbCode.SUCCESS: NtStatus.SUCCESS,
    SrbCode.BUSY: NtStatus.DEVICE_BUSY,
    SrbCode.INVALID_LUN: NtStatus.DEVICE_DOES_NOT_EXIST,
    SrbCode.INVALID_TARGET_ID: NtStatus.DEVICE_DOES_NOT_EXIST,
    SrbCode.NO_DEVICE: NtStatus.DEVICE_DOES_NOT_EXIST,
    SrbCode.NO_HBA: NtStatus.DEVICE_DOES_NOT_EXIST,
    SrbCode.TIMEOUT: NtStatus.IO_TIMEOUT,
    SrbCode.COMMAND_TIMEOUT: NtStatus.IO_TIMEOUT,
    SrbCode.SELECTION_TIMEOUT: NtStatus.DEVICE_NOT_CONNECTED,
    SrbCode.BAD_FUNCTION: NtStatus.INVALID_DEVICE_REQUEST,
    SrbCode.BAD_SRB_BLOCK_LENGTH: NtStatus.INVALID_DEVICE_REQUEST,
    SrbCode.DATA_OVERRUN: NtStatus.BUFFER_OVERFLOW,
    SrbCode.REQUEST_FLUSHED: NtStatus.UNSUCCESSFUL,
    SrbCode.ABORTED: NtStatus.CANCELLED,
}
"""What a guest is told beside an SRB status; of all others IO_DEVICE_ERROR."""

ENDS: Final = {
    Status.GOOD: SrbCode.SUCCESS,
    Status.BUSY: SrbCode.BUSY,
    Status.TASK_SET_FULL: SrbCode.BUSY,
}


def unpack_request(payload: bytes, *, extended: bool) -> tuple[Any, ...]:
    """The fields of a `ScsiPacket`, those of the later versions zero unless `extended`.

    Raises `ChannelError` if the payload is too short.
    """
    if len(payload) < SHORTEST:
        raise ChannelError(f"a SCSI request in {len(payload)} bytes")
    if not extended or len(payload) < ScsiPacket.size:
        payload = payload[:SHORTEST].ljust(ScsiPacket.size, b"\0")
    return unpack_scsi(payload)


def attribute_of(action: int, flags: int) -> Attribute:
    """When a command may begin, as its guest wants it."""
    if flags & QUEUE_ACTION_ENABLE:
        return ATTRIBUTES.get(action, Attribute.SIMPLE)
    return Attribute.SIMPLE


def data_of(memory: GuestMemory, packet: Packet, length: int) -> Buffers:
    """The first `length` bytes of the packet's range.

    Raises `ChannelError` unless there is one that has as many, and `GuestMemoryFault`.
    """
    if len(packet.ranges) > 1:
        raise ChannelError(f"{len(packet.ranges)} ranges for a command's data")
    if not length:
        return []
    if not packet.ranges or packet.ranges[0].length < length:
        raise ChannelError(f"{length} bytes of data in a smaller range")
    return _views(memory, packet.ranges[0], length)


def _views(memory: GuestMemory, part: Range, length: int) -> list[memoryview]:
    """Pages that adjoin are one piece."""
    _, offset, pages = part
    views: list[memoryview] = []
    first = 0
    while length:
        end = first + 1
        room = PAGE - offset
        while room < length and pages[end] == pages[end - 1] + 1:
            end += 1
            room += PAGE
        size = min(room, length)
        views += memory.views(pages[first] * PAGE + offset, size)
        length -= size
        first, offset = end, 0
    return views


class Command:
    """A command on its way through the target."""

    __slots__ = (
        "_channel",
        "_dropped",
        "_fields",
        "_size",
        "_target",
        "_transaction",
        "packet",
        "tag",
    )

    def __init__(
        self,
        channel: StorVspChannel,
        target: Target,
        packet: bytes,
        transaction: int,
        fields: tuple[Any, ...],
        size: int,
        tag: int,
    ) -> None:
        self._channel, self._target, self.packet = channel, target, packet
        self._transaction, self._fields, self._size = transaction, fields, size
        self.tag = tag
        self._dropped = False

    def cancel(self) -> None:
        """Nobody wants its answer."""
        self._dropped = True
        self._target.abort_task(self._fields[9], self.tag)

    def done(self, outcome: Outcome) -> None:
        """It has ended."""
        if outcome.overrun:
            self.end(SrbCode.DATA_OVERRUN)
        elif outcome.aborted:
            self.end(SrbCode.ABORTED)
        else:
            code = ENDS.get(outcome.status, SrbCode.ERROR)
            self.end(code, outcome.status, outcome.transferred, outcome.sense)

    def end(self, code: SrbCode, status: int = 0, moved: int = 0, sense: bytes = b"") -> None:
        """Tell the guest."""
        channel = self._channel
        if not self._dropped:
            fields = self._fields
            answer = pack_scsi(
                COMPLETE_IO,
                0,
                STATUSES.get(code, IO_DEVICE_ERROR),
                fields[3],
                code | AUTOSENSE if sense else code,
                status,
                *fields[6:10],
                CDB_LENGTH,
                MOST_SENSE,
                *fields[12:14],
                moved,
                sense,
                *fields[16:],
            )
            channel.complete(self._transaction, answer[: self._size])
        channel.drop(self)


class Management:
    """A reset that waits for what it ends."""

    def __init__(self, channel: StorVspChannel, packet: bytes, transaction: int, size: int) -> None:
        self._channel, self.packet = channel, packet
        self._transaction, self._size = transaction, size
        self._dropped = False

    def cancel(self) -> None:
        """It goes on, and nobody is told."""
        self._dropped = True
        self._channel.drop(self)

    def end(self, status: NtStatus = NtStatus.SUCCESS) -> None:
        """What it had to end has ended."""
        if not self._dropped:
            answer = Header(Operation.COMPLETE_IO, status=status).pack()
            self._channel.complete(self._transaction, answer.ljust(self._size, b"\0"))
            self._channel.drop(self)

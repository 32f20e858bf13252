"""SCSI commands on their way, virtio 1.2 section 5.6.6.1: taken from a chain, answered in it.

A chain may cut request, data and answer anywhere (section 2.7.4): the request is what comes first
of the readable bytes, the answer of the writable ones, and the data is what is left of either.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from drivebay.controllers.virtio.requests import take
from drivebay.controllers.virtio.ring import WRITE, Rows, gather
from drivebay.controllers.virtio.runner import Runner
from drivebay.controllers.virtio.scsi_registers import (
    CDB_BYTES,
    SENSE_BYTES,
    ScsiAnswer,
    ScsiRequest,
    ScsiResponse,
)
from drivebay.disk.buffers import cut, scatter
from drivebay.disk.contract import Buffers, byte_length
from drivebay.platform.memory import GuestMemory
from drivebay.platform.virtio import RingError
from drivebay.scsi.target import Outcome, Request

__all__ = ["Asked", "Command", "Frame", "Sizes", "frame_of", "refusal"]

MOST_BYTES: Final = (1 << 32) - 1
"""Of either direction of a chain (section 2.7.5.2)."""
OK: Final = int(ScsiResponse.OK)
pack_answer: Final = ScsiAnswer.layout.pack


class Sizes:
    """How many bytes of sense data and CDBs the driver wants, section 5.6.4."""

    def __init__(self, sense: int = SENSE_BYTES, cdb: int = CDB_BYTES) -> None:
        self.sense, self.cdb = sense, cdb
        self.request, self.answer = ScsiRequest.size + cdb, ScsiAnswer.size + sense
        self.with_cdb = Struct(f"{ScsiRequest.layout.format}{cdb}s")
        self.no_sense = Struct(f"{ScsiAnswer.layout.format}{sense}x")
        """An answer without sense data, all of it, as what follows counts from its end."""


Asked = tuple[bytes, int, int, int, int, bytes]
"""The fields of a `ScsiRequest`, and the CDB."""

Frame = tuple[Asked | None, list[memoryview], list[memoryview], list[memoryview]]
"""A command taken apart: what is asked; the memory of its answer; its data that the device writes,
and those that it reads. A plain tuple for speed, as for blocks."""


def frame_of(memory: GuestMemory, rows: Rows, sizes: Sizes) -> Frame:
    """The command, cut and placed anywhere. It asks nothing if its request is not whole, or if it
    names memory that is none.

    Raises `RingError` if there is no room for an answer, since then nothing can be answered, and if
    the chain has 2^32 bytes or more (section 2.7.5.2).
    """
    frame = _plain(memory.window, rows, sizes)
    if frame is not None:
        return frame
    readable, writable, fault = gather(memory, rows)
    room = byte_length(writable)
    if room < sizes.answer:
        raise RingError("a command without room for its answer")
    if max(room, byte_length(readable)) > MOST_BYTES:
        raise RingError("a chain of 2^32 bytes")
    request = take(readable, sizes.request)
    whole = len(request) == sizes.request and fault is None
    asked = sizes.with_cdb.unpack(request) if whole else None
    answer, data_in = cut(writable, 0, sizes.answer), cut(writable, sizes.answer, room)
    data_in = [buffer for buffer in data_in if len(buffer)]
    return asked, answer, data_in, readable


def _plain(window: tuple[int, int, memoryview], rows: Rows, sizes: Sizes) -> Frame | None:
    """The command as every driver lays it out: request and answer in descriptors of their own, and
    data mostly in a third, all in the memory `window`. None if it is anything else.
    """
    if len(rows) != 12:
        return _scattered(window, rows, sizes)
    start, size, ram = window
    head, head_size, head_flags, _, one, one_size, one_flags, _, two, two_size, two_flags, _ = rows
    head, one, two = head - start, one - start, two - start
    if head_size != sizes.request or head_flags & WRITE or not 0 <= head <= size - head_size:
        return None
    if not one_size or not 0 <= one <= size - one_size or not two_flags & WRITE:
        return None
    if not two_size or not 0 <= two <= size - two_size:
        return None
    asked = sizes.with_cdb.unpack_from(ram, head)
    first, second = [ram[one : one + one_size]], [ram[two : two + two_size]]
    if not one_flags & WRITE:
        return (asked, second, [], first) if two_size == sizes.answer else None
    return (asked, first, second, []) if one_size == sizes.answer else None


def _scattered(window: tuple[int, int, memoryview], rows: Rows, sizes: Sizes) -> Frame | None:
    """The same with data in any number of pieces."""
    start, size, ram = window
    readable: list[memoryview] = []
    writable: list[memoryview] = []
    total = 0
    for address, length, flags in zip(rows[::4], rows[1::4], rows[2::4], strict=True):
        at = address - start
        if at < 0 or not 0 < length <= size - at:
            return None
        if flags & WRITE:
            writable.append(ram[at : at + length])
        elif writable:
            return None
        else:
            readable.append(ram[at : at + length])
        total += length
    if not readable or not writable or total > MOST_BYTES:
        return None
    request, answer = readable.pop(0), writable.pop(0)
    if len(request) != sizes.request or len(answer) != sizes.answer:
        return None
    return sizes.with_cdb.unpack(request), [answer], writable, readable


def refusal(answer: Buffers, sizes: Sizes, response: ScsiResponse) -> int:
    """Answer that the command was not tried; the bytes written."""
    scatter(answer, memoryview(sizes.no_sense.pack(0, 0, 0, 0, response)))
    return sizes.answer


class Command:
    """A command on its way through the target."""

    __slots__ = ("_dropped", "_frame", "_head", "_runner", "_sizes", "request", "written")

    def __init__(self, runner: Runner, head: int, frame: Frame, sizes: Sizes) -> None:
        self._runner, self._head, self._frame, self._sizes = runner, head, frame, sizes
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
        _, answer, data_in, data_out = self._frame
        sizes, moved, response = self._sizes, outcome.transferred, OK
        if outcome.overrun:
            response = ScsiResponse.OVERRUN
        elif outcome.aborted:
            response = ScsiResponse.RESET if outcome.reset else ScsiResponse.ABORTED
        data = data_in or data_out
        residual = (len(data[0]) if len(data) == 1 else byte_length(data)) - moved
        if len(answer) == 1 and not outcome.sense:
            sizes.no_sense.pack_into(answer[0], 0, 0, residual, 0, outcome.status, response)
        else:
            sense = outcome.sense[: sizes.sense]
            head = pack_answer(len(sense), residual, 0, outcome.status, response)
            scatter(answer, memoryview((head + sense).ljust(sizes.answer, b"\0")))
        self.written = sizes.answer + moved if data_in else sizes.answer
        if self.request is not None:
            self._runner.finish(self._head, self.written)

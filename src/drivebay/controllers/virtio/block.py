"""The block device, virtio 1.2 section 5.2, over any `Disk`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from drivebay.controllers.virtio.device import QUEUE_SIZE, RingDevice, mask
from drivebay.controllers.virtio.registers import (
    CONFIG_WRITEBACK,
    DEVICE_ID_BLOCK,
    ID_BYTES,
    SECTOR_SIZE,
    SEGMENT_UNMAP,
    BlockConfig,
    BlockFeature,
    BlockStatus,
    BlockType,
    Segment,
)
from drivebay.controllers.virtio.requests import (
    FAULT,
    NO_TYPE,
    TWO_WAYS,
    Frame,
    Refused,
    any_frame,
    plain_frame,
    segments,
)
from drivebay.controllers.virtio.ring import Rows
from drivebay.controllers.virtio.runner import Runner
from drivebay.disk.contract import Buffers, Disk, Operation, Unmap
from drivebay.disk.errors import DiskError
from drivebay.platform.engine import Engine
from drivebay.platform.observer import Dropped, Escort, InFlight, Observer, Tap
from drivebay.suspend import DONE, Cancelled

__all__ = ["BlockDevice", "BlockStatistics"]

log = logging.getLogger(__name__)

IN: Final = int(BlockType.IN)
OUT: Final = int(BlockType.OUT)
OK: Final = int(BlockStatus.OK)
Act = Callable[[Buffers], Operation]
Asked = tuple[int, int, int]
"""A request as it is shown: type, sector, and bytes of data."""
MAX_SEGMENTS: Final = 256
MAX_RANGE: Final = 1 << 22
"""Most 512-byte units in one DISCARD or WRITE_ZEROES segment (2 GiB)."""


class BlockStatistics:
    """What a device has done since it was made."""

    __slots__ = ("errors", "flushes", "other", "read_bytes", "reads", "write_bytes", "writes")

    def __init__(self) -> None:
        self.reads = self.writes = self.flushes = self.other = self.errors = 0
        self.read_bytes = self.write_bytes = 0

    @property
    def requests(self) -> int:
        """All of them."""
        return self.reads + self.writes + self.flushes + self.other

    def as_dict(self) -> dict[str, int]:
        """By name, as JSON has them."""
        names = ("requests", "reads", "read_bytes", "writes", "write_bytes", "flushes", "errors")
        return {name.replace("_", "-"): getattr(self, name) for name in names}


class BlockDevice(RingDevice):
    """A virtio block device on `engine` for `disk`, with `queues` request queues.

    `serial` is what GET_ID answers, 20 bytes at most; `packed` offers packed rings. Raises
    `ValueError` for what cannot be.
    """

    device_id = DEVICE_ID_BLOCK
    name = "virtio-blk"

    def __init__(
        self,
        disk: Disk,
        engine: Engine,
        *,
        serial: str | None = None,
        queues: int = 1,
        queue_size: int = QUEUE_SIZE,
        packed: bool = True,
    ) -> None:
        if serial is None:
            serial = (disk.disk_id or b"drivebay").hex()[:ID_BYTES]
        if len(serial.encode()) > ID_BYTES:
            raise ValueError(f"serial {serial!r}: more than {ID_BYTES} bytes")
        super().__init__(engine, log, queues=queues, queue_size=queue_size, packed=packed)
        self.disk = disk
        self._id = serial.encode().ljust(ID_BYTES, b"\0")
        self.statistics = BlockStatistics()
        self.tap: Tap | None = None
        """Shown type, sector and length of a request, and its status."""
        self.observer: Observer[Asked, int] | None = None
        """May meddle with the same."""
        self._waiting: dict[tuple[Runner, int], InFlight] = {}  # by chain
        self._ratio: int = disk.sector_size // SECTOR_SIZE
        self._shift: int = self._ratio.bit_length() - 1
        self._inside_ratio, self._inside_sector = self._ratio - 1, disk.sector_size - 1
        self._read, self._write = disk.read, disk.write
        self._serving: dict[int, Callable[[Frame], Operation]] = {
            BlockType.FLUSH: self._flush,
            BlockType.GET_ID: self._get_id,
            BlockType.DISCARD: self._discard,
            BlockType.WRITE_ZEROES: self._write_zeroes,
        }
        self.set_features(self.features)
        disk.on_resize(self._resized)

    # -- configuration ---------------------------------------------------------------------------

    @property
    def features(self) -> int:
        """The feature bits on offer."""
        offered = self.ring_features | mask(
            BlockFeature.SEG_MAX,
            BlockFeature.BLK_SIZE,
            BlockFeature.TOPOLOGY,
            BlockFeature.FLUSH,
            BlockFeature.CONFIG_WCE,
        )
        if len(self.queue_sizes) > 1:
            offered |= mask(BlockFeature.MQ)
        if self.disk.read_only:
            return offered | mask(BlockFeature.RO)
        if self.disk.unmap_behaviour is not Unmap.IGNORED:
            offered |= mask(BlockFeature.DISCARD)
        return offered | mask(BlockFeature.WRITE_ZEROES)

    def set_features(self, features: int) -> None:
        """The driver has chosen these. One that knows no flush gets no volatile cache (5.2.5.2).

        The same again leaves the cache as the driver has switched it: a front end has reconnected.
        """
        if features == self._features:
            return
        self._features = features
        knows_flush = bool(features & mask(BlockFeature.FLUSH))
        self.driver_state = int(knows_flush and self.disk.volatile_cache)

    def read_config(self) -> bytes:
        """The configuration space, as it is now."""
        disk, ratio = self.disk, self._ratio
        physical = disk.physical_sector_size // disk.sector_size
        discards = disk.unmap_behaviour is not Unmap.IGNORED
        return BlockConfig(
            capacity=disk.sector_count * ratio,
            seg_max=max(self.queue_sizes[0] - 2, 1),
            blk_size=disk.sector_size,
            physical_block_exp=physical.bit_length() - 1,
            min_io_size=min(physical, 0xFFFF),
            opt_io_size=0,
            writeback=self.writeback,
            num_queues=len(self.queue_sizes),
            max_discard_sectors=MAX_RANGE if discards else 0,
            max_discard_seg=MAX_SEGMENTS if discards else 0,
            discard_sector_alignment=disk.optimal_unmap_sectors * ratio if discards else 0,
            max_write_zeroes_sectors=MAX_RANGE,
            max_write_zeroes_seg=MAX_SEGMENTS,
            write_zeroes_may_unmap=discards,
        ).pack()

    def write_config(self, offset: int, data: bytes) -> None:
        """Switch the write cache; nothing else can be written (section 5.2.5.2)."""
        place = CONFIG_WRITEBACK - offset
        if self._features & mask(BlockFeature.CONFIG_WCE) and 0 <= place < len(data):
            self.driver_state = data[place] & 1

    @property
    def driver_state(self) -> int:
        """Whether the write cache is on; see `platform.virtio.Device`."""
        return int(self.writeback)

    @driver_state.setter
    def driver_state(self, state: int) -> None:
        self.writeback = bool(state & 1)
        self._fua = not self.writeback

    def _resized(self, _sector_count: int) -> None:
        if self._transport is not None:
            self._transport.config_changed()

    # -- requests --------------------------------------------------------------------------------

    def _serve(self, runner: Runner, head: int, rows: Rows) -> int | None:
        """Parse the request and take the first step of what it asks for; mostly that is the end.

        Returns the bytes written, or None if the request waits.
        """
        memory = runner.queue.memory
        frame = plain_frame(rows, memory.window) or any_frame(rows, memory)
        kind, sector, data, length, written, ram, status_at = frame
        if self.tap is not None:
            self.tap.began(runner.index, head, (kind, sector, length))
        escort = None
        if self.observer is not None:
            escort = self.observer.command(runner.index, head, (kind, sector, length))
            if escort is not None:
                kind, sector, _ = escort.command
                frame = kind, sector, data, length, written, ram, status_at
        try:
            if kind == IN:
                if length & self._inside_sector or sector & self._inside_ratio or written <= length:
                    raise self._misfit(frame)
                self.statistics.reads += 1
                self.statistics.read_bytes += length
                if escort is None:
                    operation = self._read(sector >> self._shift, data)
                else:
                    act: Act = partial(self._read, sector >> self._shift)
                    operation = self._escorted(escort, data, act)
            elif kind == OUT:
                if length & self._inside_sector or sector & self._inside_ratio or written > 1:
                    raise self._misfit(frame)
                self.statistics.writes += 1
                self.statistics.write_bytes += length
                if escort is None:
                    operation = self._write(sector >> self._shift, data, self._fua)
                else:
                    act = partial(self._write, sector >> self._shift, fua=self._fua)
                    operation = self._escorted(escort, data, act)
            else:
                serve = self._serving.get(kind, self._unsupported)
                if escort is None:
                    operation = serve(frame)
                else:
                    operation = self._escorted(escort, data, partial(_served, serve, frame))
            # Not send(None): a StopIteration for each request would cost as much as its parsing.
            suspension = None if operation is DONE else next(operation.__await__(), None)
            status = OK
        except Dropped:
            runner.lose(head)
            return None
        except Exception as error:
            suspension, status = None, self._status_of(kind, error)
        if suspension is not None:
            request, now = (kind, sector, length), self._engine.now
            self._waiting[runner, head] = InFlight(runner.index, head, request, now)
            done = partial(self._ended, runner, head, frame, escort)
            runner.park(head, operation, suspension, done)
            return None
        if escort is not None and escort.quiet:
            self.mute()
        ram[status_at] = status
        if self.tap is not None:
            self.tap.ended(runner.index, head, status)
        return written

    async def _escorted(self, escort: Escort[Asked, int], data: Buffers, act: Act) -> None:
        """What a request does with its data, with somebody meddling, who ends it otherwise by
        raising `Refused`.
        """
        try:
            if await escort.before():
                await escort.move(0, data, act)
        except (Cancelled, Dropped):
            raise
        except Exception as error:
            await escort.after(error.status if isinstance(error, Refused) else BlockStatus.IOERR)
            raise
        await escort.after(OK)

    @staticmethod
    def _misfit(frame: Frame) -> Refused:
        """Data that cannot be what the request is about, or lie where it may not use them."""
        _, sector, _, length, written, _, _ = frame
        side = "readable" if written <= length else "writable"
        return Refused(BlockStatus.IOERR, f"{length} {side} bytes at {sector}")

    def _ended(
        self,
        runner: Runner,
        head: int,
        frame: Frame,
        escort: Escort[Asked, int] | None,
        _value: Any,
        error: BaseException | None,
    ) -> None:
        """The operation of a request has ended, after it had to wait."""
        del self._waiting[runner, head]
        if isinstance(error, Dropped):
            runner.lose(head)
            return
        if isinstance(error, Cancelled):
            runner.drop(head)
            return
        kind, _, _, _, written, ram, status_at = frame
        ram[status_at] = status = OK if error is None else self._status_of(kind, error)
        if self.tap is not None:
            self.tap.ended(runner.index, head, status)
        if escort is not None:
            if escort.quiet:
                self.mute()
            if escort.twice:
                runner.repeat(head, written)
        runner.finish(head, written)

    def in_flight(self) -> Iterator[InFlight]:
        """The requests that wait for something."""
        return iter(self._waiting.values())

    def _status_of(self, kind: int, error: BaseException) -> BlockStatus:
        """A guest's mistake and a disk's trouble are statuses; a bug of ours is one, and logged."""
        self.statistics.errors += 1
        if isinstance(error, Refused | DiskError):
            self._guest_log.warning("virtio-blk request type %d: %s", kind, error)
            return error.status if isinstance(error, Refused) else BlockStatus.IOERR
        self._bug_log.error("virtio-blk request type %d failed", kind, exc_info=error)
        return BlockStatus.IOERR

    # -- what the other types do -----------------------------------------------------------------

    def _flush(self, frame: Frame) -> Operation:
        self.statistics.flushes += 1
        return self.disk.flush()

    async def _get_id(self, frame: Frame) -> None:
        """The serial, cut to what the driver has room for."""
        self.statistics.other += 1
        _, _, data, length, written, _, _ = frame
        if written <= length:
            raise self._misfit(frame)
        rest = self._id
        for buffer in data:
            part = rest[: len(buffer)]
            buffer[: len(part)] = part
            rest = rest[len(part) :]

    def _discard(self, frame: Frame) -> Operation:
        ranges = self._ranges(frame, BlockFeature.DISCARD, flags=0)
        return self._each(ranges, lambda sector, count, _: self.disk.unmap(sector, count))

    def _write_zeroes(self, frame: Frame) -> Operation:
        ranges = self._ranges(frame, BlockFeature.WRITE_ZEROES, flags=SEGMENT_UNMAP)
        return self._each(
            ranges,
            lambda sector, count, unmap: self.disk.write_zeroes(sector, count, self._fua, unmap),
        )

    def _ranges(self, frame: Frame, feature: BlockFeature, flags: int) -> list[Segment]:
        """The segments, each known to be good. Raises `Refused` (section 5.2.6.2)."""
        if self.disk.read_only:
            raise Refused(BlockStatus.IOERR, f"{feature.name} on a read-only disk")
        if not self.features & mask(feature):
            raise Refused(BlockStatus.UNSUPP, f"{feature.name} was not offered")
        _, _, data, length, written, _, _ = frame
        if written > 1:
            raise self._misfit(frame)
        ranges = segments(data, length, MAX_SEGMENTS)
        capacity = self.disk.sector_count * self._ratio
        for segment in ranges:
            start, count = segment.sector, segment.num_sectors
            if segment.flags & ~flags:
                raise Refused(BlockStatus.UNSUPP, f"{feature.name} flags {segment.flags:#x}")
            if count > MAX_RANGE or start % self._ratio or count % self._ratio:
                raise Refused(BlockStatus.IOERR, f"{feature.name} of {count} sectors at {start}")
            if start + count > capacity:
                raise Refused(BlockStatus.IOERR, f"{feature.name} past the end: {start}+{count}")
        return ranges

    async def _each(
        self, ranges: list[Segment], operation: Callable[[int, int, bool], Operation]
    ) -> None:
        self.statistics.other += 1
        for segment in ranges:
            sector, count = segment.sector >> self._shift, segment.num_sectors >> self._shift
            await operation(sector, count, bool(segment.flags & SEGMENT_UNMAP))

    def _unsupported(self, frame: Frame) -> Operation:
        self.statistics.other += 1
        kind = frame[0]
        if kind == FAULT:
            raise Refused(BlockStatus.IOERR, "a buffer that is not in RAM")
        if kind == NO_TYPE:
            raise Refused(BlockStatus.IOERR, "a header of less than 16 bytes")
        if kind == TWO_WAYS:
            raise Refused(BlockStatus.IOERR, "data to read and data to write")
        raise Refused(BlockStatus.UNSUPP, "not supported")


def _served(serve: Callable[[Frame], Operation], frame: Frame, _buffers: Buffers) -> Operation:
    """What finds its data in the frame. No closure: those cost every request."""
    return serve(frame)

"""What controllers ask of their disks, for a recorder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from drivebay.disk.contract import Buffers, Disk, Operation, byte_length
from drivebay.disk.errors import DiskError
from drivebay.disk.filters.base import Filter
from drivebay.lab.trace.recorder import Recorder
from drivebay.lab.trace.records import Kind

__all__ = ["TracedDisk"]


class TracedDisk(Filter):
    """Passes everything on to `below`, and records it while there is somebody who does."""

    kind = "traced"

    def __init__(self, below: Disk) -> None:
        super().__init__(below)
        self._recorder: Recorder | None = None
        self._source = self._most = 0

    def record(self, recorder: Recorder | None, source: int = 0, data: int = 0) -> None:
        """Record as `source`, with the first `data` bytes of what is moved; or no more."""
        self._recorder, self._source, self._most = recorder, source, data

    def read(self, sector: int, buffers: Buffers) -> Operation:
        """Read."""
        if self._recorder is None:
            return self.below.read(sector, buffers)
        start = partial(self.below.read, sector, buffers)
        return self._recorded(self._recorder, "read", sector, self._count(buffers), start, buffers)

    def write(self, sector: int, buffers: Buffers, fua: bool = False) -> Operation:
        """Write."""
        if self._recorder is None:
            return self.below.write(sector, buffers, fua)
        start = partial(self.below.write, sector, buffers, fua)
        return self._recorded(self._recorder, "write", sector, self._count(buffers), start, buffers)

    def flush(self) -> Operation:
        """Flush."""
        if self._recorder is None:
            return self.below.flush()
        return self._recorded(self._recorder, "flush", 0, 0, self.below.flush)

    def unmap(self, sector: int, count: int) -> Operation:
        """Unmap."""
        if self._recorder is None:
            return self.below.unmap(sector, count)
        start = partial(self.below.unmap, sector, count)
        return self._recorded(self._recorder, "unmap", sector, count, start)

    def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> Operation:
        """Zero."""
        if self._recorder is None:
            return self.below.write_zeroes(sector, count, fua, unmap)
        start = partial(self.below.write_zeroes, sector, count, fua, unmap)
        return self._recorded(self._recorder, "write_zeroes", sector, count, start)

    def _count(self, buffers: Buffers) -> int:
        return byte_length(buffers) // self.sector_size

    async def _recorded(
        self,
        recorder: Recorder,
        name: str,
        sector: int,
        count: int,
        start: Callable[[], Operation],
        buffers: Buffers = (),
    ) -> None:
        began, failed = recorder.clock(), ""
        try:
            await start()
        except DiskError as error:
            failed = str(error)
            raise
        except BaseException as error:  # given up by a reset, or a bug of ours
            failed = type(error).__name__
            raise
        finally:
            data = b"" if failed else _first(buffers, self._most)
            what = (began, name, sector, count, failed, data)
            recorder.record(Kind.DISK, self._source, *what)


def _first(buffers: Buffers, most: int) -> bytes:
    """The first bytes of buffers together."""
    found = bytearray()
    for buffer in buffers:
        if len(found) >= most:
            break
        found += buffer[: most - len(found)]
    return bytes(found)

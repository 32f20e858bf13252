"""A disk behind an NBD server."""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Callable, Collection, Coroutine, Iterator
from functools import partial
from typing import Any, Final

from drivebay.disk.backends.fd import check_size
from drivebay.disk.buffers import ZEROES, cut
from drivebay.disk.contract import (
    MOST_EXTENTS,
    Buffers,
    Disk,
    Extent,
    Unmap,
    byte_length,
)
from drivebay.disk.errors import DiskOpenError, IoError, ReadOnly
from drivebay.disk.nbd.errors import disk_error
from drivebay.disk.nbd.joining import Agreed
from drivebay.disk.nbd.link import Link, Wire, connect
from drivebay.disk.nbd.messages import (
    MOST_PAYLOAD,
    Command,
    CommandFlags,
    NbdError,
    StatusFlags,
    TransmissionFlags,
)
from drivebay.disk.nbd.replies import Request
from drivebay.disk.nbd.uri import Address
from drivebay.suspend import together

__all__ = ["NbdDisk"]

WITHOUT_DATA: Final = 1 << 30
"""Bytes of a request that carries none: some servers count them in 31 bits."""
RETRY_SECONDS: Final = 10.0

Part = Callable[[int, int], Coroutine[Any, Any, None]]


class NbdDisk(Disk):
    """The export that `uri` names.

    With `connections` above 1 there are so many, if the server allows it. A connection that is lost
    is made again for `retry` seconds, and what was under way is asked for again. It may be made to
    a server that was started anew, without the writes that were answered and not flushed. If none
    of the connections is left on which they may have come, the flushes that cover them fail, once.

    Raises `DiskOpenError`.
    """

    kind = "nbd"

    def __init__(
        self,
        uri: str,
        *,
        connections: int = 1,
        retry: float = RETRY_SECONDS,
        read_only: bool = False,
    ) -> None:
        super().__init__()
        self._links: list[Link] = []
        self._name = uri
        self._state = threading.Lock()
        self._changes = self._flushed = 0  # that were answered; that a flush has covered
        self._losses = self._told = 0  # changes lost with a server; and told of
        self._breaks = 0  # connections that were lost
        self._vouching: set[Link] = set()
        """Whose server, if it still answers there, has all that was answered and not flushed."""
        self._new_size: int | None = None
        self._retry = retry
        try:
            self._address = Address.parse(uri)
        except NbdError as error:
            raise DiskOpenError(str(error)) from None
        wire, agreed = self._connect(1)
        try:
            self._open(agreed, read_only)
        except DiskOpenError:
            wire.close()
            raise
        self._add_link(wire, agreed)
        try:
            while len(self._links) < connections and self._has(TransmissionFlags.CAN_MULTI_CONN):
                self._add_link(*self._connect(len(self._links) + 1))
        except DiskOpenError:
            self.close()
            raise

    def _connect(self, number: int) -> tuple[Wire, Agreed]:
        place = f"nbd {self._address.place}"
        hint = "is an NBD server running there?"
        if number > 1:
            place += f", connection {number}"
            hint = "the server may take fewer clients at once: see connections=N"
        try:
            return connect(self._address)
        except NbdError as error:
            raise DiskOpenError(f"{place}: {error}") from None
        except OSError as error:
            raise DiskOpenError(f"{place}: {error.strerror or error}", hint) from None

    def _open(self, agreed: Agreed, read_only: bool) -> None:
        export = agreed.export
        self._export = export
        self.sector_size = max(512, export.minimum)
        check_size(self._name, export.size, self.sector_size)
        self.physical_sector_size = max(self.sector_size, min(export.preferred, 1 << 16))
        self.sector_count = export.size // self.sector_size
        self._shift = self.sector_size.bit_length() - 1
        self._most = min(export.maximum, MOST_PAYLOAD) >> self._shift << self._shift
        if not self._most:
            raise DiskOpenError(f"{self._name}: at most {export.maximum} bytes in a request")
        self._allocation = agreed.allocation
        if not read_only and self._has(TransmissionFlags.READ_ONLY):
            raise DiskOpenError(f"{self._name}: the export is read-only", "add ,ro")
        self.read_only = read_only
        self.volatile_cache = self._has(TransmissionFlags.SEND_FLUSH)
        self._can_zero = self._has(TransmissionFlags.SEND_WRITE_ZEROES)
        if self._has(TransmissionFlags.SEND_TRIM):
            self.unmap_behaviour = Unmap.UNSPECIFIED
            self.optimal_unmap_sectors = self.physical_sector_size // self.sector_size
        self.disk_id = hashlib.sha256(b"drivebay nbd " + self._name.encode()).digest()[:16]

    def _has(self, flag: int) -> bool:
        flags = self._export.flags
        return bool(flags & TransmissionFlags.HAS_FLAGS and flags & flag)

    def _add_link(self, wire: Wire, agreed: Agreed) -> None:
        link = Link(
            self._address,
            wire,
            agreed,
            retry=self._retry,
            joined=self._joined,
            ended=self._ended,
            lost=self._lost,
        )
        self._links.append(link)
        self._vouching.add(link)

    # -- told by the links, on their threads -----------------------------------------------------

    def _joined(self, agreed: Agreed) -> None:
        """There is a new connection. It may be to another server: what we rely on must be there."""
        missing = self._export.flags & ~agreed.export.flags & ~TransmissionFlags.READ_ONLY
        missing |= self._allocation is not None and agreed.allocation is None
        if missing or (agreed.export.flags & TransmissionFlags.READ_ONLY and not self.read_only):
            raise NbdError("the export can less than before")
        if agreed.export.minimum > self.sector_size or agreed.export.maximum < self._most:
            raise NbdError("the export has other block sizes than before")
        self._new_size = agreed.export.size

    def _ended(self, request: Request) -> None:
        if request.is_change:
            with self._state:
                self._changes += 1

    def _lost(self, link: Link) -> None:
        """If another connection to the same server lives, so does the server, and a flush there
        covers all. One that was made again may be to another.
        """
        with self._state:
            self._breaks += 1
            self._vouching.discard(link)
            if any(other.connected for other in self._vouching):
                return
            if self.volatile_cache and self._changes > self._flushed:
                self._losses += 1
                self._flushed = self._changes
            self._vouch()

    def _vouch(self) -> None:
        """Nothing is left to vouch for: all that are connected do, for what comes."""
        self._vouching = {link for link in self._links if link.connected}

    # -- requests --------------------------------------------------------------------------------

    async def _do(
        self,
        command: Command,
        offset: int = 0,
        length: int = 0,
        flags: int = 0,
        data: Buffers = (),
        links: Collection[Link] = (),
    ) -> Any:
        request = Request(command, offset, length, flags=flags)
        request.buffers = data
        link = min(links or self._links, key=lambda link: (not link.connected, link.load))
        try:
            result = await link.perform(request)
        finally:
            self._take_size()
        if request.error is not None:
            number, text = request.error
            told = f": {text}" if text else ""
            raise disk_error(number, f"{command.name} {self._name}{told}")
        return result

    def _take_size(self) -> None:
        """A new connection has found another size."""
        size, self._new_size = self._new_size, None
        if size is not None and size >> self._shift != self.sector_count:
            self.sector_count = size >> self._shift
            self._resized()

    async def _in_parts(self, part: Part, offset: int, length: int, most: int) -> None:
        if length <= most:
            await part(offset, length)
        else:
            starts = range(offset, offset + length, most)
            await together(part(at, min(most, offset + length - at)) for at in starts)

    async def read(self, sector: int, buffers: Buffers) -> None:
        """Fill `buffers`."""
        start, length = sector << self._shift, byte_length(buffers)
        self.check_range(sector, length >> self._shift)

        async def part(offset: int, size: int) -> None:
            into = cut(buffers, offset - start, offset - start + size)
            await self._do(Command.READ, offset, size, data=into)

        if length:
            await self._in_parts(part, start, length, self._most)

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """Write `buffers`."""
        start, length = sector << self._shift, byte_length(buffers)
        self._check_change(sector, length >> self._shift)
        flags, flush = self._stability(fua)

        async def part(offset: int, size: int) -> None:
            data = cut(buffers, offset - start, offset - start + size)
            await self._do(Command.WRITE, offset, size, flags, data)

        if length:
            await self._in_parts(part, start, length, self._most)
            if flush:
                await self.flush()

    def _check_change(self, sector: int, count: int) -> None:
        self.check_range(sector, count)
        if self.read_only:
            raise ReadOnly(self._name)

    def _stability(self, fua: bool) -> tuple[int, bool]:
        """The flag that makes a change stable, or whether to flush after it."""
        if not fua or not self.volatile_cache:
            return 0, False
        if self._has(TransmissionFlags.SEND_FUA):
            return CommandFlags.FUA, False
        return 0, True

    async def flush(self) -> None:
        """Make completed writes stable."""
        if not self.volatile_cache:
            return
        with self._state:
            covered, told = self._changes, self._told
        is_told = False
        while not is_told:
            with self._state:
                breaks, links = self._breaks, tuple(self._vouching)
            await self._do(Command.FLUSH, links=links)
            with self._state:
                losses = self._losses
                # If a connection was lost meanwhile, this may be the answer of another server.
                is_told = breaks == self._breaks or losses > told
                if is_told:
                    self._told = max(self._told, losses)
                    self._flushed = max(self._flushed, covered)
                    if self._flushed == self._changes:
                        self._vouch()
        if losses > told:
            raise IoError(
                errno.EIO,
                f"flush {self._name}: the connection was lost, and perhaps writes with it",
            )

    async def unmap(self, sector: int, count: int) -> None:
        """Trim."""
        self._check_change(sector, count)
        if count and self.unmap_behaviour is not Unmap.IGNORED:
            part = partial(self._do, Command.TRIM)
            await self._in_parts(part, sector << self._shift, count << self._shift, WITHOUT_DATA)

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Zero the range, without sending zeroes where the server knows how."""
        self._check_change(sector, count)
        if not count:
            return
        offset, length = sector << self._shift, count << self._shift
        flags, flush = self._stability(fua)
        if self._can_zero:
            flags |= 0 if unmap else CommandFlags.NO_HOLE
            part = partial(self._do, Command.WRITE_ZEROES, flags=flags)
            await self._in_parts(part, offset, length, WITHOUT_DATA)
        else:
            for at in range(offset, offset + length, len(ZEROES)):
                data = ZEROES[: offset + length - at]
                await self.write(at >> self._shift, [data], bool(flags))
        if flush:
            await self.flush()

    # -- what it holds ---------------------------------------------------------------------------

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """Holes and zeroes, where the server tells."""
        if self._allocation is None or not count:
            return await super().extents(sector, count)
        self.check_range(sector, count)
        offset, length = sector << self._shift, min(count << self._shift, WITHOUT_DATA)
        found = await self._do(Command.BLOCK_STATUS, offset, length)
        return list(self._in_sectors(found[:MOST_EXTENTS], sector, length >> self._shift))

    def _in_sectors(
        self, found: list[tuple[int, int]], sector: int, count: int
    ) -> Iterator[Extent]:
        """A sector that is not of one kind holds data."""
        start = at = sector << self._shift
        end = start + (count << self._shift)
        for length, flags in found:
            at = min(at + length, end)
            whole = at >> self._shift
            if whole > sector:
                hole, zero = bool(flags & StatusFlags.HOLE), bool(flags & StatusFlags.ZERO)
                yield Extent(sector, whole - sector, allocated=not hole, zero=zero)
                sector = whole
            if whole << self._shift < at and whole == sector:
                yield Extent(sector, 1, allocated=True, zero=False)
                sector += 1
            if at == end:
                break

    async def refresh(self) -> None:
        """A size is told with a connection: what the last one told."""
        self._take_size()

    @property
    def details(self) -> dict[str, str | int | bool]:
        """Where it is."""
        return {"uri": self._name, "connections": len(self._links)}

    def close(self) -> None:
        """Hang up."""
        for link in self._links:
            link.close()

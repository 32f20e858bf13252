"""The port I/O space of an x86 guest: who answers at which port."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

__all__ = ["ByteRead", "ByteWrite", "Hold", "PortRegion", "PortSpace"]

PORTS = 0x10000

ByteRead: TypeAlias = "Callable[[], int]"
ByteWrite: TypeAlias = "Callable[[int], Hold | None]"


class Hold:
    """An access that the device completes later: the guest's CPU stays in its OUT until then."""

    __slots__ = ("_waiting", "done")

    def __init__(self) -> None:
        self.done = False
        self._waiting: list[Callable[[], None]] = []

    def then(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the access completes, at once if it has."""
        if self.done:
            callback()
        else:
            self._waiting.append(callback)

    def complete(self) -> None:
        """Let the guest go on."""
        self.done = True
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()


class PortRegion:
    """A block of `size` ports. Offsets are from its first; widths are 1, 2 or 4 bytes."""

    size: int
    first: int = 0
    """Which offset of its declared registers it begins with."""

    def port_read(self, offset: int, width: int) -> int:
        """The value of an IN."""
        raise NotImplementedError

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """Take an OUT. A `Hold` says that it is not complete yet."""
        raise NotImplementedError

    def byte_read(self, offset: int) -> ByteRead:
        """What a one-byte IN at `offset` calls, for whom the way there shall be short."""
        return partial(self.port_read, offset, 1)

    def byte_write(self, offset: int) -> ByteWrite:
        """What a one-byte OUT at `offset` calls."""
        return partial(self.port_write, offset, 1)

    def port_read_string(self, offset: int, width: int, buffer: memoryview) -> None:
        """REP INS: fill `buffer`, a whole number of `width`-byte items, from one port."""
        for at in range(0, len(buffer), width):
            buffer[at : at + width] = self.port_read(offset, width).to_bytes(width, "little")

    def port_write_string(self, offset: int, width: int, data: memoryview) -> None:
        """REP OUTS: take `data`, a whole number of `width`-byte items, at one port."""
        for at in range(0, len(data), width):
            self.port_write(offset, width, int.from_bytes(data[at : at + width], "little"))


class _Claim(NamedTuple):
    base: int
    end: int
    region: PortRegion
    bytes: dict[int, tuple[ByteRead, ByteWrite]]


def _claim(base: int, region: PortRegion) -> _Claim:
    bytes_ = {
        base + at: (region.byte_read(at), region.byte_write(at))
        for at in range(min(region.size, PORTS - base))
    }
    return _Claim(base, base + region.size, region, bytes_)


class PortSpace:
    """65536 ports. What nobody claims reads all ones and drops writes.

    Two regions may be told to sit at the same port, as a guest may move a BAR anywhere: then the
    one that came first answers.
    """

    def __init__(self) -> None:
        self._claims: list[_Claim] = []
        self._table: dict[int, _Claim] = {}
        self._byte_reads: dict[int, ByteRead] = {}
        self._byte_writes: dict[int, ByteWrite] = {}
        self._wrapper: Callable[[PortRegion], PortRegion] | None = None

    def map(self, base: int, region: PortRegion) -> Callable[[], None]:
        """Put `region` at `base`; what lies past port 0xFFFF is not seen. Returns what ends it."""
        claim = _claim(base, region)
        self._claims.append(claim)
        self._build()

        def unmap() -> None:
            self._claims = [other for other in self._claims if other is not claim]
            self._build()

        return unmap

    def wrap(self, wrapper: Callable[[PortRegion], PortRegion] | None) -> None:
        """Have what `wrapper` makes of each region answer in its place: whoever looks on at
        accesses. None has the regions answer themselves.
        """
        self._wrapper = wrapper
        self._build()

    def _build(self) -> None:
        claims, wrap = self._claims, self._wrapper
        if wrap is not None:
            claims = [_claim(claim.base, wrap(claim.region)) for claim in claims]
        self._table = {port: claim for claim in reversed(claims) for port in claim.bytes}
        self._byte_reads = {port: claim.bytes[port][0] for port, claim in self._table.items()}
        self._byte_writes = {port: claim.bytes[port][1] for port, claim in self._table.items()}

    def read(self, port: int, width: int) -> int:
        """IN: the value of `width` bytes (1, 2 or 4) at `port`."""
        if width == 1:
            byte = self._byte_reads.get(port)
            return 0xFF if byte is None else byte()
        claim = self._table.get(port)
        if claim is None or port + width > claim.end:
            return self._read_bytes(port, width)
        return claim.region.port_read(port - claim.base, width)

    def write(self, port: int, width: int, value: int) -> Hold | None:
        """OUT. Returns a `Hold` if the access is not complete."""
        if width == 1:
            byte = self._byte_writes.get(port)
            return None if byte is None else byte(value & 0xFF)
        claim = self._table.get(port)
        if claim is None or port + width > claim.end:
            return self._write_bytes(port, width, value)
        return claim.region.port_write(port - claim.base, width, value)

    def read_string(self, port: int, width: int, buffer: memoryview) -> None:
        """REP INS into `buffer`, of whole `width`-byte items, in one go."""
        claim = self._table.get(port)
        if claim is not None and port + width <= claim.end:
            claim.region.port_read_string(port - claim.base, width, buffer)
            return
        for at in range(0, len(buffer), width):
            buffer[at : at + width] = self.read(port, width).to_bytes(width, "little")

    def write_string(self, port: int, width: int, data: memoryview) -> None:
        """REP OUTS from `data`, of whole `width`-byte items, in one go."""
        claim = self._table.get(port)
        if claim is not None and port + width <= claim.end:
            claim.region.port_write_string(port - claim.base, width, data)
            return
        for at in range(0, len(data), width):
            self.write(port, width, int.from_bytes(data[at : at + width], "little"))

    def _read_bytes(self, port: int, width: int) -> int:
        """An access that is not in one region goes on the bus byte by byte."""
        return sum(self.read(port + at, 1) << 8 * at for at in range(width))

    def _write_bytes(self, port: int, width: int, value: int) -> Hold | None:
        held = [self.write(port + at, 1, value >> 8 * at & 0xFF) for at in range(width)]
        return next((hold for hold in held if hold is not None), None)

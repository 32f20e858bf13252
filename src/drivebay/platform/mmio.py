"""Memory-mapped registers: what a device answers to, and where in the address space it sits."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple, Protocol

__all__ = ["MmioRegion", "MmioSpace"]


class MmioRegion(Protocol):
    """A block of registers, `size` bytes long."""

    @property
    def size(self) -> int:
        """Length of the block in bytes."""

    def mmio_read(self, offset: int, width: int) -> int:
        """The value of `width` bytes (1, 2, 4 or 8) at `offset`."""

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Store `value` in `width` bytes at `offset`."""


class _Claim(NamedTuple):
    base: int
    end: int
    region: MmioRegion


class _Span(NamedTuple):
    """Addresses at which one claim answers."""

    start: int
    end: int
    claim: _Claim


class MmioSpace:
    """An address space of register blocks. What no block claims reads all ones and drops writes.

    Two blocks may be told to sit at the same address, as a guest may move a BAR anywhere: then the
    one that came first answers.
    """

    def __init__(self) -> None:
        self._claims: list[_Claim] = []
        self._spans: list[_Span] = []
        self._starts: list[int] = []
        self._wrapper: Callable[[MmioRegion], MmioRegion] | None = None

    def map(self, base: int, region: MmioRegion) -> Callable[[], None]:
        """Put `region` at `base`. Returns what ends it."""
        claim = _Claim(base, base + region.size, region)
        self._claims.append(claim)
        self._build()

        def unmap() -> None:
            self._claims = [other for other in self._claims if other is not claim]
            self._build()

        return unmap

    def wrap(self, wrapper: Callable[[MmioRegion], MmioRegion] | None) -> None:
        """Have what `wrapper` makes of each block answer in its place: whoever looks on at
        accesses. None has the blocks answer themselves.
        """
        self._wrapper = wrapper
        self._build()

    def _build(self) -> None:
        spans: list[_Span] = []
        claims, wrap = self._claims, self._wrapper
        if wrap is not None:
            claims = [claim._replace(region=wrap(claim.region)) for claim in claims]
        for claim in claims:
            start = claim.base
            for taken in tuple(spans):  # by address: what lies between them is still to be had
                if start < taken.start and taken.start < claim.end:
                    spans.append(_Span(start, taken.start, claim))
                if start < taken.end and taken.start < claim.end:
                    start = taken.end
            if start < claim.end:
                spans.append(_Span(start, claim.end, claim))
            spans.sort(key=lambda span: span.start)
        self._spans = spans
        self._starts = [span.start for span in spans]

    def read(self, address: int, width: int) -> int:
        """Read `width` bytes at `address`."""
        claim = self._find(address, width)
        if claim is None:
            return (1 << 8 * width) - 1
        return claim.region.mmio_read(address - claim.base, width)

    def write(self, address: int, width: int, value: int) -> None:
        """Write `width` bytes at `address`."""
        claim = self._find(address, width)
        if claim is not None:
            claim.region.mmio_write(address - claim.base, width, value)

    def _find(self, address: int, width: int) -> _Claim | None:
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        span = self._spans[index]
        return span.claim if address + width <= span.end else None

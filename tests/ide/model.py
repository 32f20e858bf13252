"""A drive as a bytearray and a page of settings, for tests/ide/test_model.py."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import strategies as st

from drivebay.ata.geometry import CHS_LIMIT, Geometry, default_geometry
from drivebay.ata.registers import Feature, TransferMode
from drivebay.ata.settings import Power
from drivebay.drivers.ide import By

from .support import Place

MOST = 300  # sectors of one command
DEFAULT_ULTRA_DMA = 5


@dataclass(frozen=True)
class Kind:
    """A drive: its size, and the parts of it that are used: first sectors, and how many each."""

    sectors: int
    sector_size: int = 512
    cached: bool = True
    windows: tuple[int, ...] = (0,)
    window: int = 0

    @property
    def length(self) -> int:
        return self.window or self.sectors


KINDS: dict[Place, Kind] = {
    (0, 0): Kind(2048),
    (0, 1): Kind(617, cached=False),
    (1, 0): Kind(200, sector_size=4096),
    (1, 1): Kind(
        (1 << 28) + 5000,
        windows=(0, CHS_LIMIT - 150, (1 << 24) - 150, (1 << 28) - 300, (1 << 28) + 4700),
        window=300,
    ),
}
"""The last one has sectors that CHS or 28 bits do not reach."""

places = st.sampled_from(list(KINDS))
wheres = st.tuples(st.integers(0, 4), st.integers(0, 2047))
counts = st.one_of(st.integers(1, 20), st.sampled_from([64, 255, 256, 257, MOST]))
forms = st.sampled_from(By)
seeds, lengths = st.integers(0, 1 << 16), st.integers(1, 30)


features = st.one_of(
    st.tuples(st.sampled_from(Feature), st.integers(0, 255)),
    st.tuples(st.just(Feature.SET_TRANSFER_MODE), st.integers(0, 0x4F)),
    st.tuples(st.sampled_from([Feature.KEEP_DEFAULTS, Feature.ENABLE_APM]), st.just(7)),
)
MODES: dict[int, int] = {
    TransferMode.ULTRA_DMA: 5,
    TransferMode.MULTIWORD_DMA: 2,
    TransferMode.PIO: 4,
    TransferMode.PIO_DEFAULT: 1,
}
"""The highest mode of each kind."""


@dataclass(frozen=True)
class Move:
    """A read, write or verify, before it is known which sectors there are."""

    what: str
    place: Place
    where: tuple[int, int]
    count: int
    by: By
    multiple: bool
    fua: bool
    seed: int


def some_moves(seed: int, length: int, forms: list[By]) -> Iterator[Move]:
    """More of them than hypothesis would draw one by one; it finds out how few suffice."""
    chance = random.Random(seed)
    for _ in range(length):
        yield Move(
            chance.choice(["read", "write", "write", "verify"]),
            chance.choice(list(KINDS)),
            (chance.randrange(5), chance.randrange(2048)),
            chance.choice([chance.randrange(1, 20), chance.choice([64, 255, 256, 257, MOST])]),
            chance.choice(forms),
            chance.random() < 0.5,
            chance.random() < 0.3,
            chance.randrange(1 << 16),
        )


@dataclass(frozen=True)
class Part:
    """Sectors `at` of window `number`, at `lba` of the disk, and how they are asked for."""

    number: int
    at: int
    lba: int
    count: int
    by: By
    multiple: bool


@dataclass
class Model:
    """What a drive holds, and what it has been told."""

    kind: Kind
    data: list[bytearray] = field(default_factory=list)
    capacity: int = 0
    capacity_volatile: bool = True
    smart: bool = True
    buffer: bytes = bytes(512)

    def __post_init__(self) -> None:
        size = self.kind.length * self.kind.sector_size
        self.data = [bytearray(size) for _ in self.kind.windows]
        self.capacity = self.kind.sectors
        self.power_on()

    def power_on(self) -> None:
        """What was not to last is forgotten."""
        if self.capacity_volatile:
            self.capacity = self.kind.sectors
        self.ultra_dma: int | None = DEFAULT_ULTRA_DMA
        self.keep = False
        self.software_reset()

    def software_reset(self) -> None:
        """ATA/ATAPI-6 section 9.2: settings are kept if that was asked for."""
        self.power = Power.ACTIVE
        if self.keep:
            return
        self.multiple, self.apm, self.look_ahead = 0, 0, True
        self.cache = self.kind.cached
        self.heads, self.track = default_geometry(self.kind.sectors)[1:]

    @property
    def geometry(self) -> Geometry:
        native = default_geometry(self.capacity)
        if native[1:] == (self.heads, self.track):
            return native
        cylinders = self.capacity // (self.heads * self.track)
        return Geometry(max(min(cylinders, 65535), 1), self.heads, self.track)

    def takes(self, feature: Feature, count: int) -> bool:
        """Whether SET FEATURES does."""
        if feature is Feature.ENABLE_WRITE_CACHE:
            return self.kind.cached
        if feature is Feature.ENABLE_APM:
            return 0 < count < 255
        if feature is Feature.SET_TRANSFER_MODE:
            return count & 7 <= MODES.get(count >> 3, -1)
        return True

    def set_feature(self, feature: Feature, count: int) -> None:
        match feature:
            case Feature.ENABLE_WRITE_CACHE | Feature.DISABLE_WRITE_CACHE:
                self.cache = feature is Feature.ENABLE_WRITE_CACHE
            case Feature.ENABLE_LOOK_AHEAD | Feature.DISABLE_LOOK_AHEAD:
                self.look_ahead = feature is Feature.ENABLE_LOOK_AHEAD
            case Feature.ENABLE_APM | Feature.DISABLE_APM:
                self.apm = count if feature is Feature.ENABLE_APM else 0
            case Feature.KEEP_DEFAULTS | Feature.REVERT_TO_DEFAULTS:
                self.keep = feature is Feature.KEEP_DEFAULTS
            case Feature.SET_TRANSFER_MODE if count >> 3 == TransferMode.ULTRA_DMA:
                self.ultra_dma = count & 7
            case Feature.SET_TRANSFER_MODE if count >> 3 == TransferMode.MULTIWORD_DMA:
                self.ultra_dma = None

    def bytes_of(self, at: int, count: int) -> slice:
        """Where sectors of a window are."""
        size = self.kind.sector_size
        return slice(at * size, (at + count) * size)

    def part(self, where: tuple[int, int], count: int) -> tuple[int, int, int, int]:
        """A window's number, the first of its sectors, the sector it is on the disk, and a count
        that stays inside.
        """
        number = where[0] % len(self.kind.windows)
        at = where[1] % self.kind.length
        count = min(count, self.kind.length - at)
        return number, at, self.kind.windows[number] + at, count

    def names(self, lba: int, count: int, by: By) -> bool:
        """Whether the form can say it at all."""
        if by is By.LBA48:
            return True
        if count > 256:
            return False
        if by is By.LBA28:
            return lba < 1 << 28
        return lba // (self.heads * self.track) <= 0xFFFF

    def reaches(self, lba: int, count: int, by: By) -> bool:
        """Whether the drive has them all."""
        if by is By.CHS and lba // (self.heads * self.track) >= self.geometry.cylinders:
            return False
        return lba + count <= self.capacity

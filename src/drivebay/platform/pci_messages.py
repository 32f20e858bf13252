"""Interrupts as messages: MSI and MSI-X (PCI Local Bus Specification 3.0, section 6.8).

A device that may send messages asks which way its interrupts go: `enabled`, then `notify(vector)`;
if none is enabled it works `PciFunction.intx`. Where the messages go is the host's: a machine sets
`send` and gets address and data, a host that has vectors of its own (vfio-user) sets `take`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from drivebay.platform.pci import Bar, BarKind
from drivebay.platform.pci_capabilities import Capability, CapabilityId
from drivebay.wire import At, Bit, Bits, Register16, Register32, RegisterMap

__all__ = ["Messages", "MsiCapability", "MsixCapability"]

MAX_MSI: Final = 32
MAX_MSIX: Final = 2048
ENTRY: Final = 16

Send = Callable[[int, int], None]
"""Told the address and the data of a message."""
Take = Callable[[int], None]
"""Told the number of a vector."""


class Messages(Capability):
    """What MSI and MSI-X share: vectors that are masked and wait."""

    def __init__(self, vectors: int) -> None:
        super().__init__()
        self.vectors = vectors
        self.send: Send = lambda _address, _data: None
        """Where messages go; a machine's."""
        self.take: Take | None = None
        """Where vectors go instead, as long as a host keeps the masks and addresses itself."""
        self.pending = 0
        """Vectors that wait, a bit each."""

    @property
    def enabled(self) -> bool:
        """Whether the guest wants these messages, and not INTx."""
        raise NotImplementedError

    def notify(self, vector: int) -> None:
        """Send a vector's message, now or when it is unmasked. Not enabled, nothing is sent."""
        if self.take is not None:
            self.take(vector)
        elif self.enabled:
            if self._masked(vector):
                self.pending |= 1 << vector
            else:
                self.send(*self._message(vector))

    def deliver(self) -> None:
        """Send what waits and may go."""
        for vector in range(self.vectors):
            if self.pending >> vector & 1 and not self._masked(vector):
                self.pending &= ~(1 << vector)
                self.send(*self._message(vector))

    def _masked(self, vector: int) -> bool:
        raise NotImplementedError

    def _message(self, vector: int) -> tuple[int, int]:
        raise NotImplementedError


class MsiControl(Register16):
    """Message Control (PCI 3.0, section 6.8.1.3)."""

    PerVectorMasking = Bit(8)
    Address64 = Bit(7)
    MultipleMessageEnable = Bits(6, 4)
    MultipleMessageCapable = Bits(3, 1)
    Enable = Bit(0)


class MsiRegisters(RegisterMap):
    """The MSI block with 64-bit addresses and masks (section 6.8.1)."""

    Control = At(2, MsiControl)
    AddressLow = At(4, Register32)
    AddressHigh = At(8, Register32)
    Data = At(0xC, Register16)
    Mask = At(0x10, Register32)
    Pending = At(0x14, Register32)


class MsiCapability(Messages):
    """MSI with `vectors` vectors, a power of two up to 32.

    Where the guest enables fewer than there are, vectors share: the number is taken modulo theirs.
    Raises `ValueError` for a number that cannot be.
    """

    id = CapabilityId.MSI
    registers = MsiRegisters
    size = 0x18

    def __init__(self, vectors: int = 1) -> None:
        if not 0 < vectors <= MAX_MSI or vectors & (vectors - 1):
            raise ValueError(f"{vectors} MSI vectors: a power of two up to {MAX_MSI}")
        super().__init__(vectors)

    def describe(self) -> None:
        """Nothing enabled, nothing masked."""
        control = MsiControl.of(
            PerVectorMasking=1, Address64=1, MultipleMessageCapable=self.vectors.bit_length() - 1
        )
        writable = MsiControl.Enable | MsiControl.MultipleMessageEnable
        self.declare(MsiRegisters.Control, control, writable=writable)
        self.declare(MsiRegisters.AddressLow, writable=0xFFFFFFFC)
        self.declare(MsiRegisters.AddressHigh, writable=0xFFFFFFFF)
        self.declare(MsiRegisters.Data, writable=0xFFFF)
        self.declare(MsiRegisters.Mask, writable=(1 << self.vectors) - 1)

    @property
    def enabled(self) -> bool:
        """The enable bit."""
        return MsiControl(self.value(MsiRegisters.Control)).Enable

    @property
    def granted(self) -> int:
        """How many vectors the guest has given us."""
        power = MsiControl(self.value(MsiRegisters.Control)).MultipleMessageEnable
        return min(1 << power, self.vectors)

    def notify(self, vector: int) -> None:
        """As the base; vectors that were not granted share those that were."""
        super().notify(vector % self.granted)

    def _masked(self, vector: int) -> bool:
        return bool(self.value(MsiRegisters.Mask) >> vector & 1)

    def _message(self, vector: int) -> tuple[int, int]:
        high, low = self.value(MsiRegisters.AddressHigh), self.value(MsiRegisters.AddressLow)
        data = self.value(MsiRegisters.Data)
        return high << 32 | low, data & ~(self.granted - 1) | vector

    def read_Pending(self) -> int:
        """Vectors that are masked and wait."""
        return self.pending

    def write_Control(self, _value: int) -> None:
        """Enabled, or not: what waited for that is gone."""
        if not self.enabled:
            self.pending = 0

    def write_Mask(self, _value: int) -> None:
        """What is unmasked goes."""
        if self.enabled:
            self.deliver()


class MsixControl(Register16):
    """Message Control (section 6.8.2.3)."""

    Enable = Bit(15)
    FunctionMask = Bit(14)
    TableSize_z = Bits(10, 0)


class MsixPlace(Register32):
    """Where the table or the pending bits are (sections 6.8.2.4 and 6.8.2.5)."""

    Offset = Bits(31, 3)
    BIR = Bits(2, 0)


class MsixRegisters(RegisterMap):
    """The MSI-X block (section 6.8.2)."""

    Control = At(2, MsixControl)
    Table = At(4, MsixPlace)
    Pending = At(8, MsixPlace)


class MsixCapability(Messages):
    """MSI-X with `vectors` vectors (up to 2048), its table and pending bits in BAR `bar`.

    A device maps `table` and `pending_bits` into that BAR at the given offsets itself, or leaves a
    whole BAR to them. Raises `ValueError` for a number or a place that cannot be.
    """

    id = CapabilityId.MSIX
    registers = MsixRegisters
    size = 12

    def __init__(
        self, vectors: int, bar: int, table_offset: int = 0, pending_offset: int | None = None
    ) -> None:
        if not 0 < vectors <= MAX_MSIX:
            raise ValueError(f"{vectors} MSI-X vectors: 1 to {MAX_MSIX}")
        super().__init__(vectors)
        self.bar, self.table_offset = bar, table_offset
        after = -(-ENTRY * vectors // 4096) * 4096
        self.pending_offset = table_offset + after if pending_offset is None else pending_offset
        if table_offset % 8 or self.pending_offset % 8 or not 0 <= bar <= 5:
            raise ValueError(f"MSI-X in BAR {bar} at {table_offset:#x}, {self.pending_offset:#x}")
        self.switched: Callable[[], object] = lambda: None
        """Called when the guest has enabled or disabled it."""
        self.table = MsixTable(self)
        self.pending_bits = PendingBits(self)

    def describe(self) -> None:
        """Nothing enabled, every vector masked."""
        control = MsixControl.of(TableSize_z=self.vectors - 1)
        writable = MsixControl.Enable | MsixControl.FunctionMask
        self.declare(MsixRegisters.Control, control, writable=writable)
        self.declare(MsixRegisters.Table, self.table_offset | self.bar)
        self.declare(MsixRegisters.Pending, self.pending_offset | self.bar)

    def whole_bar(self) -> Bar:
        """A memory BAR with nothing else in it."""
        region = _MsixRegion(self)
        return Bar(BarKind.MEMORY32, region.size, region)

    @property
    def enabled(self) -> bool:
        """The enable bit."""
        return bool(self.value(MsixRegisters.Control) & MsixControl.Enable)

    def _masked(self, vector: int) -> bool:
        control = MsixControl(self.value(MsixRegisters.Control))
        return control.FunctionMask or self.table.masked(vector)

    def _message(self, vector: int) -> tuple[int, int]:
        return self.table.message(vector)

    def write_Control(self, _value: int) -> None:
        """Enabled, or unmasked: what waits goes."""
        if self.enabled:
            self.deliver()
        else:
            self.pending = 0
        self.switched()

    def reset(self) -> None:
        """The table as after power-on; configuration space is the function's to reset."""
        self.pending = 0
        self.table.reset()

    def save(self) -> dict[str, Any]:
        """The table, and what waits."""
        return {"table": bytes(self.table.entries), "pending": self.pending}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `save` gave. Raises `ValueError` if it is of another table."""
        if len(state["table"]) != len(self.table.entries):
            raise ValueError("the saved state is of another MSI-X table")
        self.table.entries[:] = state["table"]
        self.pending = int(state["pending"]) & (1 << self.vectors) - 1


class MsixTable:
    """Address, data and mask of each vector (section 6.8.2.6), as an `MmioRegion`."""

    def __init__(self, capability: MsixCapability) -> None:
        self._capability = capability
        self.size = ENTRY * capability.vectors
        self.entries = bytearray(self.size)
        self.reset()

    def reset(self) -> None:
        """Every vector is masked."""
        self.entries[:] = (bytes(12) + b"\x01\0\0\0") * self._capability.vectors

    def masked(self, vector: int) -> bool:
        """The mask bit."""
        return bool(self.entries[ENTRY * vector + 12] & 1)

    def message(self, vector: int) -> tuple[int, int]:
        """Address and data."""
        entry = self.entries[ENTRY * vector : ENTRY * vector + 12]
        return int.from_bytes(entry[:8], "little") & ~3, int.from_bytes(entry[8:], "little")

    def mmio_read(self, offset: int, width: int) -> int:
        """As written."""
        return int.from_bytes(self.entries[offset : offset + width], "little")

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Aligned accesses of 4 and 8 bytes are defined, others are dropped."""
        if width not in (4, 8) or offset % width or offset + width > self.size:
            return
        self.entries[offset : offset + width] = value.to_bytes(width, "little")
        if self._capability.enabled:
            self._capability.deliver()


class PendingBits:
    """The pending bit array (section 6.8.2.9), as an `MmioRegion`. A guest cannot write it."""

    def __init__(self, capability: MsixCapability) -> None:
        self._capability = capability
        self.size = 8 * -(-capability.vectors // 64)

    def mmio_read(self, offset: int, width: int) -> int:
        """Who waits."""
        return self._capability.pending >> 8 * offset & (1 << 8 * width) - 1

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Dropped."""


class _MsixRegion:
    """A BAR with the table and the pending bits, and nothing between them."""

    def __init__(self, msix: MsixCapability) -> None:
        self._parts = ((msix.table_offset, msix.table), (msix.pending_offset, msix.pending_bits))
        end = max(start + region.size for start, region in self._parts)
        self.size = max(1 << (end - 1).bit_length(), 4096)

    def _part(self, offset: int, width: int) -> tuple[int, MsixTable | PendingBits] | None:
        for start, region in self._parts:
            if start <= offset and offset + width <= start + region.size:
                return offset - start, region
        return None

    def mmio_read(self, offset: int, width: int) -> int:
        """Whoever is there."""
        part = self._part(offset, width)
        return part[1].mmio_read(part[0], width) if part else 0

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Whoever is there."""
        part = self._part(offset, width)
        if part:
            part[1].mmio_write(part[0], width, value)

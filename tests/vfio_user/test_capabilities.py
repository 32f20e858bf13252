"""PCI capabilities: how a guest finds them, and what MSI and MSI-X send."""

from __future__ import annotations

import pytest

from drivebay.platform.pci import Header, PciFunction, PciIdentity
from drivebay.platform.pci_capabilities import (
    CapabilityId,
    PciExpress,
    PowerManagement,
    add_capabilities,
    find_capability,
)
from drivebay.platform.pci_messages import MsiCapability, MsixCapability


class Endpoint(PciFunction):
    """A function with all capabilities, which notes what it sends and when it is reset."""

    def __init__(self, vectors: int = 4) -> None:
        self.msi, self.msix = MsiCapability(vectors), MsixCapability(vectors, bar=4)
        self.express, self.power = PciExpress(), PowerManagement()
        self.sent: list[tuple[int, int]] = []
        self.resets = 0
        identity = PciIdentity(0x1AF4, 0x1234, 0xFF0000, interrupt_pin=1)
        super().__init__(identity, {4: self.msix.whole_bar()})
        add_capabilities(self, [self.power, self.msi, self.msix, self.express])
        for capability in (self.msi, self.msix):
            capability.send = lambda address, data: self.sent.append((address, data))

    def reset(self) -> None:
        self.resets += 1
        super().reset()
        self.msix.reset()


@pytest.fixture
def function() -> Endpoint:
    return Endpoint()


def chain(function: PciFunction) -> dict[int, int]:
    found = {}
    at = function.config_read(Header.CapabilitiesPointer.offset, 1)
    while at:
        assert at % 4 == 0
        found[function.config_read(at, 1)] = at
        at = function.config_read(at + 1, 1)
    return found


def test_a_guest_finds_them_all(function: Endpoint) -> None:
    assert function.config_read(6, 2) & 0x10
    assert list(chain(function)) == [
        CapabilityId.POWER_MANAGEMENT,
        CapabilityId.MSI,
        CapabilityId.MSIX,
        CapabilityId.PCI_EXPRESS,
    ]
    assert find_capability(function, MsixCapability) is function.msix
    assert find_capability(PciFunction(function.identity), MsixCapability) is None


def test_there_is_room_for_so_many_only(function: Endpoint) -> None:
    with pytest.raises(ValueError, match="no room"):
        add_capabilities(PciFunction(function.identity), [PciExpress() for _ in range(4)])


@pytest.mark.parametrize("vectors", [0, 3, 64])
def test_msi_has_powers_of_two(vectors: int) -> None:
    with pytest.raises(ValueError, match="MSI"):
        MsiCapability(vectors)


def test_msix_has_up_to_2048() -> None:
    assert MsixCapability(2048, bar=0).whole_bar().size == 65536
    for wrong in (0, 2049):
        with pytest.raises(ValueError, match="MSI-X"):
            MsixCapability(wrong, bar=0)


def test_msi_sends_what_the_guest_has_written(function: Endpoint) -> None:
    at = chain(function)[CapabilityId.MSI]
    function.msi.notify(0)
    assert function.sent == []
    function.config_write(at + 4, 4, 0xFEE01003)
    function.config_write(at + 8, 4, 1)
    function.config_write(at + 0xC, 2, 0x4050)
    function.config_write(at + 2, 2, 0xFF | 2 << 4)  # four vectors
    assert function.msi.enabled
    function.msi.notify(3)
    function.msi.notify(5)  # shares with 1
    assert function.sent == [(0x1_FEE01000, 0x4053), (0x1_FEE01000, 0x4051)]


def test_msi_that_is_masked_waits(function: Endpoint) -> None:
    at = chain(function)[CapabilityId.MSI]
    function.config_write(at + 2, 2, 1 | 2 << 4)
    function.config_write(at + 0x10, 4, 0xFFFFFFFF)
    assert function.config_read(at + 0x10, 4) == 0xF
    function.msi.notify(2)
    assert (function.sent, function.config_read(at + 0x14, 4)) == ([], 4)
    function.config_write(at + 0x10, 4, 0)
    assert (len(function.sent), function.config_read(at + 0x14, 4)) == (1, 0)


def test_msix_sends_by_its_table(function: Endpoint) -> None:
    at = chain(function)[CapabilityId.MSIX]
    table, pending = function.msix.table, function.bars[4].region
    assert function.config_read(at + 2, 2) == 3
    assert function.config_read(at + 4, 4) == 4
    assert function.config_read(at + 8, 4) == 0x1004
    function.config_write(at + 2, 2, 0x8000)
    table.mmio_write(16, 8, 0xFEE00000)
    table.mmio_write(24, 4, 0x41)
    function.msix.notify(1)
    assert function.sent == []
    assert pending is not None
    assert pending.mmio_read(0x1000, 8) == 2  # type: ignore[union-attr]
    table.mmio_write(28, 4, 0)
    assert function.sent == [(0xFEE00000, 0x41)]
    assert pending.mmio_read(0x1000, 8) == 0  # type: ignore[union-attr]


def test_a_function_mask_holds_all(function: Endpoint) -> None:
    at = chain(function)[CapabilityId.MSIX]
    function.msix.table.mmio_write(12, 4, 0)
    function.config_write(at + 2, 2, 0xC000)
    function.msix.notify(0)
    assert function.sent == []
    function.config_write(at + 2, 2, 0x8000)
    assert function.sent == [(0, 0)]


@pytest.mark.parametrize(("offset", "width"), [(0, 1), (2, 2), (2, 4), (60, 8), (64, 4)])
def test_odd_writes_to_the_table_are_dropped(function: Endpoint, offset: int, width: int) -> None:
    before = bytes(function.msix.table.entries)
    function.msix.table.mmio_write(offset, width, (1 << 8 * width) - 1)
    assert function.msix.table.entries == before


def test_a_table_is_saved_and_restored(function: Endpoint) -> None:
    function.msix.table.mmio_write(0, 8, 0xFEE00000)
    function.msix.pending = 2
    other = Endpoint()
    other.msix.restore(function.msix.save())
    assert other.msix.table.message(0) == (0xFEE00000, 0)
    assert other.msix.pending == 2
    with pytest.raises(ValueError, match="another"):
        Endpoint(8).msix.restore(function.msix.save())


def test_a_host_may_take_the_vectors_itself(function: Endpoint) -> None:
    taken: list[int] = []
    function.msix.take = taken.append
    function.msix.notify(3)
    assert (taken, function.sent) == ([3], [])


def test_function_level_reset(function: Endpoint) -> None:
    at = chain(function)[CapabilityId.PCI_EXPRESS]
    function.config_write(at + 8, 2, 0x7FFF)
    assert (function.config_read(at + 8, 2), function.resets) == (0x7FFF, 0)
    function.config_write(at + 8, 2, 0x8000)
    assert (function.config_read(at + 8, 2), function.resets) == (0, 1)


def test_d3hot_is_told(function: Endpoint) -> None:
    at = chain(function)[CapabilityId.POWER_MANAGEMENT]
    function.config_write(at + 4, 2, 3)
    assert function.power.asleep
    function.config_write(at + 4, 2, 0)
    assert not function.power.asleep

"""The ACPI tables of a PC whose kernel is started directly, or whose firmware is told of them.
Linux reads them at night.
"""

from __future__ import annotations

import pytest

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.disk.backends.ram import RamDisk
from drivebay.machines import aml
from drivebay.machines.acpi import TABLES, Header, LocalApic, Rsdp
from drivebay.machines.chips.piix4 import PMBA, PowerRegisters
from drivebay.machines.direct import POWER_PORTS, VIRTIO_MMIO_PLACES, prepare, put_virtio
from drivebay.machines.firmware import tell_of_hyperv
from drivebay.machines.pc import Pc
from drivebay.platform.engine import Engine
from tests.emulator.conftest import Machine


def table_at(pc: Pc, address: int) -> tuple[Header, bytes]:
    header = Header.unpack(pc.memory.view(address, Header.size))
    whole = bytes(pc.memory.view(address, header.length))
    assert sum(whole) & 0xFF == 0, header.signature
    return header, whole[Header.size :]


def tables(pc: Pc, rsdp: int) -> dict[bytes, bytes]:
    """Bodies by signature, each table whole; that of the FADT leads to the DSDT."""
    first = bytes(pc.memory.view(rsdp, Rsdp.size))
    assert first.startswith(b"RSD PTR ")
    assert sum(first[:20]) & 0xFF == sum(first) & 0xFF == 0
    _, pointers = table_at(pc, Rsdp.unpack(first).xsdt)
    found = {}
    for at in memoryview(pointers).cast("Q"):
        header, body = table_at(pc, at)
        found[header.signature] = body
    dsdt, found[b"DSDT"] = table_at(pc, int.from_bytes(found[b"FACP"][4:8], "little"))
    assert dsdt.signature == b"DSDT"
    return found


def test_seabios_hands_on_what_it_is_told(seabios: bytes, engine: Engine) -> None:
    """It finds memory for the tables, and has them point to each other."""
    machine = Machine(engine, seabios)
    tell_of_hyperv(machine.pc, cpus=2)
    machine.cpu.run(30, lambda: b"No bootable device" in machine.debug)
    legacy = bytes(machine.pc.memory.view(0xF0000, 0x10000))
    found = tables(machine.pc, 0xF0000 + legacy.index(b"RSD PTR "))
    assert set(found) == {b"FACP", b"APIC", b"DSDT"}
    assert b"VMBus\0" in found[b"DSDT"]
    assert LocalApic(0, 8, 1, 1, 1).pack() in found[b"APIC"]
    assert b"Microsoft Corporation\0Virtual Machine\0" in legacy
    power = machine.pc.bus.functions[1, 3].config_read(PowerRegisters.PMBA.offset, 4)
    assert power & PMBA.ADDRESS == POWER_PORTS


@pytest.fixture
def pc(engine: Engine) -> Pc:
    return Pc(engine, 1 << 20)


def test_tables_are_whole(pc: Pc) -> None:
    rsdp = prepare(pc, cpus=3)
    assert rsdp == TABLES
    found = tables(pc, rsdp)
    cpus = [LocalApic(0, 8, number, number, 1).pack() for number in range(3)]
    assert b"".join(cpus) in found[b"APIC"]
    assert b"LNRO0005" not in found[b"DSDT"]
    assert b"VMBus" not in found[b"DSDT"]
    assert b"VMBus\0" in tables(pc, prepare(pc, vmbus=True))[b"DSDT"]


def test_power_management_is_where_the_tables_say(pc: Pc) -> None:
    """PM1a_CNT_BLK and PM_TMR_BLK (ACPI 6.5, section 5.2.9)."""
    fadt = tables(pc, prepare(pc))[b"FACP"]
    control, timer = (int.from_bytes(fadt[at - 36 : at - 32], "little") for at in (64, 76))
    before = pc.ports.read(timer, 4)
    assert 0 < pc.ports.read(timer, 4) - before < 1 << 24
    pc.ports.write(control, 2, 1 << 13)  # SLP_EN, and SLP_TYP as _S5_ has it
    assert pc.exit_status == 0


def test_pci_interrupts_come_where_the_tables_say(pc: Pc) -> None:
    """Pin A of slot 1 is PIRQA, which is interrupt 10; pin C is PIRQC, 11."""
    told: list[tuple[int, bool]] = []
    pc.interrupt = lambda number, level: told.append((number, level))
    dsdt = tables(pc, prepare(pc))[b"DSDT"]
    for pin, pirq, number in ((0, 0, 10), (2, 2, 11)):
        route = [aml.integer(each) for each in (1 << 16 | 0xFFFF, pin, 0, number)]
        assert aml.package(*route) in dsdt
        isa = pc.bus.functions[1, 0]
        isa.set_line(pirq, True)  # type: ignore[attr-defined]
        isa.set_line(pirq, False)  # type: ignore[attr-defined]
    assert told == [(10, True), (10, False), (11, True), (11, False)]


def test_virtio_transports_are_named(pc: Pc, engine: Engine) -> None:
    devices = [BlockDevice(RamDisk(1 << 20), engine) for _ in range(VIRTIO_MMIO_PLACES)]
    places = [put_virtio(pc, number, device) for number, device in enumerate(devices)]
    with pytest.raises(ValueError, match="there are 8"):
        put_virtio(pc, VIRTIO_MMIO_PLACES, devices[0])
    dsdt = tables(pc, prepare(pc, virtio=places))[b"DSDT"]
    assert dsdt.count(b"LNRO0005\0") == VIRTIO_MMIO_PLACES
    for place in places:
        assert pc.mmio.read(place.address, 4) == int.from_bytes(b"virt", "little")
        registers = aml.fixed_memory(place.address, place.length)
        assert registers + aml.interrupt(place.interrupt) in dsdt
    assert len({place.interrupt for place in places}) == VIRTIO_MMIO_PLACES


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0A02"),
        (0x100, "0B0001"),
        (0x10000, "0C00000100"),
        (1 << 32, "0E0000000001000000"),
    ],
)
def test_numbers(value: int, encoded: str) -> None:
    """ACPI 6.5, section 20.2.3."""
    assert aml.integer(value) == bytes.fromhex(encoded)


@pytest.mark.parametrize(
    ("content", "length"), [(62, "3F"), (63, "4104"), (0xFFD, "4FFF"), (0xFFE, "810001")]
)
def test_lengths_count_themselves(content: int, length: str) -> None:
    """ACPI 6.5, section 20.2.4: up to 63 in one byte, then four bits and whole bytes."""
    term = bytes(content - 4)
    encoded = aml.scope("\\_SB", term)
    assert encoded[1:].startswith(bytes.fromhex(length))
    assert encoded.endswith(term)


def test_names_and_resources() -> None:
    assert aml.eisa_id("PNP0A03") == bytes.fromhex("0C41D00A03")
    assert aml.eisa_id("PNP0501") == bytes.fromhex("0C41D00501")
    assert aml.resources(aml.irq(4)) == bytes.fromhex("1108 0A05 221000 7900")
    assert aml.ports(0x3F8, 8) == bytes.fromhex("4701 F803 F803 01 08")

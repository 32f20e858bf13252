"""ACPI tables of a PC whose kernel is started directly: what firmware would have told it.

Sections are of the ACPI specification, version 6.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from drivebay.machines import aml
from drivebay.machines.smbios import ENTRY_POINT
from drivebay.platform.memory import GuestMemory
from drivebay.wire import U8, U16, U32, U64, Struct

__all__ = ["Acpi", "VirtioMmio", "put_acpi"]

TABLES: Final = 0xE0000
TABLES_END: Final = ENTRY_POINT
LOCAL_APIC: Final = 0xFEE0_0000
IO_APIC: Final = 0xFEC0_0000
SCI: Final = 9
"""The interrupt of power management. It never comes."""
PCI_WINDOW: Final = (0x8000_0000, 0xF7FF_FFFF)
VMBUS_WINDOW: Final = (0xF800_0000, 0xFBFF_FFFF)
COM1, COM1_IRQ = 0x3F8, 4
PINS: Final = 4


@dataclass(frozen=True)
class VirtioMmio:
    """A virtio transport: where its registers are, and the global number of its interrupt."""

    address: int
    length: int
    interrupt: int


@dataclass(frozen=True)
class Acpi:
    """What there is to tell of a machine.

    `power` is the port where the PIIX4's power management begins. `slots` are the PCI slots with
    something in them, and `pirqs` the interrupts of PIRQA to PIRQD. `vmbus` says whether there is
    Hyper-V's bus.
    """

    cpus: int
    power: int
    slots: Sequence[int]
    pirqs: Sequence[int]
    virtio: Sequence[VirtioMmio] = ()
    vmbus: bool = False


class Rsdp(Struct, size=36):
    """Where everything begins (section 5.2.5.3)."""

    signature: Annotated[bytes, "8s"]
    checksum: U8
    oem_id: Annotated[bytes, "6s"]
    revision: U8
    rsdt: U32
    length: U32
    xsdt: U64
    extended_checksum: U8
    reserved: Annotated[bytes, "3s"] = bytes(3)


RSDP_1_SIZE: Final = 20
"""What the first checksum is of."""


class Header(Struct, size=36):
    """What each table begins with (section 5.2.6)."""

    signature: Annotated[bytes, "4s"]
    length: U32
    revision: U8
    checksum: U8
    oem_id: Annotated[bytes, "6s"]
    oem_table_id: Annotated[bytes, "8s"]
    oem_revision: U32
    creator_id: Annotated[bytes, "4s"]
    creator_revision: U32


CHECKSUM_AT: Final = 9


class Fadt(Struct, size=80):
    """The fixed hardware, of ACPI 1.0 (revision 1), without its header."""

    firmware_ctrl: U32
    dsdt: U32
    int_model: U8
    reserved1: U8
    sci_int: U16
    smi_cmd: U32
    acpi_enable: U8
    acpi_disable: U8
    s4bios_req: U8
    reserved2: U8
    pm1a_evt_blk: U32
    pm1b_evt_blk: U32
    pm1a_cnt_blk: U32
    pm1b_cnt_blk: U32
    pm2_cnt_blk: U32
    pm_tmr_blk: U32
    gpe0_blk: U32
    gpe1_blk: U32
    pm1_evt_len: U8
    pm1_cnt_len: U8
    pm2_cnt_len: U8
    pm_tmr_len: U8
    gpe0_blk_len: U8
    gpe1_blk_len: U8
    gpe1_base: U8
    reserved3: U8
    p_lvl2_lat: U16
    p_lvl3_lat: U16
    flush_size: U16
    flush_stride: U16
    duty_offset: U8
    duty_width: U8
    day_alrm: U8
    mon_alrm: U8
    century: U8
    reserved4: Annotated[bytes, "3s"]
    flags: U32


class Madt(Struct, size=8):
    """The interrupt controllers (section 5.2.12), without its header."""

    local_apic: U32
    flags: U32


class LocalApic(Struct, size=8):
    """A CPU's (section 5.2.12.2)."""

    type: U8
    length: U8
    processor: U8
    apic_id: U8
    flags: U32


class IoApic(Struct, size=12):
    """The one for devices (section 5.2.12.3)."""

    type: U8
    length: U8
    id: U8
    reserved: U8
    address: U32
    first: U32


class Override(Struct, size=10):
    """An interrupt that is not as ISA's are (section 5.2.12.5)."""

    type: U8
    length: U8
    bus: U8
    source: U8
    interrupt: U32
    flags: U16


WBINVD, PROC_C1, POWER_BUTTON, SLEEP_BUTTON = 1 << 0, 1 << 2, 1 << 4, 1 << 5  # FADT flags
PCAT_COMPAT: Final = 1
ENABLED: Final = 1
ACTIVE_HIGH_LEVEL: Final = 0xD
NO_C2, NO_C3 = 101, 1001  # microseconds after which they are taken to be not there


def put_acpi(memory: GuestMemory, machine: Acpi) -> int:
    """Write the tables below 1 MiB; the address of the first, which kernels are told.

    Raises `ValueError` if they do not fit there.
    """
    tables = bytearray(Rsdp.size)

    def put(table: bytes) -> int:
        tables.extend(bytes(-len(tables) % 16))
        address = TABLES + len(tables)
        tables.extend(table)
        return address

    dsdt = put(_table(b"DSDT", 2, _dsdt(machine)))
    pointers = [
        put(_table(b"FACP", 1, _fadt(machine, dsdt))),
        put(_table(b"APIC", 1, _madt(machine))),
    ]
    xsdt = put(_table(b"XSDT", 1, b"".join(each.to_bytes(8, "little") for each in pointers)))
    tables[: Rsdp.size] = _rsdp(xsdt)
    if len(tables) > TABLES_END - TABLES:
        raise ValueError(
            f"{len(tables)} bytes of ACPI tables: there is room for {TABLES_END - TABLES}"
        )
    memory.view(TABLES, len(tables))[:] = tables
    return TABLES


def _checksum(data: bytes) -> int:
    return -sum(data) & 0xFF


def _rsdp(xsdt: int) -> bytes:
    rsdp = Rsdp(b"RSD PTR ", 0, b"DRVBAY", 2, 0, Rsdp.size, xsdt, 0)
    rsdp.checksum = _checksum(rsdp.pack()[:RSDP_1_SIZE])
    rsdp.extended_checksum = _checksum(rsdp.pack())
    return rsdp.pack()


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    length = Header.size + len(body)
    header = Header(signature, length, revision, 0, b"DRVBAY", b"DRIVEBAY", 1, b"DRVB", 1)
    header.checksum = _checksum(header.pack() + body)
    return header.pack() + body


def _fadt(machine: Acpi, dsdt: int) -> bytes:
    fadt = Fadt.unpack(bytes(Fadt.size))
    fadt.dsdt, fadt.sci_int = dsdt, SCI
    fadt.pm1a_evt_blk, fadt.pm1_evt_len = machine.power, 4
    fadt.pm1a_cnt_blk, fadt.pm1_cnt_len = machine.power + 4, 2
    fadt.pm_tmr_blk, fadt.pm_tmr_len = machine.power + 8, 4
    fadt.p_lvl2_lat, fadt.p_lvl3_lat = NO_C2, NO_C3
    fadt.century = 0x32
    fadt.flags = WBINVD | PROC_C1 | POWER_BUTTON | SLEEP_BUTTON
    return fadt.pack()


def _madt(machine: Acpi) -> bytes:
    parts = [Madt(LOCAL_APIC, PCAT_COMPAT).pack()]
    parts += [LocalApic(0, 8, cpu, cpu, ENABLED).pack() for cpu in range(machine.cpus)]
    parts.append(IoApic(1, 12, machine.cpus, 0, IO_APIC, 0).pack())
    parts.append(Override(2, 10, 0, SCI, SCI, ACTIVE_HIGH_LEVEL).pack())
    return b"".join(parts)


# -- the devices ----------------------------------------------------------------------------------


def _dsdt(machine: Acpi) -> bytes:
    devices = [_pci(machine), _serial(), *map(_virtio, range(len(machine.virtio)), machine.virtio)]
    if machine.vmbus:
        devices.append(_vmbus())
    soft_off = aml.package(*[aml.integer(0)] * 4)
    return aml.name("_S5_", soft_off) + aml.scope("\\_SB_", *devices)


def _pci(machine: Acpi) -> bytes:
    routes = [
        aml.package(
            aml.integer(slot << 16 | 0xFFFF),
            aml.integer(pin),
            aml.integer(0),
            # Boards with this bridge rotate the lines by one: INTA# of slot 1 is PIRQA.
            aml.integer(machine.pirqs[slot + pin - 1 & PINS - 1]),
        )
        for slot in machine.slots
        for pin in range(PINS)
    ]
    return aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", aml.integer(0)),
        aml.name(
            "_CRS",
            aml.resources(
                aml.windows_of_buses(0, 0xFF),
                aml.ports(0xCF8, 8),
                aml.port_window(0, 0xCF7),
                aml.port_window(0xD00, 0xFFFF),
                aml.memory_window(*PCI_WINDOW),
            ),
        ),
        aml.name("_PRT", aml.package(*routes)),
    )


def _serial() -> bytes:
    return aml.device(
        "COM1",
        aml.name("_HID", aml.eisa_id("PNP0501")),
        aml.name("_UID", aml.integer(1)),
        aml.name("_CRS", aml.resources(aml.ports(COM1, 8), aml.irq(COM1_IRQ))),
    )


def _virtio(number: int, transport: VirtioMmio) -> bytes:
    return aml.device(
        f"VR{number:02X}",
        aml.name("_HID", aml.string("LNRO0005")),
        aml.name("_UID", aml.integer(number)),
        aml.name(
            "_CRS",
            aml.resources(
                aml.fixed_memory(transport.address, transport.length),
                aml.interrupt(transport.interrupt),
            ),
        ),
    )


def _vmbus() -> bytes:
    """Linux looks for the bus by this name, and for addresses to give away at its parents."""
    bus = aml.device(
        "VMBS",
        aml.name("_HID", aml.string("VMBus")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_CRS", aml.resources()),  # it has none, but Linux gives up without a list
    )
    return aml.device(
        "VMOD",
        aml.name("_HID", aml.eisa_id("PNP0A05")),  # a container
        aml.name("_UID", aml.integer(0)),
        aml.name("_CRS", aml.resources(aml.memory_window(*VMBUS_WINDOW))),
        bus,
    )

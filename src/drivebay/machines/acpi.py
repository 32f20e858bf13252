"""ACPI tables of a PC whose kernel is started directly: what firmware would have told it.

Sections are of the ACPI specification, version 6.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

from drivebay.machines import aml
from drivebay.machines.smbios import ENTRY_POINT
from drivebay.platform.memory import GuestMemory
from drivebay.wire import U8, U16, U32, U64, Struct

__all__ = [
    "CHECKSUM_AT",
    "PCI_WINDOW",
    "RSDP_1_SIZE",
    "RSDP_CHECKSUM_AT",
    "RSDP_EXTENDED_CHECKSUM_AT",
    "RSDP_XSDT_AT",
    "Acpi",
    "Rsdp",
    "Tables",
    "VirtioMmio",
    "build",
    "put_acpi",
    "rsdp",
]

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
    Hyper-V's bus. `windows` are the addresses of PCI's memory, the first and the last of each.
    """

    cpus: int
    power: int
    slots: Sequence[int]
    pirqs: Sequence[int]
    virtio: Sequence[VirtioMmio] = ()
    vmbus: bool = False
    windows: Sequence[tuple[int, int]] = (PCI_WINDOW,)


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
RSDP_ROOM: Final = 48
RSDP_CHECKSUM_AT, RSDP_XSDT_AT, RSDP_EXTENDED_CHECKSUM_AT = 8, 24, 32


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
DSDT_AT: Final = Header.size + 4
"""In the FADT."""


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


@dataclass
class Tables:
    """Tables for the addresses from `start` on, but for the RSDP."""

    start: int
    data: bytearray = field(default_factory=bytearray)
    pointers: list[tuple[int, int]] = field(default_factory=list)
    """Where in `data` an address is, and its bytes."""
    pointing: list[tuple[int, int]] = field(default_factory=list)
    """Where tables with such begin, and their length."""

    def put(self, table: bytes, *, pointers: Iterable[int] = (), size: int = 0) -> int:
        """Its address. `pointers` of `size` bytes are in it."""
        self.data += bytes(-len(self.data) % 16)
        at = len(self.data)
        self.data += table
        if size:
            self.pointers += [(at + pointer, size) for pointer in pointers]
            self.pointing.append((at, len(table)))
        return self.start + at


def build(machine: Acpi, start: int) -> tuple[Tables, int]:
    """The tables, and the address of the XSDT."""
    tables = Tables(start)
    dsdt = tables.put(_table(b"DSDT", 2, _dsdt(machine)))
    fadt = tables.put(_table(b"FACP", 1, _fadt(machine, dsdt)), pointers=[DSDT_AT], size=4)
    madt = tables.put(_table(b"APIC", 1, _madt(machine)))
    found = [fadt, madt]
    xsdt = _table(b"XSDT", 1, b"".join(each.to_bytes(8, "little") for each in found))
    return tables, tables.put(xsdt, pointers=range(Header.size, len(xsdt), 8), size=8)


def put_acpi(memory: GuestMemory, machine: Acpi) -> int:
    """Write the tables below 1 MiB; the address of the first, which kernels are told.

    Raises `ValueError` if they do not fit there.
    """
    tables, xsdt = build(machine, TABLES + RSDP_ROOM)
    first = rsdp(xsdt)
    first.checksum = _checksum(first.pack()[:RSDP_1_SIZE])
    first.extended_checksum = _checksum(first.pack())
    data = first.pack().ljust(RSDP_ROOM, b"\0") + tables.data
    if len(data) > TABLES_END - TABLES:
        raise ValueError(
            f"{len(data)} bytes of ACPI tables: there is room for {TABLES_END - TABLES}"
        )
    memory.view(TABLES, len(data))[:] = data
    return TABLES


def _checksum(data: bytes) -> int:
    return -sum(data) & 0xFF


def rsdp(xsdt: int) -> Rsdp:
    """The first table, which points to the XSDT, without its checksums."""
    return Rsdp(b"RSD PTR ", 0, b"DRVBAY", 2, 0, Rsdp.size, xsdt, 0)


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
                *(aml.memory_window(*window) for window in machine.windows),
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

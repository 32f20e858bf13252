"""A PC whose firmware is told of Hyper-V, so that it tells the guest.

SeaBIOS takes ACPI tables from files of fw_cfg, and puts them where it likes: what it is to do for
that is said by QEMU's ``etc/table-loader``, a list of commands.
"""

from __future__ import annotations

from typing import Annotated, Final

from drivebay.machines.acpi import (
    CHECKSUM_AT,
    PCI_WINDOW,
    RSDP_1_SIZE,
    RSDP_CHECKSUM_AT,
    RSDP_EXTENDED_CHECKSUM_AT,
    RSDP_XSDT_AT,
    Acpi,
    Rsdp,
    build,
    rsdp,
)
from drivebay.machines.direct import HYPERV, PIRQS, POWER_PORTS, slots_of
from drivebay.machines.pc import Pc
from drivebay.machines.smbios import smbios
from drivebay.wire import U8, U32, Struct

__all__ = ["tell_of_hyperv"]

RSDP_FILE, TABLES_FILE = b"etc/acpi/rsdp", b"etc/acpi/tables"
ANYWHERE, BELOW_1_MIB = 1, 2
BARS: Final = (0xFC00_0000, 0xFEBF_FFFF)
"""Where SeaBIOS puts them: from the end on."""


class Allocate(Struct, size=128):
    """Have memory for a file, and the file in it."""

    command: U32
    file: Annotated[bytes, "56s"]
    align: U32
    zone: U8
    pad: Annotated[bytes, "63s"] = bytes(63)


class AddPointer(Struct, size=128):
    """Add the address of file `to` to the pointer that is at `offset` of `file`."""

    command: U32
    file: Annotated[bytes, "56s"]
    to: Annotated[bytes, "56s"]
    offset: U32
    size_: U8
    pad: Annotated[bytes, "7s"] = bytes(7)


class AddChecksum(Struct, size=128):
    """Have `length` bytes from `start` on sum up to 0 by the one at `offset`, which is 0."""

    command: U32
    file: Annotated[bytes, "56s"]
    offset: U32
    start: U32
    length: U32
    pad: Annotated[bytes, "56s"] = bytes(56)


def _allocate(file: bytes, align: int, zone: int) -> bytes:
    return Allocate(1, file, align, zone).pack()


def _add_pointer(file: bytes, offset: int, size: int) -> bytes:
    return AddPointer(2, file, TABLES_FILE, offset, size).pack()


def _add_checksum(file: bytes, offset: int, start: int, length: int) -> bytes:
    return AddChecksum(3, file, offset, start, length).pack()


def tell_of_hyperv(pc: Pc, cpus: int) -> None:
    """Have firmware know that the machine is Hyper-V's, and has its bus; before its first run."""
    machine = Acpi(cpus, POWER_PORTS, slots_of(pc), PIRQS, vmbus=True, windows=(PCI_WINDOW, BARS))
    tables, xsdt = build(machine, 0)
    commands = [_allocate(RSDP_FILE, 16, BELOW_1_MIB), _allocate(TABLES_FILE, 64, ANYWHERE)]
    commands += [_add_pointer(TABLES_FILE, *pointer) for pointer in tables.pointers]
    for start, length in tables.pointing:
        tables.data[start + CHECKSUM_AT] = 0
        commands.append(_add_checksum(TABLES_FILE, start + CHECKSUM_AT, start, length))
    commands += [
        _add_pointer(RSDP_FILE, RSDP_XSDT_AT, 8),
        _add_checksum(RSDP_FILE, RSDP_CHECKSUM_AT, 0, RSDP_1_SIZE),
        _add_checksum(RSDP_FILE, RSDP_EXTENDED_CHECKSUM_AT, 0, Rsdp.size),
    ]
    anchor, about = smbios(*HYPERV, address=0)
    for name, data in {
        RSDP_FILE.decode(): rsdp(xsdt).pack(),
        TABLES_FILE.decode(): bytes(tables.data),
        "etc/table-loader": b"".join(commands),
        "etc/smbios/smbios-anchor": anchor,
        "etc/smbios/smbios-tables": about,
    }.items():
        pc.fw_cfg.add_file(name, data)

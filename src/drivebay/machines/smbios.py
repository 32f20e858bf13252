"""SMBIOS tables: who made the machine (DMTF DSP0134, version 3.0).

Linux' drivers of PC hardware step back for those of Hyper-V where the tables name it.
"""

from __future__ import annotations

from typing import Annotated, Final

from drivebay.platform.memory import GuestMemory
from drivebay.wire import U8, U16, U32, U64, Struct

__all__ = ["ENTRY_POINT", "put_smbios", "smbios"]

ENTRY_POINT: Final = 0xFF000
"""Firmware may put it on any 16 bytes from 0xF0000 on."""
SYSTEM_INFORMATION, END_OF_TABLE = 1, 127
POWER_SWITCH: Final = 6


class EntryPoint(Struct, size=24):
    """The 64-bit entry point (section 5.2.2)."""

    anchor: Annotated[bytes, "5s"]
    checksum: U8
    length: U8
    major: U8
    minor: U8
    revision_of_text: U8
    revision: U8
    reserved: U8
    most_bytes: U32
    address: U64


class SystemInformation(Struct, size=27):
    """Type 1 (section 7.2). Strings are numbered from 1, and follow."""

    type: U8
    length: U8
    handle: U16
    manufacturer: U8
    product: U8
    version: U8
    serial: U8
    uuid: Annotated[bytes, "16s"]
    wake_up: U8
    sku: U8
    family: U8


def smbios(manufacturer: str, product: str, address: int) -> tuple[bytes, bytes]:
    """The entry point of tables at `address` that say so, and the tables."""
    system = SystemInformation(
        SYSTEM_INFORMATION, SystemInformation.size, 0x100, 1, 2, 0, 0, bytes(16), POWER_SWITCH, 0, 0
    )
    strings = b"".join(text.encode() + b"\0" for text in (manufacturer, product))
    last = bytes((END_OF_TABLE, 4, 0x01, 0x01))
    table = system.pack() + strings + b"\0" + last + b"\0\0"
    entry = EntryPoint(b"_SM3_", 0, EntryPoint.size, 3, 0, 0, 1, 0, len(table), address)
    entry.checksum = -sum(entry.pack()) & 0xFF
    return entry.pack(), table


def put_smbios(memory: GuestMemory, manufacturer: str, product: str) -> None:
    """Write such tables below 1 MiB."""
    data = b"".join(smbios(manufacturer, product, ENTRY_POINT + EntryPoint.size))
    memory.view(ENTRY_POINT, len(data))[:] = data

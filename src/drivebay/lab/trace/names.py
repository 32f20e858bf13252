"""Registers by their names, from the declarations of those who have them.

A place is what `platform.onlooker` calls it: a BAR or configuration space of a kind of controller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from drivebay.controllers.ahci.registers import (
    PORT_SIZE,
    PORTS_AT,
    AhciConfig,
    GenericRegisters,
    PortRegisters,
)
from drivebay.controllers.floppy.registers import FloppyBlock
from drivebay.controllers.ide.registers import (
    BusMasterBlock,
    CommandBlock,
    ControlBlock,
    PiixConfig,
)
from drivebay.controllers.nvme.registers import DOORBELLS_AT, NvmeRegisters
from drivebay.controllers.virtio.registers import MmioRegisters, PciRegisters
from drivebay.lab.trace.story import Access
from drivebay.platform.pci import Header
from drivebay.wire import At, Register, Register32, RegisterMap

__all__ = ["register_name", "register_text"]

Found = tuple[str, At]
"""A register's name, and where it is in its block."""
Layout = Callable[[int, bool], Found | None]
"""What finds the register at an offset, as it is read or written."""

DOORBELL: Final = 4
"""Bytes from one to the next: CAP.DSTRD of ours is 0."""
MSIX_ENTRY: Final = 16
BUS_MASTER_SIZE: Final = 8
CONTROL_AT: Final = 2
"""Where the control block is in its BAR."""


def _of(*maps: type[RegisterMap], at: int = 0) -> Layout:
    """The registers of blocks that begin at `at`."""

    def find(offset: int, write: bool) -> Found | None:
        way = "w" if write else "r"
        for registers in maps:
            for name, (start, kind, access) in registers.registers.items():
                if way in access and start <= offset - at < start + kind.size:
                    return name, At(at + start, kind)
        return None

    return find


def _one_of(name: str, offset: int, kind: type[Register] = Register32) -> Found:
    return name, At(offset, kind)


def _prefixed(prefix: str, found: Found | None) -> Found | None:
    return found and (prefix + found[0], found[1])


def _nvme(offset: int, write: bool) -> Found | None:
    if offset < DOORBELLS_AT:
        return _NVME(offset, write)
    number = (offset - DOORBELLS_AT) // DOORBELL
    at = DOORBELLS_AT + DOORBELL * number
    return _one_of(f"CQ{number >> 1}HDBL" if number & 1 else f"SQ{number >> 1}TDBL", at)


def _ahci(offset: int, write: bool) -> Found | None:
    if offset < PORTS_AT:
        return _GENERIC(offset, write)
    port = (offset - PORTS_AT) // PORT_SIZE
    found = _of(PortRegisters, at=PORTS_AT + PORT_SIZE * port)(offset, write)
    return found and (found[0].replace("Px", f"P{port}"), found[1])


def _bus_master(offset: int, write: bool) -> Found | None:
    channel = offset // BUS_MASTER_SIZE
    found = _of(BusMasterBlock, at=BUS_MASTER_SIZE * channel)(offset, write)
    return _prefixed(("primary ", "secondary ")[channel & 1], found)


def _msix_table(offset: int, _write: bool) -> Found | None:
    vector, field = divmod(offset, MSIX_ENTRY)
    words = ("address", "address high", "data", "control")
    return _one_of(f"vector {vector} {words[field >> 2]}", offset & ~3)


_NVME: Final = _of(NvmeRegisters)
_GENERIC: Final = _of(GenericRegisters)
_CONTROL: Final = _of(ControlBlock, at=CONTROL_AT)
_COMMAND: Final = _of(CommandBlock)
_VIRTIO: Final = {"config": _of(Header), "BAR0": _of(PciRegisters), "BAR1": _msix_table}
LAYOUTS: Final[dict[str, dict[str, Layout]]] = {
    "nvme": {"config": _of(Header), "BAR0": _nvme, "BAR4": _msix_table},
    "ahci": {"config": _of(Header, AhciConfig), "BAR5": _ahci},
    "ide": {
        "config": _of(Header, PiixConfig),
        "BAR0": _COMMAND,
        "BAR1": _CONTROL,
        "BAR2": _COMMAND,
        "BAR3": _CONTROL,
        "BAR4": _bus_master,
    },
    "virtio-blk-pci": _VIRTIO,
    "scsi-pci": _VIRTIO,
    "board": {
        "Controller": _nvme,
        "Hba": _ahci,
        "PciRegisterBlock": _of(PciRegisters),
        "MmioTransport": _of(MmioRegisters),
        "CommandPorts": _COMMAND,
        "ControlPorts": _of(ControlBlock),
        "BusMasterPorts": _bus_master,
        "FloppyPorts": _of(FloppyBlock),
    },
}
"""By the kind of a controller, and the place; on a board that is who has them."""


def _found(access: Access) -> Found | None:
    layout = LAYOUTS.get(access.source.dialect, {}).get(access.place)
    return layout and layout(access.offset, access.write)


def register_name(access: Access) -> str:
    """Its place and name; its offset where it has none."""
    found = _found(access)
    if found is None:
        return f"{access.place}+{access.offset:#x}"
    name, at = found
    inside = f"+{access.offset - at.offset}" if access.offset != at.offset else ""
    return f"{access.place} {name}{inside}"


def register_text(access: Access) -> str:
    """Name and value, with its fields if it is all of the register."""
    found, value = _found(access), f"{access.value:#0{2 + 2 * access.width}x}"
    if found is not None:
        _, at = found
        if (access.offset, access.width) == (at.offset, at.type.size):
            value = str(at.type(access.value))
    return f"{register_name(access)} {value}"

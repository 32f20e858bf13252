"""What a machine's tables say of Hyper-V."""

from __future__ import annotations

import struct

import pytest

from drivebay.machines.direct import prepare
from drivebay.machines.pc import Pc
from drivebay.machines.smbios import ENTRY_POINT, EntryPoint, SystemInformation
from drivebay.platform.engine import Engine


@pytest.fixture
def pc(engine: Engine) -> Pc:
    return Pc(engine, 2 << 20)


def tables(pc: Pc) -> bytes:
    return bytes(pc.memory.view(0xE0000, 0x20000))


def test_a_machine_says_who_made_it_to_those_who_ask_for_hyperv(pc: Pc) -> None:
    """DSP0134 section 5.2.2; linux-source-6.1, drivers/ata/ata_piix.c: ignore_hyperv."""
    prepare(pc)
    assert b"_SM3_" not in tables(pc)
    assert b"VMBus" not in tables(pc)
    prepare(pc, vmbus=True)
    view = pc.memory.view(ENTRY_POINT, 0x1000)
    assert sum(view[: EntryPoint.size]) % 256 == 0
    entry = EntryPoint.unpack(view)
    table = bytes(pc.memory.view(entry.address, entry.most_bytes))
    system = SystemInformation.unpack(table)
    assert (system.type, system.length) == (1, SystemInformation.size)
    strings, rest = table[system.length :].split(b"\0\0", 1)
    assert strings.split(b"\0") == [b"Microsoft Corporation", b"Virtual Machine"]
    assert struct.unpack_from("<BB", rest) == (127, 4)
    assert len(rest) == 6
    assert b"VMBus" in tables(pc)

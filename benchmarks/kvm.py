"""`python -m benchmarks.kvm`: how often a guest on KVM comes out to read 4 KiB, and for how long.

Boot sectors read through SeaBIOS' drivers, or with drivers of their own, from a file in memory.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.emulator.conftest import Machine
from tests.emulator.test_seabios import dma, int13
from tests.emulator.test_seabios_drivers import DISKS, Attach, image
from tests.emulator.x86 import Code, begin, end, packet

from drivebay.ata.registers import Opcode
from drivebay.cli.boot_pc import seabios
from drivebay.controllers.ide.registers import Int13Packet
from drivebay.disk.spec import open_disk
from drivebay.hosts.cpu import End
from drivebay.hosts.kvm.exits import ExitCount
from drivebay.hosts.kvm.host import KvmHost
from drivebay.machines.pc import Pc
from drivebay.platform.engine import Engine
from drivebay.platform.ports import PortRegion

READS: Final = 200
SECTORS: Final = 8
BUFFER: Final = 0x9000
LBA: Final = 64
SECONDS: Final = 120.0
BUFFER_AT: Final = 16
"""Where a packet of enlightened INT 13h says where the data goes."""


class Mark(PortRegion):
    """A port that is written where counting begins."""

    size = 1

    def __init__(self, host: KvmHost) -> None:
        self._host = host

    def port_write(self, offset: int, width: int, value: int) -> None:
        self._host.exits.clear()


def repeat(code: Code, read: Callable[[Code], object]) -> None:
    """`read`, as often as it is counted, between the mark and the exit."""
    code("E6F0").label("again")
    read(code)
    code("FF0E {left} 0F85 (again) B000 E6F4")
    end(code)
    code.data("left", READS.to_bytes(2, "little"))


def by_firmware() -> Code:
    """INT 13h, AH=42h."""
    code = begin()
    repeat(code, lambda code: int13(code, "0042", "read"))
    return code.data("read", packet(SECTORS, BUFFER, LBA))


def table(code: Code) -> Code:
    """A region table with the buffer in it (SFF-8038i)."""
    size = (512 * SECTORS | 1 << 31).to_bytes(4, "little")
    return code.align(4).data("table", BUFFER.to_bytes(4, "little") + size)


def by_bus_master() -> Code:
    """READ DMA and an interrupt; see `tests.emulator.test_seabios`."""
    code = begin()("C706 D801 {handler} C706 DA01 0000 E421 24FB E621 E4A1 24BF E6A1")
    code("BAF80C 66B8 04090080 66EF BAFC0C B80500 EF")
    code("BAF80C 66B8 20090080 66EF BAFC0C 66ED 24F0 89C3")
    repeat(code, lambda code: dma(code, "C8", "08", LBA, SECTORS))
    code.label("handler")("50 52 BAF701 EC 89DA 83C2 02 EC A2 {done} EE B020 E6A0 E620 5A 58 CF")
    return table(code.data("done", b"\0"))


def by_enlightened_int13() -> Code:
    """One write of 32 bits to Hyper-V's port, for a packet and a region table."""
    code = begin()("6631C0 B8 {table} 66A3 {buffer}")
    repeat(code, lambda code: code("BAE001 6631C0 B8 {request} 66EF"))
    request = Int13Packet(Opcode.READ_DMA_EXT, 0xE0, 0, 0, LBA, 0, SECTORS, 0, 0, 0, 0).pack()
    code.align(4).data("request", request[:BUFFER_AT]).data("buffer", request[BUFFER_AT:])
    return table(code)


ROUTES: dict[str, tuple[Attach, Code]] = {
    **{f"{name}, SeaBIOS": (attach, by_firmware()) for name, (attach, _) in DISKS.items()},
    "ide, bus master": (DISKS["ide"][0], by_bus_master()),
    "ide, enlightened INT 13h": (DISKS["ide"][0], by_enlightened_int13()),
}


def measure(attach: Attach, code: Code, firmware: bytes, folder: Path) -> list[ExitCount]:
    """The exits of all reads, by place."""
    engine = Engine(workers=0)
    hosts: list[KvmHost] = []

    def cpu(pc: Pc) -> KvmHost:
        hosts.append(KvmHost(pc))
        pc.ports.map(0xF0, Mark(hosts[0]))
        return hosts[0]

    machine = Machine(engine, firmware, cpu, wall_clock=True)
    disk = open_disk(f"file:{image(folder / 'disk.img', code.sector())}")
    attach(machine, disk)
    try:
        if machine.cpu.run(SECONDS) is not End.EXITED:
            raise RuntimeError(machine.serial.decode())
        return [each for each in hosts[0].exits.table() if each.place != 0xF4]
    finally:
        hosts[0].close()
        disk.close()
        engine.close()


def lines(wanted: str) -> Iterator[str]:
    """A table in Markdown, of the routes with `wanted` in their names."""
    firmware = Path(seabios()).read_bytes()
    yield "| route | exits a read | us an exit | most of them |"
    yield "|---|---|---|---|"
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for name, (attach, code) in ROUTES.items():
            if wanted in name:
                found = measure(attach, code, firmware, Path(folder))
                exits, seconds = sum(e.exits for e in found), sum(e.seconds for e in found)
                most = ", ".join(f"{e.exits / READS:.4g} {e.kind} {e.place:x}" for e in found[:3])
                yield f"| {name} | {exits / READS:.1f} | {seconds / exits * 1e6:.0f} | {most} |"


if __name__ == "__main__":
    for line in lines("".join(sys.argv[1:])):
        print(line)

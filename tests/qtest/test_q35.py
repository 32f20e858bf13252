"""The AHCI controller of q35, worked by a driver whose every access is a line of qtest."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.ahci import AhciDriver
from drivebay.drivers.arena import Arena
from drivebay.hosts.qtest.session import QtestSession
from drivebay.machines.q35 import Q35
from drivebay.platform.engine import Engine
from drivebay.platform.machine import MachineError
from tests.ide.support import content, filled, noise

from .libqtest import Qtest
from .support import Tape
from .test_ide import config

ABAR, MIB, LINE = 0xFEBF_F000, 1 << 20, 16
WIDTHS = {1: "b", 2: "w", 4: "l", 8: "q"}


class Lines:
    """Loads and stores as lines of qtest; `irqs` are the interrupts that were told meanwhile."""

    def __init__(self, machine: Q35) -> None:
        self.tape = Tape()
        self.session = QtestSession(machine.board, machine.clock, self.tape)
        self.irqs: list[str] = []

    def ask(self, line: str) -> str:
        self.session.receive(f"{line}\n".encode())
        while self.tape.calls:
            self.tape.calls.pop()()
        *told, answer = self.tape.take().splitlines()
        self.irqs += told
        assert answer.startswith("OK")
        return answer[3:]

    def read(self, address: int, width: int) -> int:
        return int(self.ask(f"read{WIDTHS[width]} {address:#x}"), 0)

    def write(self, address: int, width: int, value: int) -> None:
        self.ask(f"write{WIDTHS[width]} {address:#x} {int(value):#x}")

    def configure(self, offset: int, value: int) -> None:
        self.ask(f"outl 0xcf8 {0x8000_0000 | 0x1F << 11 | 2 << 8 | offset:#x}")
        self.ask(f"outl 0xcfc {value:#x}")


def test_a_driver_works_the_disks(engine: Engine) -> None:
    machine = Q35(4 * MIB, engine)
    disk = filled(MIB, 3)
    machine.plug("ide-hd", "first", disk, {"serial": "ONE"})
    machine.plug("ide-hd", "last", RamDisk(2 * MIB), {"bus": "ide.5", "unit": 0})
    lines = Lines(machine)
    lines.ask("irq_intercept_in ioapic")
    lines.configure(0x24, ABAR)
    lines.configure(0x04, 6)
    driver = AhciDriver(
        lines,
        ABAR,
        Arena(machine.board.memory, MIB, 3 * MIB),
        poll=lambda: engine.turn(0),
        raised=lambda: machine.board.line(LINE).level,
    )
    first = driver.disk(0)
    assert first.identify().serial == "ONE"
    assert first.read(100, 8) == noise(MIB, 3)[100 * 512 :][: 8 * 512]
    first.write_queued([(8 * n, bytes([n]) * 4096) for n in range(32)])
    assert content(disk)[: 32 * 4096] == b"".join(bytes([n]) * 4096 for n in range(32))
    assert driver.disk(5).sectors == 2 * MIB // 512
    assert lines.irqs[:2] == [f"IRQ raise {LINE}", f"IRQ lower {LINE}"]
    assert not machine.board.line(LINE).level


def test_places(engine: Engine) -> None:
    machine = Q35(4 * MIB, engine)
    for n in range(6):
        machine.plug("ide-cd", f"cd{n}", None, {})
    with pytest.raises(MachineError, match="all are taken"):
        machine.plug("ide-cd", "cd6", None, {})
    machine.unplug("cd4", lambda: None)
    with pytest.raises(MachineError, match="is -1 to 0"):
        machine.plug("ide-cd", "x", None, {"bus": "ide.4", "unit": 1})
    machine.plug("ide-cd", "x", None, {"bus": "ide.4"})
    assert machine.ahci.hba.ports[4].drive is not None


@pytest.mark.timeout(60)
def test_it_is_where_qemu_has_it(tmp_path: Path) -> None:
    drives = ["--ahci", "mem:1M,serial=testdisk", "--ahci", "mem:2M,dvd,port=3"]
    with Qtest(tmp_path, "--machine", "q35", *drives) as qtest:
        assert config(qtest, 0x1F, 2, 0) == 0x2922_8086
        assert config(qtest, 0x1F, 2, 8) >> 8 == 0x010601
        config(qtest, 0x1F, 2, 0x24, ABAR)
        config(qtest, 0x1F, 2, 0x04, 6)
        assert qtest.read("l", ABAR + 0x0C) == 0x3F  # PI
        links = [qtest.read("l", ABAR + 0x128 + 0x80 * port) & 0xF for port in range(6)]
        assert links == [3, 0, 0, 3, 0, 0]  # PxSSTS.DET
        gone = qtest.execute("device_del", id="sata0")
        assert gone == {}
        assert qtest.event("DEVICE_DELETED")["device"] == "sata0"
        assert qtest.read("l", ABAR + 0x128) & 0xF == 0

"""Sins of drivers are named, and our own drivers commit none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.controllers.ahci.registers import PORT_SIZE, PORTS_AT
from drivebay.drivers.floppy import Via as FloppyVia
from drivebay.drivers.ide import Via
from drivebay.lab.strict import (
    JUDGES,
    DriverSin,
    Sins,
    VirtioJudge,
    be_strict,
    be_strict_with_floppies,
    judged,
)
from drivebay.platform.engine import Engine
from drivebay.platform.mmio import MmioSpace
from tests.ahci.support import BAR as AHCI_BAR
from tests.ahci.support import FUNCTION as AHCI_FUNCTION
from tests.ahci.support import SLOT as AHCI_SLOT
from tests.ahci.support import Bench as AhciBench
from tests.floppy.support import Bench as FloppyBench
from tests.ide.support import BUS_MASTER_PORT, filled, noise
from tests.ide.support import FUNCTION as IDE_FUNCTION
from tests.ide.support import SLOT as IDE_SLOT
from tests.ide.support import Bench as IdeBench
from tests.nvme.support import BAR as NVME_BAR
from tests.nvme.support import SLOT as NVME_SLOT
from tests.nvme.support import Bench as NvmeBench
from tests.virtio.bench import BASE, MakeBench
from tests.virtio.conftest import bench, transport

__all__ = ["bench", "transport"]  # fixtures

MIB = 1 << 20


def strict(bench: Any, function: Any, slot: int, number: int, sins: Sins) -> None:
    """Have the bench's function judged."""
    bench.bus.unplug(slot, number)
    be_strict(function, sins)
    bench.bus.plug(slot, number, function)
    bench.enable()


def nvme(engine: Engine, sins: Sins) -> NvmeBench:
    found = NvmeBench(engine, {1: filled(MIB, 1)})
    strict(found, found.nvme, NVME_SLOT, 0, sins)
    return found


def ahci(engine: Engine, sins: Sins) -> AhciBench:
    found = AhciBench(engine, {0: AtaDisk(filled(MIB, 1), engine)})
    strict(found, found.ahci, AHCI_SLOT, AHCI_FUNCTION, sins)
    return found


def ide(engine: Engine, sins: Sins, **options: Any) -> IdeBench:
    found = IdeBench(engine, {(0, 0): AtaDisk(filled(MIB, 1), engine)}, **options)
    strict(found, found.ide, IDE_SLOT, IDE_FUNCTION, sins)
    return found


def virtio(make: MakeBench, sins: Sins) -> Any:
    found = make(filled(MIB, 1))
    space = MmioSpace()
    judge = VirtioJudge(found.transport, sins)
    space.map(BASE, judged(judge, found.transport))  # type: ignore[arg-type]
    found.space = space
    return found


# -- those who do nothing wrong --------------------------------------------------------------------


def test_our_nvme_driver(engine: Engine) -> None:
    sins = Sins(errors=True)
    driver = nvme(engine, sins).driver()
    namespace = driver.namespace(1)
    for lba in range(200):  # the queues wrap
        namespace.write(lba, noise(512, lba))
        assert namespace.read(lba, 1) == noise(512, lba)
    namespace.flush()
    assert not sins.counts


def test_our_ahci_driver(engine: Engine) -> None:
    sins = Sins(errors=True)
    disk = ahci(engine, sins).driver().disk(0)
    disk.write(9, noise(4096, 9))
    disk.write_queued([(tag, noise(512, tag)) for tag in range(32)])
    assert disk.read_queued([(tag, 1) for tag in range(32)]) == [noise(512, t) for t in range(32)]
    assert not sins.counts


@pytest.mark.parametrize("native", [False, True])
def test_our_ide_driver(engine: Engine, native: bool) -> None:
    sins = Sins(errors=True)
    driver = ide(engine, sins, switchable=native).driver(native=native, polled=native)
    disk = driver.disk(0, 0)
    disk.set_multiple(16)
    for via in Via:
        disk.write(9, noise(4096, 1), via=via)
        assert disk.read(9, 8, via=via) == noise(4096, 1)
    assert not sins.counts


def test_our_virtio_driver(bench: MakeBench) -> None:
    sins = Sins(errors=True)
    driver = virtio(bench, sins).driver()
    driver.write(9, noise(4096, 9))
    assert driver.read(9, 4096) == noise(4096, 9)
    assert not sins.counts


# -- and those who do ------------------------------------------------------------------------------

Act = Callable[[Any], object]


def caught(make: Callable[[Sins], Any], act: Act, rule: str) -> None:
    """`act` breaks `rule`: that is told, with a section; where sins are errors, it is not done."""
    sins = Sins()
    found = make(sins)
    found.driver()
    assert not sins.counts
    act(found)
    assert rule in sins.counts, dict(sins.counts)
    [first, *_] = [sin for sin in sins.seen if sin.name == rule]
    assert "section" in str(first) and rule in str(first)
    errors = Sins(errors=True)
    found = make(errors)
    found.driver()
    with pytest.raises(DriverSin) as raised:
        act(found)
    assert raised.value.sin.name == sins.seen[0].name


def put(at: int, value: int, width: int = 4) -> Act:
    return lambda bench: bench.mmio.write(at, width, value)


def get(at: int, width: int = 4) -> Act:
    return lambda bench: bench.mmio.read(at, width)


def acts(*steps: Act) -> Act:
    def act(bench: Any) -> None:
        for step in steps:
            step(bench)

    return act


NVME_SINS: dict[str, Act] = {
    "access-width": get(NVME_BAR + 0x14, 2),
    "read-only-register": put(NVME_BAR, 1),
    "admin-queue-while-enabled": put(NVME_BAR + 0x24, 0x001F001F),
    "configured-while-enabled": put(NVME_BAR + 0x14, 0x00460011 | 1 << 7),
    "doorbell-read": get(NVME_BAR + 0x1000),
    "doorbell-of-no-queue": put(NVME_BAR + 0x1000 + 8 * 50, 0),
    "doorbell-value": put(NVME_BAR + 0x1000, 0xFFFF),
    "doorbell-unchanged": lambda bench: bench.mmio.write(
        NVME_BAR + 0x1000, 4, bench.controller.sqs[0].tail
    ),
    "completions-not-posted": lambda bench: bench.mmio.write(
        NVME_BAR + 0x1004, 4, (bench.controller.cqs[0].tail + 1) % bench.controller.cqs[0].size
    ),
    "mask-with-messages": acts(
        lambda bench: bench.nvme.config_write(bench.nvme.msix.offset + 2, 2, 0x8000),
        put(NVME_BAR + 0x0C, 1),
    ),
}


@pytest.mark.parametrize("rule", NVME_SINS)
def test_nvme(engine: Engine, rule: str) -> None:
    caught(partial(nvme, engine), NVME_SINS[rule], rule)


def test_nvme_life(engine: Engine) -> None:
    sins = Sins()
    found = nvme(engine, sins)
    put(NVME_BAR + 0x1000, 1)(found)
    assert set(sins.counts) == {"doorbell-before-ready"}
    put(NVME_BAR + 0x14, 0x00460001)(found)
    assert sins.counts["enabled-without-admin-queues"] == 1


@pytest.mark.parametrize("ready", [True, False])
def test_nvme_is_not_hurried(engine: Engine, ready: bool) -> None:
    """CC.EN changes only when CSTS.RDY has followed the last change."""
    sins = Sins()
    found = nvme(engine, sins)
    found.driver()
    controller = found.controller
    controller.csts = controller.csts.replace(RDY=ready)
    controller.cc = controller.cc.replace(EN=not ready)
    put(NVME_BAR + 0x14, controller.cc ^ 1)(found)
    rule = "enabled-before-reset-done" if ready else "disabled-before-ready"
    assert set(sins.counts) == {rule}


P = AHCI_BAR + PORTS_AT
AHCI_SINS: dict[str, Act] = {
    "access-width": get(P + 0x18, 2),
    "no-such-port": get(P + 9 * PORT_SIZE + 0x18),
    "list-moved-while-running": put(P, 0x10000),
    "area-moved-while-receiving": put(P + 0x08, 0x10000),
    "receiving-ended-while-running": put(P + 0x18, 0x7),
    "override-while-running": put(P + 0x18, 0x1F),
    "started-without-receiving": acts(
        put(P + PORT_SIZE + 0x18, 0x6), put(P + PORT_SIZE + 0x18, 0x7)
    ),
    "started-without-drive": put(P + PORT_SIZE + 0x18, 0x17),
    "issued-while-stopped": put(P + PORT_SIZE + 0x38, 1),
}


@pytest.mark.parametrize("rule", AHCI_SINS)
def test_ahci(engine: Engine, rule: str) -> None:
    caught(partial(ahci, engine), AHCI_SINS[rule], rule)


def test_ahci_before_it_is_ready(engine: Engine) -> None:
    sins = Sins()
    found = ahci(engine, sins)
    port = found.port(1)
    port.command |= 0x8010  # FRE and CR
    port.link, port.tfd = 3, 0x80
    put(P + PORT_SIZE + 0x18, 0x17)(found)
    assert set(sins.counts) == {"started-before-stopped", "started-while-busy"}
    sins.counts.clear()
    found.ahci.hba.ports[0].command |= 1
    found.ahci.hba.ports[0].ci = 1
    with suppress(Exception):
        put(P + 0x38, 1)(found)
    assert set(sins.counts) == {"slot-in-use"}
    sins.counts.clear()
    found.ahci.hba.read_GHC = lambda: 0x80000001  # type: ignore[method-assign]
    get(P + 0x18)(found)
    put(P + 0x10, 0)(found)
    assert sins.counts == {"access-in-reset": 2}


def out(port: int, value: int, width: int = 1) -> Act:
    return lambda bench: bench.ports.write(port, width, value)


def busy(bench: Any) -> None:
    bench.ports.write(0x1F6, 1, 0xA0)
    bench.ide.channels[0].drives[0].status |= 0x80


def interrupted(bench: Any) -> None:
    bench.ide.channels[0].bus_master.interrupt()


IDE_SINS: dict[str, Act] = {
    "access-width": lambda bench: bench.ports.read(0x1F4, 2),
    "command-while-busy": acts(busy, out(0x1F7, 0xEC)),
    "register-while-busy": acts(busy, out(0x1F2, 1)),
    "data-without-request": lambda bench: bench.ports.read(0x1F0, 2),
    "command-in-reset": acts(out(0x3F6, 0x04), out(0x1F7, 0xEC)),
    "reserved-bits": out(0x3F6, 0x10),
    "direction-while-active": acts(out(BUS_MASTER_PORT, 0x01), out(BUS_MASTER_PORT, 0x09)),
    "started-with-old-status": acts(interrupted, out(BUS_MASTER_PORT, 0x01)),
    "table-not-aligned": out(BUS_MASTER_PORT + 4, 0x1002, 4),
}


@pytest.mark.parametrize("rule", IDE_SINS)
def test_ide(engine: Engine, rule: str) -> None:
    caught(partial(ide, engine), IDE_SINS[rule], rule)


def register(offset: int, value: int, width: int = 4) -> Act:
    return lambda bench: bench.space.write(BASE + offset, width, value)


VIRTIO_SINS: dict[str, Act] = {
    "access-width": lambda bench: bench.space.read(BASE + 0x70, 1),
    "no-such-register": lambda bench: bench.space.read(BASE + 0x48, 4),
    "read-only-register": register(0x00, 1),
    "write-only-register": lambda bench: bench.space.read(BASE + 0x50, 4),
    "driver-before-acknowledge": acts(register(0x70, 0), register(0x70, 2)),
    "features-before-driver": acts(register(0x70, 0), register(0x70, 9)),
    "driver-ok-before-features": acts(register(0x70, 0), register(0x70, 7)),
    "status-bit-cleared": register(0x70, 1),
    "features-after-features-ok": register(0x20, 0),
    "feature-not-offered": acts(register(0x70, 0), register(0x24, 0), register(0x20, 1 << 31)),
    "queue-changed-while-ready": acts(register(0x30, 0), register(0x80, 0)),
    "queue-size": acts(register(0x70, 0), register(0x30, 0), register(0x38, 0xFFFF)),
    "no-such-queue": register(0x50, 77),
    "notified-before-driver-ok": acts(register(0x70, 0), register(0x50, 0)),
}


@pytest.mark.parametrize("rule", VIRTIO_SINS)
def test_virtio(bench: MakeBench, rule: str) -> None:
    caught(partial(virtio, bench), VIRTIO_SINS[rule], rule)


def floppy(engine: Engine, sins: Sins) -> FloppyBench:
    found = FloppyBench(engine)
    be_strict_with_floppies(found.fdc, found.ports, sins)
    return found


FLOPPY_SINS: dict[str, Act] = {
    "access-width": lambda bench: bench.ports.read(0x3F2, 2),
    "fifo-not-ready": acts(out(0x3F2, 0x00), out(0x3F5, 0x08)),
    "fifo-other-way": lambda bench: bench.ports.read(0x3F5, 1),
    "no-such-command": out(0x3F5, 0xFF),
    "sense-without-interrupt": out(0x3F5, 0x08),
    "seek-not-sensed": acts(*(out(0x3F5, byte) for byte in (0x07, 0, 0x46))),
    "motor-off": acts(out(0x3F5, 0x46), out(0x3F5, 0)),
}


@pytest.mark.parametrize("rule", FLOPPY_SINS)
def test_floppy(engine: Engine, rule: str) -> None:
    sins = Sins()
    FLOPPY_SINS[rule](floppy(engine, sins))
    assert set(sins.counts) == {rule}
    with pytest.raises(DriverSin):
        FLOPPY_SINS[rule](floppy(engine, Sins(errors=True)))


@pytest.mark.parametrize("via", FloppyVia)
def test_our_floppy_driver(engine: Engine, via: FloppyVia) -> None:
    sins = Sins(errors=True)
    disk = floppy(engine, sins).disk(via)
    disk.write(9, noise(512, 7))
    assert disk.read(9, 1) == noise(512, 7)
    assert not sins.counts


def test_every_rule_is_tested() -> None:
    tested = {*NVME_SINS, *AHCI_SINS, *IDE_SINS, *VIRTIO_SINS, *FLOPPY_SINS} | {
        *("doorbell-before-ready", "enabled-without-admin-queues"),
        *("enabled-before-reset-done", "disabled-before-ready"),
        *("started-before-stopped", "started-while-busy", "slot-in-use", "access-in-reset"),
    }
    assert tested == {name for judge in JUDGES for name in judge.RULES}


def test_a_driver_that_goes_on_sinning(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    sins = Sins()
    found = nvme(engine, sins)
    for _ in range(2000):
        get(NVME_BAR + 0x1000)(found)
    assert sins.counts == {"doorbell-read": 2000}
    assert len(sins.seen) == 1000
    assert len(caplog.records) < 50


def test_the_page_has_every_rule() -> None:
    page = (Path(__file__).parents[3] / "docs" / "strict.md").read_text()
    for judge in JUDGES:
        for name, rule in judge.RULES.items():
            assert f"| `{name}` | {rule.what} | {rule.spec} |" in page

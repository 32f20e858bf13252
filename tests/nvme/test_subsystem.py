"""Two controllers of one subsystem, and the reservations that their hosts hold."""

from __future__ import annotations

import struct

import pytest

from drivebay.controllers.nvme import Nvme, Status, Subsystem
from drivebay.controllers.nvme.identity import ONCS
from drivebay.controllers.nvme.opcodes import AdminOpcode, Cns, FeatureId, LogId, NvmOpcode
from drivebay.controllers.nvme.structures import ReservationNotice, ReservationStatus
from drivebay.disk.filters.prwrap import Prwrap
from drivebay.drivers.arena import Arena
from drivebay.drivers.nvme import NvmeDriver, NvmeNamespace
from drivebay.platform.engine import Engine
from drivebay.testing.puppet import PuppetDisk
from tests.ide.support import filled, noise

from .raw import send, status
from .support import BAR, Bench

MIB = 1 << 20
SECOND = 0xFE100000
REGISTER, REPORT = NvmOpcode.RESERVATION_REGISTER, NvmOpcode.RESERVATION_REPORT
ACQUIRE, RELEASE = NvmOpcode.RESERVATION_ACQUIRE, NvmOpcode.RESERVATION_RELEASE


class Pair:
    """Two functions, two drivers, two hosts; one namespace."""

    def __init__(self, engine: Engine) -> None:
        self.puppet = PuppetDisk(filled(MIB, 1), lambda *_: False)
        subsystem = Subsystem()
        self.bench = Bench(engine, {1: Prwrap(self.puppet)}, subsystem=subsystem)
        self.bench.enable()
        self.second = Nvme(self.bench.memory, engine, subsystem=subsystem)
        self.bench.bus.plug(5, 0, self.second)
        self.second.config_write(0x10, 4, SECOND)
        self.second.config_write(4, 2, 6)
        self.drivers: list[NvmeDriver] = []
        for n, base in enumerate((BAR, SECOND)):
            arena = Arena(self.bench.memory, (8 + 16 * n) << 20, 16 << 20)
            driver = NvmeDriver(self.bench.mmio, base, arena, poll=lambda: engine.turn(0))
            driver.set_feature(FeatureId.HOST_IDENTIFIER, 1, data=bytes([n + 1]) * 16)
            self.drivers.append(driver)
        self.namespaces: list[NvmeNamespace] = [each.namespace(1) for each in self.drivers]

    def ask(self, host: int, opcode: int, cdw10: int, *keys: int) -> int:
        driver = self.drivers[host]
        driver.memory.view(driver.buffer, 16)[:] = struct.pack("<2Q", *(*keys, 0, 0)[:2])
        return send(driver.io[0], opcode, 1, cdw10, prp1=driver.buffer)


@pytest.fixture
def pair(engine: Engine) -> Pair:
    return Pair(engine)


def test_both_see_the_namespace(pair: Pair) -> None:
    first, second = pair.namespaces
    first.write(5, noise(512, 5))
    assert second.read(5, 1) == noise(512, 5)
    names = {driver.identify_controller().subnqn for driver in pair.drivers}
    assert len(names) == 1
    assert [driver.identify_controller().cntlid for driver in pair.drivers] == [0, 1]
    assert pair.drivers[0].identify_controller().cmic == 2
    listed = struct.unpack_from("<3H", pair.drivers[0].identify(Cns.CONTROLLERS_OF_NAMESPACE, 1))
    assert listed == (2, 0, 1)
    pair.drivers[0].run(
        AdminOpcode.NAMESPACE_ATTACHMENT, nsid=1, dwords=(1,),
        data=struct.pack("<2H", 1, 1).ljust(4096, b"\0"),
    )  # fmt: skip
    assert pair.drivers[0].namespaces() == [1]
    assert pair.drivers[1].namespaces() == []


def test_a_compare_and_write_is_atomic_for_both(pair: Pair) -> None:
    """A write of the other controller waits for it, and one before it is waited for."""
    first, second = pair.namespaces
    puppet, bench = pair.puppet, pair.bench
    old, new = noise(MIB, 1)[:512], noise(512, 7)
    puppet.holds = lambda *_: True
    before = second.prepare_write(0, 0, noise(512, 6))
    second.queue.ring()
    bench.wait(lambda: len(puppet.held) == 1)
    compare = first._ranged(NvmOpcode.COMPARE, 0, 1, data=first._place(old, 0), flags=1)
    write = first._ranged(NvmOpcode.WRITE, 0, 1, data=first._place(new, 1), flags=2)
    first.queue.put(compare)
    first.queue.put(write)
    first.queue.ring()
    bench.settle(30)
    assert [each.name for each in puppet.held] == ["write"]  # nothing is compared yet
    puppet.held[0].complete()
    second.finish([before])
    bench.wait(lambda: [each.name for each in puppet.held] == ["read"])
    after = second.prepare_write(0, 0, noise(512, 8))
    other = second.prepare_write(1, 9, noise(512, 9))
    second.queue.ring()
    bench.wait(lambda: len(puppet.held) == 2)
    assert {each.sector for each in puppet.held} == {0, 9}
    puppet.holds = lambda *_: False
    puppet.complete_all()
    assert status(first.queue, compare.cid) == Status.COMPARE_FAILURE  # it was written before
    assert status(first.queue, write.cid) == Status.ABORTED_FAILED_FUSED
    second.finish([after, other])
    assert first.read(0, 1) == noise(512, 8)


def test_reservations(pair: Pair) -> None:
    first, second = pair.namespaces
    assert ONCS(pair.drivers[0].identify_controller().oncs).Reservations
    assert first.identity.rescap & 0x7E == 0x7E
    assert pair.ask(0, REGISTER, 1, 0xA, 0) == Status.RESERVATION_CONFLICT  # it has no key
    assert pair.ask(0, REGISTER, 0, 0, 0xA) == 0
    assert pair.ask(0, REGISTER, 0, 0, 0xA) == 0  # the same again
    assert pair.ask(0, REGISTER, 0, 0, 0xB) == Status.RESERVATION_CONFLICT
    assert pair.ask(0, ACQUIRE, 0x700, 0xA) == Status.INVALID_FIELD  # no such type
    assert pair.ask(0, ACQUIRE, 0x200, 0xB) == Status.RESERVATION_CONFLICT
    assert pair.ask(0, ACQUIRE, 0x200, 0xA) == 0  # exclusive access
    first.write(0, bytes(512))
    for opcode in (NvmOpcode.READ, NvmOpcode.WRITE, NvmOpcode.FLUSH, NvmOpcode.WRITE_ZEROES,
                   NvmOpcode.COMPARE, NvmOpcode.VERIFY):  # fmt: skip
        end = send(second.queue, opcode, 1, 0, 0, 0, prp1=pair.drivers[1].buffer)
        assert end == Status.RESERVATION_CONFLICT
    driver = pair.drivers[1]
    assert send(second.queue, REPORT, 1, 31, 1, prp1=driver.buffer) == 0
    report = bytes(driver.memory.view(driver.buffer, 128))
    header = ReservationStatus.unpack(report)
    assert (header.rtype, header.registered) == (2, 1)
    assert struct.unpack_from("<HB", report, 64) == (0, 1)
    assert report[80:96] == b"\x01" * 16
    assert pair.ask(0, RELEASE, 0x200, 0xA) == 0
    assert second.read(0, 1) == bytes(512)
    assert pair.ask(0, RELEASE, 1, 0xA) == 0  # clear
    assert pair.ask(0, RELEASE, 1, 0xA) == Status.RESERVATION_CONFLICT


def test_preempt_and_abort(pair: Pair) -> None:
    first, _ = pair.namespaces
    pair.drivers[0].set_feature(FeatureId.RESERVATION_MASK, 0, nsid=1)
    assert pair.ask(0, REGISTER, 0, 0, 0xA) == 0
    assert pair.ask(1, REGISTER, 0, 0, 0xB) == 0
    assert pair.ask(0, ACQUIRE, 0x100, 0xA) == 0
    request = pair.drivers[0].command(AdminOpcode.ASYNC_EVENT_REQUEST)
    pair.drivers[0].admin.put(request)
    pair.drivers[0].admin.ring()
    pair.puppet.holds = lambda *_: True
    ids = [first.prepare_read(slot, slot, 1) for slot in range(3)]
    first.queue.ring()
    pair.bench.wait(lambda: len(pair.puppet.held) == 3)
    pair.puppet.holds = lambda *_: False
    assert pair.ask(1, ACQUIRE, 0x102, 0xB, 0xA) == 0
    assert {status(first.queue, cid) for cid in ids} == {Status.ABORTED_PREEMPT}
    assert pair.drivers[0].admin.wait(request.cid).dw0 == 0x800006
    pair.bench.nvme.restore(pair.bench.nvme.save())
    notice = ReservationNotice.unpack(pair.drivers[0].log_page(LogId.RESERVATIONS, 64))
    assert (notice.count, notice.kind, notice.nsid) == (1, 1, 1)
    assert pair.drivers[0].log_page(LogId.RESERVATIONS, 64) == bytes(64)
    with pytest.raises(Exception, match="RESERVATION_CONFLICT"):
        first.write(0, bytes(512))

"""A controller is saved in the middle of things, and another goes on."""

from __future__ import annotations

import pytest

from drivebay.controllers.nvme import Status
from drivebay.controllers.nvme.opcodes import AdminOpcode, FeatureId, LogId, NvmOpcode
from drivebay.controllers.nvme.structures import ErrorEntry
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.nvme import NvmeError
from drivebay.testing.puppet import PuppetDisk
from tests.ide.support import content, filled, noise

from .conftest import MakeBench
from .raw import send

MIB = 1 << 20


@pytest.mark.parametrize("doorbells", [False, True])
def test_with_commands_under_way(make_bench: MakeBench, doorbells: bool) -> None:
    backend = filled(MIB, 1)
    puppet = PuppetDisk(backend)
    bench = make_bench({1: puppet})
    driver = bench.driver()
    if doorbells:
        driver.use_doorbell_buffers()
    namespace = driver.namespace(1)
    ids = [namespace.prepare_read(slot, 8 * slot, 8) for slot in range(4)]
    ids += [namespace.prepare_write(slot, 8 * slot, noise(4096, slot)) for slot in range(8, 12)]
    namespace.queue.ring()
    bench.wait(lambda: len(puppet.held) == 8)
    old = puppet.held
    request = driver.command(AdminOpcode.ASYNC_EVENT_REQUEST)
    driver.admin.put(request)
    driver.admin.ring()
    bench.settle()
    bench = bench.replaced({1: puppet})
    for each in old:
        each.cancel()  # the machine that was saved is no more
    driver.mmio = bench.mmio
    puppet.complete_all()
    namespace.finish(ids)
    for slot in range(4):
        assert namespace.taken(slot, 4096) == noise(MIB, 1)[4096 * slot : 4096 * (slot + 1)]
    assert content(backend)[4096 * 8 : 4096 * 9] == noise(4096, 8)
    bench.nvme.add(2, RamDisk(MIB))
    assert driver.admin.wait(request.cid).dw0 == 0x040002


def test_settings_logs_and_bad_blocks(make_bench: MakeBench) -> None:
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    namespace = driver.namespace(1)
    namespace.write_uncorrectable(9, 2)
    with pytest.raises(NvmeError):
        namespace.read(9, 1)
    driver.set_feature(FeatureId.ARBITRATION, 3)
    driver.set_feature(FeatureId.HOST_IDENTIFIER, 1, data=bytes(range(16)))
    driver.run(AdminOpcode.FIRMWARE_DOWNLOAD, dwords=(1023, 0), data=noise(4096, 1))
    bench = bench.replaced({1: filled(MIB, 1)})
    driver.mmio = bench.mmio
    with pytest.raises(NvmeError) as failure:
        namespace.read(10, 1)
    assert failure.value.status == Status.UNRECOVERED_READ_ERROR
    assert driver.get_feature(FeatureId.ARBITRATION)[0] == 3
    assert bench.controller.features.host_id == bytes(range(16))
    assert ErrorEntry.unpack(driver.log_page(LogId.ERRORS, 64)).count == 2
    driver.run(AdminOpcode.FIRMWARE_COMMIT, dwords=(3 << 3 | 2,))


def test_a_fused_pair_whose_second_comes_later(make_bench: MakeBench) -> None:
    disk = filled(MIB, 1)
    bench = make_bench({1: disk})
    driver = bench.driver()
    namespace = driver.namespace(1)
    old, new = noise(MIB, 1)[:512], noise(512, 9)
    first = namespace._ranged(NvmOpcode.COMPARE, 0, 1, data=namespace._place(old, 0), flags=1)
    second = namespace._ranged(NvmOpcode.WRITE, 0, 1, data=namespace._place(new, 1), flags=2)
    namespace.queue.put(first)
    namespace.queue.ring()
    bench.settle()
    bench = bench.replaced({1: disk})
    driver.mmio = bench.mmio
    namespace.queue.put(second)
    namespace.queue.ring()
    namespace.finish([first.cid, second.cid])
    assert namespace.read(0, 1) == new


def test_sanitizing_goes_on(make_bench: MakeBench) -> None:
    disk = filled(MIB, 1)
    puppet = PuppetDisk(disk)
    bench = make_bench({1: puppet})
    driver = bench.driver()
    driver.run(AdminOpcode.SANITIZE, dwords=(2,))
    bench.settle()
    old = puppet.wait(1)
    bench = bench.replaced({1: puppet})
    old[0].cancel()
    driver.mmio = bench.mmio
    assert send(driver.io[0], NvmOpcode.READ) == Status.SANITIZE_IN_PROGRESS

    def done() -> bool:
        puppet.complete_all()
        return driver.log_page(LogId.SANITIZE, 4)[2] == 1

    bench.wait(done)
    assert content(disk) == bytes(MIB)


def test_other_controllers(make_bench: MakeBench) -> None:
    bench = make_bench({1: filled(MIB, 1)})
    with pytest.raises(ValueError, match="other namespaces"):
        bench.replaced({2: filled(MIB, 1)})
    with pytest.raises(ValueError, match="another MSI-X table"):
        bench.replaced({1: filled(MIB, 1)}, queues=3)

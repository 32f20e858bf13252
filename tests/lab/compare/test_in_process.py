"""The controllers in this process, as the jobs work them."""

from __future__ import annotations

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.lab.compare import (
    CONTENDERS,
    JOBS,
    WRITES,
    Contender,
    Row,
    compare_in_process,
)
from drivebay.lab.compare.benches import BENCHES, DEPTH
from drivebay.lab.compare.counting import Meter
from drivebay.lab.compare.jobs import job
from drivebay.lab.trace import boards
from drivebay.suspend import run
from drivebay.testing import RecordingDisk

SIZE = 4 << 20
ONE, MANY = job("randread-4k-qd1"), job("randread-4k-qd32")

ACCESSES = {
    "ide-pio": 2079,  # 2048 of 16 bits, and 31 of the registers for eight DRQ blocks
    "ide-dma": 26,  # as Linux's libata, which drivers/ide/channel does
    "int13": 1,
    "ahci": 6,
    "ahci-ncq": 7,
    "virtio-blk": 3,
    "nvme": 2,
}
"""Of a 4 KiB read. With doorbells in memory it depends on what the controller has asked for."""


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str], Row]:
    disk = RamDisk(SIZE)
    found = compare_in_process(disk, CONTENDERS, JOBS, rounds=2, seconds=0.001)
    disk.close()
    return {(row.contender, row.job): row for row in found}


def test_every_job_is_done_by_every_controller(rows: dict[tuple[str, str], Row]) -> None:
    assert set(rows) == {(each.name, work.name) for each in CONTENDERS for work in JOBS}
    assert all(len(row.samples) == 2 and min(row.samples) > 0 for row in rows.values())


@pytest.mark.parametrize(("name", "accesses"), ACCESSES.items())
def test_a_read_takes_the_accesses_that_its_driver_makes(
    rows: dict[tuple[str, str], Row], name: str, accesses: int
) -> None:
    assert rows[name, ONE.name].costs.accesses == accesses


def test_shadow_doorbells_save_accesses(rows: dict[tuple[str, str], Row]) -> None:
    registers, memory = rows["nvme", ONE.name], rows["nvme-dbbuf", ONE.name]
    assert memory.costs.accesses < registers.costs.accesses


def test_only_some_work_at_many_requests_at_once(rows: dict[tuple[str, str], Row]) -> None:
    deep = {each.name for each in CONTENDERS if rows[each.name, MANY.name].costs.in_flight > 1}
    assert deep == {"ahci-ncq", "virtio-blk", "nvme", "nvme-dbbuf"}
    assert {rows[name, MANY.name].costs.in_flight for name in deep} == {DEPTH}


def test_pio_moves_the_data_through_registers(rows: dict[tuple[str, str], Row]) -> None:
    costs = rows["ide-pio", ONE.name].costs
    assert costs.register_bytes > 4096
    assert costs.interrupts == 8  # one for each sector (ATA/ATAPI-6 section 9.5)
    assert rows["ide-dma", ONE.name].costs.interrupts == 1
    assert rows["int13", ONE.name].costs.interrupts == 0


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda each: each.name)
def test_reads_and_writes_reach_the_disk(contender: Contender) -> None:
    disk = RecordingDisk(RamDisk(SIZE))
    bench = BENCHES[contender.name](disk, None)
    mark = b"compared".ljust(4096, b"!")
    run(disk.write(16, [memoryview(mark)]))
    disk.calls.clear()
    bench.move([16 * 512, 64 * 512], 4096, False)
    assert sorted((call.name, call.sector) for call in disk.calls) == [("read", 16), ("read", 64)]
    disk.calls.clear()
    bench.move([128 * 512], 4096, True)
    written = [call.sector for call in disk.calls if call.name == "write"]
    assert min(written) == 128  # by PIO sector for sector
    assert max(written) < 136
    bench.close()


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda each: each.name)
def test_nothing_stands_in_the_way_unless_somebody_counts(
    contender: Contender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise AssertionError("somebody counts")

    monkeypatch.setattr(boards, "WatchedPorts", refuse)
    monkeypatch.setattr(boards, "WatchedMmio", refuse)
    bench = BENCHES[contender.name](RamDisk(SIZE), None)
    bench.move([0], 4096, False)
    bench.close()
    with pytest.raises(AssertionError, match="somebody counts"):
        BENCHES[contender.name](RamDisk(SIZE), Meter())


def test_jobs_that_write_say_in_which_cache_mode() -> None:
    disk = RamDisk(SIZE)
    those = [each for each in CONTENDERS if each.name == "nvme"]
    [row] = compare_in_process(disk, those, WRITES, rounds=1, seconds=0.001, cache="writethrough")
    assert row.cache == "writethrough"
    assert row.unit == "IOPS"

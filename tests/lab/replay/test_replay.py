"""What was recorded is replayed: the same function does the same, another one is found out."""

from __future__ import annotations

import gzip
import random
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.controllers.ahci import Ahci
from drivebay.controllers.nvme import Nvme
from drivebay.disk.errors import IoError
from drivebay.disk.spec import open_disk
from drivebay.drivers.ahci import AhciDriver
from drivebay.drivers.nvme import NvmeDriver, NvmeError
from drivebay.lab.replay import Divergence, Recorder, Recording, RecordingError, cut
from drivebay.platform.engine import LONG_MOMENT, Engine, Lookout
from drivebay.suspend import run
from drivebay.testing.puppet import PuppetDisk
from tests.ide.support import content, filled, noise

from .support import RecordedBench, replay

MIB = 1 << 20


def nvme(memory: Any, engine: Engine, disks: list[Any]) -> Nvme:
    long = Lookout(engine, LONG_MOMENT)
    function = Nvme(memory, engine, linger=Lookout(engine), linger_long=long)
    for nsid, disk in enumerate(disks, 1):
        function.add(nsid, disk)
    return function


def ahci(memory: Any, engine: Engine, disks: list[Any]) -> Ahci:
    function = Ahci(memory, engine)
    for port, disk in enumerate(disks):
        function.attach(port, AtaDisk(disk, engine))
    return function


@pytest.mark.parametrize("doorbells", [False, True])
def test_nvme(tmp_path: Path, engine: Engine, doorbells: bool) -> None:
    path = tmp_path / "nvme.dbreplay"
    bench = RecordedBench(path, engine, nvme, [filled(MIB, 1)])
    driver = bench.driver(NvmeDriver)
    namespace = driver.namespace(1)
    if doorbells:  # in memory, for which a controller looks out, but not while it is recorded
        driver.use_doorbell_buffers()
    dice = random.Random(1)
    for _ in range(50):
        lba, count = dice.randrange(1000), dice.randrange(1, 40)
        if dice.random() < 0.5:
            namespace.write(lba, noise(512 * count, lba))
        else:
            namespace.read(lba, count)
    namespace.flush()
    with pytest.raises(NvmeError):
        namespace.read(1 << 40, 1)
    bench.recorder.close()
    assert replay(path, nvme) > 300


def test_ahci(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "ahci.dbreplay"
    bench = RecordedBench(path, engine, ahci, [filled(MIB, 1)])
    disk = bench.driver(AhciDriver).disk(0)
    disk.write(9, noise(4096, 9))
    disk.read_queued([(tag, 4) for tag in range(0, 64, 2)])
    disk.write_queued([(tag, noise(512, tag)) for tag in range(32)])
    bench.recorder.close()
    assert replay(path, ahci) > 100


def test_what_waits_goes_on_in_the_same_order(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "nvme.dbreplay"
    puppet = PuppetDisk(filled(MIB, 1), lambda name, _sector, _count: name == "read")
    bench = RecordedBench(path, engine, nvme, [puppet])
    driver = bench.driver(NvmeDriver)
    namespace = driver.namespace(1)
    dice = random.Random(2)
    for _ in range(20):
        ids = [namespace.prepare_read(slot, dice.randrange(1000), 8) for slot in range(8)]
        namespace.queue.ring()
        while len(puppet.held) < 8:
            bench.poll()
        held = puppet.held
        dice.shuffle(held)
        for each in held[1:]:
            each.complete()
            if dice.random() < 0.5:
                bench.poll()
        held[0].fail(IoError(5, "cable"))
        with pytest.raises(NvmeError):
            namespace.finish(ids)
    bench.recorder.close()
    assert replay(path, nvme) > 500


def test_a_reset_gives_up_what_waits(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "ahci.dbreplay"
    puppet = PuppetDisk(filled(MIB, 1), lambda name, sector, _count: sector == 9)
    bench = RecordedBench(path, engine, ahci, [puppet])
    driver = bench.driver(AhciDriver)
    disk = driver.disk(0)
    disk.prepare_read(0, 9, 1)
    disk.prepare_read(1, 10, 1)
    disk.port.issue(0b11, queued=True)
    while not puppet.held:
        bench.poll()
    driver.reset()
    assert not puppet.held
    bench.driver(AhciDriver).disk(0).read(10, 1)
    bench.recorder.close()
    assert replay(path, ahci) > 50


def test_worker_threads(tmp_path: Path) -> None:
    path, image = tmp_path / "nvme.dbreplay", tmp_path / "image"
    image.write_bytes(noise(MIB, 3))
    with closing(open_disk(f"delay:100us:{image}")) as disk, closing(Engine(workers=4)) as engine:
        bench = RecordedBench(path, engine, nvme, [disk])
        namespace = bench.driver(NvmeDriver, patience=1_000_000).namespace(1)
        for round_ in range(10):
            ids = [namespace.prepare_write(n, 64 * n, noise(4096, round_)) for n in range(8)]
            namespace.queue.ring()
            namespace.finish(ids)
            namespace.flush()
        bench.recorder.close()
    assert replay(path, nvme) > 300


def test_another_size(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "nvme.dbreplay"
    disk = filled(MIB, 1)
    bench = RecordedBench(path, engine, nvme, [disk])
    driver = bench.driver(NvmeDriver)
    assert driver.namespace(1).blocks == 2048
    run(disk.resize(4096))
    bench.poll()
    assert driver.namespace(1).blocks == 4096
    bench.recorder.close()
    assert replay(path, nvme)


def test_a_function_that_does_something_else_is_found_out(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "nvme.dbreplay"
    bench = RecordedBench(path, engine, nvme, [filled(MIB, 1)])
    namespace = bench.driver(NvmeDriver).namespace(1)
    namespace.write(5, bytes(512))
    namespace.write(7, bytes(512))
    bench.recorder.close()

    def off_by_one(memory: Any, engine: Engine, disks: list[Any]) -> Nvme:
        disk = disks[0]
        write = disk.write
        disk.write = lambda sector, *rest: write(sector + (sector == 7), *rest)
        return nvme(memory, engine, disks)

    with pytest.raises(Divergence, match=r"was asked 0 write 7 .* now asked 0 write 8") as e:
        replay(path, off_by_one)
    number = e.value.number
    short = tmp_path / "short.dbreplay"
    cut(path, short, number)
    assert replay(short, off_by_one) == number
    # The prefix that shows it is a recording itself.
    cut(path, short, number + 1)
    with pytest.raises(Divergence) as again:
        replay(short, off_by_one)
    assert again.value.number == number
    assert replay(short, nvme) == number + 1


def test_an_exception_of_ours_is_part_of_the_outcome(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "nvme.dbreplay"
    bench = RecordedBench(path, engine, nvme, [filled(MIB, 1)])
    namespace = bench.driver(NvmeDriver).namespace(1)
    namespace.read(0, 1)
    bench.recorder.close()

    def buggy(memory: Any, engine: Engine, disks: list[Any]) -> Nvme:
        function = nvme(memory, engine, disks)
        function.controller.worker.kick = None  # type: ignore[assignment, method-assign]
        return function

    with pytest.raises(Divergence, match="now raised TypeError"):
        replay(path, buggy)


def test_a_recording_whose_writer_was_killed(tmp_path: Path, engine: Engine) -> None:
    path, torn = tmp_path / "nvme.dbreplay", tmp_path / "torn.dbreplay"
    bench = RecordedBench(path, engine, nvme, [filled(MIB, 1)])
    namespace = bench.driver(NvmeDriver).namespace(1)
    for lba in range(0, 1000, 8):
        namespace.read(lba, 8)
    bench.recorder.close()
    whole = path.read_bytes()
    every = replay(path, nvme)
    for size in (len(whole) // 2, len(whole) - 1):
        torn.write_bytes(whole[:size])
        assert 0 < replay(torn, nvme) <= every


NOT_RECORDINGS = {
    "nothing": b"",
    "text": b"text",
    "compressed text": gzip.compress(b"text" * 9),
    "compressed nothing": gzip.compress(b""),
}


@pytest.mark.parametrize("content", NOT_RECORDINGS.values(), ids=NOT_RECORDINGS)
def test_no_recording(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"file"):
        Recording(path)


def test_disks_go_on_when_nothing_is_recorded_any_more(tmp_path: Path, engine: Engine) -> None:
    below = filled(MIB, 1)
    recorder = Recorder(tmp_path / "nvme.dbreplay", engine)
    disk = recorder.disk(below)
    recorder.close()
    run(disk.write(5, [memoryview(b"\xee" * 512)]))
    run(disk.flush())
    assert content(below)[5 * 512 : 6 * 512] == b"\xee" * 512

"""One log sees each command once, however it was delivered."""

from __future__ import annotations

import logging

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.registers import Opcode
from drivebay.drivers.ide import By, IdeDisk, Via
from drivebay.platform.engine import Engine
from tests.ide.support import Bench as IdeBench
from tests.ide.support import filled, noise

from .conftest import MakeBench

MIB = 1 << 20
RANGES = ((0, 1), (7, 16), (100, 256))


def test_the_same_reads_and_writes_by_ide_and_ahci(
    make_bench: MakeBench, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    ahci = make_bench({0: AtaDisk(filled(MIB, 1), engine)}).driver().disk(0)
    bench = IdeBench(engine, {(0, 0): AtaDisk(filled(MIB, 1), engine)})
    bench.enable()
    ide = IdeDisk(bench.driver().channels[0], 0)
    caplog.set_level(logging.DEBUG, "drivebay.ata")

    def logged() -> list[str]:
        lines = [r.getMessage() for r in caplog.records if r.name == "drivebay.ata"]
        caplog.clear()
        return lines

    wanted = [noise(MIB, 1)[lba * 512 :][: count * 512] for lba, count in RANGES]
    parts = list(zip(RANGES, wanted, strict=True))
    logged()
    logs = {}
    assert [ide.read(*span, Via.PIO, By.LBA48) for span in RANGES] == wanted
    logs["ide pio"] = logged()
    assert [ide.read(*span, Via.DMA, By.LBA48) for span in RANGES] == wanted
    logs["ide dma"] = logged()
    assert [ahci.read(*span, Opcode.READ_SECTORS_EXT) for span in RANGES] == wanted
    logs["ahci pio"] = logged()
    assert [ahci.read(*span) for span in RANGES] == wanted
    logs["ahci dma"] = logged()
    assert [ahci.read_queued([span])[0] for span in RANGES] == wanted
    logs["ahci queued"] = logged()

    for (lba, _), data in parts:
        ide.write(lba, data, Via.PIO, By.LBA48)
    logs["ide pio out"] = logged()
    for (lba, _), data in parts:
        ide.write(lba, data, Via.DMA, By.LBA48)
    logs["ide dma out"] = logged()
    for (lba, _), data in parts:
        ahci.write(lba, data, Opcode.WRITE_SECTORS_EXT)
    logs["ahci pio out"] = logged()
    for (lba, _), data in parts:
        ahci.write(lba, data)
    logs["ahci dma out"] = logged()

    assert logs["ide pio"] == logs["ahci pio"]
    assert logs["ide dma"] == logs["ahci dma"]
    assert logs["ide pio out"] == logs["ahci pio out"]
    assert logs["ide dma out"] == logs["ahci dma out"]
    spans = [[line.split(" 0x")[1].split()[0] for line in lines] for lines in logs.values()]
    assert spans == [["0+0x1", "7+0x10", "64+0x100"]] * 9
    assert all(line.endswith("-> 50") for lines in logs.values() for line in lines)

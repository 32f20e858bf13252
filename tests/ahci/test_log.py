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
READS = ((0, 1), (7, 16), (100, 256))


def test_the_same_reads_by_ide_and_ahci(
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

    wanted = [noise(MIB, 1)[lba * 512 :][: count * 512] for lba, count in READS]
    logged()
    logs = {}
    assert [ide.read(*span, Via.PIO, By.LBA48) for span in READS] == wanted
    logs["ide pio"] = logged()
    assert [ide.read(*span, Via.DMA, By.LBA48) for span in READS] == wanted
    logs["ide dma"] = logged()
    assert [ahci.read(*span, Opcode.READ_SECTORS_EXT) for span in READS] == wanted
    logs["ahci pio"] = logged()
    assert [ahci.read(*span) for span in READS] == wanted
    logs["ahci dma"] = logged()
    assert [ahci.read_queued([span])[0] for span in READS] == wanted
    logs["ahci queued"] = logged()

    assert logs["ide pio"] == logs["ahci pio"]
    assert logs["ide dma"] == logs["ahci dma"]
    spans = [[line.split(" 0x")[1].split()[0] for line in lines] for lines in logs.values()]
    assert spans == [["0+0x1", "7+0x10", "64+0x100"]] * 5
    assert all(line.endswith("-> 50") for lines in logs.values() for line in lines)

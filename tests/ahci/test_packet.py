"""A DVD drive at an AHCI port."""

from __future__ import annotations

import pytest

from drivebay.ata.packet import PacketDevice
from drivebay.ata.registers import Opcode
from drivebay.disk.contract import Disk
from drivebay.drivers.ahci import AhciCd, AhciError
from drivebay.drivers.ide.channel import AtaCommand
from drivebay.platform.engine import Engine
from drivebay.scsi import cdb as cdbs
from drivebay.scsi.dvd import Dvd
from drivebay.scsi.opcodes import Opcode as ScsiOpcode
from drivebay.scsi.sense import SenseKey
from tests.ide.support import filled, noise

from .conftest import MakeBench

MIB = 1 << 20


def make_cd(make_bench: MakeBench, engine: Engine, disc: Disk | None) -> AhciCd:
    cd = make_bench({1: PacketDevice(Dvd(disc), engine)}).driver().cd(1)
    cd.settle()
    return cd


@pytest.mark.parametrize("dma", [False, True])
def test_reads(make_bench: MakeBench, engine: Engine, dma: bool) -> None:
    cd = make_cd(make_bench, engine, filled(4 * MIB, 2, 2048))
    assert cd.capacity() == 2048
    for lba, count in ((0, 1), (16, 1), (5, 40), (100, 200)):
        assert cd.read(lba, count, dma=dma) == noise(4 * MIB, 2)[lba * 2048 :][: count * 2048]
    assert cd.packet(cdbs.Inquiry(allocation_length=36), 36, dma=dma)[0] == 5
    assert cd.port.moved(0) == 36


@pytest.mark.parametrize("dma", [False, True])
def test_less_than_was_asked_for(make_bench: MakeBench, engine: Engine, dma: bool) -> None:
    """PRDBC tells how much there was."""
    cd = make_cd(make_bench, engine, filled(MIB, 2, 2048))
    whole = cd.packet(cdbs.Inquiry(allocation_length=255), 255, dma=dma)
    assert 36 <= len(whole) < 255


def test_identify(make_bench: MakeBench, engine: Engine) -> None:
    cd = make_cd(make_bench, engine, None)
    words = cd.identify().words
    assert words.sata_capabilities == 0x020E
    assert words.queue_depth_z == words.hardware_reset == 0
    assert words.transport_major == 0x103F


def test_errors_have_sense(make_bench: MakeBench, engine: Engine) -> None:
    cd = make_cd(make_bench, engine, filled(MIB, 2, 2048))
    with pytest.raises(AhciError) as failure:
        cd.read(512, 1)
    assert failure.value.status.ERR and failure.value.interrupts.TFES
    assert failure.value.error >> 4 == SenseKey.ILLEGAL_REQUEST
    sense = cd.request_sense()
    assert sense.sense_key == SenseKey.ILLEGAL_REQUEST
    assert sense.additional_sense_code == 0x21
    assert cd.read(511, 1) == noise(MIB, 2)[-2048:]


def test_a_disks_commands_are_refused(make_bench: MakeBench, engine: Engine) -> None:
    cd = make_cd(make_bench, engine, None)
    for opcode in (Opcode.IDENTIFY_DEVICE, Opcode.READ_FPDMA_QUEUED, Opcode.READ_LOG_EXT):
        with pytest.raises(AhciError) as refusal:
            cd.read_data(AtaCommand(opcode, 1, 0), 512)
        assert refusal.value.error.ABRT
        cd.port.restart()
    assert cd.port.get("SIG") == 0xEB140101


def test_an_empty_drive_and_its_tray(make_bench: MakeBench, engine: Engine) -> None:
    cd = make_cd(make_bench, engine, None)
    with pytest.raises(AhciError):
        cd.packet(cdbs.Cdb6(ScsiOpcode.TEST_UNIT_READY))
    assert cd.request_sense().sense_key == SenseKey.NOT_READY
    cd.port.execute(AtaCommand(Opcode.DEVICE_RESET))
    cd.port.comreset()
    assert cd.port.get("SIG") == 0xEB140101

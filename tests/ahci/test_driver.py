"""The driver and the controller, over every way data can go."""

from __future__ import annotations

from typing import Any

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.ata.registers import Opcode
from drivebay.controllers.ahci.registers import CAP, PxSSTS
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.ahci import AhciDisk, AhciError
from drivebay.drivers.ide.channel import AtaCommand
from drivebay.platform.engine import Engine
from drivebay.scsi.dvd import Dvd
from tests.ide.support import content, filled, noise

from .conftest import MakeBench

MIB = 1 << 20


def make_disk(make_bench: MakeBench, engine: Engine, disk: Any, **options: Any) -> AhciDisk:
    return make_bench({0: AtaDisk(disk, engine, serial="A1")}).driver(**options).disk(0)


def test_what_the_adapter_says(make_bench: MakeBench, engine: Engine) -> None:
    bench = make_bench({2: AtaDisk(RamDisk(MIB), engine), 3: PacketDevice(Dvd(None), engine)})
    driver = bench.driver()
    capabilities = CAP(driver.capabilities)
    assert (capabilities.NP_z, capabilities.NCS_z) == (5, 31)
    assert capabilities.SNCQ and capabilities.S64A and capabilities.SCLO and capabilities.SALP
    assert not capabilities.EMS and not capabilities.SPM
    assert driver.get("PI") == 0x3F
    assert driver.get("VS") == 0x10301
    assert [number for number, port in driver.ports.items() if port.present] == [2, 3]
    assert driver.ports[2].get("SIG") == 0x00000101
    assert driver.ports[3].get("SIG") == 0xEB140101
    assert PxSSTS(driver.ports[2].get("SSTS")) == 0x133
    assert driver.ports[0].get("TFD") == 0x7F


@pytest.mark.parametrize("polled", [False, True])
def test_identify_says_sata(make_bench: MakeBench, engine: Engine, polled: bool) -> None:
    disk = make_disk(make_bench, engine, RamDisk(MIB), polled=polled)
    words = disk.identify().words
    assert disk.queue_depth == 32
    assert words.sata_capabilities == 0x830E
    assert words.sata_additional == 0x66
    assert words.hardware_reset == 0
    assert words.transport_major == 0x103F
    assert words.commands_4 == words.enabled_4 == 0x400C
    assert words.enabled_2 & 0x8000


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize(
    ("read", "write"),
    [
        (Opcode.READ_DMA_EXT, Opcode.WRITE_DMA_EXT),
        (Opcode.READ_DMA_EXT, Opcode.WRITE_DMA_FUA_EXT),
        (Opcode.READ_SECTORS_EXT, Opcode.WRITE_SECTORS_EXT),
        (Opcode.READ_MULTIPLE_EXT, Opcode.WRITE_MULTIPLE_EXT),
    ],
)
def test_round_trips(
    make_bench: MakeBench, engine: Engine, read: int, write: int, sector_size: int
) -> None:
    backend = filled(4 * MIB, 1, sector_size)
    before = content(backend)
    disk = make_disk(make_bench, engine, backend)
    disk.port.execute(AtaCommand(Opcode.SET_MULTIPLE_MODE, count=16))
    for lba, count in ((0, 1), (7, 16), (100, 255), (13, 300)):
        assert disk.read(lba, count, read) == before[lba * sector_size :][: count * sector_size]
        data = noise(count * sector_size, lba)
        disk.write(lba, data, write)
        at = lba * sector_size
        before = before[:at] + data + before[at + len(data) :]
    assert content(backend) == before
    disk.flush()
    disk.verify(0, 100)


def test_65536_sectors_by_pio_are_a_loop(make_bench: MakeBench, engine: Engine) -> None:
    disk = make_disk(make_bench, engine, filled(33 * MIB, 3))
    data = disk.read(5, 65536, Opcode.READ_SECTORS_EXT)
    assert data == noise(33 * MIB, 3)[5 * 512 :][: 65536 * 512]


def test_refused_commands(make_bench: MakeBench, engine: Engine) -> None:
    disk = make_disk(make_bench, engine, RamDisk(MIB))
    for opcode in (
        Opcode.SECURITY_SET_PASSWORD,
        Opcode.SECURITY_FREEZE_LOCK,
        Opcode.DEVICE_CONFIGURATION,
        0xFF,
    ):
        with pytest.raises(AhciError) as refusal:
            disk.read(0, 1, opcode)
        assert refusal.value.error.ABRT and refusal.value.interrupts.TFES
        disk.port.restart()
    with pytest.raises(AhciError) as refusal:
        disk.read(2048, 1)
    assert refusal.value.error.IDNF
    disk.port.restart()
    assert disk.read(2047, 1) == bytes(512)


def test_resets(make_bench: MakeBench, engine: Engine) -> None:
    disk = make_disk(make_bench, engine, filled(MIB, 5))
    for reset in (disk.port.comreset, disk.port.software_reset):
        reset()
        assert disk.port.get("SIG") == 0x101
        assert disk.read(3, 2) == noise(MIB, 5)[1536:2560]


def test_trim(make_bench: MakeBench, engine: Engine) -> None:
    backend = filled(MIB, 6)
    disk = make_disk(make_bench, engine, backend)
    disk.trim([(8, 8), (100, 1)])
    data = content(backend)
    assert data[8 * 512 : 16 * 512] == bytes(4096)
    assert data[100 * 512 : 101 * 512] == bytes(512)
    assert data[101 * 512 : 102 * 512] != bytes(512)

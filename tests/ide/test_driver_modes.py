"""What the driver switches, and what the drive then is."""

from __future__ import annotations

import pytest

from drivebay.ata.registers import Error, Opcode, SmartFeature, Status, TransferMode
from drivebay.ata.settings import Power
from drivebay.drivers.ide import AtaCommand, By, IdeError, IdeTimeout, Via

from .support import DiskRig, noise

SIZE = DiskRig.size
SECTORS = SIZE // 512


def test_set_multiple(rig: DiskRig) -> None:
    disk = rig.disk
    assert disk.identify().max_multiple == 16
    assert disk.identify().multiple == 0
    with pytest.raises(IdeError):
        disk.read(0, 1, Via.MULTIPLE)
    for count in (1, 2, 4, 8, 16):
        disk.set_multiple(count)
        assert disk.identify().multiple == count
        assert disk.read(3, 37, Via.MULTIPLE) == noise(SIZE)[3 * 512 : 40 * 512]
    with pytest.raises(IdeError):
        disk.set_multiple(3)
    with pytest.raises(IdeError):
        disk.set_multiple(32)
    disk.set_multiple(0)
    with pytest.raises(IdeError):
        disk.read(0, 1, Via.MULTIPLE)


@pytest.mark.parametrize(("heads", "sectors"), [(16, 63), (1, 255), (3, 7), (16, 1)])
def test_geometry(rig: DiskRig, heads: int, sectors: int) -> None:
    """CHS addresses follow INITIALIZE DEVICE PARAMETERS, to their last sector and no further."""
    disk = rig.disk
    disk.initialize_parameters(heads, sectors)
    geometry = disk.geometry
    assert geometry[1:] == (heads, sectors)
    assert geometry.capacity <= SECTORS
    for lba in (0, sectors - 1, sectors, heads * sectors - 1, geometry.capacity - 1):
        assert disk.read(lba, 1, by=By.CHS) == noise(SIZE)[512 * lba : 512 * (lba + 1)]
    for cylinder, head, sector in (
        (0, 0, 0),
        (0, 0, sectors + 1),
        (0, heads, 1),
        (geometry.cylinders, 0, 1),
    ):
        if head < 16 and sector < 256:
            with pytest.raises(IdeError):
                disk.non_data(
                    AtaCommand(
                        Opcode.READ_VERIFY_SECTORS, 0, 1, cylinder << 8 | sector, device=head
                    )
                )


def test_host_protected_area(rig: DiskRig) -> None:
    """SET MAX ADDRESS hides sectors, until the power goes or for good."""
    disk = rig.disk
    assert disk.read_native_max() == disk.read_native_max(ext=False) == SECTORS - 1
    for ext in (False, True):
        disk.set_max(999, ext=ext)
        assert disk.sectors == 1000
        disk.read(999, 1)
        with pytest.raises(IdeError):
            disk.read(1000, 1)
        assert disk.read_native_max(ext) == SECTORS - 1
        disk.channel.reset()
        assert disk.identify().sectors == 1000
        rig.bench.ide.reset()
        again = rig.bench.driver().disk(0, 0)
        assert again.sectors == SECTORS
        rig.driver.channels[0].control(0)
        rig.bench.enable()
    disk.set_max(999, volatile=False)
    rig.bench.ide.reset()
    assert rig.bench.driver().disk(0, 0).sectors == 1000


def test_set_max_needs_read_native_max(rig: DiskRig) -> None:
    with pytest.raises(IdeError):
        rig.disk.non_data(rig.disk.command(Opcode.SET_MAX_ADDRESS_EXT, 99, 0, By.LBA48))


def test_power_modes(rig: DiskRig) -> None:
    disk = rig.disk
    assert disk.check_power_mode() == Power.ACTIVE
    disk.non_data(AtaCommand(Opcode.STANDBY_IMMEDIATE))
    assert disk.check_power_mode() == Power.STANDBY
    disk.read(0, 1)
    assert disk.check_power_mode() == Power.ACTIVE
    disk.non_data(AtaCommand(Opcode.IDLE_IMMEDIATE))
    assert disk.check_power_mode() == Power.IDLE
    disk.non_data(AtaCommand(Opcode.SLEEP))
    disk.channel.patience = 5
    if rig.bench.interrupts:
        with pytest.raises(IdeTimeout):
            disk.check_power_mode()
    disk.channel.reset()
    assert disk.check_power_mode() == Power.ACTIVE


def test_transfer_modes(rig: DiskRig) -> None:
    disk = rig.disk
    for mode in range(6):
        disk.set_transfer_mode(TransferMode.ULTRA_DMA, mode)
        assert disk.identify().ultra_dma == mode
        assert disk.identify().words.multiword_dma >> 8 == 0
    disk.set_transfer_mode(TransferMode.MULTIWORD_DMA, 2)
    assert disk.identify().ultra_dma is None
    assert disk.identify().words.multiword_dma >> 8 == 4
    disk.set_transfer_mode(TransferMode.PIO, 4)
    with pytest.raises(IdeError):
        disk.set_transfer_mode(TransferMode.ULTRA_DMA, 7)


def test_smart(rig: DiskRig) -> None:
    """What a test sets, the guest sees."""
    disk, smart = rig.disk, rig.drive.smart
    assert not disk.smart_failing()
    smart.attribute(5).raw = 12
    data = disk.smart_read(SmartFeature.READ_DATA)
    rows = {data[n]: data[n : n + 12] for n in range(2, 362, 12)}
    assert int.from_bytes(rows[5][5:11], "little") == 12
    assert sum(data) % 256 == 0
    smart.attribute(5).value = 10
    assert disk.smart_failing()
    disk.smart(SmartFeature.DISABLE_OPERATIONS)
    assert not disk.identify().smart
    with pytest.raises(IdeError):
        disk.smart_failing()
    disk.smart(SmartFeature.ENABLE_OPERATIONS)
    assert disk.smart_failing()
    disk.smart(SmartFeature.EXECUTE_OFFLINE_IMMEDIATE, number=2)
    log = disk.smart_read(SmartFeature.READ_LOG, 0x06)
    assert log[2] == 2
    assert log[508] == 1
    disk.smart_write_log(0x80, noise(1024))
    assert disk.smart_read(SmartFeature.READ_LOG, 0x80, 2) == noise(1024)
    assert disk.smart_read(SmartFeature.READ_LOG, 0x80, 16)[1024:] == bytes(14 * 512)


def test_the_sector_buffer(rig: DiskRig) -> None:
    rig.disk.write_buffer(noise(512, 5))
    assert rig.disk.read_buffer() == noise(512, 5)


def test_nop_and_unknown_commands_abort(rig: DiskRig) -> None:
    for opcode in (Opcode.NOP, 0x60, 0xFF, Opcode.PACKET, Opcode.IDENTIFY_PACKET_DEVICE):
        with pytest.raises(IdeError) as caught:
            rig.disk.non_data(AtaCommand(opcode))
        assert caught.value.error == Error.of(ABRT=1)
    assert rig.disk.identify().sectors == SECTORS


def test_diagnostic(rig: DiskRig) -> None:
    """Both devices take it, device 0 tells for both: passed (ATA/ATAPI-6 section 8.11)."""
    channel = rig.disk.channel
    rig.disk.non_data(AtaCommand(Opcode.EXECUTE_DEVICE_DIAGNOSTIC))
    assert channel.get("Error") == 1
    assert channel.signature(0) == (int(Status.DRDY | Status.DSC), [1, 1, 0, 0])


def test_software_reset(rig: DiskRig) -> None:
    """SRST in the middle of everything: the signature, and a drive as good as new."""
    disk, channel = rig.disk, rig.disk.channel
    for opcode, count in (
        (Opcode.READ_SECTORS, 9),
        (Opcode.WRITE_SECTORS, 9),
        (Opcode.READ_DMA, 9),
    ):
        channel.issue(0, disk.command(opcode, 0, count, By.LBA28))
        channel.reset()
        assert channel.signature(0)[1] == [1, 1, 0, 0]
        assert channel.get("Error") == 1
        assert disk.read(0, 9) == noise(SIZE)[: 9 * 512]

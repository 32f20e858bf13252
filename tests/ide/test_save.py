"""Save and restore in the middle of any command: nobody can tell that it happened."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.ata.registers import Opcode, SmartFeature
from drivebay.disk.errors import Medium, MediumError
from drivebay.drivers.ide import AtaCommand, By, IdeDriver, IdeError, PacketError, Via
from drivebay.platform.engine import Engine
from drivebay.scsi import cdb as cdbs
from drivebay.scsi.dvd import Dvd
from drivebay.testing import PuppetDisk

from .support import Bench, Wires, content, filled, noise

SIZE = 1 << 18
DISC = 64 * 2048

Script = Callable[[IdeDriver], object]
"""What a guest does; it gives all that the guest learnt from it."""


def read(via: Via, by: By) -> Script:
    return lambda driver: driver.disk(0, 0).read(7, 9, via, by)


def write(via: Via, by: By) -> Script:
    def script(driver: IdeDriver) -> object:
        driver.disk(0, 0).write(20, noise(9 * 512, 4), via, by)
        return driver.disk(0, 0).channel.sector(ext=by is By.LBA48)

    return script


def scatter(driver: IdeDriver) -> object:
    """Pieces that end with no sector."""
    regions = [*((0x8000 + 1030 * n, 1026) for n in range(8)), (0xC000, 496)]
    disk = driver.disk(0, 0)
    disk.read_into(regions, 80, 17)
    disk.write_from(regions, 3)
    return [bytes(disk.channel.memory.view(at, size)) for at, size in regions]


def modes(driver: IdeDriver) -> object:
    disk = driver.disk(0, 0)
    disk.set_multiple(4)
    disk.set_features(0x05, 77)
    disk.initialize_parameters(5, 9)
    disk.set_max(300)
    disk.write_buffer(noise(512, 8))
    disk.smart_write_log(0x90, noise(512, 9))
    disk.smart(SmartFeature.EXECUTE_OFFLINE_IMMEDIATE, number=1)
    log = disk.smart_read(SmartFeature.READ_LOG, 0x06)
    disk.non_data(AtaCommand(Opcode.STANDBY_IMMEDIATE))
    return (
        log,
        disk.check_power_mode(),
        disk.read_buffer(),
        disk.smart_read(SmartFeature.READ_LOG, 0x90),
        disk.read_native_max(),
        disk.identify().raw,
        disk.read(11, 7, Via.MULTIPLE, By.CHS),
    )


def others(driver: IdeDriver) -> object:
    disk = driver.disk(0, 0)
    disk.verify(3, 200)
    disk.flush()
    disk.trim([(10, 5), (100, 100)])
    return disk.read(0, 20)


def refusals(driver: IdeDriver) -> object:
    """What the registers say of them."""
    found = []
    disk = driver.disk(0, 0)
    for act in (
        lambda: disk.read(SIZE // 512 - 1, 2),
        lambda: disk.write(SIZE // 512, bytes(512), Via.PIO, By.LBA48),
        lambda: disk.non_data(AtaCommand(Opcode.NOP)),
        lambda: disk.trim([(SIZE // 512, 1)]),
        lambda: disk.set_multiple(3),
    ):
        with pytest.raises(IdeError) as caught:
            act()
        found += [int(caught.value.status), int(caught.value.error), disk.channel.sector(True)]
    return found


def reset(driver: IdeDriver) -> object:
    disk = driver.disk(0, 0)
    disk.set_multiple(4)
    disk.channel.issue(0, disk.command(Opcode.WRITE_MULTIPLE, 50, 9, By.LBA28))
    disk.channel.wait_ready()
    disk.channel.write_data(noise(512))
    disk.channel.reset()
    return disk.channel.signature(0), disk.channel.get("Error"), disk.identify().raw


def two_drives(driver: IdeDriver) -> object:
    first, second = driver.disk(0, 0), driver.disk(0, 1)
    second.write(9, first.read(8, 5, Via.PIO))
    first.channel.non_data(0, AtaCommand(Opcode.EXECUTE_DEVICE_DIAGNOSTIC))
    return second.read(9, 5), first.channel.signature(1), first.channel.get("Device")


def cd(**options: bool | int) -> Script:
    return lambda driver: driver.cd(1, 0).read(3, 7, **options)  # type: ignore[arg-type]


def cd_int13(driver: IdeDriver) -> object:
    return driver.cd(1, 0).read_int13(3, 9001, 777)


def tray(driver: IdeDriver) -> object:
    """Locks, senses, unit attentions: the drive behind the packets."""
    drive = driver.cd(1, 0)
    found = []
    drive.lock(True)
    for act in (drive.eject, lambda: drive.read(5000, 1)):
        with pytest.raises(PacketError) as caught:
            act()
        found.append(caught.value.sense)
    drive.lock(False)
    drive.eject()
    with pytest.raises(PacketError) as caught:
        drive.test_unit_ready()
    found.append(caught.value.sense)
    drive.load()
    drive.settle()
    page = drive.packet(cdbs.ModeSense10(page=0x01, allocation_length=0xFF), 0xFF)
    data = bytes([0, 0, *page[2:11], page[11] ^ 5, *page[12:]])
    drive.packet(cdbs.ModeSelect10(flags=0x10, parameter_list_length=len(data)), data=data)
    return found, drive.packet(cdbs.ModeSense10(page=0x01, allocation_length=0xFF), 0xFF)


SCRIPTS: dict[str, Script] = {
    **{f"read {via.value} {by.value}": read(via, by) for via in Via for by in By},
    **{f"write {via.value} {by.value}": write(via, by) for via in Via for by in By},
    "scatter": scatter,
    "modes": modes,
    "others": others,
    "refusals": refusals,
    "reset": reset,
    "two drives": two_drives,
    "cd pio": cd(dma=False),
    "cd pio by blocks": cd(dma=False, limit=2048),
    "cd pio by odd bits": cd(dma=False, limit=778),
    "cd dma": cd(),
    "cd int13": cd_int13,
    "tray": tray,
}


WITHOUT_THE_DISK = ("refusals", "reset", "tray")


class Rig:
    """Two disks and a disc, whose controller may be replaced by another at any time."""

    def __init__(self, engine: Engine, *, polled: bool = False) -> None:
        self.engine = engine
        self.disks = [filled(SIZE, 0), filled(SIZE, 1), filled(DISC, 2)]
        self.puppets = [PuppetDisk(disk, lambda *_: False) for disk in self.disks]
        self.wires = Wires(Bench(engine, self.drives()))
        self.driver = self.wires.driver(polled)
        self.driver.cd(1, 0).settle()
        self.driver.disk(0, 0).set_multiple(2)
        for channel in self.driver.channels:
            channel.patience, channel.poll = 100, self.settle
        self.accesses = 0

    def drives(self) -> dict[tuple[int, int], AtaDisk | PacketDevice]:
        """Drives as they come from the factory."""
        first, second, disc = self.puppets
        return {
            (0, 0): AtaDisk(first, self.engine, serial="1"),
            (0, 1): AtaDisk(second, self.engine, serial="2"),
            (1, 0): PacketDevice(Dvd(disc), self.engine),
        }

    def settle(self) -> None:
        """Let the disks end what they do: what is replaced before that begins again."""
        for _ in range(8):
            self.engine.turn(0)

    def replace(self) -> None:
        """Save the controller, throw it away, and go on with another."""
        self.wires.replace(self.drives())

    def run(self, script: Script) -> object:
        """What the guest learnt, and what is on the disks."""
        learnt = script(self.driver)
        return learnt, [content(disk) for disk in self.disks]

    def count(self, at: Callable[[int], None]) -> None:
        """Call `at` before each access from now on, with its number."""

        def before() -> None:
            at(self.accesses)
            self.accesses += 1

        self.wires.before = before

    def close(self) -> None:
        for disk in self.disks:
            disk.close()


@pytest.fixture(params=[False, True], ids=["interrupts", "polled"])
def polled(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def replace_at(rig: Rig, number: int, now: int) -> None:
    if now == number:
        rig.replace()


def undisturbed(engine: Engine, script: Script) -> tuple[object, int]:
    """What comes of a script by itself, and how many accesses it takes."""
    rig = Rig(engine)
    rig.count(lambda _: None)
    result = rig.run(script)
    rig.close()
    return result, rig.accesses


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=list(SCRIPTS))
def test_at_every_access(engine: Engine, script: Script, polled: bool) -> None:
    """Each access finds another controller than the one before; and each single one does."""
    wanted, accesses = undisturbed(engine, script)
    rig = Rig(engine, polled=polled)
    rig.count(lambda _: rig.replace())
    assert rig.run(script) == wanted
    rig.close()
    for number in range(0, accesses, 1 if accesses < 100 else 7):
        rig = Rig(engine, polled=polled)
        rig.count(partial(replace_at, rig, number))
        assert rig.run(script) == wanted, f"restored at access {number}"
        rig.close()


@pytest.mark.parametrize("name", ["read pio lba28", "write multiple lba28", "cd pio by odd bits"])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_between_two_words(engine: Engine, name: str, width: int) -> None:
    """Also in the middle of a DRQ block."""
    wanted, _ = undisturbed(engine, SCRIPTS[name])
    rig = Rig(engine)
    rig.wires.width = width
    rig.count(lambda now: rig.replace() if now % 29 == 0 else None)
    assert rig.run(SCRIPTS[name]) == wanted
    rig.close()


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in WITHOUT_THE_DISK])
def test_while_the_disk_works(engine: Engine, name: str, polled: bool) -> None:
    """What the disk was doing is begun again by the other controller, and done once."""
    script = SCRIPTS[name]
    wanted, _ = undisturbed(engine, script)
    rig = Rig(engine, polled=polled)
    seen: set[tuple[int, str, int, int]] = set()

    def poll() -> None:
        held = [
            (number, operation)
            for number, puppet in enumerate(rig.puppets)
            for operation in puppet.held
        ]
        new = {(number, op.name, op.sector, op.count) for number, op in held} - seen
        seen.update(new)
        for _, operation in held:
            if new:
                operation.cancel()
            else:
                operation.complete()
        if new:
            rig.replace()
        engine.turn(0)

    for puppet in rig.puppets:
        puppet.holds = lambda *_: True
    for channel in rig.driver.channels:
        channel.poll = poll
    learnt = script(rig.driver)
    for puppet in rig.puppets:
        puppet.holds = lambda *_: False
    assert (learnt, [content(disk) for disk in rig.disks]) == wanted
    assert seen
    rig.close()


@pytest.mark.parametrize("via", Via)
def test_a_failure_after_it(engine: Engine, via: Via) -> None:
    """The disk fails what the other controller has asked it again."""
    rig = Rig(engine)
    disk = rig.driver.disk(0, 0)
    puppet = rig.puppets[0]
    puppet.holds = lambda name, sector, count: name == "read" and sector <= 30 < sector + count
    seen = 0

    def poll() -> None:
        nonlocal seen
        for operation in puppet.held:
            seen += 1
            if seen == 1:
                operation.cancel()
                rig.replace()
            else:
                operation.fail(MediumError(Medium.UNRECOVERED_READ, 30))
        engine.turn(0)

    disk.channel.poll = poll
    with pytest.raises(IdeError) as caught:
        disk.read(28, 8, via, By.LBA48)
    if via is not Via.INT13:
        assert caught.value.error.UNC
        assert disk.channel.sector(ext=True) == 30
    assert seen >= 2
    rig.close()


def test_a_reset_that_waits_for_the_disk(engine: Engine) -> None:
    """Saved between SRST and the drive's coming up."""
    rig = Rig(engine)
    disk = rig.driver.disk(0, 0)
    rig.puppets[0].holds = lambda *_: True
    disk.channel.issue(0, disk.command(Opcode.READ_SECTORS, 0, 8, By.LBA28))
    disk.channel.control(4)
    rig.replace()
    assert disk.channel.alternate_status() & 0x80, "BSY while the reset is held"
    disk.channel.control(0)
    rig.replace()
    rig.puppets[0].holds = lambda *_: False
    assert disk.channel.signature(0)[1] == [1, 1, 0, 0]
    assert disk.read(0, 8) == noise(SIZE)[:4096]
    rig.close()


def test_other_drives_are_refused(engine: Engine) -> None:
    rig = Rig(engine)
    with pytest.raises(ValueError, match="other drives"):
        rig.wires.replace({(0, 0): AtaDisk(rig.disks[0], engine)})
    rig.close()

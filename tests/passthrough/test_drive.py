"""The drive by hand, over a simulated SAT device: what reaches the real one, what comes back."""

from __future__ import annotations

import errno
import logging
from typing import Any

import msgspec
import pytest

from drivebay.ata.identify import IdentifyData
from drivebay.ata.passthrough import PassthroughDrive, Policy, identify
from drivebay.ata.registers import Status
from drivebay.ata.taskfile import TaskFile
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import InvalidInput
from drivebay.platform.engine import Engine
from drivebay.scsi import sense as senses
from tests.ide.support import content, filled, noise

from .support import EVERYTHING, Hand, Rig, SatDevice, taskfile

GOOD, FAILED = 0x50, 0x51
ABRT, IDNF, UNC = 0x04, 0x10, 0x40
READS = {0x20: False, 0x24: True, 0x25: True, 0xC8: False, 0x29: True, 0xC4: False}
WRITES = {0x30: False, 0x34: True, 0x35: True, 0xCA: False, 0x39: True, 0xC5: False}


@pytest.mark.parametrize("opcode", READS)
@pytest.mark.parametrize("sectors", [1, 7, 130])
@pytest.mark.parametrize("part", [512, 1024, 1 << 30])
def test_reads(engine: Engine, opcode: int, sectors: int, part: int) -> None:
    disk = filled(1 << 20)
    rig = Rig(engine, disk)
    rig.non_data(taskfile(0xC6, count=4))
    data = rig.take(taskfile(opcode, count=sectors, lba=9), sectors * 512, part)
    assert rig.outcome == (GOOD, 0)
    assert data == content(disk)[9 * 512 :][: sectors * 512]
    assert rig.sent == [0xC6, opcode]  # whatever the parts, one command


@pytest.mark.parametrize("opcode", WRITES)
@pytest.mark.parametrize("sectors", [1, 7, 130])
@pytest.mark.parametrize("part", [512, 1024, 1 << 30])
def test_writes(engine: Engine, opcode: int, sectors: int, part: int) -> None:
    rig, data = Rig(engine), noise(sectors * 512)
    rig.non_data(taskfile(0xC6, count=4))
    rig.give(taskfile(opcode, count=sectors, lba=9), data, part)
    assert rig.outcome == (GOOD, 0)
    assert content(rig.disk)[9 * 512 :][: sectors * 512] == data
    assert rig.sent == [0xC6, opcode]


def test_multiple_sectors_make_a_block(engine: Engine) -> None:
    rig = Rig(engine)
    rig.take(taskfile(0xC4, count=10), 5120)
    assert rig.outcome == (FAILED, ABRT)
    assert rig.sent == []  # not before SET MULTIPLE MODE
    rig.non_data(taskfile(0xC6, count=4))
    rig.take(taskfile(0xC4, count=10), 5120)
    assert rig.hand.blocks == [2048, 2048, 1024]
    assert rig.sat.log[-1][1] >> 5 == 2


def test_a_refused_set_multiple_mode_changes_nothing(engine: Engine) -> None:
    rig = Rig(engine)
    rig.non_data(taskfile(0xC6, count=3))
    assert rig.outcome == (FAILED, ABRT)
    assert rig.drive.multiple == 0


def test_sectors_of_4096_bytes(engine: Engine) -> None:
    disk = filled(1 << 20, sector_size=4096)
    rig = Rig(engine, disk)
    assert rig.take(taskfile(0x25, count=3, lba=2), 12288) == content(disk)[8192:20480]
    assert rig.sat.log[0][2] == 0x3E  # in units of sectors
    assert rig.take(taskfile(0x20, count=2), 8192) == content(disk)[:8192]
    assert rig.hand.blocks == [4096, 4096]


@pytest.mark.parametrize("fixed", [False, True])
def test_registers_that_are_the_answer(engine: Engine, fixed: bool) -> None:
    rig = Rig(engine, fixed=fixed)
    assert rig.non_data(taskfile(0xE5)).count == 0xFF  # active
    assert rig.non_data(taskfile(0xF8)).lba28 == 2047
    assert rig.non_data(taskfile(0x27)).lba48 == 2047
    assert rig.non_data(taskfile(0xB0, features=0xDA, lba=0xC24F00)).lba_mid_high == 0xC24F


HUGE = 0x1_2345_6789 * 512  # more sectors than 24 bits tell


def test_previous_bytes_come_back(engine: Engine) -> None:
    rig = Rig(engine, RamDisk(HUGE))
    assert rig.non_data(taskfile(0x27)).lba48 == 0x1_2345_6788
    rig.non_data(taskfile(0x42, count=1, lba=0x1_FFFF_FFFF))
    assert rig.outcome == (FAILED, ABRT | IDNF)


def test_fixed_sense_cannot_tell_a_large_size_and_no_wrong_one_is_told(engine: Engine) -> None:
    rig = Rig(engine, RamDisk(HUGE), fixed=True)
    rig.non_data(taskfile(0x27))
    assert rig.outcome == (FAILED, ABRT)


@pytest.mark.parametrize(
    ("start", "bad"), [(0x12345678, 0x12345679), (0x12FFFFFE, 0x13000001), (0x12345678, 0x12345678)]
)
def test_of_a_read_error_in_fixed_sense_the_upper_half_is_guessed(
    engine: Engine, start: int, bad: int
) -> None:
    rig = Rig(engine, fixed=True)
    sense = senses.FixedSense(
        sense_key=3,
        information=UNC << 24 | 0x51 << 16 | 0xE0 << 8 | 1,
        command_specific_information=0xA0 << 24
        | (bad & 0xFF) << 16
        | bad & 0xFF00
        | bad >> 16 & 0xFF,
        additional_sense_code=0x11,
    ).pack()
    rig.sat.instead = [(2, sense, 0)]
    registers = rig.non_data(taskfile(0x42, count=8, lba=start))
    assert rig.outcome == (FAILED, UNC)
    assert registers.lba48 == bad


def test_the_drives_own_errors_come_back(engine: Engine) -> None:
    rig = Rig(engine)
    rig.take(taskfile(0x25, count=2, lba=2047), 1024)
    assert rig.outcome == (FAILED, ABRT | IDNF)
    rig.take(taskfile(0x20, count=2, lba=2047), 1024)
    assert rig.outcome == (FAILED, ABRT | IDNF)
    assert rig.sent == [0x25, 0x20]  # nothing is tried again
    assert rig.hand.blocks == []
    rig.take(taskfile(0x20, count=255, lba=2000), 1 << 17)  # more than is read ahead
    assert rig.outcome == (FAILED, ABRT | IDNF)
    assert rig.sent == [0x25, 0x20, 0x20]
    rig.take(taskfile(0x20, count=2, lba=2046), 1024)
    assert rig.outcome == (GOOD, 0)


def test_status_bits_come_back(engine: Engine) -> None:
    rig = Rig(engine)
    fault = senses.FixedSense(information=0x04_71_E0_00, sense_key=4).pack()
    rig.sat.instead = [(2, fault, 0)]
    rig.non_data(taskfile(0xEA))
    assert rig.outcome == (0x71, ABRT)
    rig.sat.instead = [(2, senses.FixedSense(information=0x00_40_E0_00).pack(), 0)]
    rig.non_data(taskfile(0xEA))
    assert rig.outcome == (0x40, 0)
    rig.non_data(taskfile(0xEA))
    assert rig.outcome == (GOOD, 0)


@pytest.mark.parametrize("unit", [0, 0x10])
def test_the_device_bit_is_the_guests(engine: Engine, unit: int) -> None:
    rig = Rig(engine)
    registers = rig.non_data(taskfile(0x40, count=1, lba=5, device=0xE0 | unit))
    assert registers.device == 0xE0 | unit
    assert rig.sat.log[0][13] == 0xE0


# -- the transport ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ETIMEDOUT, errno.EIO])
def test_a_drive_that_is_gone(engine: Engine, number: int, caplog: Any) -> None:
    rig = Rig(engine)
    for registers, size in ((taskfile(0x25, count=1), 512), (taskfile(0x20, count=200), 1 << 17)):
        rig.sat.instead = [OSError(number, "gone")]
        assert rig.take(registers, size) == bytes(512) * (registers.command == 0x25)
        assert rig.outcome == (FAILED, ABRT)
        assert len(rig.sat.instead) == 0
    assert "gone" in caplog.text
    assert rig.sent == [0x25, 0x20]
    rig.take(taskfile(0x25, count=1), 512)  # it is back
    assert rig.outcome == (GOOD, 0)


def test_a_unit_attention_took_the_commands_place(engine: Engine) -> None:
    rig = Rig(engine)
    attention = senses.POWER_ON_OR_RESET
    rig.sat.instead = [(2, attention.fixed(), 512), (2, attention.descriptor(), 512)]
    rig.give(taskfile(0x35, count=1), noise(512))
    assert rig.outcome == (GOOD, 0)
    assert rig.sent == [0x35] * 3
    assert content(rig.disk)[:512] == noise(512)
    rig.sat.instead = [(2, attention.fixed(), 0)] * 3
    rig.non_data(taskfile(0xEA))
    assert rig.outcome == (FAILED, ABRT)


@pytest.mark.parametrize(
    ("status", "sense", "error"),
    [
        (0x08, b"", ABRT),  # BUSY
        (0x18, b"", ABRT),  # RESERVATION CONFLICT
        (0x02, b"", None),  # CHECK CONDITION that says nothing
        (0x02, senses.INVALID_FIELD_IN_CDB.fixed(), ABRT),
        (0x02, senses.UNRECOVERED_READ_ERROR.descriptor(), UNC),
        (0x00, b"", None),  # a bridge that knows no CK_COND
    ],
)
def test_answers_without_registers(
    engine: Engine, status: int, sense: bytes, error: int | None
) -> None:
    rig = Rig(engine)
    rig.sat.instead = [(status, sense, 0)]
    before = taskfile(0xEA)
    after = rig.non_data(before)
    assert rig.outcome == ((GOOD, 0) if error is None else (FAILED, error))
    assert after.save() == before.save()


def test_no_answer_is_made_up(engine: Engine) -> None:
    """CHECK POWER MODE without registers would tell what the guest wrote."""
    rig = Rig(engine)
    rig.sat.instead = [(0, b"", 0)]
    rig.non_data(taskfile(0xE5, count=0x77))
    assert rig.outcome == (FAILED, ABRT)


@pytest.mark.parametrize("opcode", [0x25, 0x20, 0x35, 0x30])
def test_short_transfers_are_failures(engine: Engine, opcode: int) -> None:
    rig = Rig(engine)
    rig.sat.residual = 8
    if opcode & 0x10:
        rig.give(taskfile(opcode, count=2), noise(1024))
    else:
        rig.take(taskfile(opcode, count=2), 1024)
    assert rig.outcome == (FAILED, ABRT)
    assert rig.sent == [opcode]


def test_one_command_moves_so_much_and_no_more(engine: Engine, caplog: Any) -> None:
    disk = filled(1 << 20)
    rig = Rig(engine, disk, max_transfer=1 << 16)
    assert rig.take(taskfile(0x25, count=128), 1 << 16) == content(disk)[: 1 << 16]
    rig.take(taskfile(0x25, count=129), 1 << 17)
    assert rig.outcome == (FAILED, ABRT)
    rig.take(taskfile(0x25, count=0), 1 << 17)  # 65536 sectors
    assert rig.outcome == (FAILED, ABRT)
    assert rig.sent == [0x25]
    assert "65536 at most" in caplog.text


def test_lengths_that_are_none(engine: Engine) -> None:
    rig = Rig(engine)
    rig.take(taskfile(0x2F, lba=0x10), 512)
    assert rig.outcome == (FAILED, ABRT)
    assert rig.sent == []
    rig.non_data(taskfile(0x92, features=0x0F))  # activate what was downloaded before
    assert rig.sat.log[0][1:3].hex() == "0620"


# -- policy ----------------------------------------------------------------------------------------


def test_by_default_the_drive_is_read_only(engine: Engine, caplog: Any) -> None:
    rig = Rig(engine, filled(1 << 20), policy=None)
    before = content(rig.disk)
    for registers in (
        taskfile(0x30, count=1),
        taskfile(0x35, count=1),
        taskfile(0xCA, count=1),
        taskfile(0x06, features=1, count=1),
        taskfile(0xF4),
        taskfile(0x92, features=7, count=1),
        taskfile(0xEF, features=2),
        taskfile(0x61, count=1),
        taskfile(0xFE),
    ):
        rig.give(registers, bytes(512))
        assert rig.outcome == (FAILED, ABRT)
    assert rig.sent == []
    assert "refused: WRITE DMA EXT" in caplog.text
    assert "the policy does not allow write" in caplog.text
    assert rig.take(taskfile(0x25, count=1), 512) == before[:512]
    rig.non_data(taskfile(0xEA))
    assert rig.outcome == (GOOD, 0)
    assert content(rig.disk) == before


def test_each_command_is_logged(engine: Engine, caplog: Any) -> None:
    rig = Rig(engine)
    with caplog.at_level(logging.DEBUG, "drivebay.ata.passthrough"):
        rig.take(taskfile(0x25, count=1, lba=5000), 512)
    assert (
        "READ DMA EXT [85 0d 2e 00 00 00 01 00 88 00 13 00 00 e0 25 00] -> "
        "status 02, sense 0b/00/00, registers 51/14"
    ) in caplog.text


def test_dry_run(engine: Engine, caplog: Any) -> None:
    rig = Rig(engine, policy=Policy.of("write", dry_run=True))
    with caplog.at_level(logging.INFO, "drivebay.ata.passthrough"):
        rig.give(taskfile(0x35, count=1, lba=1), bytes(512))
        assert rig.outcome == (FAILED, ABRT)
        assert b" aerlad irev" in rig.take(taskfile(0xEC), 512)  # "a real drive", swapped
        assert rig.outcome == (GOOD, 0)
        rig.non_data(taskfile(0xE6))
        assert rig.outcome == (FAILED, ABRT)
    assert "WRITE DMA EXT [85 0d 26 00 00 00 01 00 01 00 00 00 00 e0 35 00]" in caplog.text
    assert "the policy does not allow settings" in caplog.text
    assert rig.sent == []


# -- what ends at the guest's cable ----------------------------------------------------------------


def test_identify_tells_of_no_queue(engine: Engine) -> None:
    rig = Rig(engine)
    rig.real.sata = rig.sat  # type: ignore[assignment]  # which makes it announce NCQ
    real = IdentifyData.unpack(identify(rig.sat))
    assert real.sata_capabilities & 0x100
    data = rig.take(taskfile(0xEC), 512)
    assert sum(data) & 0xFF == 0
    seen = IdentifyData.unpack(data)
    assert seen.queue_depth_z == 0
    assert seen.sata_capabilities == real.sata_capabilities & ~0x100
    assert seen.sata_additional & 0x60 == 0
    assert seen.serial_number == real.serial_number
    assert seen.commands_2 == real.commands_2
    for opcode in (0x60, 0x61, 0x63, 0x64, 0x65):
        rig.non_data(taskfile(opcode, features=1))
        assert rig.outcome == (FAILED, ABRT)


def test_trim_is_shown_to_who_may_use_it(engine: Engine) -> None:
    for policy, bit in ((EVERYTHING, 1), (Policy.of("write"), 0)):
        rig = Rig(engine, policy=policy)
        seen = IdentifyData.unpack(rig.take(taskfile(0xEC), 512))
        assert seen.data_set_management == bit


def test_registers_written_meanwhile_change_nothing(engine: Engine) -> None:
    rig = Rig(engine, policy=Policy.of("settings"))
    shown = rig.take(taskfile(0xEC), 512)
    for registers in (taskfile(0xEC), taskfile(0xC6, count=4)):
        rig.drive.taskfile.load(registers.save())
        rig.drive.execute()
        rig.drive.taskfile.load(taskfile(0x35, count=77).save())
        while rig.drive.status & Status.BSY:
            engine.turn(0)
        if registers.command == 0xEC:
            assert rig.drive.block == shown
            rig.drive.block_done()
            while rig.drive.busy:
                engine.turn(0)
    assert rig.drive.multiple == 4
    assert rig.sent == [0xEC, 0xEC, 0xC6]


def test_identify_in_parts(engine: Engine) -> None:
    rig = Rig(engine)
    whole = rig.take(taskfile(0xEC), 512)
    assert rig.sent == [0xEC]
    assert whole == rig.drive.show(identify(rig.sat))


def test_transfer_modes_stay_here(engine: Engine) -> None:
    rig = Rig(engine, policy=None)
    assert IdentifyData.unpack(rig.take(taskfile(0xEC), 512)).ultra_dma == 0x203F
    for count, words in ((0x42, (0x043F, 0x07)), (0x21, (0x3F, 0x0207)), (0x0C, (0x3F, 0x0207))):
        rig.non_data(taskfile(0xEF, features=3, count=count))
        assert rig.outcome == (GOOD, 0)
        seen = IdentifyData.unpack(rig.take(taskfile(0xEC), 512))
        assert (seen.ultra_dma, seen.multiword_dma) == words
    rig.non_data(taskfile(0xEF, features=3, count=0x46))
    assert rig.outcome == (FAILED, ABRT)
    assert set(rig.sent) == {0xEC}


def test_diagnostics_and_resets_stay_here(engine: Engine) -> None:
    rig = Rig(engine)
    registers = rig.non_data(taskfile(0x90))
    assert rig.outcome == (GOOD, 1)
    assert (registers.count, registers.lba_low, registers.lba_mid_high) == (1, 1, 0)
    Hand(rig.drive, engine)
    assert rig.sent == []


def test_what_is_no_disk_is_refused(engine: Engine) -> None:
    rig = Rig(engine)
    packet = bytes.fromhex("0080") + bytes(510)
    with pytest.raises(InvalidInput, match="packet device"):
        PassthroughDrive(rig.sat, engine, packet)
    with pytest.raises(InvalidInput, match="512"):
        PassthroughDrive(rig.sat, engine, b"")
    for answer in (
        (0, b"", 0),
        (2, senses.INVALID_COMMAND_OPERATION_CODE.fixed(), 512),
        (0, b"", 512),
    ):
        rig.sat.instead = [answer]
        with pytest.raises(InvalidInput, match="no ATA disk"):
            identify(rig.sat)


# -- saving ----------------------------------------------------------------------------------------


def test_what_was_answered_is_not_sent_again(engine: Engine) -> None:
    """Saved between two blocks of a PIO read, restored over the same drive."""
    disk = filled(1 << 20)
    rig = Rig(engine, disk)
    rig.non_data(taskfile(0xEF, features=3, count=0x42))
    registers: TaskFile = taskfile(0x20, count=200, lba=3)
    rig.drive.wire = None
    rig.drive.taskfile.load(registers.save())
    rig.drive.execute()
    got = bytearray()
    drive = rig.drive
    for _ in range(200):
        while not drive.status & Status.DRQ:
            engine.turn(0)
        got += drive.block
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(drive.save()))
        drive = PassthroughDrive(rig.sat, engine, rig.drive.identity, EVERYTHING)
        drive.restore(state)
        drive.resume()
        drive.block_done()
    assert bytes(got) == content(disk)[3 * 512 :][: len(got)]
    assert drive.status == GOOD
    assert drive.taskfile.lba28 == 202
    assert rig.sent == [0x20]
    assert drive.modes == rig.drive.modes


def test_sat_device_answers_alike_in_both_formats(engine: Engine) -> None:
    rig = Rig(engine)
    assert isinstance(rig.sat, SatDevice)
    rig.sat.fixed = True
    assert rig.non_data(taskfile(0x40, count=1, lba=7)).lba28 == 7

"""The tray: who moves it, who locks it, and how the guest learns of it."""

from __future__ import annotations

import copy
import errno
import logging

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.errors import IoError
from drivebay.disk.filters.base import Filter
from drivebay.scsi import cdb
from drivebay.scsi.dvd import Dvd, Locked
from drivebay.scsi.dvd import cdb as mmc
from drivebay.scsi.mode import ModeHeader10
from drivebay.scsi.sense import UNRECOVERED_READ_ERROR, CheckCondition, Sense
from drivebay.scsi.server import request_sense
from drivebay.suspend import run
from drivebay.wire import Struct
from tests.scsi.support import (
    ALLOW,
    BLOCK,
    EJECT,
    LOAD,
    PREVENT,
    TEST_UNIT_READY,
    complete,
    disc,
    perform,
    quiet,
    sense,
)

READY = (0, 0, 0)
NO_MEDIUM = (2, 0x3A, 1)
TRAY_OPEN = (2, 0x3A, 2)
CHANGED = (6, 0x28, 0)
RESET = (6, 0x29, 0)


def events(drive: Dvd, classes: int = 0x10, length: int = 255) -> bytes:
    """GET EVENT STATUS NOTIFICATION, of the media class unless said."""
    asked = mmc.GetEventStatusNotification(
        flags=1, notification_class_request=classes, allocation_length=length
    )
    return perform(drive, asked)


def media(event: int, status: int) -> bytes:
    return bytes([0, 6, 4, 0x7E, event, status, 0, 0])


def ready(drive: Dvd) -> tuple[int, int, int]:
    return sense(drive, TEST_UNIT_READY)


class Ejectable(Filter):
    """A disk that can eject, or fails to."""

    def __init__(self, below: Disk, failure: IoError | None = None) -> None:
        super().__init__(below)
        self.ejected, self.failure = 0, failure

    async def eject(self) -> None:
        self.ejected += 1
        if self.failure:
            raise self.failure


# -- unit attention ------------------------------------------------------------------------------


def test_power_on_is_told_once() -> None:
    drive = Dvd(disc()[0])
    assert [ready(drive), ready(drive)] == [RESET, READY]
    drive.reset()
    drive.reset()
    assert [ready(drive), ready(drive)] == [RESET, READY]


def test_a_reset_hides_a_change_but_not_the_other_way_round() -> None:
    drive = Dvd()
    drive.insert(disc()[0])
    assert [ready(drive), ready(drive), ready(drive)] == [RESET, CHANGED, READY]
    drive.insert(disc()[0])
    drive.reset()
    assert [ready(drive), ready(drive)] == [RESET, READY]


@pytest.mark.parametrize(
    "command",
    [
        cdb.Inquiry(allocation_length=36),
        mmc.GetConfiguration(allocation_length=8),
        mmc.GetEventStatusNotification(
            flags=1, notification_class_request=0x10, allocation_length=8
        ),
        cdb.ReportLuns(allocation_length=16),
    ],
    ids=lambda command: type(command).__name__,
)
def test_a_unit_attention_waits_for_another_command(command: Struct) -> None:
    drive = Dvd()
    assert sense(drive, command) == READY
    assert ready(drive) == RESET


def test_request_sense_tells_the_unit_attention_too() -> None:
    drive = Dvd(disc()[0])
    asked = cdb.RequestSense(allocation_length=255)
    assert perform(drive, asked) == bytes.fromhex("70 00 06 00000000 0a 00000000 29 00 00 000000")
    assert perform(drive, asked) == bytes.fromhex("70 00 00 00000000 0a 00000000 00 00 00 000000")
    drive.reset()
    described = cdb.RequestSense(desc=1, allocation_length=255)
    assert perform(drive, described) == bytes.fromhex("72 06 29 00 000000 00")
    assert ready(drive) == READY


def test_nonsense_does_not_use_up_the_unit_attention() -> None:
    drive = Dvd()
    assert sense(drive, bytes([0xFF] * 16)) == (5, 0x20, 0)
    assert sense(drive, bytes([0x28, 0, 0])) == (5, 0x24, 0)
    assert ready(drive) == RESET


def test_a_guest_that_expects_no_unit_attention() -> None:
    drive = Dvd(disc()[0], unit_attention=False)
    assert ready(drive) == READY
    drive.reset()
    drive.insert(disc()[0])
    assert ready(drive) == READY


def test_media_errors_carry_their_block() -> None:
    asked = cdb.RequestSense(allocation_length=255)
    bad = sense_at(7)
    data = complete(request_sense(asked, bad))
    assert data == bytes.fromhex("f0 00 03 00000007 0a 00000000 11 00 00 000000")
    described = complete(request_sense(cdb.RequestSense(desc=1, allocation_length=255), bad))
    assert described == bytes.fromhex("72 03 11 00 000000 0c 000a8000 0000000000000007")
    far = complete(request_sense(asked, sense_at(1 << 32)))
    assert far[:7] == bytes.fromhex("70 00 03 00000000"), "too large for 32 bits"


def sense_at(block: int) -> Sense:
    return UNRECOVERED_READ_ERROR._replace(information=block)


# -- the host's tray -----------------------------------------------------------------------------


def test_insert_and_remove() -> None:
    first, second = disc(64)[0], disc(32)[0]
    drive = quiet()
    assert ready(drive) == NO_MEDIUM
    assert drive.insert(first) is None
    assert [ready(drive), ready(drive)] == [CHANGED, READY]
    assert drive.insert(second) is first
    assert [ready(drive), ready(drive)] == [CHANGED, READY]
    assert drive.remove() is second
    assert (ready(drive), drive.tray_open, drive.disk) == (TRAY_OPEN, True, None)
    assert drive.remove() is None
    drive.close_tray()
    assert ready(drive) == NO_MEDIUM


def test_a_medium_lies_in_the_open_tray() -> None:
    drive = quiet(disc()[0])
    drive.open_tray()
    assert ready(drive) == TRAY_OPEN
    assert (drive.disk is not None, drive.medium) == (True, None)
    drive.close_tray()
    assert [ready(drive), ready(drive)] == [CHANGED, READY]


def test_a_medium_is_laid_into_the_open_tray() -> None:
    drive = quiet()
    disk = disc()[0]
    drive.insert(disk, close=False)
    assert (ready(drive), drive.disk, drive.tray_open) == (TRAY_OPEN, disk, True)
    assert sense(drive, LOAD) == READY
    assert [ready(drive), ready(drive)] == [CHANGED, READY]


def test_a_change_that_nobody_saw_is_no_change_of_what_is_there() -> None:
    drive = quiet(disc()[0])
    drive.open_tray()
    drive.close_tray()
    drive.open_tray()
    assert ready(drive) == TRAY_OPEN, "not 28/00: it cannot be read"


def test_listeners() -> None:
    drive = quiet(disc()[0])
    moves: list[bool] = []
    end = drive.on_tray(moves.append)
    drive.open_tray()
    drive.open_tray()
    drive.close_tray()
    assert ready(drive) == CHANGED
    perform(drive, EJECT)
    perform(drive, LOAD)
    assert moves == [True, False, True, False]
    end()
    drive.open_tray()
    assert len(moves) == 4


def test_the_host_asks_and_may_insist() -> None:
    drive = quiet(disc()[0])
    events(drive)
    perform(drive, PREVENT)
    for ask in ("open", "remove", "insert"):
        with pytest.raises(Locked):
            if ask == "open":
                drive.open_tray()
            elif ask == "remove":
                drive.remove()
            else:
                drive.insert(disc()[0])
        assert ready(drive) == READY
    assert [events(drive), events(drive)] == [media(1, 2), media(0, 2)], "asked once"
    drive.open_tray(force=True)
    assert ready(drive) == TRAY_OPEN
    drive.close_tray()
    assert ready(drive) == CHANGED
    perform(drive, ALLOW)
    drive.open_tray()
    assert ready(drive) == TRAY_OPEN


def test_both_locks_lock() -> None:
    drive = quiet(disc()[0])
    for lock, unlock in ((1, 0), (3, 2)):
        perform(drive, bytes([0x1E, 0, 0, 0, lock, 0]))
        assert sense(drive, EJECT) == (5, 0x53, 2)
        perform(drive, bytes([0x1E, 0, 0, 0, unlock ^ 2, 0]))
        assert drive.locked, "the other one changes nothing"
        perform(drive, bytes([0x1E, 0, 0, 0, unlock, 0]))
        assert not drive.locked
    perform(drive, PREVENT)
    drive.reset()
    assert not drive.locked


def test_a_resize_is_another_disc() -> None:
    disk = disc(64)[0]
    drive = quiet(disk)
    events(drive)
    run(disk.resize(32 * 4))
    assert [ready(drive), ready(drive)] == [CHANGED, READY]
    assert events(drive) == media(2, 2)
    assert perform(drive, bytes([0x25, *bytes(9)]))[:4] == bytes([0, 0, 0, 31])
    drive.remove()
    run(disk.resize(64 * 4))
    assert events(drive) == media(3, 1)
    assert events(drive) == media(0, 1)


# -- the guest's tray ----------------------------------------------------------------------------


def test_the_guest_ejects_and_loads() -> None:
    disk = Ejectable(disc()[0])
    drive = quiet(disk)
    perform(drive, EJECT)
    assert (ready(drive), disk.ejected, drive.disk) == (TRAY_OPEN, 1, disk)
    perform(drive, EJECT)
    assert disk.ejected == 1, "the tray is open already"
    perform(drive, LOAD)
    assert [ready(drive), ready(drive)] == [CHANGED, READY]


def test_what_the_host_took_does_not_come_back() -> None:
    drive = quiet(disc()[0])
    perform(drive, EJECT)
    drive.remove()
    perform(drive, LOAD)
    assert ready(drive) == NO_MEDIUM


def test_a_disk_that_cannot_eject(caplog: pytest.LogCaptureFixture) -> None:
    drive = quiet(disc()[0])
    with caplog.at_level(logging.WARNING):
        perform(drive, EJECT)
    assert ready(drive) == TRAY_OPEN
    assert not caplog.records
    drive = quiet(Ejectable(disc()[0], IoError(errno.EIO, "eject")))
    with caplog.at_level(logging.WARNING):
        perform(drive, EJECT)
    assert ready(drive) == TRAY_OPEN
    assert "eject" in caplog.text


def test_eject_while_locked() -> None:
    drive = quiet(disc()[0])
    task = drive.execute(EJECT)
    perform(drive, PREVENT)
    with pytest.raises(CheckCondition):
        run(task.finish())
    assert sense(drive, EJECT) == (5, 0x53, 2)
    assert ready(drive) == READY
    empty = quiet()
    perform(empty, PREVENT)
    assert sense(empty, EJECT) == (2, 0x53, 2)


@pytest.mark.parametrize("flags", [0, 1, 0x10, 0x20, 0x30, 0x50, 0x12])
def test_starting_and_stopping_moves_nothing(flags: int) -> None:
    drive = quiet(disc()[0])
    perform(drive, cdb.StartStopUnit(immed=1, flags=flags))
    assert ready(drive) == READY


def test_unknown_power_conditions() -> None:
    assert sense(quiet(), cdb.StartStopUnit(flags=0x70)) == (5, 0x24, 0)


def test_mechanism_status() -> None:
    drive = quiet(disc()[0])
    asked = mmc.MechanismStatus(allocation_length=255)
    assert perform(drive, asked) == bytes(8)
    drive.open_tray()
    assert perform(drive, asked) == bytes([0, 0x10, *bytes(6)])


# -- events --------------------------------------------------------------------------------------


def test_media_events() -> None:
    drive = quiet(disc()[0])
    assert [events(drive), events(drive)] == [media(2, 2), media(0, 2)]
    drive.open_tray()
    assert [events(drive), events(drive)] == [media(3, 1), media(0, 1)]
    drive.close_tray()
    drive.insert(disc()[0])
    assert [events(drive) for _ in range(3)] == [media(3, 2), media(2, 2), media(0, 2)]
    assert events(quiet()) == media(0, 0)


def test_an_event_stays_until_its_descriptor_has_been_read() -> None:
    drive = quiet(disc()[0])
    assert events(drive, length=4) == bytes([0, 6, 4, 0x7E])
    task = drive.execute(
        mmc.GetEventStatusNotification(
            flags=1, notification_class_request=0x10, allocation_length=8
        ).pack()
    )
    assert task.length == 8  # and is given up
    assert events(drive) == media(2, 2)


def test_features_change_with_the_medium() -> None:
    drive = quiet()
    quiet_answer = bytes([0, 6, 1, 0x7E, 0, 0, 0, 0])
    assert events(drive, 0x02) == quiet_answer
    drive.insert(disc()[0])
    assert events(drive, 0x7E) == bytes([0, 6, 1, 0x7E, 2, 0, 0, 1])
    assert events(drive, 0x7E) == media(2, 2)
    assert events(drive, 0x7E) == quiet_answer
    assert ready(drive) == CHANGED
    perform(drive, bytes([0x1E, 0, 0, 0, 3, 0]))
    assert events(drive, 0x02)[5] == 0x80


@pytest.mark.parametrize(("kind", "status"), [(2, 1), (3, 0), (5, 0), (6, 0)])
def test_quiet_classes(kind: int, status: int) -> None:
    assert events(Dvd(), 1 << kind) == bytes([0, 6, kind, 0x7E, 0, status, 0, 0])


def test_no_class_that_there_is() -> None:
    assert events(Dvd(), 0x81) == bytes([0, 2, 0x80, 0x7E])


def test_events_must_be_polled() -> None:
    asked = mmc.GetEventStatusNotification(notification_class_request=0x10)
    assert sense(Dvd(), asked) == (5, 0x24, 0)


# -- save and restore ----------------------------------------------------------------------------


def plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return type(value) in (int, bool, str, bytes)


def test_save_and_restore() -> None:
    def prepared() -> Dvd:
        drive = Dvd(disc()[0])
        drive.insert(disc()[0])
        drive.lock(True, persistent=True)
        drive.set_speed(1385)
        page = bytes(8) + bytes([1, 10, 0, 77, *bytes(8)])
        drive.pages.select(page, ModeHeader10)
        return drive

    before = prepared()
    state = before.save()
    assert plain(state)
    after = Dvd(disc()[0])
    after.restore(copy.deepcopy(state))
    assert after.save() == state
    assert [events(after, 0x7E) for _ in range(4)] == [events(before, 0x7E) for _ in range(4)]
    for _ in range(3):
        assert ready(after) == ready(before)
    page = cdb.ModeSense10(page=0x3F, allocation_length=255)
    assert perform(after, page) == perform(before, page)
    assert after.locked

    with pytest.raises(ValueError, match="medium"):
        Dvd().restore(state)
    with pytest.raises(ValueError, match="no mode page"):
        Dvd(disc()[0]).restore(state | {"pages": [b"\x08\x00"]})


def test_save_and_restore_of_an_open_tray() -> None:
    drive = quiet(disc()[0])
    drive.open_tray()
    after = Dvd(RamDisk(64 * BLOCK))
    after.restore(drive.save())
    assert ready(after) == TRAY_OPEN
    perform(after, LOAD)
    assert [ready(after), ready(after)] == [CHANGED, READY]

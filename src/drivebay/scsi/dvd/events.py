"""GET EVENT STATUS NOTIFICATION: what has happened since the host last asked (MMC-6)."""

from __future__ import annotations

import enum
from functools import partial
from typing import TYPE_CHECKING, Final

from drivebay.scsi.dvd import cdb as mmc
from drivebay.scsi.replies import Reply, nothing
from drivebay.scsi.sense import INVALID_FIELD_IN_CDB, CheckCondition
from drivebay.scsi.task import Task
from drivebay.wire import U8, U16, Bit, Bits, Register8, Struct

if TYPE_CHECKING:
    from drivebay.scsi.dvd.drive import Dvd

__all__ = ["EventHeader", "Events", "MediaEvent", "MediaEventDescriptor", "NotificationClass"]


class NotificationClass(enum.IntEnum):
    """Classes of events, the most urgent first."""

    OPERATIONAL_CHANGE = 1
    POWER_MANAGEMENT = 2
    EXTERNAL_REQUEST = 3
    MEDIA = 4
    MULTI_HOST = 5
    DEVICE_BUSY = 6


SUPPORTED: Final = sum(1 << kind for kind in NotificationClass)


class MediaEvent(enum.IntEnum):
    """Event codes of the media class, MMC-6."""

    NO_CHANGE = 0
    EJECT_REQUEST = 1
    NEW_MEDIA = 2
    MEDIA_REMOVAL = 3


class NotificationByte(Register8):
    """Byte 2 of the header."""

    NEA = Bit(7)  # no event available: none of the classes asked for is supported
    CLASS = Bits(2, 0)


class EventHeader(Struct, size=4, byte_order=">"):
    """Before the event. The length does not count itself."""

    event_descriptor_length: U16 = 0
    notification: U8 = 0
    supported_event_classes: U8 = SUPPORTED


class OperationalDescriptor(Struct, size=4, byte_order=">"):
    """Operational change event, MMC-6."""

    event: U8 = 0
    persistent_prevented_status: U8 = 0
    operational_change: U16 = 0


class MediaStatus(Register8):
    """Media status, MMC-6."""

    MEDIA_PRESENT = Bit(1)
    DOOR_OPEN = Bit(0)


class MediaEventDescriptor(Struct, size=4, byte_order=">"):
    """Media event, MMC-6."""

    event: U8 = 0
    status: U8 = 0
    start_slot: U8 = 0
    end_slot: U8 = 0


class QuietDescriptor(Struct, size=4, byte_order=">"):
    """Of power management (status 1: active), external request, multi-host and device busy, whose
    events never happen here.
    """

    event: U8 = 0
    status: U8 = 0
    data: U16 = 0


OPERATIONAL_CHANGED: Final = 2
FEATURE_CHANGE: Final = 1
PERSISTENT_PREVENTED: Final = 0x80
POWER_ACTIVE: Final = 1


class Events:
    """What has happened and has not been told yet."""

    def __init__(self) -> None:
        self.media: list[MediaEvent] = []
        self.features_changed = False

    def new_media(self) -> None:
        """A medium can be read."""
        self._happened(MediaEvent.NEW_MEDIA)

    def media_removal(self) -> None:
        """It cannot any more; what was new or had to be ejected is gone."""
        self.media.clear()
        self._happened(MediaEvent.MEDIA_REMOVAL)

    def eject_request(self) -> None:
        """Somebody wants the medium, which is locked."""
        self._happened(MediaEvent.EJECT_REQUEST)

    def _happened(self, event: MediaEvent) -> None:
        if event not in self.media:
            self.media.append(event)

    def told(self, event: MediaEvent) -> None:
        """The host knows."""
        if event in self.media:
            self.media.remove(event)

    def features_told(self) -> None:
        """The host knows that other features are current now."""
        self.features_changed = False


def get_event_status_notification(drive: Dvd, cdb: mmc.GetEventStatusNotification) -> Task:
    """The most urgent event of the classes asked for. It has been told once its descriptor has."""
    if not cdb.flags & mmc.Polled.POLLED:
        raise CheckCondition(INVALID_FIELD_IN_CDB)  # asynchronous notification is optional
    asked = [kind for kind in NotificationClass if cdb.notification_class_request >> kind & 1]
    if not asked:
        header = EventHeader(EventHeader.size - 2, NotificationByte.NEA)
        return Reply(header.pack(), cdb.allocation_length)
    events, told = drive.events, nothing
    kind = asked[0]
    if NotificationClass.OPERATIONAL_CHANGE in asked and events.features_changed:
        kind, told = NotificationClass.OPERATIONAL_CHANGE, events.features_told
    elif NotificationClass.MEDIA in asked and events.media:
        kind, told = NotificationClass.MEDIA, partial(events.told, events.media[0])
    descriptor = _descriptor(drive, kind).pack()
    header = EventHeader(EventHeader.size - 2 + len(descriptor), kind)
    if cdb.allocation_length <= EventHeader.size:
        told = nothing
    return Reply(header.pack() + descriptor, cdb.allocation_length, told)


def _descriptor(drive: Dvd, kind: NotificationClass) -> Struct:
    events = drive.events
    if kind is NotificationClass.OPERATIONAL_CHANGE:
        return OperationalDescriptor(
            event=OPERATIONAL_CHANGED if events.features_changed else 0,
            persistent_prevented_status=PERSISTENT_PREVENTED if drive.persistent_prevent else 0,
            operational_change=FEATURE_CHANGE if events.features_changed else 0,
        )
    if kind is NotificationClass.MEDIA:
        return MediaEventDescriptor(
            event=events.media[0] if events.media else MediaEvent.NO_CHANGE,
            status=MediaStatus.of(
                MEDIA_PRESENT=drive.medium is not None, DOOR_OPEN=drive.tray_open
            ),
        )
    return QuietDescriptor(status=POWER_ACTIVE * (kind is NotificationClass.POWER_MANAGEMENT))

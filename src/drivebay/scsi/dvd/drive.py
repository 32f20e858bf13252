"""The drive: a tray, what lies in it, and who has locked it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from drivebay.scsi.dvd.commands import COMMANDS
from drivebay.scsi.dvd.events import Events, MediaEvent
from drivebay.scsi.dvd.features import PhysicalInterface
from drivebay.scsi.dvd.medium import Medium, Profile
from drivebay.scsi.dvd.pages import MAX_SPEED, pages
from drivebay.scsi.inquiry import CD_DVD, Identity
from drivebay.scsi.sense import (
    MEDIUM_MAY_HAVE_CHANGED,
    MEDIUM_NOT_PRESENT_TRAY_CLOSED,
    MEDIUM_NOT_PRESENT_TRAY_OPEN,
    CheckCondition,
)
from drivebay.scsi.server import DeviceServer

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["Dvd", "Locked"]


class Locked(Exception):
    """The guest has locked the tray. It has been told that somebody wants the medium."""


def keep(disk: Disk) -> None:
    """Leave `disk` open."""


class Dvd(DeviceServer):
    """A DVD drive with `disk` in it, or nothing.

    Blocks have 2048 bytes; the disk's sectors may be smaller. It is only read. The drive never
    closes a disk by itself: see `remove`.

    Raises `InvalidInput` for a disk that cannot be a DVD.
    """

    commands = COMMANDS

    def __init__(
        self,
        disk: Disk | None = None,
        *,
        vendor: str = "drivebay",
        product: str = "DVD-ROM",
        revision: str = "1.0",
        serial: str = "",
        interface: PhysicalInterface = PhysicalInterface.SCSI,
        unit_attention: bool = True,
    ) -> None:
        self.tray_open = False
        self.prevent = self.persistent_prevent = False
        self.interface = interface
        self.read_speed = MAX_SPEED
        self.events = Events()
        self._listeners: list[Callable[[bool], None]] = []
        identity = Identity(CD_DVD, vendor, product, revision, serial, removable=True)
        super().__init__(identity, pages(self), unit_attention=unit_attention)
        self._lying: Medium | None = None
        self._unwatch: Callable[[], None] = lambda: None
        if disk is not None:
            self._lay(Medium(disk))
            self.events.new_media()

    # -- what commands ask -----------------------------------------------------------------------

    @property
    def medium(self) -> Medium | None:
        """What can be read: nothing while the tray is open."""
        return None if self.tray_open else self._lying

    def loaded(self) -> Medium:
        """The medium that can be read. Raises MEDIUM NOT PRESENT."""
        medium = self.medium
        if medium is None:
            raise CheckCondition(
                MEDIUM_NOT_PRESENT_TRAY_OPEN if self.tray_open else MEDIUM_NOT_PRESENT_TRAY_CLOSED
            )
        return medium

    def check_medium(self, medium: Medium) -> None:
        """Raise `CheckCondition` unless `medium` can still be read."""
        if self.loaded() is not medium:
            raise CheckCondition(MEDIUM_NOT_PRESENT_TRAY_CLOSED)

    @property
    def profile(self) -> Profile:
        """What the drive is now."""
        return Profile.NONE if self.medium is None else self.medium.profile

    @property
    def locked(self) -> bool:
        """Whether the guest has forbidden that the tray opens."""
        return self.prevent or self.persistent_prevent

    def lock(self, prevent: bool, *, persistent: bool = False) -> None:
        """Set or clear one of the guest's two locks."""
        if persistent:
            self.persistent_prevent = prevent
        else:
            self.prevent = prevent

    def set_speed(self, speed: int) -> None:
        """What mode page 2A shows, in units of 1000 bytes a second."""
        self.read_speed = speed

    def reset(self) -> None:
        """Logical unit reset: unlocked, settings as they were; the tray stays where it is."""
        super().reset()
        self.prevent = self.persistent_prevent = False
        self.read_speed = MAX_SPEED

    # -- for the host ----------------------------------------------------------------------------

    @property
    def disk(self) -> Disk | None:
        """What lies in the tray, open or closed."""
        return None if self._lying is None else self._lying.disk

    def insert(
        self,
        disk: Disk,
        *,
        close: bool = True,
        force: bool = False,
        released: Callable[[Disk], None] = keep,
    ) -> Disk | None:
        """Put `disk` in place of what is in the drive, as `remove` does, and close the tray.

        Without `close` it is left open with the disk in it. Raises `InvalidInput` for a disk that
        cannot be a DVD, and `Locked` unless `force`.
        """
        medium = Medium(disk)
        before = self.remove(force=force, released=released)
        self._lay(medium)
        if close:
            self.close_tray()
        return before

    def remove(
        self, *, force: bool = False, released: Callable[[Disk], None] = keep
    ) -> Disk | None:
        """Open the tray and take out what lies in it, if anything does.

        A read may be under way; when it has ended, `released` is called with the disk. So
        ``released=Disk.close`` closes it as soon as that may be. Raises `Locked` unless `force`.
        """
        self.open_tray(force=force)
        before = self._lying
        self._lay(None)
        if before is None:
            return None
        before.when_idle(partial(released, before.disk))
        return before.disk

    def open_tray(self, *, force: bool = False) -> None:
        """Open the tray; what is in it then lies there. Raises `Locked` unless `force`.

        Without `force`, a guest that has locked the tray gets the event "eject request", as when
        somebody presses the button.
        """
        if self.tray_open:
            return
        if self.locked and not force:
            self.events.eject_request()
            raise Locked("the guest has locked the DVD drive")
        self._move(open_now=True)

    def close_tray(self) -> None:
        """Close the tray and read what lies in it."""
        if self.tray_open:
            self._move(open_now=False)

    def on_tray(self, listener: Callable[[bool], None]) -> Callable[[], None]:
        """Call ``listener(open)`` after each move of the tray, whoever moved it.

        Returns what ends it.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _lay(self, medium: Medium | None) -> None:
        self._unwatch()
        self._unwatch = medium.watch(self._resized) if medium else lambda: None
        self._lying = medium

    def _move(self, open_now: bool) -> None:
        self.tray_open = open_now
        if self._lying is not None:
            self.events.features_changed = True
            if open_now:
                self.events.media_removal()
                self.forget(MEDIUM_MAY_HAVE_CHANGED)
            else:
                self._arrived()
        for listener in tuple(self._listeners):
            listener(open_now)

    def _arrived(self) -> None:
        self.events.new_media()
        self.attention(MEDIUM_MAY_HAVE_CHANGED)

    def _resized(self) -> None:
        """Nobody changes the size of a DVD: this is another one."""
        if not self.tray_open:
            self._arrived()

    # -- save and restore ------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """The state as ints, bools, strings, bytes, lists and dicts.

        Of the medium only whether there is one.
        """
        return super().save() | {
            "medium": self._lying is not None,
            "tray_open": self.tray_open,
            "prevent": self.prevent,
            "persistent_prevent": self.persistent_prevent,
            "read_speed": self.read_speed,
            "media_events": [int(event) for event in self.events.media],
            "features_changed": self.events.features_changed,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The state of `save` again, with the medium of that time in the drive.

        No listener is called. Raises `ValueError` if there is a medium and there was none, or the
        reverse, and `KeyError` or `ValueError` if it is no such state.
        """
        if state["medium"] != (self._lying is not None):
            raise ValueError("the saved drive had a medium and this has none, or the reverse")
        super().restore(state)
        self.events.media = [MediaEvent(event) for event in state["media_events"]]
        self.events.features_changed = state["features_changed"]
        self.tray_open = state["tray_open"]
        self.prevent = state["prevent"]
        self.persistent_prevent = state["persistent_prevent"]
        self.read_speed = state["read_speed"]

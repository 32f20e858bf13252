"""What whoever owns a machine may do to it while it runs: plug drives, change what is in them.

Machines implement this; a host that has a monitor (QEMU's machine protocol) works them by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from drivebay.disk.contract import Disk
from drivebay.platform.board import Board

__all__ = ["Drive", "Machine", "MachineError", "TrayMoved", "VirtualClock"]

TrayMoved = Callable[[str, bool], None]
"""Told the id of a drive whose tray was opened (True) or closed, be it by the guest."""


class MachineError(Exception):
    """The machine cannot do that; the message is one line for a person."""


class VirtualClock(Protocol):
    """The time that the machine's chips know. It moves when it is told to."""

    now: int
    """Nanoseconds since the machine was switched on."""

    def advance(self, nanoseconds: int) -> None:
        """Let time pass, and happen what is due."""

    def skip(self) -> bool:
        """Let time pass until something happens; False if nothing ever will."""


class Drive(Protocol):
    """A drive that is plugged in, as its owner sees it."""

    @property
    def disk(self) -> Disk | None:
        """What is in it; None in a drive without a medium."""

    @property
    def removable(self) -> bool:
        """Whether its medium can be changed. The rest is only asked of a drive where it can."""

    @property
    def locked(self) -> bool:
        """Whether the guest has forbidden to open the tray."""

    @property
    def tray_open(self) -> bool:
        """Whether the tray is out."""

    def request_eject(self) -> None:
        """Ask the guest to let go of the medium: somebody has pressed the button."""

    def move_tray(self, opened: bool) -> None:
        """Open or close the tray, locked or not. Nothing happens if it is so already."""

    def insert(self, disk: Disk) -> None:
        """Put a medium into the open, empty tray. Raises `MachineError` if none such fits."""

    def remove(self) -> Disk | None:
        """Take the medium out of the open tray; None if there is none."""


class Machine(Protocol):
    """A board with drives that come and go."""

    @property
    def board(self) -> Board:
        """What its controllers sit on."""

    @property
    def clock(self) -> VirtualClock:
        """Its time."""

    @property
    def drives(self) -> Mapping[str, Drive]:
        """What is plugged in, by id."""

    tray_moved: TrayMoved
    """The host's."""

    def plug(self, driver: str, id: str, disk: Disk | None, options: Mapping[str, object]) -> None:
        """Add a drive of the kind that QEMU calls `driver`, with QEMU's names for its properties.

        Raises `MachineError` if there is no such kind, no such property or no place for it.
        """

    def unplug(self, id: str, gone: Callable[[], None]) -> None:
        """Take a drive away. `gone` is called when nothing of it is in flight any more; its disk
        stays open. Raises `MachineError` if it cannot be taken away.
        """

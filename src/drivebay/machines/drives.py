"""What machines share of drives: how their properties are read, and a drive without a tray."""

from __future__ import annotations

from collections.abc import Mapping

from drivebay.disk.contract import Disk
from drivebay.platform.machine import MachineError

__all__ = ["Fixed", "Properties"]


class Fixed:
    """A drive whose medium stays in it."""

    removable = locked = tray_open = False

    def __init__(self, disk: Disk) -> None:
        self.disk: Disk | None = disk

    def request_eject(self) -> None:
        """It has no button."""

    def move_tray(self, opened: bool) -> None:
        """It has no tray."""

    def insert(self, disk: Disk) -> None:
        """It takes no other medium."""
        raise MachineError("the medium is fixed")

    def remove(self) -> Disk | None:
        """It gives its medium to nobody."""
        raise MachineError("the medium is fixed")


class Properties:
    """The properties of a `driver`, by QEMU's names. Each is asked for once, then `end` tells what
    nobody asked for. Every method raises `MachineError` for a value that makes no sense.
    """

    def __init__(self, driver: str, options: Mapping[str, object]) -> None:
        self._driver, self._left = driver, dict(options)

    def text(self, name: str, room: int) -> str | None:
        """A property that is ASCII text of at most `room` characters."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
            raise MachineError(f"Property '{self._driver}.{name}' is ASCII text")
        if len(value) > room:
            raise MachineError(f"Property '{self._driver}.{name}' has {room} characters at most")
        return value

    def number(self, name: str, default: int, low: int, high: int, *, power: bool = False) -> int:
        """A property that is a number from `low` to `high`; with `power` a power of two."""
        value = self._left.pop(name, default)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise MachineError(f"Property '{self._driver}.{name}' is {low} to {high}")
        if power and value & (value - 1):
            raise MachineError(f"Property '{self._driver}.{name}' is a power of two")
        return value

    def switch(self, name: str, default: bool) -> bool:
        """A property that is on or off."""
        value = self._left.pop(name, default)
        if value in ("on", "off"):
            value = value == "on"
        if not isinstance(value, bool):
            raise MachineError(f"Property '{self._driver}.{name}' is on or off")
        return value

    def end(self) -> None:
        """That was all there is to know. Raises `MachineError` if there was more."""
        for name in self._left:
            raise MachineError(f"Property '{self._driver}.{name}' not found")

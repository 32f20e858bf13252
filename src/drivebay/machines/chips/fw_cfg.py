"""QEMU's firmware configuration device, by ports only: items by number, and files by name.

The interface is that of QEMU's docs/specs/fw_cfg.rst, without DMA.
"""

from __future__ import annotations

from typing import Final

from drivebay.platform.ports import Hold, PortRegion

__all__ = ["FwCfg"]

SIGNATURE, ID, RAM_SIZE, CPUS, BOOT_MENU, MAX_CPUS, FILE_DIRECTORY = 0, 1, 3, 5, 14, 15, 0x19
FIRST_FILE: Final = 0x20
NAME_BYTES: Final = 56
TRADITIONAL: Final = 1
"""In ID: this interface, and none by DMA."""


class FwCfg(PortRegion):
    """Ports 0x510 (selector, 16 bits) and 0x511 (data, a byte at a time)."""

    size = 2

    def __init__(self, ram_size: int, cpus: int = 1) -> None:
        self._items = {
            SIGNATURE: b"QEMU",
            ID: TRADITIONAL.to_bytes(4, "little"),
            RAM_SIZE: ram_size.to_bytes(8, "little"),
            CPUS: cpus.to_bytes(2, "little"),
            BOOT_MENU: bytes(2),
            MAX_CPUS: cpus.to_bytes(2, "little"),
        }
        self._files: dict[str, bytes] = {}
        self._list_files()
        self.reset()

    def add_file(self, name: str, data: bytes) -> None:
        """Give firmware a file such as ``etc/boot-menu-wait``; a name it has is replaced.

        Raises `ValueError` if the name has more than 55 bytes.
        """
        if len(name.encode()) >= NAME_BYTES:
            raise ValueError(f"fw_cfg file {name!r}: a name has up to {NAME_BYTES - 1} bytes")
        self._files[name] = data
        self._list_files()

    def _list_files(self) -> None:
        directory = len(self._files).to_bytes(4, "big")
        for number, (name, data) in enumerate(self._files.items(), FIRST_FILE):
            self._items[number] = data
            directory += len(data).to_bytes(4, "big") + number.to_bytes(2, "big") + bytes(2)
            directory += name.encode().ljust(NAME_BYTES, b"\0")
        self._items[FILE_DIRECTORY] = directory

    def reset(self) -> None:
        """The signature is selected."""
        self._selected, self._offset = b"", 0

    def port_read(self, offset: int, width: int) -> int:
        """The next byte; 0 past the end."""
        if not offset:
            return 0xFF
        at, self._offset = self._offset, self._offset + 1
        return self._selected[at] if at < len(self._selected) else 0

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """Select an item. Items cannot be written."""
        if not offset:
            self._selected, self._offset = self._items.get(value & 0xFFFF, b""), 0
        return None

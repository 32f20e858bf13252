"""The front end's memory: mapped files, and the addresses it uses for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from drivebay.hosts.peer import PeerError, map_file
from drivebay.hosts.vhost_user.messages import MAX_REGIONS, MemoryRegion
from drivebay.platform.memory import GuestMemory, Region

__all__ = ["MAX_SLOTS", "SharedMemory"]

MAX_SLOTS: Final = 64
"""Regions that may be added one by one (CONFIGURE_MEM_SLOTS)."""


class _Slot(NamedTuple):
    region: MemoryRegion
    view: memoryview


class SharedMemory:
    """`guest` is the memory as the devices see it; it is changed in place."""

    def __init__(self) -> None:
        self.guest = GuestMemory()
        self._slots: list[_Slot] = []

    def replace(self, regions: Sequence[MemoryRegion], fds: Sequence[int]) -> None:
        """SET_MEM_TABLE: these are all. Raises `PeerError`; the descriptors stay the caller's."""
        if not 0 < len(regions) <= MAX_REGIONS or len(fds) != len(regions):
            raise PeerError(f"{len(regions)} memory regions with {len(fds)} descriptors")
        self._become([_map(region, fd) for region, fd in zip(regions, fds, strict=True)])

    def add(self, region: MemoryRegion, fd: int) -> None:
        """ADD_MEM_REG. Raises `PeerError`."""
        if len(self._slots) >= MAX_SLOTS:
            raise PeerError(f"more than {MAX_SLOTS} memory regions")
        self._become([*self._slots, _map(region, fd)])

    def remove(self, region: MemoryRegion) -> None:
        """REM_MEM_REG. Raises `PeerError` if there is no such region."""
        left = [slot for slot in self._slots if _place(slot.region) != _place(region)]
        if len(left) == len(self._slots):
            raise PeerError(f"no memory region at {region.guest_address:#x} to remove")
        self._become(left)

    def forget(self) -> None:
        """Unmap everything: each mapping holds a descriptor until it is gone."""
        self._become([])

    def _become(self, slots: list[_Slot]) -> None:
        try:
            self.guest.replace(Region(slot.region.guest_address, slot.view) for slot in slots)
        except ValueError as error:
            raise PeerError(str(error)) from None
        self._slots = slots

    def guest_address(self, user_address: int) -> int:
        """The guest's address for one of the front end's. Raises `PeerError`."""
        for region, _ in self._slots:
            offset = user_address - region.user_address
            if 0 <= offset < region.length:
                return region.guest_address + offset
        raise PeerError(f"address {user_address:#x} is in no memory region")


def _place(region: MemoryRegion) -> tuple[int, int, int]:
    return region.guest_address, region.user_address, region.length


def _map(region: MemoryRegion, fd: int) -> _Slot:
    return _Slot(region, map_file(fd, region.mmap_offset, region.length))

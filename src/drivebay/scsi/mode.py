"""Mode pages: settings that an initiator reads and changes (SPC-4)."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Final

from drivebay.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETER_LIST,
    PARAMETER_LIST_LENGTH_ERROR,
    SAVING_PARAMETERS_NOT_SUPPORTED,
    CheckCondition,
)
from drivebay.wire import U8, U16, U32, Bit, Bits, Register8, Struct

__all__ = ["ModeHeader6", "ModeHeader10", "ModePage", "ModePages", "PageControl"]

ALL_PAGES: Final = 0x3F
ALL_SUBPAGES: Final = 0xFF
MAX_BLOCK_LENGTH: Final = 0xFFFFFF


class PageControl(enum.IntEnum):
    """Which values of a page are wanted."""

    CURRENT = 0
    CHANGEABLE = 1
    DEFAULT = 2
    SAVED = 3


class ModeHeader6(Struct, size=4, byte_order=">"):
    """Mode parameter header of the 6-byte commands, SPC-4."""

    mode_data_length: U8 = 0
    medium_type: U8 = 0
    device_specific_parameter: U8 = 0
    block_descriptor_length: U8 = 0


class ModeHeader10(Struct, size=8, byte_order=">"):
    """Mode parameter header of the 10-byte commands, SPC-4."""

    mode_data_length: U16 = 0
    medium_type: U8 = 0
    device_specific_parameter: U8 = 0
    long_lba: U8 = 0
    reserved: U8 = 0
    block_descriptor_length: U16 = 0


class BlockDescriptor(Struct, size=8, byte_order=">"):
    """Mode parameter block descriptor, SPC-4; the block length has 24 bits."""

    number_of_blocks: U32 = 0
    block_length: U32 = 0


class PageCode(Register8):
    """The first byte of a mode page."""

    PS = Bit(7)
    SPF = Bit(6)
    PAGE_CODE = Bits(5, 0)


class ModePage:
    """A page with its `default` bytes, code and length included.

    `changeable` has a 1 for each bit that MODE SELECT may change. A page whose values follow the
    device has `live`, which gives them as they are now.
    """

    def __init__(
        self,
        default: Struct,
        changeable: Struct | None = None,
        live: Callable[[], Struct] | None = None,
    ) -> None:
        self.default = default.pack()
        self.code, size = self.default[0], len(self.default)
        head = self.default[:2]
        self.changeable = head + (bytes(size - 2) if changeable is None else changeable.pack()[2:])
        self._current = self.default
        self._live = live

    @property
    def current(self) -> bytes:
        """The page as it is now."""
        return self._current if self._live is None else self._live().pack()

    def accepts(self, page: bytes) -> bool:
        """Whether MODE SELECT may make it `page`: nothing differs but what may."""
        return len(page) == len(self.default) and not any(
            (old ^ new) & ~mask
            for old, new, mask in zip(self.current[2:], page[2:], self.changeable[2:], strict=True)
        )

    def change(self, page: bytes) -> None:
        """Make it `page`, which it accepts."""
        self._current = self.default[:2] + page[2:]

    def reset(self) -> None:
        """Make it as it was at first."""
        self._current = self.default


class ModePages:
    """The pages of one device, asked for and changed together.

    Its blocks have `block_length` bytes, and nobody can change that.
    """

    def __init__(self, pages: Iterable[ModePage], block_length: int) -> None:
        self._block_length = block_length
        self._pages = {page.code: page for page in sorted(pages, key=lambda page: page.code)}

    def sense(self, code: int, subpage: int, control: int) -> bytes:
        """The pages that MODE SENSE asks for, without a header. Raises `CheckCondition`."""
        if control == PageControl.SAVED:
            raise CheckCondition(SAVING_PARAMETERS_NOT_SUPPORTED)
        if subpage not in (0, ALL_SUBPAGES) or code not in (ALL_PAGES, *self._pages):
            raise CheckCondition(INVALID_FIELD_IN_CDB)
        wanted = self._pages.values() if code == ALL_PAGES else [self._pages[code]]
        if control == PageControl.CHANGEABLE:
            return b"".join(page.changeable for page in wanted)
        if control == PageControl.DEFAULT:
            return b"".join(page.default for page in wanted)
        return b"".join(page.current for page in wanted)

    def select(self, data: bytes, header: type[ModeHeader6 | ModeHeader10]) -> None:
        """Do what the parameter list `data` of MODE SELECT says: all of it, or nothing.

        Raises `CheckCondition`.
        """
        if len(data) < header.size:
            raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
        descriptors = header.unpack(data).block_descriptor_length
        data = data[header.size :]
        if len(data) < descriptors:
            raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
        if descriptors:
            self._check_descriptor(data[:descriptors])
        changes = list(self._changes(data[descriptors:]))
        for page, values in changes:
            page.change(values)

    def _check_descriptor(self, data: bytes) -> None:
        """One block descriptor may come, if it says what is so anyway."""
        if len(data) == BlockDescriptor.size:
            length = BlockDescriptor.unpack(data).block_length & MAX_BLOCK_LENGTH
            if length == self._block_length:
                return
        raise CheckCondition(INVALID_FIELD_IN_PARAMETER_LIST)

    def _changes(self, data: bytes) -> Iterable[tuple[ModePage, bytes]]:
        while data:
            if len(data) < 2 or len(data) < 2 + data[1]:
                raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
            values, data = data[: 2 + data[1]], data[2 + data[1] :]
            page = self._pages.get(values[0] & ~PageCode.PS)  # PS is reserved here
            if page is None or not page.accepts(values):
                raise CheckCondition(INVALID_FIELD_IN_PARAMETER_LIST)
            yield page, values

    def reset(self) -> None:
        """All pages as they were at first."""
        for page in self._pages.values():
            page.reset()

    def save(self) -> list[bytes]:
        """The current values."""
        return [page.current for page in self._pages.values()]

    def restore(self, pages: Iterable[bytes]) -> None:
        """The values of `save` again. Raises `ValueError` if they are none of these pages'."""
        for values in pages:
            page = self._pages.get(values[0]) if values else None
            if page is None or len(values) != len(page.default):
                raise ValueError(f"no mode page of this device: {values.hex()}")
            page.change(values)

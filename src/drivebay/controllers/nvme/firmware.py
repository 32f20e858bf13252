"""Firmware images: taken, kept in slots, activated, and never run (NVMe Base 2.0 section 3.11)."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

from drivebay.controllers.nvme.queues import SubmissionQueue
from drivebay.controllers.nvme.status import Refused, Status
from drivebay.controllers.nvme.structures import Command
from drivebay.wire import Bit, Bits, Register8, Register32

if TYPE_CHECKING:
    from drivebay.controllers.nvme.controller import Controller

__all__ = ["FRMW", "Firmware"]

SLOTS: Final = 3
MOST_BYTES: Final = 16 << 20
"""Of an image."""
REPLACE, REPLACE_AND_ACTIVATE, ACTIVATE, ACTIVATE_NOW = range(4)


class FirmwareUpdates(Register8):
    """FRMW of IDENTIFY."""

    WithoutReset = Bit(4)
    Slots = Bits(3, 1)
    FirstReadOnly = Bit(0)


FRMW: Final = FirmwareUpdates.of(WithoutReset=1, Slots=SLOTS)


class CommitSetup(Register32):
    """CDW10 of FIRMWARE COMMIT."""

    CA = Bits(5, 3)
    FS = Bits(2, 0)


class Firmware:
    """The slots of `controller`. What an image is called is the checksum of its bytes."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.slots = [controller.subsystem.firmware, "", ""]
        """Revisions, from slot 1 on."""
        self.active = 1
        self.next = 0
        """The slot to be activated by the next reset, or 0."""
        self._pieces: dict[int, bytes] = {}

    @property
    def revision(self) -> str:
        """What runs, as it were."""
        return self.slots[self.active - 1]

    def download(self, _sq: SubmissionQueue, command: Command) -> int:
        """FIRMWARE IMAGE DOWNLOAD. Raises `Refused`."""
        offset, length = 4 * command.cdw11, 4 * (command.cdw10 + 1)
        if offset + length > MOST_BYTES:
            raise Refused(Status.INVALID_FIELD, f"firmware of more than {MOST_BYTES} bytes")
        for start, piece in self._pieces.items():
            if start < offset + length and offset < start + len(piece):
                raise Refused(Status.OVERLAPPING_RANGE, f"firmware at {offset:#x} came before")
        self._pieces[offset] = self._controller.receive(command, length)
        return 0

    def commit(self, _sq: SubmissionQueue, command: Command) -> int:
        """FIRMWARE COMMIT. Raises `Refused`."""
        setup = CommitSetup(command.cdw10)
        action, slot = setup.CA, setup.FS
        if action > ACTIVATE_NOW:
            raise Refused(Status.INVALID_FIELD, f"commit action {action}")
        if slot > SLOTS:
            raise Refused(Status.INVALID_FIRMWARE_SLOT, f"firmware slot {slot}")
        slot = slot or self.active % SLOTS + 1
        if action in (REPLACE, REPLACE_AND_ACTIVATE) or (action == ACTIVATE_NOW and self._pieces):
            self.slots[slot - 1] = self._take_image()
        if action != REPLACE and not self.slots[slot - 1]:
            raise Refused(Status.INVALID_FIRMWARE_SLOT, f"firmware slot {slot} is empty")
        if action == ACTIVATE_NOW:
            self.active, self.next = slot, 0
        elif action != REPLACE:
            self.next = slot
            raise Refused(Status.FIRMWARE_NEEDS_RESET, f"slot {slot} at the next reset")
        return 0

    def _take_image(self) -> str:
        """The name of what was downloaded, which must be whole."""
        checksum = end = 0
        pieces = sorted(self._pieces.items())
        self._pieces.clear()
        for offset, piece in pieces:
            if offset != end:
                raise Refused(Status.INVALID_FIRMWARE_IMAGE, f"firmware with a hole at {end:#x}")
            checksum = zlib.crc32(piece, checksum)
            end += len(piece)
        if not pieces:
            raise Refused(Status.INVALID_FIRMWARE_IMAGE, "nothing was downloaded")
        return f"{checksum:08x}"

    def reset(self) -> None:
        """The controller was reset."""
        self._pieces.clear()
        if self.next:
            self.active, self.next = self.next, 0

    def save(self) -> dict[str, Any]:
        """Everything."""
        return {
            "slots": list(self.slots),
            "active": self.active,
            "next": self.next,
            "pieces": [[offset, piece] for offset, piece in self._pieces.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave."""
        self.slots[:] = state["slots"]
        self.active, self.next = state["active"], state["next"]
        self._pieces = dict(state["pieces"])

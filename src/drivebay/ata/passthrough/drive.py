"""A drive that is a real one: the guest's commands go to a device of the host, one by one.

Whichever way a command came, it is a task file here. It is looked up, checked against the policy,
and sent as one ATA PASS-THROUGH; the registers the drive leaves become this drive's. Three things
never leave: EXECUTE DEVICE DIAGNOSTIC, the transfer mode and resets, which are about the cable, and
the guest's cable ends here.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Final

from drivebay.ata.command import Aborted, Action, Command, DataIn
from drivebay.ata.device import Device, Reset
from drivebay.ata.disk import Diagnostic
from drivebay.ata.passthrough.identity import Modes, chosen, multiple_of, sector_of, shown
from drivebay.ata.passthrough.policy import Category, Policy
from drivebay.ata.passthrough.sent import Sent
from drivebay.ata.passthrough.table import lookup
from drivebay.ata.passthrough.transport import Transport
from drivebay.ata.registers import Feature, Opcode
from drivebay.ata.taskfile import TaskFile
from drivebay.platform.engine import Engine
from drivebay.platform.logs import RationedLog

__all__ = ["MAX_TRANSFER", "PassthroughDrive"]

log = logging.getLogger("drivebay.ata.passthrough")

MAX_TRANSFER: Final = 4 << 20
"""Bytes that a command may move, unless the drive is told otherwise: what Linux asks for at most,
and what its SCSI drivers take in one command.
"""


class PassthroughDrive(Device):
    """The disk behind `transport`, whose IDENTIFY DEVICE data is `identity`.

    `policy` says what the guest may do to it: read, unless told otherwise. A command that moves
    more than `max_transfer` bytes is refused. `short` prefers 12-byte CDBs, for bridges that know
    no others. Raises `InvalidInput` if `identity` is not an ATA disk's.
    """

    def __init__(
        self,
        transport: Transport,
        engine: Engine,
        identity: bytes,
        policy: Policy | None = None,
        *,
        max_transfer: int = MAX_TRANSFER,
        short: bool = False,
    ) -> None:
        self.transport = transport
        self.identity = identity
        self.policy = policy or Policy()
        self.max_transfer, self.short = max_transfer, short
        self.sector_size = sector_of(identity)
        self.multiple = multiple_of(identity)
        """Sectors of a DRQ block of the MULTIPLE commands; 0 forbids them."""
        self.modes: Modes | None = None
        """The transfer modes that the guest has chosen on its cable, if it has."""
        self.guest_log = RationedLog(log)
        super().__init__(engine)

    # -- commands --------------------------------------------------------------------------------

    def parse(self, taskfile: TaskFile) -> Command:
        """Look the command up. Raises `Aborted` if it is never sent, or not allowed."""
        self.ready = type(self).ready
        opcode, feature = taskfile.command, taskfile.features & 0xFF
        if opcode == Opcode.EXECUTE_DEVICE_DIAGNOSTIC:
            return Diagnostic(self)
        if opcode == Opcode.SET_FEATURES and feature == Feature.SET_TRANSFER_MODE:
            modes = chosen(self.identity, taskfile.count & 0xFF)
            return Action(partial(setattr, self, "modes", modes or self.modes))
        try:
            row = lookup(taskfile)
            self.policy.check(row.needs)
            sent = Sent(self, taskfile, row)
        except Aborted as refusal:
            self.guest_log.warning("refused: %s: %s", self.describe(taskfile), refusal)
            raise
        if not self.policy.dry_run:
            return sent
        # Not rationed: it is what was asked for.
        log.info("dry run: %s [%s]", row.name, sent.cdb.hex(" "))
        if opcode == Opcode.IDENTIFY_DEVICE:
            return DataIn(self.show(self.identity))
        raise Aborted(why="a dry run")

    def show(self, identity: bytes) -> bytes:
        """IDENTIFY DEVICE data as the guest is to see it."""
        return shown(identity, self.modes, trims=Category.ERASE in self.policy.allow)

    # -- reset and saving ------------------------------------------------------------------------

    def reset_settings(self, reset: Reset) -> None:
        """The guest's resets do not reach the drive: the host has others to ask of it."""
        self.ready = type(self).ready
        if reset >= Reset.HARDWARE:
            self.modes = None

    def save_settings(self) -> dict[str, Any]:
        """The little that is kept on this side."""
        modes = None if self.modes is None else list(self.modes)
        return {"modes": modes, "multiple": self.multiple, "ready": self.ready}

    def restore_settings(self, state: dict[str, Any]) -> None:
        """Take what `save_settings` gave."""
        self.modes = None if state["modes"] is None else Modes(*state["modes"])
        self.multiple, self.ready = state["multiple"], state["ready"]

    def save_command(self) -> dict[str, Any]:
        """What was sent is not sent again: what came of it is kept."""
        command = self._command
        return command.save() if isinstance(command, Sent) else {}

    def restore_command(self, state: dict[str, Any]) -> Command:
        """The command, as far as it has come."""
        command = super().restore_command(state)
        if isinstance(command, Sent):
            command.restore(state)
        return command

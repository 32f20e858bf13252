"""What every logical unit does with a command before it is its own (SAM-5, SPC-4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from drivebay.disk.contract import Buffers, Operation
from drivebay.scsi import cdb as cdbs
from drivebay.scsi.inquiry import Identity
from drivebay.scsi.mode import ModeHeader6, ModeHeader10, ModePages
from drivebay.scsi.opcodes import Opcode
from drivebay.scsi.replies import Action, Parameters, Reply
from drivebay.scsi.sense import (
    INVALID_COMMAND_OPERATION_CODE,
    INVALID_FIELD_IN_CDB,
    NO_SENSE,
    POWER_ON_OR_RESET,
    CheckCondition,
    Sense,
    SenseKey,
)
from drivebay.scsi.task import Task
from drivebay.wire import U8, U32, U64, Struct

__all__ = ["Command", "DeviceServer", "request_sense"]

SERVICE_ACTION: Final = 0x1F
ONLY_WELL_KNOWN: Final = 1
ALL_LUNS: Final = 2


class Needs:
    """What must be so before a command is tried; plain numbers, since each command is asked."""

    READ: Final = 1
    """No reservation forbids the initiator to read."""
    WRITE: Final = 2
    """None forbids it to write."""
    MEDIUM: Final = 4
    """The medium is ready."""
    CHANGE: Final = 8
    """It may be written."""


class Command(NamedTuple):
    """How an operation code is understood: its CDB's layout and what makes a task of it."""

    cdb: type[Struct]
    parse: Callable[[Any, Any], Task]
    """``parse(unit, cdb)``; raises `CheckCondition`."""
    attention: bool = True
    """Whether a unit attention comes first."""
    needs: int = 0
    flags: int = 0
    """The bits of the CDB's second byte that mean something, for those that ask."""


class LunList(Struct, size=16, byte_order=">"):
    """REPORT LUNS, SPC-4: of one logical unit, number 0."""

    lun_list_length: U32 = 8
    reserved: U32 = 0
    lun: U64 = 0


class DeviceServer:
    """A logical unit that knows what all do. Subclasses name more commands in `commands`.

    With `unit_attention` a reset, and whatever else an initiator must know, is told by the next
    command, which fails (SAM-5 section 5.14); without, never.
    """

    commands: Mapping[int, Command] = {}
    actions: Mapping[tuple[int, int], Command] = {}
    """Commands that an operation code and a service action name."""

    def __init__(
        self, identity: Identity, pages: ModePages, *, unit_attention: bool = True
    ) -> None:
        self.identity, self.pages = identity, pages
        self._tells = unit_attention
        self.when_told: Callable[[Sense], None] = lambda _sense: None
        """Called with each unit attention that there is from now on."""
        self.when_aborted: Callable[[], None] = lambda: None
        """Called when another initiator has this one's commands aborted."""
        self._attentions: list[Sense] = []
        self.attention(POWER_ON_OR_RESET)

    def execute(self, cdb: bytes, *, resumed: bool = False) -> Task:
        """Parse `cdb`; bytes that its operation code does not need are ignored.

        A command that is `resumed` was begun before the unit attentions that wait now.

        Raises `CheckCondition`. No effect before the task's first call, but that a unit attention
        has been told.
        """
        if not cdb:
            raise CheckCondition(INVALID_FIELD_IN_CDB)
        command = self.commands.get(cdb[0]) or self._action(cdb)
        if len(cdb) < command.cdb.size:
            raise CheckCondition(INVALID_FIELD_IN_CDB)
        if command.attention and self._attentions and not resumed:
            raise CheckCondition(self._attentions.pop(0))
        if command.needs:
            self.admit(command)
        return command.parse(self, command.cdb.unpack(cdb))

    def direct(
        self, cdb: bytes, data_in: Buffers, data_out: Buffers
    ) -> tuple[int, Operation] | None:
        """The whole of `cdb`, and how many bytes it moves, where nothing speaks against it. None
        for whatever is not the most usual of commands: `execute` it. Raises `CheckCondition`.
        """
        return None

    def _action(self, cdb: bytes) -> Command:
        """The command that a service action names, SPC-4."""
        if not any(opcode == cdb[0] for opcode, _ in self.actions):
            raise CheckCondition(INVALID_COMMAND_OPERATION_CODE)
        command = self.actions.get((cdb[0], cdb[1] & SERVICE_ACTION)) if len(cdb) > 1 else None
        if command is None:
            raise CheckCondition(INVALID_FIELD_IN_CDB)
        return command

    def admit(self, command: Command) -> None:
        """Raise what keeps a command that `needs` something from being tried."""

    def reset(self) -> None:
        """Logical unit reset (SAM-5 section 6.3.3): settings as they were, and that is told."""
        self.pages.reset()
        self._attentions.clear()
        self.attention(POWER_ON_OR_RESET)

    def attention(self, sense: Sense) -> None:
        """Tell the initiator `sense` once, after what it has not been told yet."""
        if self._tells and sense not in self._attentions:
            self._attentions.append(sense)
            self.when_told(sense)

    def forget(self, sense: Sense) -> None:
        """Do not tell it: it is no longer so, or has been told."""
        if sense in self._attentions:
            self._attentions.remove(sense)

    def told_sense(self, sense: Sense) -> bytes:
        """`sense` as the initiator wants it told."""
        return sense.fixed()

    # -- commands of SPC-4 -----------------------------------------------------------------------

    def inquiry(self, cdb: cdbs.Inquiry) -> Task:
        """INQUIRY, SPC-4."""
        return Reply(self.identity.inquiry(cdb), cdb.allocation_length)

    def request_sense(self, cdb: cdbs.RequestSense) -> Task:
        """REQUEST SENSE: a unit attention that nobody has been told, or that there is none."""
        sense = self._attentions[0] if self._attentions else NO_SENSE
        return request_sense(cdb, sense, lambda: self.forget(sense))

    def report_luns(self, cdb: cdbs.ReportLuns) -> Task:
        """REPORT LUNS, SPC-4."""
        if cdb.select_report > ALL_LUNS:
            raise CheckCondition(INVALID_FIELD_IN_CDB)
        luns = LunList().pack()
        if cdb.select_report == ONLY_WELL_KNOWN:
            luns = LunList(lun_list_length=0).pack()[:8]
        return Reply(luns, cdb.allocation_length)

    def mode_sense(self, cdb: cdbs.ModeSense6 | cdbs.ModeSense10) -> Task:
        """MODE SENSE (6) and (10); never with a block descriptor."""
        page = cdbs.ModeSensePage(cdb.page)
        pages = self.pages.sense(page.PAGE_CODE, cdb.subpage_code, page.PC)
        header: ModeHeader6 | ModeHeader10
        if isinstance(cdb, cdbs.ModeSense6):
            header = ModeHeader6(mode_data_length=ModeHeader6.size + len(pages) - 1)
        else:
            header = ModeHeader10(mode_data_length=ModeHeader10.size + len(pages) - 2)
        header.device_specific_parameter = self.device_specific_parameter
        return Reply(header.pack() + pages, cdb.allocation_length)

    device_specific_parameter: U8 = 0
    """Of the mode parameter header: for disks, whether they are write-protected."""

    def mode_select(self, cdb: cdbs.ModeSelect6 | cdbs.ModeSelect10) -> Task:
        """MODE SELECT (6) and (10)."""
        flags = cdbs.ModeSelectFlags(cdb.flags)
        if flags.SP or (cdb.parameter_list_length and not flags.PF):
            raise CheckCondition(INVALID_FIELD_IN_CDB)
        if not cdb.parameter_list_length:
            return Action()
        header: type[ModeHeader6 | ModeHeader10] = (
            ModeHeader6 if isinstance(cdb, cdbs.ModeSelect6) else ModeHeader10
        )
        return Parameters(cdb.parameter_list_length, lambda data: self.pages.select(data, header))

    # -- save and restore ------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """The state as ints, bools, strings, bytes, lists and dicts."""
        return {
            "attentions": [[int(sense.key), sense.asc, sense.ascq] for sense in self._attentions],
            "pages": self.pages.save(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The state of `save` again. Raises `KeyError` or `ValueError` if it is none."""
        self._attentions = [
            Sense(SenseKey(key), asc, ascq) for key, asc, ascq in state["attentions"]
        ]
        self.pages.restore(state["pages"])


def request_sense(
    cdb: cdbs.RequestSense, sense: Sense, act: Callable[[], None] = lambda: None
) -> Task:
    """The answer to REQUEST SENSE; then `act`. For transports that keep a sense themselves, too."""
    data = sense.descriptor() if cdb.desc & 1 else sense.fixed()
    return Reply(data, cdb.allocation_length, act)


DeviceServer.commands = {
    Opcode.REQUEST_SENSE: Command(cdbs.RequestSense, DeviceServer.request_sense, attention=False),
    Opcode.INQUIRY: Command(cdbs.Inquiry, DeviceServer.inquiry, attention=False),
    Opcode.REPORT_LUNS: Command(cdbs.ReportLuns, DeviceServer.report_luns, attention=False),
    Opcode.MODE_SENSE_6: Command(cdbs.ModeSense6, DeviceServer.mode_sense),
    Opcode.MODE_SENSE_10: Command(cdbs.ModeSense10, DeviceServer.mode_sense),
    Opcode.MODE_SELECT_6: Command(cdbs.ModeSelect6, DeviceServer.mode_select),
    Opcode.MODE_SELECT_10: Command(cdbs.ModeSelect10, DeviceServer.mode_select),
}

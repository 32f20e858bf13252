"""Every command of the disk: its CDB, what it does, and what must be so before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from drivebay.scsi import cdb as cdbs
from drivebay.scsi.disk import access, logs, power, provisioning, reservations, support
from drivebay.scsi.disk import buffer as buffers
from drivebay.scsi.disk import cdb as sbc
from drivebay.scsi.opcodes import Opcode
from drivebay.scsi.server import Command, DeviceServer, Needs

__all__ = ["ACCESS", "ACTIONS", "COMMANDS"]

READS: Final = Needs.READ | Needs.MEDIUM
WRITES: Final = Needs.WRITE | Needs.MEDIUM | Needs.CHANGE
FLUSHES: Final = Needs.WRITE | Needs.MEDIUM

ACCESS: Final = int(cdbs.ReadFlags.DPO | cdbs.ReadFlags.FUA)
VERIFIES: Final = int(cdbs.ReadFlags.DPO | cdbs.VerifyFlags.BYTCHK)
SAME: Final = int(sbc.WriteSameFlags.UNMAP)
IMMED: Final = int(sbc.SynchronizeFlags.IMMED)
SELFTEST: Final = int(sbc.SendDiagnosticFlags.SELFTEST)

COMMANDS: Final[Mapping[int, Command]] = {
    **DeviceServer.commands,
    # These two change settings that all initiators share (SPC-4 table 66).
    Opcode.MODE_SELECT_6: Command(
        cdbs.ModeSelect6, DeviceServer.mode_select, needs=Needs.WRITE, flags=0x10
    ),
    Opcode.MODE_SELECT_10: Command(
        cdbs.ModeSelect10, DeviceServer.mode_select, needs=Needs.WRITE, flags=0x10
    ),
    Opcode.TEST_UNIT_READY: Command(cdbs.Cdb6, power.no_operation, needs=Needs.MEDIUM),
    Opcode.FORMAT_UNIT: Command(sbc.Read6, power.format_unit, needs=WRITES),
    Opcode.READ_6: Command(sbc.Read6, access.read, needs=READS),
    Opcode.READ_10: Command(cdbs.Read10, access.read, needs=READS, flags=ACCESS),
    Opcode.READ_12: Command(cdbs.Read12, access.read, needs=READS, flags=ACCESS),
    Opcode.READ_16: Command(sbc.Read16, access.read, needs=READS, flags=ACCESS),
    Opcode.WRITE_6: Command(sbc.Read6, access.write, needs=WRITES),
    Opcode.WRITE_10: Command(cdbs.Read10, access.write, needs=WRITES, flags=ACCESS),
    Opcode.WRITE_12: Command(cdbs.Read12, access.write, needs=WRITES, flags=ACCESS),
    Opcode.WRITE_16: Command(sbc.Read16, access.write, needs=WRITES, flags=ACCESS),
    Opcode.VERIFY_10: Command(cdbs.Read10, access.verify, needs=READS, flags=VERIFIES),
    Opcode.VERIFY_12: Command(cdbs.Read12, access.verify, needs=READS, flags=VERIFIES),
    Opcode.VERIFY_16: Command(sbc.Read16, access.verify, needs=READS, flags=VERIFIES),
    Opcode.WRITE_AND_VERIFY_10: Command(
        cdbs.Read10, access.write_and_verify, needs=WRITES, flags=VERIFIES
    ),
    Opcode.WRITE_AND_VERIFY_12: Command(
        cdbs.Read12, access.write_and_verify, needs=WRITES, flags=VERIFIES
    ),
    Opcode.WRITE_AND_VERIFY_16: Command(
        sbc.Read16, access.write_and_verify, needs=WRITES, flags=VERIFIES
    ),
    Opcode.COMPARE_AND_WRITE: Command(
        sbc.CompareAndWrite, access.compare_and_write, needs=WRITES, flags=ACCESS
    ),
    Opcode.WRITE_SAME_10: Command(cdbs.Read10, access.write_same, needs=WRITES, flags=SAME),
    Opcode.WRITE_SAME_16: Command(
        sbc.Read16, access.write_same, needs=WRITES, flags=SAME | sbc.WriteSameFlags.NDOB
    ),
    Opcode.UNMAP: Command(sbc.Unmap, provisioning.unmap, needs=WRITES),
    Opcode.SYNCHRONIZE_CACHE_10: Command(cdbs.Read10, access.flush, needs=FLUSHES, flags=IMMED),
    Opcode.SYNCHRONIZE_CACHE_16: Command(sbc.Read16, access.flush, needs=FLUSHES, flags=IMMED),
    Opcode.PRE_FETCH_10: Command(cdbs.Read10, access.prefetch, needs=READS, flags=IMMED),
    Opcode.PRE_FETCH_16: Command(sbc.Read16, access.prefetch, needs=READS, flags=IMMED),
    Opcode.SEEK_10: Command(cdbs.Cdb10, access.seek, needs=Needs.MEDIUM),
    Opcode.READ_CAPACITY_10: Command(cdbs.Cdb10, provisioning.read_capacity_10, needs=Needs.MEDIUM),
    Opcode.START_STOP_UNIT: Command(cdbs.StartStopUnit, power.start_stop_unit),
    Opcode.PREVENT_ALLOW_MEDIUM_REMOVAL: Command(
        cdbs.PreventAllowMediumRemoval, power.no_operation
    ),
    Opcode.RESERVE_6: Command(sbc.Read6, power.no_operation, needs=Needs.WRITE),
    Opcode.RELEASE_6: Command(sbc.Read6, power.no_operation),
    Opcode.SEND_DIAGNOSTIC: Command(
        sbc.SendDiagnostic, power.send_diagnostic, needs=Needs.WRITE, flags=SELFTEST
    ),
    Opcode.LOG_SENSE: Command(sbc.LogSense, logs.log_sense),
    Opcode.READ_BUFFER: Command(sbc.ReadBuffer, buffers.read_buffer, needs=Needs.WRITE),
    Opcode.WRITE_BUFFER: Command(sbc.ReadBuffer, buffers.write_buffer, needs=Needs.WRITE),
}

ACTIONS: Final[Mapping[tuple[int, int], Command]] = {
    **{
        (Opcode.PERSISTENT_RESERVE_IN, action): Command(
            sbc.PersistentReserveIn, reservations.persistent_reserve_in
        )
        for action in reservations.InAction
    },
    **{
        (Opcode.PERSISTENT_RESERVE_OUT, action): Command(
            sbc.PersistentReserveOut, reservations.persistent_reserve_out
        )
        for action in reservations.OutAction
    },
    (Opcode.SERVICE_ACTION_IN_16, 0x10): Command(
        sbc.ServiceActionIn16, provisioning.read_capacity_16, needs=Needs.MEDIUM
    ),
    (Opcode.SERVICE_ACTION_IN_16, 0x12): Command(
        sbc.ServiceActionIn16, provisioning.get_lba_status, needs=READS
    ),
    (Opcode.MAINTENANCE_IN, 0x0C): Command(
        sbc.ReportSupported, support.report_supported_operation_codes
    ),
    (Opcode.MAINTENANCE_IN, 0x0D): Command(
        sbc.ReportSupported, support.report_supported_task_management_functions
    ),
}
"""REPORT TARGET PORT GROUPS is not here: there is one port, and no asymmetric access (TPGS 0)."""

"""SCSI commands as iSCSI PDUs (RFC 7143): a session with one connection, logged in as it opens."""

from __future__ import annotations

from typing import Annotated, Final

from drivebay.lab.trace.tcp import Connection
from drivebay.wire import U8, U16, U32, U64, Bit, Bits, Register8, Struct

__all__ = ["PORT", "IscsiSession"]

PORT: Final = 3260
NOBODY: Final = 0xFFFFFFFF
"""A tag that is none."""
WINDOW: Final = 4096
"""Commands that the target takes at once."""

LOGIN, SCSI_COMMAND, DATA_OUT = 0x43, 0x01, 0x05  # a login is immediate
LOGIN_RESPONSE, SCSI_RESPONSE, DATA_IN, R2T = 0x23, 0x21, 0x25, 0x31

Bytes16 = Annotated[bytes, "16s"]


class LoginFlags(Register8):
    """Of both login PDUs (section 11.12.1)."""

    T = Bit(7)  # on to the next stage
    C = Bit(6)
    CSG = Bits(3, 2)
    NSG = Bits(1, 0)


class CommandFlags(Register8):
    """Of a command (section 11.3.1)."""

    F = Bit(7)
    R = Bit(6)
    W = Bit(5)
    ATTR = Bits(2, 0)


class ResponseFlags(Register8):
    """Of a response (section 11.4.1); the first bit is always set."""

    FIRST = Bit(7)
    OVERFLOW = Bit(2)  # of data: the residual was too much
    UNDERFLOW = Bit(1)  # the residual did not come


class LoginRequest(Struct, size=48, byte_order=">"):
    """Section 11.12."""

    opcode: U8
    flags: U8
    version_max: U8
    version_min: U8
    lengths: U32  # of additional headers in the upper byte, of the data below
    isid: Annotated[bytes, "6s"]
    tsih: U16
    initiator_task_tag: U32
    cid: U16
    reserved: U16
    cmd_sn: U32
    exp_stat_sn: U32
    reserved_32: Bytes16 = bytes(16)


class LoginResponse(Struct, size=48, byte_order=">"):
    """Section 11.13."""

    opcode: U8
    flags: U8
    version_max: U8
    version_active: U8
    lengths: U32
    isid: Annotated[bytes, "6s"]
    tsih: U16
    initiator_task_tag: U32
    reserved: U32
    stat_sn: U32
    exp_cmd_sn: U32
    max_cmd_sn: U32
    status: U16
    reserved_38: Annotated[bytes, "10s"] = bytes(10)


class ScsiCommand(Struct, size=48, byte_order=">"):
    """Section 11.3."""

    opcode: U8
    flags: U8
    reserved: U16
    lengths: U32
    lun: U64
    initiator_task_tag: U32
    expected_length: U32
    cmd_sn: U32
    exp_stat_sn: U32
    cdb: Bytes16


class ScsiResponse(Struct, size=48, byte_order=">"):
    """Section 11.4."""

    opcode: U8
    flags: U8
    response: U8
    status: U8
    lengths: U32
    reserved: U64
    initiator_task_tag: U32
    snack_tag: U32
    stat_sn: U32
    exp_cmd_sn: U32
    max_cmd_sn: U32
    exp_data_sn: U32
    bidirectional_residual: U32
    residual: U32


class DataIn(Struct, size=48, byte_order=">"):
    """Section 11.7."""

    opcode: U8
    flags: U8
    reserved: U16
    lengths: U32
    lun: U64
    initiator_task_tag: U32
    target_transfer_tag: U32
    stat_sn: U32
    exp_cmd_sn: U32
    max_cmd_sn: U32
    data_sn: U32
    offset: U32
    residual: U32


class DataOut(Struct, size=48, byte_order=">"):
    """Section 11.7."""

    opcode: U8
    flags: U8
    reserved: U16
    lengths: U32
    lun: U64
    initiator_task_tag: U32
    target_transfer_tag: U32
    reserved_24: U32
    exp_stat_sn: U32
    reserved_32: U32
    data_sn: U32
    offset: U32
    reserved_44: U32


class ReadyToTransfer(Struct, size=48, byte_order=">"):
    """Section 11.8."""

    opcode: U8
    flags: U8
    reserved: U16
    lengths: U32
    lun: U64
    initiator_task_tag: U32
    target_transfer_tag: U32
    stat_sn: U32
    exp_cmd_sn: U32
    max_cmd_sn: U32
    r2t_sn: U32
    offset: U32
    desired_length: U32


FINAL: Final = 0x80
SIMPLE: Final = 1
OPERATIONAL, FULL_FEATURE = 1, 3  # stages of a login
KEYS: Final = {
    "SessionType": "Normal",
    "HeaderDigest": "None",
    "DataDigest": "None",
    "ErrorRecoveryLevel": "0",
}


def _text(keys: dict[str, str]) -> bytes:
    return b"".join(f"{key}={value}".encode() + b"\0" for key, value in keys.items())


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


class IscsiSession:
    """A session on `connection` with the target `name`, logged in at `time`."""

    def __init__(self, connection: Connection, name: str, time: int) -> None:
        self._connection = connection
        self._cmd_sn = self._stat_sn = 1
        flags = LoginFlags.of(T=1, CSG=OPERATIONAL, NSG=FULL_FEATURE)
        isid = b"\x80" + bytes(5)
        keys = _text({"InitiatorName": "iqn.2026-01.drivebay:guest", "TargetName": name} | KEYS)
        connection.to_device(
            time,
            LoginRequest(
                *(LOGIN, flags, 0, 0, len(keys), isid, 0, 0, 0, 0),
                *(self._cmd_sn, self._stat_sn),
            ).pack()
            + _padded(keys),
        )
        keys = _text({"TargetPortalGroupTag": "1"} | {key: KEYS[key] for key in list(KEYS)[1:]})
        connection.to_host(
            time,
            LoginResponse(
                *(LOGIN_RESPONSE, flags, 0, 0, len(keys), isid, 1, 0, 0),
                *(self._next_status(), self._cmd_sn, self._cmd_sn + WINDOW, 0),
            ).pack()
            + _padded(keys),
        )

    def _next_status(self) -> int:
        self._stat_sn = self._stat_sn + 1 & 0xFFFFFFFF
        return self._stat_sn - 1 & 0xFFFFFFFF

    def command(
        self, time: int, tag: int, lun: int, cdb: bytes, length: int, inward: bool | None
    ) -> None:
        """A command whose data has `length` bytes, towards the host if `inward`, or has none."""
        flags = CommandFlags.of(F=1, R=inward is True, W=inward is False, ATTR=SIMPLE)
        pdu = ScsiCommand(
            *(SCSI_COMMAND, flags, 0, 0, lun, tag, length, self._cmd_sn, self._stat_sn),
            cdb=cdb[:16].ljust(16, b"\0"),
        )
        self._cmd_sn = self._cmd_sn + 1 & 0xFFFFFFFF
        self._connection.to_device(time, pdu.pack())

    def data_in(self, time: int, tag: int, lun: int, data: bytes) -> None:
        """What was read."""
        pdu = DataIn(
            *(DATA_IN, FINAL, 0, len(data), lun, tag, NOBODY),
            *(0, self._cmd_sn, self._cmd_sn + WINDOW, 0, 0, 0),
        )
        self._connection.to_host(time, pdu.pack() + _padded(data))

    def data_out(self, time: int, tag: int, lun: int, data: bytes) -> None:
        """What was written, once the device has asked for it."""
        asked = ReadyToTransfer(
            *(R2T, FINAL, 0, 0, lun, tag, tag, self._stat_sn),
            *(self._cmd_sn, self._cmd_sn + WINDOW, 0, 0, len(data)),
        )
        self._connection.to_host(time, asked.pack())
        pdu = DataOut(
            *(DATA_OUT, FINAL, 0, len(data), lun, tag, tag, 0, self._stat_sn),
            *(0, 0, 0, 0),
        )
        self._connection.to_device(time, pdu.pack() + _padded(data))

    def response(
        self, time: int, tag: int, status: int, sense: bytes, residual: int, comment: str
    ) -> None:
        """How a command ended; `residual` bytes that were expected did not come."""
        data = len(sense).to_bytes(2) + sense if sense else b""
        pdu = ScsiResponse(
            *(
                SCSI_RESPONSE,
                ResponseFlags.of(FIRST=1, UNDERFLOW=residual > 0),
                0,
                status,
                len(data),
                0,
            ),
            *(tag, 0, self._next_status(), self._cmd_sn, self._cmd_sn + WINDOW, 0, 0, residual),
        )
        self._connection.to_host(time, pdu.pack() + _padded(data), comment)

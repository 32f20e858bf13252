"""NVMe commands as NVMe/TCP PDUs (NVMe TCP Transport 1.0): a connection for each queue.

What is on it was a queue entry in memory: data pointers are those of the guest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from drivebay.controllers.nvme.structures import Command, Completion
from drivebay.lab.trace.tcp import Connection
from drivebay.wire import U8, U16, U32, Bit, Register8, Struct

__all__ = ["PORT", "NvmeTcpQueue"]

PORT: Final = 4420
ICREQ, ICRESP, CAPSULE_CMD, CAPSULE_RESP = 0x00, 0x01, 0x04, 0x05
H2C_DATA, C2H_DATA, R2T = 0x06, 0x07, 0x09
FABRICS, CONNECT = 0x7F, 0x01
CONNECT_DATA: Final = 1024
MOST_H2C: Final = 1 << 20
IN_CAPSULE: Final = 0x40  # PSDT 01b: the data is named by an SGL
OFFSET_IN_CAPSULE: Final = 0x01  # an SGL data block descriptor with an offset


class CommonHeader(Struct, size=8):
    """What each PDU begins with (section 3.6.1)."""

    type: U8
    flags: U8
    hlen: U8
    pdo: U8
    plen: U32


class DataFlags(Register8):
    """Of data PDUs (section 3.6.2.8)."""

    LAST_PDU = Bit(2)


class Initialize(Struct, size=120):
    """ICReq (section 3.6.2.2); ICResp (3.6.2.3) has the most of an H2CData PDU in `limit`."""

    pfv: U16 = 0
    alignment: U8 = 0
    digests: U8 = 0
    limit: U32 = 0
    reserved: Annotated[bytes, "112s"] = bytes(112)


class ConnectCommand(Struct, size=64):
    """The Fabrics command CONNECT (NVMe over Fabrics 1.1, section 3.3)."""

    opcode: U8 = FABRICS
    flags: U8 = IN_CAPSULE
    cid: U16 = 0
    fctype: U8 = CONNECT
    reserved_5: Annotated[bytes, "27s"] = bytes(27)
    length: U32 = CONNECT_DATA  # of the SGL's data block
    reserved_36: Annotated[bytes, "3s"] = bytes(3)
    identifier: U8 = OFFSET_IN_CAPSULE
    recfmt: U16 = 0
    qid: U16 = 0
    sqsize_z: U16 = 0
    cattr: U8 = 0
    reserved_47: U8 = 0
    kato: U32 = 0
    reserved_52: Annotated[bytes, "12s"] = bytes(12)


class ConnectData(Struct, size=CONNECT_DATA):
    """Who connects to what (section 3.3)."""

    host_id: Annotated[bytes, "16s"]
    cntlid: U16
    reserved: Annotated[bytes, "238s"]
    subnqn: Annotated[bytes, "256s"]
    hostnqn: Annotated[bytes, "256s"]
    reserved_768: Annotated[bytes, "256s"] = bytes(256)


class DataHeader(Struct, size=16):
    """Of H2CData, C2HData and R2T: which command, and which of its bytes (section 3.6.2.6)."""

    cccid: U16
    ttag: U16
    offset: U32
    length: U32
    reserved: U32 = 0


def _pdu(kind: int, header: bytes, data: bytes = b"", flags: int = 0) -> bytes:
    length = CommonHeader.size + len(header)
    head = CommonHeader(kind, flags, length, length if data else 0, length + len(data))
    return head.pack() + header + data


class NvmeTcpQueue:
    """Queue number `queue` of the subsystem `name` on `connection`, connected at `time`."""

    def __init__(self, connection: Connection, name: str, queue: int, time: int) -> None:
        self._connection = connection
        connection.to_device(time, _pdu(ICREQ, Initialize().pack()))
        connection.to_host(time, _pdu(ICRESP, Initialize(limit=MOST_H2C).pack()))
        data = ConnectData(
            bytes(16),
            *(0 if queue else 0xFFFF, bytes(238)),
            *(name.encode(), b"nqn.2026-01.drivebay:guest"),
        )
        command = ConnectCommand(qid=queue, sqsize_z=0xFFFF)
        connection.to_device(time, _pdu(CAPSULE_CMD, command.pack(), data.pack()))
        self.completion(time, queue, 0, 0, 0, "")

    def command(self, time: int, row: Sequence[int]) -> None:
        """A submission queue entry."""
        self._connection.to_device(time, _pdu(CAPSULE_CMD, Command.layout.pack(*row)))

    def data_to_host(self, time: int, cid: int, data: bytes) -> None:
        """What was read."""
        header = DataHeader(cid, 0, 0, len(data)).pack()
        self._connection.to_host(time, _pdu(C2H_DATA, header, data, DataFlags.LAST_PDU))

    def data_to_device(self, time: int, cid: int, data: bytes) -> None:
        """What was written, once the controller has asked for it."""
        header = DataHeader(cid, cid, 0, len(data)).pack()
        self._connection.to_host(time, _pdu(R2T, header))
        self._connection.to_device(time, _pdu(H2C_DATA, header, data, DataFlags.LAST_PDU))

    def completion(
        self, time: int, queue: int, cid: int, dw0: int, status: int, comment: str
    ) -> None:
        """How a command ended; `status` is the field without its phase tag."""
        entry = Completion(dw0, 0, 0, queue, cid, status << 1).pack()
        self._connection.to_host(time, _pdu(CAPSULE_RESP, entry), comment)

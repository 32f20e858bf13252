"""Commands as packets that Wireshark dissects: NVMe as NVMe/TCP, everything else as iSCSI.

Each queue of an NVMe controller is a connection, each other controller (of ATA each drive) a
session. The host is 10.0.0.1, controllers are 10.1.0.1 and on, by their names. Floppy commands are
no protocol that anybody dissects, and are left out.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import BinaryIO, Final

from drivebay.ata.registers import Opcode
from drivebay.lab.trace import iscsi, nvme_tcp
from drivebay.lab.trace.lines import latency
from drivebay.lab.trace.pcapng import PcapngWriter
from drivebay.lab.trace.records import Source
from drivebay.lab.trace.story import Audience, Command, DiskOperation
from drivebay.lab.trace.tcp import Connection
from drivebay.lab.trace.translate import scsi_command, scsi_outcome
from drivebay.scsi.target import lun_field

__all__ = ["Capture"]

HOST: Final = bytes((10, 0, 0, 1))
DEVICES: Final = 0x0A010000
FIRST_PORT: Final = 49152
SCSI: Final = frozenset({"scsi", "ata", "virtio"})
MOST_TAG: Final = 0x7FFFFFFF
MOST_KEPT: Final = 16 << 20
"""Bytes of data of a disk that wait for the ends of their commands."""
READ, WRITE = "read", "write"


class Kept:
    """The last operations on a disk whose data was captured, by what they were and where."""

    def __init__(self) -> None:
        self._operations: dict[tuple[str, int], DiskOperation] = {}
        self._size = 0

    def add(self, operation: DiskOperation) -> None:
        key = operation.name, operation.sector * operation.source.sector_size
        self._drop(key)
        self._operations[key] = operation
        self._size += len(operation.data)
        while self._size > MOST_KEPT:
            self._drop(next(iter(self._operations)))

    def _drop(self, key: tuple[str, int]) -> None:
        old = self._operations.pop(key, None)
        self._size -= 0 if old is None else len(old.data)

    def data_of(self, command: Command, name: str, start: int, length: int) -> bytes:
        """What was read or written of these bytes of the disk while the command was under way, from
        the first of them on; as much as was captured.
        """
        found = bytearray()
        while len(found) < length:
            operation = self._operations.get((name, start + len(found)))
            if operation is None or operation.began < command.began:
                break
            found += operation.data
            if len(operation.data) < operation.count * operation.source.sector_size:
                break
        return bytes(found[:length])


class Capture(Audience):
    """Writes packets to `stream`, in a section of their own."""

    def __init__(self, stream: BinaryIO) -> None:
        self._file = PcapngWriter(stream)
        self._offset = 0
        self._connections = 0
        self._interfaces: dict[str, int] = {}
        self._addresses: dict[str, bytes] = {}
        self._blocks: dict[tuple[str, str], int] = {}
        self._kept: defaultdict[tuple[str, str], Kept] = defaultdict(Kept)
        self._sessions: dict[Source, iscsi.IscsiSession] = {}
        self._queues: dict[tuple[Source, int], nvme_tcp.NvmeTcpQueue] = {}
        self._tags: dict[Command, int] = {}
        self._next_tag = 0

    def clock(self, offset: int) -> None:
        """A server that was started again: so are its connections."""
        self._offset = offset
        self._sessions.clear()
        self._queues.clear()

    def source(self, source: Source) -> None:
        """Remember how long its blocks are."""
        self._blocks[source.name, source.part] = source.block

    # -- connections -----------------------------------------------------------------------------

    def _connect(self, source: Source, port: int, time: int) -> Connection:
        name = str(source)
        if name not in self._interfaces:
            description = f"{name}: commands of a drivebay controller ({source.dialect})"
            self._interfaces[name] = self._file.interface(name, description)
            self._addresses[name] = (DEVICES + len(self._interfaces)).to_bytes(4)
            self._file.name(self._addresses[name], name.replace("/", "."))
        host_port = FIRST_PORT + self._connections % (0x10000 - FIRST_PORT)
        self._connections += 1
        send = partial(self._file.packet, self._interfaces[name])
        return Connection((HOST, host_port), (self._addresses[name], port), send, time)

    def _session(self, command: Command, time: int) -> iscsi.IscsiSession:
        source = command.source
        if source not in self._sessions:
            connection = self._connect(source, iscsi.PORT, time)
            name = f"iqn.2026-01.drivebay:{str(source).lower().replace('/', '.')}"
            self._sessions[source] = iscsi.IscsiSession(connection, name, time)
        return self._sessions[source]

    def _queue(self, command: Command, time: int) -> nvme_tcp.NvmeTcpQueue:
        key = command.source, command.queue
        if key not in self._queues:
            connection = self._connect(command.source, nvme_tcp.PORT, time)
            name = f"nqn.2026-01.drivebay:{command.source.name}"
            self._queues[key] = nvme_tcp.NvmeTcpQueue(connection, name, command.queue, time)
        return self._queues[key]

    # -- commands --------------------------------------------------------------------------------

    def began(self, command: Command) -> None:
        """A command was taken from the guest. Of a packet it is not known yet what is in it."""
        if command.source.dialect == "nvme":
            time = command.began + self._offset
            self._queue(command, time).command(time, command.native)
        elif command.source.dialect in SCSI and not _is_packet(command):
            self._scsi_command(command)

    def _scsi_command(self, command: Command) -> None:
        time = command.began + self._offset
        asked = scsi_command(command.source.dialect, command.queue, command.native)
        length = asked.blocks * self._block(command)
        self._next_tag = self._next_tag + 1 & MOST_TAG
        self._tags[command] = self._next_tag  # the guest's own may be any 64 bits
        self._session(command, time).command(
            time, self._next_tag, _lun(asked.lun), asked.cdb, length, asked.inward
        )

    def given_up(self, command: Command) -> None:
        """It will never end."""
        self._tags.pop(command, None)

    def ended(self, command: Command) -> None:
        """It has ended."""
        assert command.ended is not None
        time = command.ended + self._offset
        comment = f"{command.subject}: {command.end}, {latency(command.ended - command.began)}"
        if command.source.dialect == "nvme":
            queue = self._queue(command, time)
            if data := self._data(command, READ):
                queue.data_to_host(time, command.tag, data)
            elif data := self._data(command, WRITE):
                queue.data_to_device(time, command.tag, data)
            dw0, status = command.outcome
            queue.completion(time, command.queue, command.tag, dw0, status, comment)
        elif command.source.dialect in SCSI:
            if _is_packet(command):
                self._scsi_command(command)
            session, tag = self._session(command, time), self._tags.pop(command)
            asked = scsi_command(command.source.dialect, command.queue, command.native)
            if asked.inward is True and (data := self._data(command, READ)):
                session.data_in(time, tag, _lun(asked.lun), data)
            elif asked.inward is False and (data := self._data(command, WRITE)):
                session.data_out(time, tag, _lun(asked.lun), data)
            status, sense = scsi_outcome(command.source.dialect, command.native, command.outcome)
            session.response(time, tag, status, sense, 0, comment)

    # -- data ------------------------------------------------------------------------------------

    def disk(self, operation: DiskOperation) -> None:
        """Keep its data for the end of the command."""
        if operation.data:
            source = operation.source
            self._kept[source.name, source.part].add(operation)

    def _block(self, command: Command) -> int:
        return self._blocks.get((command.source.name, command.place), command.source.block)

    def _data(self, command: Command, name: str) -> bytes:
        subject = command.subject
        kept = self._kept.get((command.source.name, command.place))
        if kept is None or subject.lba is None:
            return b""
        block = self._block(command)
        return kept.data_of(command, name, subject.lba * block, subject.count * block)


def _is_packet(command: Command) -> bool:
    return command.source.dialect == "ata" and command.native.command == Opcode.PACKET


def _lun(lun: int) -> int:
    """As the first two bytes of eight (SAM-5 section 4.7)."""
    return int.from_bytes(lun_field(lun))

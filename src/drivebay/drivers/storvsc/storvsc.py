"""A driver for StorVSP: it works the controller through its rings and guest memory only."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from drivebay.controllers.storvsp import protocol
from drivebay.controllers.storvsp.packets import GpaDirect, GpaRange, PacketType
from drivebay.controllers.storvsp.protocol import (
    Header,
    NtStatus,
    Operation,
    ScsiPacket,
    SrbCode,
    SrbStatus,
    Version,
)
from drivebay.drivers.arena import Arena
from drivebay.drivers.storvsc.errors import ScsiError, StorVscError
from drivebay.drivers.storvsc.ring import GuestRing, Received
from drivebay.drivers.storvsc.vmbus import VmbusDriver
from drivebay.platform.vmbus import PAGE
from drivebay.platform.vmbus_messages import OfferChannel
from drivebay.scsi.cdb import Read10
from drivebay.scsi.opcodes import Opcode
from drivebay.wire import Struct

__all__ = ["Ended", "StorVsc", "StorVscChannel", "direct"]

BUFFER: Final = 1 << 16
SHORTER: Final = protocol.SCSI_REQUEST_V2 - protocol.SCSI_REQUEST_V1
INQUIRY_LENGTH: Final = 96
NO_DATA: Final = 2
NO_FIELDS: Final[Mapping[str, int]] = MappingProxyType({})


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    srb_status: SrbStatus
    scsi_status: int
    sense: bytes
    length: int
    """Bytes moved."""

    @property
    def code(self) -> SrbCode:
        """The SRB status without its flags."""
        return self.srb_status.STATUS


def direct(address: int, length: int) -> bytes:
    """The header of a GPA direct packet with this memory."""
    offset = address % PAGE
    first, pages = address // PAGE, (offset + length + PAGE - 1) // PAGE
    numbers = struct.pack(f"<{pages}Q", *range(first, first + pages))
    return GpaDirect(0, 1).pack() + GpaRange(length, offset).pack() + numbers


class StorVscChannel:
    """One channel of a controller, opened on a ring of its own."""

    def __init__(self, bus: VmbusDriver, offer: OfferChannel, ring: GuestRing) -> None:
        self.bus, self.offer, self.ring = bus, offer, ring
        self.ended: dict[int, bytes] = {}
        """Completions that nobody has taken yet, by transaction."""
        self.notices: list[int] = []
        """Operations that the host has sent by itself."""
        self.other: list[Received] = []
        self._transactions = itertools.count(1)
        self.gpadl = bus.open_ring(offer.channel_id, ring)

    def reopen(self) -> None:
        """Close it and open it again, as after a mistake."""
        self.close()
        self.ended.clear()
        self.gpadl = self.bus.open_ring(self.offer.channel_id, self.ring)

    def close(self) -> None:
        """Close it."""
        self.bus.close(self.offer.channel_id, self.gpadl)

    def send(
        self, payload: bytes, memory: tuple[int, int] | None = None, *, signal: bool = True
    ) -> int:
        """Send a packet, with the address and the length of its data; returns its transaction.

        Waits while the ring is full.
        """
        transaction = next(self._transactions)
        kind, header = PacketType.IN_BAND, b""
        if memory is not None:
            kind, header = PacketType.GPA_DIRECT, direct(*memory)
        while True:
            try:
                wanted = self.ring.send(kind, transaction, payload, header)
            except BlockingIOError:
                self.take()
                self.bus.poll()
            else:
                break
        if wanted and signal:
            self.kick()
        return transaction

    def kick(self) -> None:
        """Signal the host."""
        self.bus.signal(self.offer.connection_id)

    def take(self) -> None:
        """Take what the host has put into the ring."""
        received, room_wanted = self.ring.receive()
        if room_wanted:
            self.kick()
        for packet in received:
            if packet.type == PacketType.COMPLETION:
                assert packet.transaction not in self.ended, "a second completion"
                self.ended[packet.transaction] = packet.payload
            elif packet.type == PacketType.IN_BAND:
                self.notices.append(Header.unpack(packet.payload).operation)
            else:
                self.other.append(packet)

    def wait(self, transactions: Iterable[int]) -> list[bytes]:
        """Wait for these to end; the payloads of their completions."""
        wanted = list(transactions)

        def all_ended() -> bool:
            while True:
                self.ring.mask()
                self.take()
                if all(each in self.ended for each in wanted):
                    return True
                if self.ring.unmask():
                    return False

        self.bus.wait_until(all_ended)
        return [self.ended.pop(each) for each in wanted]

    def ask(self, operation: int, payload: bytes = b"", size: int = ScsiPacket.size) -> bytes:
        """An operation in a packet of `size` bytes, and its completion."""
        packet = (Header(operation).pack() + payload).ljust(size, b"\0")
        return self.wait([self.send(packet)])[0]


class StorVsc:
    """A controller on offer, with rings of `pages` pages of data each way.

    Raises `StorVscError` if it refuses `version`, and `VmbusError` if the bus does.
    """

    def __init__(
        self,
        bus: VmbusDriver,
        offer: OfferChannel,
        arena: Arena,
        *,
        version: int = Version.BLUE,
        pages: int = 16,
        slots: int = 1,
        sub_channels: int = 0,
        path: int = 0,
    ) -> None:
        self.bus, self.version, self.path = bus, version, path
        self._arena, self._pages = arena, pages
        self.channel = StorVscChannel(bus, offer, GuestRing(arena, pages))
        self.channels = [self.channel]
        self.memory = arena.memory
        self.buffers = [arena.take(BUFFER, PAGE) for _ in range(slots)]
        """Memory for data, of which a command uses one."""
        self.most_sub_channels = 0
        self.negotiate(sub_channels)

    # -- setting up ------------------------------------------------------------------------------

    def negotiate(self, sub_channels: int = 0) -> None:
        """Tell the controller who we are, and open as many more channels."""
        self.ask(Operation.BEGIN_INITIALIZATION)
        self.ask(Operation.QUERY_PROTOCOL_VERSION, protocol.ProtocolVersion(self.version))
        properties = protocol.ChannelProperties.unpack(
            self.ask(Operation.QUERY_PROPERTIES, protocol.ChannelProperties())
        )
        self.most_sub_channels = properties.max_sub_channels
        if sub_channels:
            self.ask(Operation.CREATE_SUB_CHANNELS, protocol.SubChannels(sub_channels))
        self.ask(Operation.END_INITIALIZATION)
        if sub_channels:
            offered = self.channel.offer
            self.bus.wait_until(lambda: len(self.bus.sub_channels(offered)) == sub_channels)
            self.open_sub_channels()

    def open_sub_channels(self) -> None:
        """Open those that were created."""
        self.channels[1:] = [
            StorVscChannel(self.bus, offer, GuestRing(self._arena, self._pages))
            for offer in self.bus.sub_channels(self.channel.offer)
        ]

    @property
    def packet_size(self) -> int:
        """Bytes of a SCSI packet in this version."""
        return ScsiPacket.size - (SHORTER if self.version < Version.WIN8 else 0)

    def ask(self, operation: int, payload: Struct | None = None) -> bytes:
        """An operation of the first channel; returns what follows the header of its completion.

        Raises `StorVscError`.
        """
        data = payload.pack() if payload is not None else b""
        answer = self.channel.ask(operation, data, max(self.packet_size, Header.size + len(data)))
        status = Header.unpack(answer).status
        if status != NtStatus.SUCCESS:
            raise StorVscError(operation, status)
        return answer[Header.size :]

    # -- commands --------------------------------------------------------------------------------

    def packet(
        self,
        cdb: bytes,
        length: int = 0,
        *,
        out: bool = False,
        lun: int = 0,
        fields: Mapping[str, int] = NO_FIELDS,
    ) -> bytes:
        """A command's packet. `fields` are further ones of its `ScsiPacket`."""
        given = {
            "path_id": self.path,
            "lun": lun,
            "cdb_length": len(cdb),
            "data_in": 0 if out else 1 if length else NO_DATA,
            "data_length": length,
            **fields,
        }
        whole = ScsiPacket(payload=cdb, **given).pack()
        return whole[: self.packet_size]

    def start(
        self,
        cdb: bytes,
        length: int = 0,
        *,
        out: bool = False,
        lun: int = 0,
        slot: int = 0,
        channel: int = 0,
        signal: bool = True,
        fields: Mapping[str, int] = NO_FIELDS,
    ) -> int:
        """Send a command with `length` bytes of the buffer `slot`; returns its transaction."""
        packet = self.packet(cdb, length, out=out, lun=lun, fields=fields)
        memory = (self.buffers[slot], length) if length else None
        return self.channels[channel].send(packet, memory, signal=signal)

    def finish(self, transactions: Sequence[int], channel: int = 0) -> list[Ended]:
        """Wait for the ends of commands."""
        return [self.ended(answer) for answer in self.channels[channel].wait(transactions)]

    @staticmethod
    def ended(answer: bytes) -> Ended:
        """What a completion says."""
        end = ScsiPacket.unpack(answer.ljust(ScsiPacket.size, b"\0"))
        srb_status = SrbStatus(end.srb_status)
        sense = end.payload[: end.sense_length] if srb_status.AUTOSENSE_VALID else b""
        return Ended(end.status, srb_status, end.scsi_status, sense, end.data_length)

    def run(
        self,
        cdb: bytes,
        length: int = 0,
        data: bytes = b"",
        lun: int = 0,
        fields: Mapping[str, int] = NO_FIELDS,
    ) -> tuple[Ended, bytes]:
        """Do a command with room for `length` bytes, or with `data`: its end, what it brought."""
        if data:
            self.put(data)
        sent = self.start(cdb, len(data) or length, out=bool(data), lun=lun, fields=fields)
        (ended,) = self.finish([sent])
        return ended, b"" if data else self.got(ended.length)

    def execute(self, cdb: bytes, length: int = 0, data: bytes = b"", lun: int = 0) -> bytes:
        """The same, returning what it brought. Raises `ScsiError` if it fails."""
        ended, brought = self.run(cdb, length, data, lun)
        if ended.code != SrbCode.SUCCESS or ended.scsi_status:
            raise ScsiError(ended.srb_status, ended.scsi_status, ended.sense)
        return brought

    def put(self, data: bytes, slot: int = 0) -> None:
        """Fill a buffer."""
        self.memory.view(self.buffers[slot], len(data))[:] = data

    def got(self, length: int, slot: int = 0) -> bytes:
        """What a buffer holds."""
        return bytes(self.memory.view(self.buffers[slot], length))

    # -- what disks understand -------------------------------------------------------------------

    def inquiry(self, lun: int = 0) -> bytes:
        """INQUIRY."""
        return self.execute(
            bytes([Opcode.INQUIRY, 0, 0, 0, INQUIRY_LENGTH, 0]), INQUIRY_LENGTH, lun=lun
        )

    def luns(self) -> list[int]:
        """REPORT LUNS: the units there are."""
        data = self.execute(struct.pack(">B5xIxx", Opcode.REPORT_LUNS, 4096), 4096)
        size = int.from_bytes(data[:4])
        return [data[at + 1] for at in range(8, 8 + size, 8)]

    def capacity(self, lun: int = 0) -> tuple[int, int]:
        """READ CAPACITY (10): blocks, and the bytes of one."""
        last, size = struct.unpack(
            ">II", self.execute(bytes([Opcode.READ_CAPACITY_10]) + bytes(9), 8, lun=lun)
        )
        return last + 1, size

    def read(self, lba: int, count: int, lun: int = 0, block: int = 512) -> bytes:
        """READ (10)."""
        cdb = Read10(Opcode.READ_10, 0, lba, transfer_length=count).pack()
        return self.execute(cdb, count * block, lun=lun)

    def write(self, lba: int, data: bytes, lun: int = 0, block: int = 512) -> None:
        """WRITE (10)."""
        cdb = Read10(Opcode.WRITE_10, 0, lba, transfer_length=len(data) // block).pack()
        self.execute(cdb, data=data, lun=lun)

    def flush(self, lun: int = 0) -> None:
        """SYNCHRONIZE CACHE (10)."""
        self.execute(bytes([Opcode.SYNCHRONIZE_CACHE_10]) + bytes(9), lun=lun)

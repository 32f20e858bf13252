"""The synthetic SCSI controller: a target behind a channel, and more channels on demand."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping
from typing import Any, Final

from drivebay.controllers.storvsp.channel import DEPTH, StorVspChannel
from drivebay.controllers.storvsp.negotiation import Negotiation, Stage
from drivebay.controllers.storvsp.packets import Packet, PacketType, parse
from drivebay.controllers.storvsp.protocol import (
    Header,
    NtStatus,
    Operation,
    ScsiPacket,
    SrbCode,
    Version,
)
from drivebay.controllers.storvsp.requests import (
    CDB_LENGTH,
    Command,
    Management,
    attribute_of,
    data_of,
    unpack_request,
)
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory, GuestMemoryFault
from drivebay.platform.vmbus import Bus, ChannelError, Offer
from drivebay.scsi.opcodes import Opcode
from drivebay.scsi.server import DeviceServer
from drivebay.scsi.target import Target

__all__ = ["MOST_SUB_CHANNELS", "SCSI", "StorVsp"]

SCSI: Final = uuid.UUID("ba6163d9-04a1-4d29-b605-72e2ffb1dc7f")
"""The interface of a SCSI controller."""
MOST_SUB_CHANNELS: Final = 1023

READ, WRITE = 1, 0  # ScsiPacket.data_in
COMPLETION: Final = int(PacketType.COMPLETION)
EXECUTE_SRB: Final = int(Operation.EXECUTE_SRB)
READY: Final = Stage.READY
RESETS: Final = (Operation.RESET_LUN, Operation.RESET_ADAPTER, Operation.RESET_BUS)
OPERATIONS: Final = frozenset(Operation)
WIN8: Final = int(Version.WIN8)
INQUIRY: Final = int(Opcode.INQUIRY)
REPORT_LUNS: Final = int(Opcode.REPORT_LUNS)
unpack_header: Final = Header.layout.unpack_from


class StorVsp:
    """A SCSI controller whose `target` a guest finds at ``path:target_id`` of its bus.

    The guest may ask for up to `sub_channels` channels more. With `only_target` whatever path and
    target a request names, that one is meant. What comes to `target` or goes while a guest uses it
    is told. Raises `ValueError` for what cannot be.
    """

    def __init__(
        self,
        target: Target,
        memory: GuestMemory,
        engine: Engine,
        *,
        instance: uuid.UUID,
        interface: uuid.UUID = SCSI,
        path: int = 0,
        target_id: int = 0,
        only_target: bool = False,
        sub_channels: int = 0,
        depth: int = DEPTH,
        user_data: bytes = b"",
    ) -> None:
        if not 0 <= sub_channels <= MOST_SUB_CHANNELS:
            raise ValueError(f"{sub_channels} sub-channels: at most {MOST_SUB_CHANNELS}")
        self.target = target
        self._nobody = Target(engine)
        """Who is asked at any other address."""
        self._memory, self._engine = memory, engine
        self._address = None if only_target else (path, target_id)
        self._depth = depth
        self._bus: Bus | None = None
        self._tags = itertools.count()
        self._offer = Offer(interface, instance, 0, user_data)
        self.negotiation = Negotiation(sub_channels, self._create)
        self.channels = [self._channel(0)]
        """The first, and the sub-channels that the guest has asked for."""
        self.channels[0].when_closed = self._first_closed
        target.carrier = self
        target.on_change(lambda _lun, _added: self._changed())

    def _channel(self, index: int) -> StorVspChannel:
        offer = Offer(self._offer.interface, self._offer.instance, index, self._offer.user_data)
        return StorVspChannel(self._engine, offer, self._serve, self._may_serve, self._depth)

    def mute(self) -> None:
        """What ends in this turn is told by no signal: no device does that."""
        for channel in self.channels:
            channel.mute()

    def fail(self, why: str) -> None:
        """Serve nothing before the guest has closed the channels and opened them again."""
        for channel in self.channels:
            channel.fail(ChannelError(why))

    def attach(self, bus: Bus) -> None:
        """Offer it to the guest of `bus`."""
        self._bus = bus
        for channel in self.channels:
            bus.offer(channel)

    def detach(self) -> None:
        """Take it away from its guest."""
        bus, self._bus = self._bus, None
        if bus is not None:
            for channel in tuple(self.channels):
                bus.revoke(channel)

    # -- channels --------------------------------------------------------------------------------

    def _create(self, count: int) -> None:
        for index in range(1, count + 1):
            channel = self._channel(index)
            self.channels.append(channel)
            if self._bus is not None:
                self._bus.offer(channel)

    def _first_closed(self) -> None:
        """Without its first channel, a controller has no others, and knows its guest no more."""
        others, self.channels[1:] = self.channels[1:], []
        self.negotiation.reset()
        if self._bus is not None:
            for channel in others:
                self._bus.revoke(channel)

    def _may_serve(self, channel: StorVspChannel) -> bool:
        """Sub-channels wait until the first is ready."""
        return channel is self.channels[0] or self.negotiation.stage is READY

    def _changed(self) -> None:
        """A unit has come or gone. A guest that is not ready yet has not looked for any."""
        negotiation = self.negotiation
        if negotiation.stage is READY and negotiation.version >= Version.WIN7:
            packet = Header(Operation.ENUMERATE_BUS).pack() + bytes(negotiation.request_size)
            self.channels[0].notify(packet)

    # -- packets ---------------------------------------------------------------------------------

    def _serve(self, channel: StorVspChannel, data: bytes) -> None:
        """Do what a packet asks. Raises `ChannelError` if it makes no sense."""
        packet = parse(data)
        payload, transaction = packet.payload, packet.transaction
        if packet.type == COMPLETION or transaction is None:
            raise ChannelError("a packet that nobody waits for the end of")
        if len(payload) < Header.size:
            raise ChannelError(f"a packet of StorVSP in {len(payload)} bytes")
        size = min(len(payload), ScsiPacket.size)
        operation = unpack_header(payload)[0]
        ready = self.negotiation.stage is READY
        if operation == EXECUTE_SRB and ready:
            self._execute(channel, packet, data, transaction)
        elif operation in RESETS and ready:
            self._reset(channel, operation, payload, data, transaction)
        elif operation in OPERATIONS:
            answer = self._negotiate(channel, operation, payload)
            channel.complete(transaction, answer[:size].ljust(size, b"\0"))
        else:
            raise ChannelError(f"operation {operation} of StorVSP")

    def _negotiate(self, channel: StorVspChannel, operation: int, payload: bytes) -> bytes:
        """What is completed for all that is no request of the units."""
        status, answer = NtStatus.INVALID_DEVICE_STATE, b""
        if operation == Operation.FC_HBA_DATA:
            status = NtStatus.NOT_IMPLEMENTED
        elif channel is self.channels[0]:
            status, answer = self.negotiation.answer(operation, payload[Header.size :])
            if operation == Operation.END_INITIALIZATION:
                for other in self.channels[1:]:
                    other.drain_later()
        return _completion(status) + answer

    def _execute(
        self, channel: StorVspChannel, packet: Packet, data: bytes, transaction: int
    ) -> None:
        fields = unpack_request(packet.payload, extended=self.negotiation.version >= WIN8)
        path, target_id, lun, cdb_length, _, data_in, _, length, cdb = fields[7:16]
        size = min(len(packet.payload), ScsiPacket.size)
        command = Command(channel, self.target, data, transaction, fields, size, next(self._tags))
        target = self.target
        if self._address is not None and self._address != (path, target_id):
            target = self._nobody
        try:
            buffers = data_of(self._memory, packet, length)
        except GuestMemoryFault:
            command.end(SrbCode.INVALID_REQUEST)
            return
        opcode = cdb[0] if cdb_length else None
        if target.unit(lun) is None and opcode not in (INQUIRY, REPORT_LUNS):
            command.end(SrbCode.INVALID_LUN)
            return
        if cdb_length > CDB_LENGTH:
            command.end(SrbCode.INVALID_REQUEST)
            return
        request = target.submit(
            lun,
            cdb[:cdb_length],
            command.tag,
            buffers if data_in == READ else (),
            buffers if data_in == WRITE else (),
            command.done,
            attribute_of(*fields[18:20]),
        )
        if request is not None:
            channel.hold(command)

    def _reset(
        self, channel: StorVspChannel, operation: int, payload: bytes, data: bytes, transaction: int
    ) -> None:
        """A reset is complete when all that it ended has ended."""
        size = min(len(payload), ScsiPacket.size)
        reset = Management(channel, data, transaction, size)
        channel.hold(reset)
        if operation != Operation.RESET_LUN:
            self.target.reset(reset.end)
            return
        lun = unpack_request(payload, extended=False)[9]
        if self.target.unit(lun) is None:
            reset.end(NtStatus.DEVICE_DOES_NOT_EXIST)
        else:
            self.target.reset_unit(lun, reset.end)

    # -- save and restore ------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """The state as ints, strings, bytes, lists and dicts.

        What is under way is in it, to be done again by whoever restores it: this one must then
        neither answer nor move data any more.
        """
        return {
            "negotiation": self.negotiation.save(),
            "channels": [channel.save() for channel in self.channels],
            "units": [[lun, self._unit(lun).save()] for lun in self.target.luns],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The state of `save` again, before the bus restores its own.

        Raises `KeyError` or `ValueError` if it is none, or of other units.
        """
        units = dict(state["units"])
        if sorted(units) != self.target.luns:
            raise ValueError(f"saved with units {sorted(units)}, now {self.target.luns}")
        self.negotiation.restore(state["negotiation"])
        for channel, saved in zip(self.channels, state["channels"], strict=True):
            channel.restore(saved)
        for lun, unit in units.items():
            self._unit(lun).restore(unit)

    def _unit(self, lun: int) -> DeviceServer:
        unit = self.target.unit(lun)
        assert unit is not None
        return unit


def _completion(status: NtStatus) -> bytes:
    return Header(Operation.COMPLETE_IO, status=status).pack()

"""Fuzz VMBus and StorVSP: arbitrary messages, rings, indices and packets.

The input is a guest: it sends messages to the bus, opens channels, and fills their rings with
packets that are right but for what the fuzzer bends, before the negotiation and after it. Whatever
it does, no exception comes out, nothing is logged as an error, and the engine comes to rest.

    python -m fuzz.fuzz_vmbus -max_total_time=60 [CORPUS]
"""

from __future__ import annotations

import struct
import uuid

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["drivebay.controllers", "drivebay.platform"]):
    from drivebay.controllers.storvsp import StorVsp
    from drivebay.controllers.storvsp.packets import Descriptor, PacketType
    from drivebay.controllers.storvsp.protocol import Operation, ProtocolVersion, ScsiPacket
    from drivebay.disk.backends.ram import RamDisk
    from drivebay.platform import vmbus_messages as messages
    from drivebay.platform.engine import Engine
    from drivebay.platform.vmbus_bus import CONNECTIONS, VmBus
    from drivebay.scsi.disk import ScsiDisk
    from drivebay.scsi.target import Target
    from drivebay.testing import PuppetDisk
    from fuzz.support import Input, complete_all, finish_one, fuzz, guest_memory, put, settle

PAGE = 4096
PAGES = (1, 2, 3, 5)  # of a channel's rings; the last two do not adjoin
DOWNSTREAM, SIZE = 2, PAGE
GPADL = 1
INTERESTING = (0, 1, 7, 8, 0xFFF, 0x1000, 0xFFFF, 0x80000000, 0xFFFFFFFF)
OPCODES = (0x00, 0x12, 0x25, 0x28, 0x2A, 0xA0, 0x03, 0x41, 0x42, 0x88, 0x9E, 0x5F)


class Machine:
    """The controller under test, new for each input, on an engine that is not."""

    def __init__(self, engine: Engine, disk: RamDisk) -> None:
        self.engine = engine
        self.memory = guest_memory()
        self.puppets = [PuppetDisk(disk), PuppetDisk(disk)]
        self.units = [ScsiDisk(puppet) for puppet in self.puppets]
        self.target = Target(engine)
        self.target.add(0, self.units[0])
        self.device = StorVsp(
            self.target, self.memory, engine, instance=uuid.UUID(int=1), sub_channels=2, depth=4
        )
        self.bus = VmBus(self.memory, lambda message: None, lambda channel, vp: None)
        self.device.attach(self.bus)
        self.write = 0

    def set_up(self, steps: int) -> None:
        """Come some way as a driver does: contact, memory, the channel, the negotiation."""
        header = messages.GpadlHeader(channel_id=1, gpadl_id=GPADL, length=40, range_count=1)
        numbers = messages.GpaRange(4 * PAGE, 0).pack() + struct.pack("<4Q", *PAGES)
        opened = messages.OpenChannel(
            channel_id=1, ring_gpadl_id=GPADL, downstream_page_offset=DOWNSTREAM
        )
        for message in (
            messages.InitiateContact(version=messages.IRON).pack(),
            messages.Header(messages.MessageType.REQUEST_OFFERS).pack(),
            header.pack() + numbers,
            opened.pack(),
        )[:steps]:
            self.bus.message(message)
        settle(self.engine)
        self.write = 0
        version = ProtocolVersion(0x0600).pack()
        for operation in (7, 9, 10, 8)[: max(steps - 4, 0)]:
            self.packet(PacketType.IN_BAND, b"", ScsiPacket(operation).pack()[:12] + version)
            self.kick(1)

    def packet(self, kind: int, header: bytes, payload: bytes, **bent: int) -> None:
        """Put a packet into the ring, right but for what is `bent`."""
        payload = payload.ljust(-(-len(payload) // 8) * 8, b"\0")
        start = Descriptor.size + len(header)
        fields = {
            "type": kind,
            "data_offset8": start // 8,
            "length8": (start + len(payload)) // 8,
            "flags": 1,
            "transaction_id": 7,
            **bent,
        }
        data = Descriptor(**fields).pack() + header + payload + struct.pack("<II", 0, self.write)
        room = SIZE - self.write
        put(self.memory, PAGES[1] * PAGE + self.write, data[:room])
        put(self.memory, PAGES[1] * PAGE, data[room:])
        self.write = (self.write + len(data)) % SIZE
        put(self.memory, PAGES[0] * PAGE, struct.pack("<I", self.write))

    def kick(self, channel: int) -> None:
        """Signal, and read what came."""
        self.bus.signal(CONNECTIONS + channel)
        settle(self.engine)
        come = self.memory.view(PAGES[2] * PAGE, 4)
        put(self.memory, PAGES[2] * PAGE + 4, bytes(come))


def number(source: Input) -> int:
    choice = source.number("B")
    return INTERESTING[choice % len(INTERESTING)] if choice & 0x80 else source.number("I")


def request(machine: Machine, source: Input) -> None:
    """A command, and the memory for its data."""
    shape = source.number("B")
    count = source.number("B") & 3
    header = b""
    if shape & 1:
        header = struct.pack("<II", 0, count if shape & 2 else 1)
        for _ in range(max(count, 1)):
            length = source.number("H") if shape & 4 else 512
            header += struct.pack("<II", length, source.number("H") & 0x1FFF if shape & 8 else 0)
            header += struct.pack("<QQ", source.number("B") & 15, source.number("B"))
    code = OPCODES[source.number("B") % len(OPCODES)]
    scsi = ScsiPacket(
        operation=Operation.EXECUTE_SRB if shape & 0xC0 else source.number("B") & 15,
        path_id=source.number("B") & 1,
        lun=source.number("B") & 1,
        cdb_length=source.number("B") & 31,
        data_in=source.number("B") & 3,
        data_length=number(source) if shape & 16 else 512 * (shape & 1),
        payload=bytes([code]) + source.take(15),
        queue_action=0x20 + (source.number("B") & 3),
        srb_flags=shape & 2,
    ).pack()
    kind = PacketType.GPA_DIRECT if shape & 1 else PacketType.IN_BAND
    bent = {}
    if shape & 32:
        name = ("type", "data_offset8", "length8", "flags")[source.number("B") & 3]
        bent[name] = source.number("H") & (0xFFFF if shape & 2 else 0x1F)
    machine.packet(kind, header, scsi[: 64 - (shape & 0xC0 == 0x40) * 16], **bent)


def message(source: Input) -> bytes:
    kind = source.number("B") % 26
    body = b"".join(
        struct.pack("<I", source.number("B") & 3 if source.number("B") & 3 else number(source))
        for _ in range(source.number("B") % 12)
    )
    return struct.pack("<II", kind, 0) + body


def step(machine: Machine, source: Input) -> None:
    """One thing a guest, or what is around it, does."""
    action = source.number("B")
    if action < 100:
        request(machine, source)
    elif action < 150:
        machine.kick(action & 3)
    elif action < 170:
        finish_one(machine.puppets, machine.engine, source.number("B"))
    elif action < 190:
        machine.bus.message(message(source))
    elif action < 205:
        word = (0, 1, 2, 3, 16)[source.number("B") % 5]
        put(machine.memory, PAGES[action & 2] * PAGE + 4 * word, struct.pack("<I", number(source)))
    elif action < 215:
        put(machine.memory, source.number("H"), source.take(24))
    elif action < 225:
        if 1 in machine.target.luns:
            machine.target.remove(1)
        else:
            machine.target.add(1, machine.units[1])
    elif action < 235:
        machine.set_up(action % 9)
    elif action < 245:
        machine.bus.message(messages.CloseChannel(channel_id=1).pack())
    else:
        machine.bus.reset(lambda: None)


engine = Engine(workers=0)
disk = RamDisk(1 << 16)


def one_input(data: bytes) -> None:
    source = Input(data)
    machine = Machine(engine, disk)
    machine.set_up(source.number("B") % 9)
    while source.more:
        step(machine, source)
    settle(engine)
    complete_all(machine.puppets, engine)
    ended: list[bool] = []
    machine.bus.reset(lambda: ended.append(True))
    complete_all(machine.puppets, engine)
    if not ended:
        raise AssertionError("the bus does not reset")
    for unit in machine.units:
        unit.close()
    disk._resize_listeners.clear()


if __name__ == "__main__":
    fuzz(one_input, "-timeout=10", f"-max_len={1 << 11}", "-len_control=20")

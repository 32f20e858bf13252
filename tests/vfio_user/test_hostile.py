"""Peers that mean no good: nothing of theirs stays, and the next one is served."""

from __future__ import annotations

import logging
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from drivebay.hosts.vfio_user.codec import Codec, encode
from drivebay.hosts.vfio_user.messages import (
    MAX_SIZE,
    Command,
    DmaMap,
    Irq,
    IrqSetFlags,
    MigrationState,
    RegionAccess,
    WriteMulti,
)
from drivebay.platform.engine import Engine
from drivebay.testing import GuestRam, HungUp
from drivebay.testing.vfio_user import Monitor, RefusedByServer

from ..vhost_user.support import hung_up, no_fd_is_left
from .support import LINE, Bay, eventfd, make_bay

TRIGGER_FD = IrqSetFlags.ACTION_TRIGGER | IrqSetFlags.DATA_EVENTFD


class Recorder(Monitor):
    """Remembers what it has sent, message by message."""

    def __init__(self, bay: Bay) -> None:
        self.sent: list[tuple[bytes, tuple[int, ...]]] = []
        super().__init__(bay.path, poll=bay.turn)

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        self.sent.append((data, tuple(fds)))
        super().send(data, fds)


class Dribbler(Monitor):
    """Sends one byte at a time, and lets the server run after each."""

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        for n in range(len(data)):
            super().send(data[n : n + 1], fds if not n else ())
            self._poll()


def whole_session(monitor: Monitor, line: int) -> None:
    """Something of everything."""
    monitor.device_info()
    for index in range(9):
        for fd in monitor.region_info(index)[2]:
            os.close(fd)
    monitor.wire(Irq.INTX, [line])
    monitor.write(0, LINE, 4, 1)
    monitor.unmask()
    monitor.write(0, LINE, 4, 0, posted=True)
    monitor.wire(Irq.MSIX, [line, line])
    monitor.go(MigrationState.STOP_COPY)
    monitor.take_state()
    monitor.go(MigrationState.RUNNING)
    monitor.reset()
    monitor.dma_unmap(1 << 32, monitor.ram.region.length)


def test_a_whole_session_may_come_byte_by_byte(bay: Bay) -> None:
    line = eventfd()
    with Dribbler(bay.path, poll=lambda: bay.engine.turn(0)) as monitor:
        whole_session(monitor, line)
    os.close(line)
    bay.still_works()


def test_messages_in_one_packet_are_messages(bay: Bay) -> None:
    with bay.monitor() as monitor:
        read = encode(Command.REGION_READ, RegionAccess(0, 7, 4).pack())
        monitor.send(read * 50)
        for _ in range(50):
            assert monitor.receive().payload[16:] == b"\xf4\x1a\x34\x12"


def test_a_client_may_leave_after_any_byte(bay: Bay) -> None:
    line = eventfd()
    with Recorder(bay) as recorder:
        whole_session(recorder, line)
        handshake = list(recorder.sent)
        recorder.socket.close()
        bay.until_free()
        with no_fd_is_left():
            for messages, (last, fds) in enumerate(handshake):
                for length in range(0, len(last), 1 if messages < 3 else 7):
                    with socket.socket(socket.AF_UNIX) as client:
                        client.connect(bay.path)
                        for data, with_fds in handshake[:messages]:
                            socket.send_fds(client, [data], with_fds)
                        if length:
                            socket.send_fds(client, [last[:length]], fds)
                        bay.settle()
                    bay.until_free()
    os.close(line)
    bay.still_works()


def test_descriptors_are_flat_after_a_thousand_clients(bay: Bay) -> None:
    line = eventfd()
    ram = GuestRam(1 << 20)
    with bay.monitor(ram=ram) as first:  # what is opened once and for all
        first.device_info()
    bay.until_free()
    with no_fd_is_left():
        for _ in range(1000):
            with bay.monitor(ram=ram) as monitor:
                monitor.wire(Irq.INTX, [line])
                monitor.wire(Irq.MSIX, [line] * 4)
            bay.until_free()
    ram.close()
    os.close(line)


def test_a_thousand_half_open_connections(bay: Bay) -> None:
    with no_fd_is_left():
        for _ in range(1000):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(bay.path)
                bay.engine.turn(0)
        bay.until_free()
    bay.still_works()


def test_a_second_client_is_refused(bay: Bay) -> None:
    with bay.monitor(), socket.socket(socket.AF_UNIX) as second:
        second.connect(bay.path)
        bay.settle()
        assert hung_up(second)


def test_a_silent_client_makes_room(bay: Bay) -> None:
    bay.server.patience = 0.05
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(bay.path)
        bay.engine.turn(0.1)
        bay.until_free()
        assert hung_up(client)


def test_two_functions_in_one_process(bay: Bay, engine: Engine, tmp_path: Path) -> None:
    other = make_bay(engine, tmp_path)
    with bay.monitor() as one, other.monitor() as two:
        one.write(0, 8, 4, 1)
        two.write(0, 8, 4, 2)
        assert (one.read(0, 8, 4), two.read(0, 8, 4)) == (1, 2)
    other.server.close()
    other.function.shared.close()


@pytest.mark.parametrize("count", [0, 1, 2, 8, 16, 17, 253])
@pytest.mark.parametrize("command", list(Command))
def test_descriptors_with_any_command(bay: Bay, command: Command, count: int) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    with no_fd_is_left():
        with bay.monitor() as monitor:
            monitor.send(encode(command, bytes(32)), [fd] * count)
            bay.settle()
        bay.until_free()
    os.close(fd)
    bay.still_works()


def test_a_client_of_another_version_is_told(bay: Bay, caplog: pytest.LogCaptureFixture) -> None:
    with bay.raw() as monitor, pytest.raises(HungUp):
        monitor.negotiate(major=1, minor=2)
    assert "the client speaks vfio-user 1.2, not 0.0" in caplog.text
    bay.still_works()


def test_a_vhost_user_front_end_is_told(bay: Bay, caplog: pytest.LogCaptureFixture) -> None:
    with bay.raw() as monitor:
        monitor.send(struct.pack("<III", 1, 1, 0))  # GET_FEATURES
        with pytest.raises(HungUp):
            monitor.receive()
    assert "-device vfio-user-pci" in caplog.text


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0\r\n\r\n", bytes(16), b"\xff" * 16])
def test_another_protocol_ends_the_connection(bay: Bay, data: bytes) -> None:
    with bay.raw() as monitor:
        monitor.send(data)
        with pytest.raises(HungUp):
            monitor.receive()
    bay.still_works()


VERSION = encode(Command.VERSION, bytes(4))


@pytest.mark.parametrize(
    "first",
    [
        encode(Command.DEVICE_GET_INFO, struct.pack("<4I", 16, 0, 0, 0)),
        encode(Command.VERSION, b"\0\0"),
        encode(Command.VERSION, bytes(4) + b"{"),
        encode(Command.VERSION, bytes(4) + b"[" * 3000 + b"\0"),
        encode(Command.VERSION, bytes(4) + b'{"capabilities":{"max_msg_fds":"x"}}\0'),
        encode(Command.VERSION, bytes(4) + b'{"capabilities":{"max_data_xfer_size":0}}\0'),
        VERSION + VERSION,
        VERSION + encode(Command.DEVICE_RESET, flags=2),
        VERSION + encode(Command.DMA_READ, flags=1),
        VERSION + struct.pack("<HHIII", 0, 9, MAX_SIZE + 1, 0, 0),
        VERSION + struct.pack("<HHIII", 0, 9, 15, 0, 0),
        VERSION + encode(Command.DEVICE_RESET, b"x"),
    ],
)
def test_what_breaks_the_protocol_ends_the_connection(bay: Bay, first: bytes) -> None:
    with bay.raw() as monitor:
        monitor.send(first)
        with pytest.raises(HungUp):
            while True:
                monitor.receive()
    bay.still_works()


@pytest.mark.parametrize("command", list(Command))
def test_every_command_of_every_odd_length(bay: Bay, command: Command) -> None:
    for length in (0, 1, 7, 8, 15, 16, 17, 19, 20, 23, 24, 31, 32, 33, 100):
        for byte in (0, 0xFF):
            with bay.monitor() as monitor:
                monitor.send(encode(command, bytes([byte]) * length))
                bay.settle()
    bay.still_works()


@pytest.mark.parametrize(
    "region",
    [
        (0, 0),
        (0, 1 << 63),
        ((1 << 64) - 4096, 8192),
        (0, (1 << 64) - 1),
    ],
)
def test_memory_regions_that_cannot_be(bay: Bay, region: tuple[int, int]) -> None:
    address, size = region
    with bay.monitor() as monitor, pytest.raises((HungUp, RefusedByServer)):
        payload = DmaMap(DmaMap.size, 3, 0, address, size).pack()
        monitor.call(Command.DMA_MAP, payload, [monitor.ram.fd])
    bay.still_works()


def test_a_region_past_its_files_end_ends_the_connection(
    bay: Bay, caplog: pytest.LogCaptureFixture
) -> None:
    with bay.monitor() as monitor, pytest.raises(HungUp):
        payload = DmaMap(DmaMap.size, 3, 16 << 20, 0, 1 << 20).pack()
        monitor.call(Command.DMA_MAP, payload, [monitor.ram.fd])
    assert "past its file's end" in caplog.text


@pytest.mark.parametrize("flags", [0, 1, 0x21 | 2, 0x39, 0x100 | 0x21, 0x24 | 0x40])
def test_interrupt_flags_that_make_no_sense(bay: Bay, flags: int) -> None:
    with bay.monitor() as monitor, pytest.raises(HungUp):
        monitor.set_irqs(flags, 0, 0, 1)
    bay.still_works()


@pytest.mark.parametrize(
    "place",
    [(0, 0, 2), (0, 1, 1), (2, 0, 5), (2, 0xFFFFFFFF, 1), (2, 1, 0xFFFFFFFF), (5, 0, 1)],
)
def test_interrupts_that_there_are_not(bay: Bay, place: tuple[int, int, int]) -> None:
    with bay.monitor() as monitor:
        with pytest.raises(RefusedByServer):
            monitor.set_irqs(0x21, *place)
        with pytest.raises(RefusedByServer):
            monitor.set_irqs(TRIGGER_FD, *place)


def test_a_count_that_the_descriptors_are_not(bay: Bay) -> None:
    fd = eventfd()
    with bay.monitor() as monitor, pytest.raises(HungUp):
        monitor.set_irqs(TRIGGER_FD, 2, 0, 3, fds=[fd])
    os.close(fd)


def test_an_unmask_descriptor_that_cannot_be_watched(bay: Bay) -> None:
    with bay.monitor() as monitor, pytest.raises(HungUp):
        flags = IrqSetFlags.ACTION_UNMASK | IrqSetFlags.DATA_EVENTFD
        fd = os.open(__file__, os.O_RDONLY)
        try:
            monitor.set_irqs(flags, 0, 0, 1, fds=[fd])
        finally:
            os.close(fd)
    bay.still_works()


def test_a_write_count_that_the_data_are_not(bay: Bay) -> None:
    for count in (1, 1 << 32, (1 << 64) - 1):
        with bay.monitor() as monitor, pytest.raises(HungUp):
            monitor.call(Command.REGION_WRITE_MULTI, WriteMulti(count).pack())
    bay.still_works()


def test_a_client_that_reads_no_answers_is_let_go(bay: Bay) -> None:
    with bay.monitor() as monitor:
        read = encode(Command.REGION_READ, RegionAccess(0, 7, 256).pack())
        with pytest.raises((HungUp, AssertionError)):
            monitor.timeout = 0.5
            for _ in range(10_000):
                monitor.send(read * 10)
                bay.engine.turn(0)
    bay.until_free()
    bay.still_works()


def test_noise(bay: Bay) -> None:
    noise = random.Random(7)
    for _ in range(300):
        with bay.monitor() as monitor:
            for _ in range(3):
                payload = noise.randbytes(noise.choice((0, 8, 16, 20, 24, 32, 48)))
                flags = noise.choice((0, 0x10))
                monitor.send(encode(noise.randrange(20), payload, noise.randrange(9), flags))
            bay.settle()
    bay.still_works()


class TestCodec:
    def test_descriptors_belong_to_the_last_message_that_began(self) -> None:
        codec, message = Codec(), encode(1, b"abc")
        first, second = codec.receive(message * 2, [7])
        assert (first.fds, second.fds) == ((), (7,))
        (third,) = codec.receive(message + message[:3], [8])
        assert third.fds == ()
        assert codec.receive(message[3:10], [9]) == []
        fourth, fifth = codec.receive(message[10:] + message, [10])
        assert (fourth.fds, fifth.fds) == ((8, 9), (10,))

    def test_it_takes_any_pieces(self) -> None:
        stream = b"".join(encode(n, bytes(n)) for n in range(50))
        cut = random.Random(1)
        for _ in range(50):
            codec, messages, at = Codec(), [], 0
            while at < len(stream):
                size = cut.randrange(1, 100)
                messages += codec.receive(stream[at : at + size])
                at += size
            assert [(m.command, len(m.payload)) for m in messages] == [(n, n) for n in range(50)]


def test_a_client_that_truncates_its_memory_harms_its_server_only() -> None:
    """There is no defence in the process itself: this is what the supervisor is for."""
    code = (
        "import mmap, os; from drivebay.hosts.peer import map_file;"
        "fd = os.memfd_create('m'); os.ftruncate(fd, 8192); view = map_file(fd, 0, 8192);"
        "os.ftruncate(fd, 0); bytes(view[:8])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -7


def test_lines_of_a_client_are_rationed(bay: Bay, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), bay.monitor() as monitor:
        for _ in range(200):
            monitor.write(1, 0, 4, 0, posted=True)
        monitor.read(7, 0, 4)
    assert len(caplog.messages) < 20

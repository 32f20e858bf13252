"""The 8237s of a PC, and a device on one of their channels."""

from __future__ import annotations

import pytest

from drivebay.machines.chips.i8237 import Channel, DmaPair
from drivebay.platform.memory import GuestMemory
from drivebay.platform.ports import PortSpace

from .support import noise

RAM = 0x40000
STATUS = COMMAND = 0x08
MASK, MODE, CLEAR, MASTER_CLEAR, CLEAR_MASK, ALL_MASK = range(0x0A, 0x10)
TO_MEMORY, FROM_MEMORY, VERIFY, DECREMENT, AUTO, CASCADE = 0x44, 0x48, 0x40, 0x20, 0x10, 0xC0


class Board:
    def __init__(self) -> None:
        self.memory = GuestMemory.of_size(RAM)
        self.memory.view(0, RAM)[:] = noise(RAM)
        self.ports = PortSpace()
        self.pair = DmaPair(self.memory)
        self.ports.map(0x00, self.pair.first)
        self.ports.map(0x81, self.pair.pages)
        self.ports.map(0xC0, self.pair.second)

    def outb(self, port: int, value: int) -> None:
        self.ports.write(port, 1, value)

    def inb(self, port: int) -> int:
        return self.ports.read(port, 1)

    def aim(self, address: int, count: int, mode: int) -> Channel:
        """Channel 2."""
        self.outb(CLEAR, 0)
        for port, value in ((4, address), (5, count - 1)):
            self.outb(port, value & 0xFF)
            self.outb(port, value >> 8 & 0xFF)
        self.outb(0x81, address >> 16)
        self.outb(MODE, mode | 2)
        self.outb(MASK, 2)
        return self.pair.channels[2]


@pytest.fixture
def board() -> Board:
    return Board()


def take(channel: Channel, most: int = 1 << 20) -> bytes:
    return b"".join(channel.memory(most, to_memory=False))


def test_a_transfer_in_parts(board: Board) -> None:
    """Terminal count masks the channel, and shows in the status until that is read."""
    channel = board.aim(0x12345, 100, FROM_MEMORY)
    assert take(channel, 60) == noise(RAM)[0x12345:][:60]
    assert not channel.moved(60)
    assert [board.inb(port) for port in (4, 4, 5, 5)] == [0x81, 0x23, 39, 0]
    assert take(channel) == noise(RAM)[0x12345 + 60 :][:40]
    assert channel.moved(40)
    assert board.inb(STATUS) == 0x04
    assert board.inb(STATUS) == 0
    assert [board.inb(port) for port in (5, 5)] == [0xFF, 0xFF]
    assert channel.memory(1, to_memory=False) == []


def test_a_page_is_not_left(board: Board) -> None:
    """After its end comes its beginning."""
    channel = board.aim(0x1FFF0, 32, FROM_MEMORY)
    ram = noise(RAM)
    assert take(channel) == ram[0x1FFF0:0x20000] + ram[0x10000:0x10010]


def test_automatic_initialization(board: Board) -> None:
    channel = board.aim(0x10000, 16, FROM_MEMORY | AUTO)
    for _ in range(3):
        assert take(channel) == noise(RAM)[0x10000:0x10010]
        assert channel.moved(16)


def test_downwards(board: Board) -> None:
    channel = board.aim(0x1000F, 16, FROM_MEMORY | DECREMENT)
    assert take(channel) == noise(RAM)[0x10000:0x10010][::-1]
    channel = board.aim(0x10002, 16, TO_MEMORY | DECREMENT)
    [data] = channel.memory(16, to_memory=True)
    data[:] = bytes(range(16))
    assert channel.moved(16)
    ram = board.memory
    assert bytes(ram.view(0x10000, 3)) == bytes((2, 1, 0))
    assert bytes(ram.view(0x1FFF3, 13)) == bytes(range(15, 2, -1))


def test_verify_touches_no_memory(board: Board) -> None:
    channel = board.aim(0x10000, 16, VERIFY)
    for to_memory in (True, False):
        [data] = channel.memory(16, to_memory)
        data[:] = bytes(16)
    assert bytes(board.memory.view(0x10000, 16)) == noise(RAM)[0x10000:0x10010]
    assert channel.moved(16)


def test_who_does_not_answer(board: Board) -> None:
    channel = board.aim(0x10000, 16, FROM_MEMORY)
    assert not channel.memory(16, to_memory=True)
    assert channel.memory(16, to_memory=False)
    for port, value in ((MASK, 6), (ALL_MASK, 0x0F), (COMMAND, 4), (MASTER_CLEAR, 0)):
        board.outb(port, value)
        assert not channel.memory(16, to_memory=False), hex(port)
        board.outb(COMMAND, 0)
        board.outb(CLEAR_MASK, 0)
        assert channel.memory(16, to_memory=False)
    assert board.inb(ALL_MASK) == 0
    board.outb(MODE, CASCADE | 2)
    assert not channel.memory(16, to_memory=False)


def test_words(board: Board) -> None:
    """Channel 5: addresses and counts are of words, and a page has 128 KiB."""
    board.outb(0xD8, 0)
    for port, value in ((0xC4, 0x8001), (0xC6, 3)):
        board.outb(port, value & 0xFF)
        board.outb(port, value >> 8)
    board.outb(0x8B, 0x03)
    board.outb(0xD6, FROM_MEMORY | 1)
    board.outb(0xD4, 1)
    channel = board.pair.channels[5]
    assert take(channel) == noise(RAM)[0x30002:0x3000A]
    assert channel.moved(8)
    assert board.inb(0xD0) == 0x02


def test_the_other_page_registers_remember(board: Board) -> None:
    for port in range(0x81, 0x90):
        board.outb(port, port ^ 0x5A)
    assert [board.inb(port) for port in range(0x81, 0x90)] == [p ^ 0x5A for p in range(0x81, 0x90)]
    assert board.pair.channels[7].page == 0x8A ^ 0x5A
    assert board.ports.read(0x84, 4) == int.from_bytes(
        bytes(p ^ 0x5A for p in range(0x84, 0x88)), "little"
    )


def test_saved_and_restored(board: Board) -> None:
    board.aim(0x12345, 100, FROM_MEMORY).moved(10)
    board.outb(5, 1)  # the high byte is still to come
    other = Board()
    other.pair.restore(board.pair.save())
    assert other.pair.save() == board.pair.save()
    assert other.inb(4) == 0x23

"""qtest lines: what they do, and what they are answered."""

from __future__ import annotations

import base64

import pytest

from drivebay.platform.memory import Region

from .support import HIGH, RAM, REGISTERS, Bench

ANSWERS = {
    "endianness": "OK little",
    "inb 0x100": "OK 0x0078",
    "inw 0x100": "OK 0x5678",
    "inl 0x100": "OK 0x12345678",
    "inb 0x1f7": "OK 0x00ff",
    "inl 65535": "OK 0xffffffff",
    "outb 0x100 0x1ff": "OK",
    "readb 0x0": "OK 0x0000000000000000",
    "read 0x10 0x4": "OK 0x00000000",
    "b64read 0x10 3": "OK AAAA",
    "b64read 0x10 0": "OK ",
    "readb 0x80000000": "OK 0x00000000000000ff",
    "memset 0x0 0x0 0x5": "OK",
    "clock_step": "OK 0",
    "clock_step 100": "OK 100",
    "clock_set 0x64": "OK 100",
    "irq_intercept_in ioapic": "OK",
    "readb 010": "OK 0x0000000000000000",
}


@pytest.mark.parametrize("line", ANSWERS)
def test_a_line_is_answered(bench: Bench, line: str) -> None:
    assert bench.ask(line) == ANSWERS[line] + "\n"


@pytest.mark.parametrize(("letter", "width"), [("b", 1), ("w", 2), ("l", 4), ("q", 8)])
@pytest.mark.parametrize("address", [0, 3, RAM - 8, HIGH])
def test_memory_is_little_endian(bench: Bench, letter: str, width: int, address: int) -> None:
    value = 0x8877665544332211
    assert bench.ask(f"write{letter} {address:#x} {value:#x}") == "OK\n"
    expected = value & ((1 << 8 * width) - 1)
    assert bench.ask(f"read{letter} {address:#x}") == f"OK {expected:#018x}\n"
    stored = bench.machine.board.memory.view(address, width)
    assert bytes(stored) == value.to_bytes(8, "little")[:width]


def test_bytes_are_digits_in_lower_case(bench: Bench) -> None:
    assert bench.ask("write 0x20 0x4 0xDEadBEef") == "OK\n"
    assert bench.ask("read 0x20 0x4") == "OK 0xdeadbeef\n"


def test_data_that_are_short_end_in_zeroes_and_what_is_over_is_left_out(bench: Bench) -> None:
    bench.ask("memset 0x20 8 0xff")
    assert bench.ask("write 0x20 0x4 0x1234") == "OK\n"
    assert bench.ask("read 0x20 8") == "OK 0x12340000ffffffff\n"
    assert bench.ask("write 0x20 0x1 0xabcdef") == "OK\n"
    assert bench.ask("write 0x21 0x1 0xcde") == "OK\n"
    assert bench.ask("read 0x20 3") == "OK 0xabcd00\n"
    assert bench.ask("write 0x20 0x4 12") == "ERR invalid argument size\n"


def test_base64(bench: Bench) -> None:
    data = bytes(range(256)) * 9
    assert bench.ask(f"b64write 0x100 {len(data)} {base64.b64encode(data).decode()}") == "OK\n"
    assert bench.ask(f"b64read 0x100 {len(data)}") == f"OK {base64.b64encode(data).decode()}\n"
    assert bytes(bench.machine.board.memory.view(0x100, len(data))) == data


def test_a_port_takes_the_width_of_the_verb(bench: Bench) -> None:
    for line in ("outb 0x100 0x123456789", "outw 0x100 0x12345", "outl 0x100 0x1ffffffff"):
        assert bench.ask(line) == "OK\n"
    assert bench.toy.calls == [
        ("out", 0, 1, 0x89),
        ("out", 0, 2, 0x2345),
        ("out", 0, 4, 0xFFFFFFFF),
    ]


# -- registers in memory -----------------------------------------------------------------------


def test_byte_verbs_reach_registers(bench: Bench) -> None:
    assert bench.ask(f"write {REGISTERS + 1:#x} 8 0x0102030405060708") == "OK\n"
    assert bench.toy.calls == [
        ("write", 1, 1, 0x01),
        ("write", 2, 2, 0x0302),
        ("write", 4, 4, 0x07060504),
        ("write", 8, 1, 0x08),
    ]
    assert bench.ask(f"read {REGISTERS:#x} 0xa") == "OK 0x00010203040506070800\n"
    assert bench.ask(f"memset {REGISTERS:#x} 4 0x7") == "OK\n"
    assert bench.ask(f"b64read {REGISTERS:#x} 3") == "OK BwcH\n"


def test_a_wide_access_to_registers_is_cut_in_two(bench: Bench) -> None:
    assert bench.ask(f"writeq {REGISTERS + 8:#x} 0x1122334455667788") == "OK\n"
    assert bench.toy.calls == [("write", 8, 4, 0x55667788), ("write", 12, 4, 0x11223344)]
    assert bench.ask(f"readq {REGISTERS + 8:#x}") == "OK 0x1122334455667788\n"
    assert bench.ask(f"readl {REGISTERS + 8:#x}") == "OK 0x0000000055667788\n"


def test_a_range_may_be_ram_in_parts(bench: Bench) -> None:
    """RAM, a hole, RAM again: the hole reads ones and drops what is written."""
    start, length = RAM - 4, HIGH - RAM + 8
    assert bench.ask(f"memset {start:#x} {length:#x} 1").startswith("FAIL more than 65536 bytes")
    low, high = bench.machine.board.memory.regions
    bench.machine.board.memory.replace([low, Region(RAM + 8, high.view)])
    assert bench.ask(f"memset {start:#x} 16 0x1") == "OK\n"
    assert bench.ask(f"read {start:#x} 16") == "OK 0x01010101ffffffffffffffff01010101\n"


# -- interrupts ----------------------------------------------------------------------------------


def test_interrupts_come_before_the_answer_of_what_caused_them(bench: Bench) -> None:
    bench.ask("irq_intercept_in ioapic")
    assert bench.ask("outb 0x102 0") == "IRQ raise 5\nOK\n"
    assert bench.ask("outb 0x102 0") == "OK\n"
    assert bench.ask("outb 0x103 0") == "IRQ lower 5\nOK\n"


def test_nobody_hears_of_interrupts_before_he_wants_to(bench: Bench) -> None:
    assert bench.ask("outb 0x102 0") == "OK\n"
    bench.ask("irq_intercept_in ioapic")
    assert bench.ask("outb 0x103 0") == "OK\n"
    assert bench.ask("outb 0x102 0") == "IRQ raise 5\nOK\n"


def test_an_interrupt_in_between_is_told_at_once(bench: Bench) -> None:
    bench.ask("irq_intercept_in ioapic")
    bench.toy.line.set(True)
    assert bench.tape.take() == "IRQ raise 5\n"


def test_the_machines_own_controllers_hear_of_interrupts_too(bench: Bench) -> None:
    bench.session.close()
    heard: list[tuple[int, bool]] = []
    bench.machine.board.interrupt = lambda line, level: heard.append((line, level))
    session = type(bench.session)(bench.machine.board, bench.machine.clock, bench.tape)
    session.receive(b"outb 0x102 0\n")
    assert heard == [(5, True)]


def test_one_controller_is_intercepted(bench: Bench) -> None:
    assert bench.ask("irq_intercept_in gic") == "OK\n"
    assert bench.ask("irq_intercept_in gic") == "OK\n"
    assert bench.ask("irq_intercept_in ioapic") == "FAIL IRQ intercept already enabled\n"
    assert bench.ask("irq_intercept_in /machine/x") == "FAIL Unknown device\n"


# -- order ---------------------------------------------------------------------------------------


def test_a_held_write_is_answered_when_the_device_lets_go(bench: Bench) -> None:
    bench.ask("irq_intercept_in ioapic")
    assert bench.ask("outb 0x101 1\ninb 0x100\noutb 0x101 2\nendianness") == ""
    assert not bench.tape.listening
    assert bench.toy.calls == [("out", 1, 1, 1)]
    bench.toy.line.set(True)
    bench.toy.holds[0].complete()
    assert bench.tape.take() == "IRQ raise 5\nOK\nOK 0x0078\n"
    bench.toy.holds[1].complete()
    assert bench.tape.take() == "OK\nOK little\n"
    assert bench.tape.listening


def test_a_held_write_of_somebody_who_left_is_nobodys(bench: Bench) -> None:
    bench.ask("outb 0x101 1\nendianness")
    bench.session.close()
    bench.toy.holds[0].complete()
    assert bench.tape.take() == ""


def test_many_lines_are_answered_in_one_go(bench: Bench) -> None:
    bench.session.receive(b"inb 0x100\n" * 100)
    assert bench.tape.take() == "OK 0x0078\n" * 100
    assert bench.tape.sends == 1


def test_lines_that_take_long_let_others_have_a_turn(bench: Bench) -> None:
    clock = bench.machine.clock

    def tick() -> None:
        clock.at(clock.now + 1, tick)

    tick()
    bench.session.receive(b"clock_step 60000\n" * 10)
    assert 1 <= bench.tape.take().count("OK") < 10
    assert not bench.tape.listening
    while bench.tape.calls:
        bench.tape.calls.pop()()
    assert bench.tape.listening
    assert clock.now == 600_000


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_lines_come_in_any_pieces(bench: Bench, size: int) -> None:
    data = b"inb 0x100\nendianness\n\nread 0 2\n"
    for at in range(0, len(data), size):
        bench.session.receive(data[at : at + size])
    assert bench.tape.take().splitlines() == [
        "OK 0x0078",
        "OK little",
        "FAIL Unknown command ''",
        "OK 0x0000",
    ]


def test_a_peer_that_takes_nothing_is_not_answered_for_ever(bench: Bench) -> None:
    bench.tape.space = 100_000
    bench.session.receive(b"read 0 0x8000\n" * 50)
    assert len(bench.tape.take()) < 300_000
    assert not bench.tape.listening
    bench.tape.space = 1 << 40
    bench.session.room()
    assert bench.tape.listening
    assert len(bench.tape.take()) > 3_000_000


# -- the clock -----------------------------------------------------------------------------------


def test_the_clock_stands_still_until_it_is_moved(bench: Bench) -> None:
    rung: list[int] = []
    bench.machine.clock.at(500, lambda: rung.append(bench.machine.clock.now))
    assert bench.ask("clock_step 499") == "OK 499\n"
    assert not rung
    assert bench.ask("clock_step") == "OK 500\n"
    assert rung == [500]
    assert bench.ask("clock_set 400") == "OK 500\n"
    assert bench.ask("clock_set 0x300") == "OK 768\n"


def test_a_timer_that_ticks_fast_cannot_keep_us(bench: Bench) -> None:
    clock = bench.machine.clock

    def tick() -> None:
        clock.at(clock.now + 1, tick)

    tick()
    assert "too much happens" in bench.ask(f"clock_step {(1 << 63) - 1}")
    assert bench.ask("endianness") == "OK little\n"

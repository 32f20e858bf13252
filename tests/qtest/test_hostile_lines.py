"""Lines that make no sense: each is refused in words, and the next one works (hostile.md 4.12)."""

from __future__ import annotations

import logging
import random
import tracemalloc

import pytest

from drivebay.hosts.qtest.codec import MAX_LINE, Lines

from .support import HIGH, RAM, Bench

LINES = {
    "empty": b"",
    "spaces": b"   ",
    "unknown verb": b"jump 0x1000",
    "verb in capitals": b"INB 0x1f7",
    "QEMU's other verbs": b"set_irq_in ioapic name 1 1",
    "no arguments": b"inb",
    "too few arguments": b"outb 0x1f7",
    "no data": b"write 0 4",
    "a port that is none": b"inb 0x10000",
    "a negative port": b"inb -1",
    "a port that is a word": b"inb data",
    "an octal digit too much": b"inb 08",
    "an empty number": b"inb ",
    "a number past 2^64": b"readb 0x10000000000000000",
    "a number of many digits": b"readb 0x" + b"f" * 5000,
    "a decimal number of many digits": b"readb " + b"9" * 5000,
    "a fraction": b"readb 1.5",
    "a value past 2^64": b"outb 0x1f7 0x10000000000000000",
    "huge length": b"read 0 0xffffffffffff",
    "huge length, base64": b"b64read 0 0xffffffffffff",
    "huge length to write": b"write 0 0xffffffffffff 0x00",
    "huge length to write, base64": b"b64write 0 0xffffffffffff AAAA",
    "huge length to set": b"memset 0 0xffffffffffff 0",
    "the longest length": b"read 0 0xffffffffffffffff",
    "past the end of all": b"read 0xffffffffffffffff 2",
    "wide access past the end of all": b"readq 0xfffffffffffffffc",
    "much that is not RAM": b"read 0x80000000 0x10001",
    "nothing to read": b"read 0 0",
    "not hexadecimal": b"write 0 2 0xzzzz",
    "not base64": b"b64write 0 3 A===",
    "negative clock": b"clock_step -1",
    "the clock's end": b"clock_set 0x7fffffffffffffffff",
    "garbage": bytes(range(128, 256)),
    "control characters": b"\x00\x01\x1b[31m",
    "a verb of a kilobyte": b"x" * 1024,
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_a_line_that_makes_no_sense_is_refused(bench: Bench, line: bytes) -> None:
    tracemalloc.start()
    answer = bench.ask(line)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer.startswith(("FAIL ", "ERR "))
    assert answer.count("\n") == 1
    assert answer.strip().isprintable()
    assert len(answer) < 250
    assert peak < 1 << 20
    assert bench.ask("endianness") == "OK little\n"
    assert bytes(bench.machine.board.memory.view(0, RAM)) == bytes(RAM)


def test_a_line_that_is_too_long_is_refused_and_not_kept(bench: Bench) -> None:
    piece = b"a" * (1 << 20)
    for _ in range(MAX_LINE // len(piece) + 2):
        bench.session.receive(piece)
    assert sum(map(len, bench.session._lines._parts)) == 0
    assert bench.ask("tail") == "ERR line too long\n"
    assert bench.ask("endianness") == "OK little\n"


def test_a_half_line_is_no_line(bench: Bench) -> None:
    bench.session.receive(b"memset 0x0 0x10 0xff")
    bench.session.close()
    assert bytes(bench.machine.board.memory.view(0, 16)) == bytes(16)


def test_lines_are_cut_whatever_their_limit() -> None:
    lines = Lines(limit=4)
    assert lines.receive(b"abcd\nab") == [b"abcd"]
    assert lines.receive(b"cde\n1\n") == [None, b"1"]
    assert lines.receive(b"\n") == [b""]


def test_a_bug_of_a_device_is_logged_and_answered(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.toy.broken = True
    assert bench.ask("inb 0x100") == "FAIL internal error\n"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    caplog.clear()
    assert bench.ask("endianness") == "OK little\n"


def test_noise(bench: Bench) -> None:
    """Verbs and words in any order: always one answer a line, and no exception."""
    dice = random.Random(7)
    words = [verb.decode() for verb in bench.session._verbs]
    words += ["0", "0x100", "0x101", "-1", "0x10000", hex(HIGH), "0xffffffffffffffff", "AAAA", ""]
    for _ in range(20_000):
        line = " ".join(dice.choice(words) for _ in range(dice.randrange(1, 6)))
        answer = bench.ask(line)
        for hold in bench.toy.holds:
            hold.complete()
        bench.toy.holds.clear()
        answer += bench.tape.take()
        assert answer.count("\n") == 1, line
        assert answer.startswith(("OK", "FAIL ", "ERR ")), line
    assert bench.ask("endianness") == "OK little\n"

"""One qtest connection: each line is an access of the guest's CPU, and is answered by a line.

Interrupts are lines of their own, before the answer of the access that caused them. A write that
the device holds is answered when the device lets go, and nothing after it is looked at before.
"""

from __future__ import annotations

import binascii
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from drivebay.hosts.qtest.bus import Bus
from drivebay.hosts.qtest.codec import MAX_DATA, Lines, Refused, number, shown
from drivebay.hosts.stream import Peer
from drivebay.platform.board import Board
from drivebay.platform.logs import RationedLog
from drivebay.platform.machine import VirtualClock
from drivebay.platform.memory import GuestMemoryFault

__all__ = ["QtestSession"]

log = logging.getLogger(__name__)

OK: Final = b"OK\n"
WIDTHS: Final = {b"b": 1, b"w": 2, b"l": 4, b"q": 8}
TOO_SHORT: Final = b"ERR invalid argument size\n"
PORTS: Final = 1 << 16
CLOCK_END: Final = 1 << 63
"""Nanoseconds; QEMU counts them in 63 bits."""
FIRST_PART: Final = 1_000_000
SHORT_SECONDS: Final = 0.001
MOST_SECONDS: Final = 1.0
"""So long, in real time, one line may let things happen."""
TURN_SECONDS: Final = 0.05
"""After so long the rest of the lines waits for the next turn."""
FULL: Final = 1 << 16
"""So many bytes of answers are sent at once."""
CONTROLLERS: Final = (b"ioapic", b"gic")
"""What may be intercepted: the board has one set of lines, whatever collects them."""

Verb = Callable[[list[bytes]], bytes | None]
"""Does what a line says. Returns the answer, or None if it comes later."""
UNKNOWN: Final = (0, None)


class QtestSession:
    """Works `board` and its `clock` as the lines of `peer` say. `room` must be called when `peer`,
    once it was full, takes more.
    """

    def __init__(self, board: Board, clock: VirtualClock, peer: Peer) -> None:
        self._board, self._clock, self._peer = board, clock, peer
        self._ports, self._memory, self._bus = board.ports, board.memory, Bus(board)
        self._lines = Lines()
        self._queue: deque[bytes | None] = deque()
        self._answers: list[bytes] = []
        self._held = False  # a write is not complete
        self._full = False  # nobody takes our answers
        self._working = False
        self._intercepted: bytes | None = None
        self._raised: set[int] = set()  # the lines that we told are up
        self._log = RationedLog(log)
        self._verbs = self._all_verbs()
        self._below = board.interrupt  # of the machine's own interrupt controllers
        board.interrupt = self._interrupt

    def _all_verbs(self) -> dict[bytes, tuple[int, Verb]]:
        """What the first word of a line means, and how many words there must be."""
        verbs: dict[bytes, tuple[int, Verb]] = {
            b"endianness": (1, lambda words: b"OK little\n"),
            b"read": (3, self._read),
            b"write": (4, self._write),
            b"b64read": (3, self._b64read),
            b"b64write": (4, self._b64write),
            b"memset": (4, self._memset),
            b"clock_step": (1, self._clock_step),
            b"clock_set": (2, self._clock_set),
            b"irq_intercept_in": (2, self._intercept),
        }
        for letter, width in WIDTHS.items():
            verbs[b"read" + letter] = (2, partial(self._load, width))
            verbs[b"write" + letter] = (3, partial(self._store, width))
            if width <= 4:
                verbs[b"in" + letter] = (2, partial(self._in, width))
                verbs[b"out" + letter] = (3, partial(self._out, width, (1 << 8 * width) - 1))
        return verbs

    # -- lines in, answers out -------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._queue += self._lines.receive(data)
        self._work()

    def room(self) -> None:
        """The peer takes more again."""
        self._full = False
        self._work()

    def close(self) -> None:
        """The peer has gone."""
        self._queue.clear()
        self._full = True
        self._board.interrupt = self._below

    def _work(self) -> None:
        """Answer the lines that have come, as far as that is possible."""
        if self._working:
            return
        self._working = True
        queue, size, end = self._queue, 0, time.monotonic() + TURN_SECONDS
        while queue and not self._held and not self._full:
            answer = self._answer(queue.popleft())
            if answer is not None:
                self._answers.append(answer)
                size += len(answer)
                if size > FULL:
                    self._flush()
                    size = 0
            if queue and time.monotonic() > end:  # others have a turn, a signal above all
                self._peer.later(self._work)
                break
        self._working = False
        self._flush()
        self._peer.listen(not (queue or self._held or self._full))

    def _flush(self) -> None:
        if self._answers:
            answers, self._answers = self._answers, []
            self._full = not self._peer.send(b"".join(answers))

    def _answer(self, line: bytes | None) -> bytes | None:
        if line is None:
            return b"ERR line too long\n"
        words = line.split(b" ")
        least, verb = self._verbs.get(words[0], UNKNOWN)
        if verb is None:
            return f"FAIL Unknown command {shown(words[0])}\n".encode()
        if len(words) < least:
            return f"FAIL {shown(words[0])} takes {least - 1} arguments\n".encode()
        try:
            return verb(words)
        except Refused as refused:
            return f"FAIL {refused}\n".encode()
        except Exception as error:  # a bug of ours: the peer shall see that something is wrong
            self._log.error("qtest: unexpected error in %s", shown(line), exc_info=error)
            return b"FAIL internal error\n"

    # -- interrupts ------------------------------------------------------------------------------

    def _intercept(self, words: list[bytes]) -> bytes:
        if words[1] not in CONTROLLERS:
            raise Refused("Unknown device")
        if self._intercepted not in (None, words[1]):
            raise Refused("IRQ intercept already enabled")
        self._intercepted = words[1]
        return OK

    def _interrupt(self, line: int, level: bool) -> None:
        self._below(line, level)
        if self._intercepted is None or (line in self._raised) == level:
            return
        (self._raised.add if level else self._raised.discard)(line)
        self._answers.append(f"IRQ {'raise' if level else 'lower'} {line}\n".encode())
        if not self._working and not self._full:
            self._flush()

    # -- ports -----------------------------------------------------------------------------------

    def _in(self, width: int, words: list[bytes]) -> bytes:
        return b"OK 0x%04x\n" % self._ports.read(number(words[1], PORTS), width)

    def _out(self, width: int, mask: int, words: list[bytes]) -> bytes | None:
        port, value = number(words[1], PORTS), number(words[2])
        hold = self._ports.write(port, width, value & mask)
        if hold is None or hold.done:
            return OK
        self._held = True
        hold.then(self._released)
        return None

    def _released(self) -> None:
        self._held = False
        self._answers.append(OK)
        if not self._full:
            self._work()

    # -- memory ----------------------------------------------------------------------------------

    def _load(self, width: int, words: list[bytes]) -> bytes:
        address = number(words[1])
        try:
            value = int.from_bytes(self._memory.view(address, width), "little")
        except GuestMemoryFault:
            value = int.from_bytes(self._bus.read(address, width), "little")
        return b"OK 0x%016x\n" % value

    def _store(self, width: int, words: list[bytes]) -> bytes:
        address, value = number(words[1]), number(words[2])
        data = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        try:
            self._memory.view(address, width)[:] = data
        except GuestMemoryFault:
            self._bus.write(address, data)
        return OK

    def _read(self, words: list[bytes]) -> bytes:
        address, length = _range(words)
        if not length:
            raise Refused("nothing to read")
        return b"OK 0x" + binascii.hexlify(self._bus.read(address, length)) + b"\n"

    def _b64read(self, words: list[bytes]) -> bytes:
        return b"OK " + binascii.b2a_base64(self._bus.read(*_range(words)))

    def _write(self, words: list[bytes]) -> bytes:
        """What the digits are short of is zero; what is over is left out."""
        address, length = _range(words)
        digits = words[3]
        if len(digits) < 3:
            return TOO_SHORT
        digits = digits[2 : 2 + min(2 * length, (len(digits) - 2) // 2 * 2)]
        try:
            data = binascii.unhexlify(digits)
        except binascii.Error:
            raise Refused("the data are not hexadecimal") from None
        self._bus.write(address, data.ljust(length, b"\0"))
        return OK

    def _b64write(self, words: list[bytes]) -> bytes:
        address, length = _range(words)
        if len(words[3]) < 3:
            return TOO_SHORT
        try:
            data = binascii.a2b_base64(words[3])
        except binascii.Error:
            raise Refused("the data are not base64") from None
        self._bus.write(address, data[:length])
        return OK

    def _memset(self, words: list[bytes]) -> bytes:
        address, length = _range(words)
        self._bus.write(address, bytes([number(words[3]) & 0xFF]) * length)
        return OK

    # -- the clock -------------------------------------------------------------------------------

    def _clock_step(self, words: list[bytes]) -> bytes:
        """By so many nanoseconds, or to where something happens next, if anything does."""
        if len(words) > 1:
            self._advance(self._clock.now + number(words[1], CLOCK_END))
        else:
            self._clock.skip()
        return b"OK %d\n" % self._clock.now

    def _clock_set(self, words: list[bytes]) -> bytes:
        """It never goes back."""
        self._advance(number(words[1], CLOCK_END))
        return b"OK %d\n" % self._clock.now

    def _advance(self, end: int) -> None:
        """In parts: a timer that ticks fast must not keep us for as long as the peer likes."""
        if end >= CLOCK_END:
            raise Refused("the clock ends at 2^63")
        part, started = FIRST_PART, time.monotonic()
        while self._clock.now < end:
            before = time.monotonic()
            if before - started > MOST_SECONDS:
                raise Refused(f"too much happens before {end}")
            self._clock.advance(min(part, end - self._clock.now))
            if time.monotonic() - before < SHORT_SECONDS:
                part *= 2


def _range(words: list[bytes]) -> tuple[int, int]:
    """Address and length. Raises `Refused` for what is too much."""
    address, length = number(words[1]), number(words[2])
    if length > MAX_DATA:
        raise Refused(f"{length} bytes are more than {MAX_DATA}")
    return address, length

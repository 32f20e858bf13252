"""Arbitrary bytes against both sides of NBD: a handshake and requests, and a client's replies.

    python fuzz/fuzz_nbd.py -max_total_time=60

A peer's mistake is an `NbdError` or an error in a reply. Anything else is a find, and so is a
server that holds more memory than it may, or a read that ends well without all its data.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Sequence

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["drivebay"]):
    from drivebay.disk.backends.ram import RamDisk
    from drivebay.disk.buffers import cut
    from drivebay.disk.nbd.joining import join
    from drivebay.disk.nbd.messages import (
        CHUNK_MAGIC,
        IHAVEOPT,
        REPLY_MAGIC,
        REQUEST_MAGIC,
        SIMPLE_MAGIC,
        ChunkHeader,
        Command,
        NbdError,
        OptionHeader,
        RepHeader,
        RequestHeader,
        SimpleReply,
    )
    from drivebay.disk.nbd.offering import Offer, Stage
    from drivebay.disk.nbd.replies import Request, receive_reply
    from drivebay.hosts.nbd.export import Export
    from drivebay.hosts.nbd.memory import Pool
    from drivebay.hosts.nbd.session import MOST_HELD, Session
    from drivebay.platform.engine import Engine
    from drivebay.platform.logs import RationedLog

SIZE = 1 << 20
LENGTHS = [0, 1, 511, 512, 4096, 65536, 65537, SIZE, (32 << 20) + 1, (1 << 32) - 1]
OFFSETS = [0, 1, 512, SIZE - 512, SIZE - 1, SIZE, (1 << 63) - 1, (1 << 64) - 512, (1 << 64) - 1]


class Log(logging.Handler):
    """What is wrong, and worth a line at ERROR, is a bug of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        error = (record.exc_info or (None, None))[1]
        if error is not None:
            traceback.print_exception(error)
        raise AssertionError(record.getMessage()) from error


def some(data: atheris.FuzzedDataProvider, most: int = 64) -> bytes:
    return bytes(data.ConsumeBytes(data.ConsumeIntInRange(0, most)))


def feed(offer: Offer, message: bytes) -> None:
    while message and offer.stage is Stage.HAGGLING:
        wanted = offer.wanted
        offer.receive(message[:wanted])
        message = message[wanted:]


def secure(offer: Offer) -> None:
    if offer.stage is Stage.TLS:
        offer.secured()


def haggle(data: atheris.FuzzedDataProvider) -> None:
    """A client against our half of the handshake."""
    export = Export(RamDisk(SIZE))
    offer = Offer({"disk": export.offered}, tls=data.ConsumeBool())
    with contextlib.suppress(NbdError):
        feed(offer, data.ConsumeIntInRange(0, 4).to_bytes(4, "big"))
        while data.remaining_bytes() and offer.stage is Stage.HAGGLING:
            payload = some(data)
            length = (
                len(payload) if data.ConsumeIntInRange(0, 9) else data.ConsumeInt(4) % (1 << 32)
            )
            header = OptionHeader(IHAVEOPT, data.ConsumeIntInRange(0, 12), length)
            feed(offer, header.pack() + payload)
            secure(offer)


def transmit(data: atheris.FuzzedDataProvider) -> None:
    """Requests against a session, through a socket that takes what it likes."""
    engine = Engine(workers=0)
    export = Export(RamDisk(SIZE), read_only=data.ConsumeBool())

    def send(parts: Sequence[memoryview]) -> int:
        whole = sum(map(len, parts))
        return data.ConsumeIntInRange(0, whole) if data.ConsumeBool() else whole

    structured = data.ConsumeBool()
    session = Session(
        export,
        engine,
        Pool(),
        send,
        lambda: None,
        RationedLog(logging.getLogger("fuzz")),
        structured=structured,
        allocation=structured,
    )
    stream = b""
    with contextlib.suppress(NbdError):
        while not session.ended and (stream or data.remaining_bytes()):
            if session.stopped:
                session.flush()
                engine.turn(0)
                if session.stopped and not data.remaining_bytes():
                    break
                if not session.stopped:
                    session.go_on()
                continue
            stream = stream or requests(data)
            space = session.space()
            assert space, "no room, though it is not stopped"
            count = min(len(space), len(stream), data.ConsumeIntInRange(0, 1 << 17) or 1 << 17)
            space[:count] = stream[:count]
            stream = stream[count:]
            session.received(count)
            assert session._held <= 2 * MOST_HELD, "it holds too much"
            if not data.ConsumeIntInRange(0, 7):
                engine.turn(0)
    session.close()
    assert engine.run_until(lambda: not session.busy), "what is under way never ends"
    export.disk.close()
    engine.close()


def requests(data: atheris.FuzzedDataProvider) -> bytes:
    if not data.ConsumeIntInRange(0, 31):
        return some(data)
    command = data.ConsumeIntInRange(0, 9)
    length = (
        data.PickValueInList(LENGTHS) if data.ConsumeBool() else data.ConsumeIntInRange(0, 4096)
    )
    offset = (
        data.PickValueInList(OFFSETS) if data.ConsumeBool() else data.ConsumeIntInRange(0, SIZE)
    )
    flags = data.ConsumeIntInRange(0, 31) if data.ConsumeBool() else 0
    header = RequestHeader(
        REQUEST_MAGIC, flags, command, data.ConsumeInt(2) & 0xFFFF, offset, length
    )
    return header.pack() + bytes(min(length, SIZE) if command == Command.WRITE else 0)


class Bytes:
    """Where a client reads from."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def take(self, count: int) -> bytes:
        assert count <= 1 << 20, "memory that the server decides"
        if count > len(self._content):
            raise ConnectionResetError
        part, self._content = self._content[:count], self._content[count:]
        return part

    def into(self, buffers: Sequence[memoryview], count: int) -> None:
        for view in cut(buffers, 0, count):
            view[:] = self.take(len(view))

    def drop(self, count: int) -> None:
        self.take(min(count, 1 << 20))


def join_server(data: atheris.FuzzedDataProvider) -> None:
    """A server against our client's half of the handshake."""
    greeting = Offer({"": Export(RamDisk(SIZE)).offered}).greeting
    joining = join("", tls=False)
    answers, option = greeting, 8
    try:
        step = next(joining)
        while True:
            answer = b""
            if isinstance(step, bytes):
                option = step[11] if len(step) >= 16 else option
                payload = some(data)
                kind = data.ConsumeIntInRange(0, 4) | data.ConsumeBool() << 31
                answers += RepHeader(REPLY_MAGIC, option, kind, len(payload)).pack() + payload
            elif isinstance(step, int):
                if len(answers) < step:
                    answers += some(data, 200)
                if len(answers) < step:
                    return
                answer, answers = answers[:step], answers[step:]
            step = joining.send(answer)
    except (NbdError, StopIteration):
        pass


def replies(data: atheris.FuzzedDataProvider) -> None:
    """A server's replies against our client."""
    structured = data.ConsumeBool()
    pending = {}
    for cookie, command in enumerate((Command.READ, Command.BLOCK_STATUS, Command.WRITE)):
        pending[cookie] = Request(command, 4096, 4096, cookie=cookie)
        pending[cookie].buffers = [memoryview(bytearray(b"x" * 4096))]
    with contextlib.suppress(NbdError, ConnectionResetError):
        while data.remaining_bytes() and pending:
            cookie = data.ConsumeIntInRange(0, 3)
            payload = some(data, 128)
            if data.ConsumeBool():
                where = (4096 + data.ConsumeIntInRange(0, 4096)).to_bytes(8, "big")
                payload = where + bytes(data.ConsumeIntInRange(0, 4096))
            kind = data.PickValueInList([0, 1, 2, 5, 0x8001, 0x8002, 77])
            flags = data.ConsumeIntInRange(0, 1)
            message = ChunkHeader(CHUNK_MAGIC, flags, kind, cookie, len(payload)).pack() + payload
            if not data.ConsumeIntInRange(0, 3):
                message = SimpleReply(SIMPLE_MAGIC, flags, cookie).pack() + bytes(4096)
            done = receive_reply(Bytes(message), pending, structured, 1)
            if done is not None:
                del pending[done.cookie]
                if done.command == Command.READ and done.error is None:
                    assert sum(end - start for start, end in done._parts) == 4096


SIDES = (haggle, transmit, join_server, replies)


def one_input(content: bytes) -> None:
    data = atheris.FuzzedDataProvider(content)
    SIDES[data.ConsumeIntInRange(0, len(SIDES) - 1)](data)


def main() -> None:
    logging.getLogger().addHandler(Log(logging.ERROR))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

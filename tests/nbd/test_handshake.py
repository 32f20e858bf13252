"""Options, one by one, without a socket; and both halves of the handshake with each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drivebay.disk.nbd.joining import Agreed, Need, join
from drivebay.disk.nbd.messages import (
    REPLY_MAGIC,
    Greeting,
    Info,
    InfoExport,
    NbdError,
    Option,
    Rep,
    RepHeader,
    TransmissionFlags,
)
from drivebay.disk.nbd.offering import Offer, Stage
from drivebay.disk.nbd.options import Export, packed_queries, packed_string, packed_wish
from tests.nbd.support import option_bytes

EXPORT = Export(1 << 20, TransmissionFlags.of(HAS_FLAGS=True, SEND_FLUSH=True))


def offer(name: str = "disk", *, tls: bool = False, flags: int = 3) -> Offer:
    made = Offer({name: lambda: EXPORT}, tls=tls)
    assert made.receive(flags.to_bytes(4, "big")) == b""
    return made


def feed(server: Offer, data: bytes) -> bytes:
    """As a connection does: never more at once than is wanted."""
    out = b""
    while data:
        wanted = server.wanted
        out += server.receive(data[:wanted])
        data = data[wanted:]
    return out


def replies(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    while data:
        header = RepHeader.unpack(data)
        assert header.magic == REPLY_MAGIC
        end = RepHeader.size + header.length
        yield header.option, header.type, data[RepHeader.size : end]
        data = data[end:]


def ask(server: Offer, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
    found = list(replies(feed(server, option_bytes(option, data))))
    assert all(reply[0] == option for reply in found)
    return [reply[1:] for reply in found]


def test_go_tells_the_size_the_flags_and_the_block_sizes() -> None:
    server = offer()
    answer = ask(server, Option.GO, packed_wish("disk", [Info.BLOCK_SIZE]))
    assert [kind for kind, _ in answer] == [Rep.INFO, Rep.INFO, Rep.ACK]
    assert InfoExport.unpack(answer[0][1]) == InfoExport(Info.EXPORT, 1 << 20, 5)
    assert server.stage is Stage.AGREED and server.name == "disk"


def test_info_agrees_on_nothing() -> None:
    server = offer()
    assert ask(server, Option.INFO, packed_wish("", []))[-1] == (Rep.ACK, b"")
    assert server.stage is Stage.HAGGLING


def test_the_list_has_the_export() -> None:
    assert ask(offer(), Option.LIST) == [(Rep.SERVER, packed_string("disk")), (Rep.ACK, b"")]


@pytest.mark.parametrize(
    ("option", "data", "error"),
    [
        (Option.GO, packed_wish("other", []), Rep.ERR_UNKNOWN),
        (Option.INFO, packed_wish("other", []), Rep.ERR_UNKNOWN),
        (Option.GO, b"", Rep.ERR_INVALID),
        (Option.GO, b"\0\0\0\5disk", Rep.ERR_INVALID),
        (Option.GO, b"\xff\xff\xff\xffdisk", Rep.ERR_INVALID),
        (Option.GO, packed_wish("disk", []) + b"x", Rep.ERR_INVALID),
        (Option.GO, packed_wish("disk", [3])[:-1], Rep.ERR_INVALID),
        (Option.GO, b"\0\0\0\1\xff\0\0", Rep.ERR_INVALID),
        (Option.LIST, b"x", Rep.ERR_INVALID),
        (Option.STRUCTURED_REPLY, b"x", Rep.ERR_INVALID),
        (Option.STARTTLS, b"", Rep.ERR_POLICY),
        (Option.STARTTLS, b"x", Rep.ERR_INVALID),
        (Option.PEEK_EXPORT, b"", Rep.ERR_UNSUP),
        (Option.EXTENDED_HEADERS, b"", Rep.ERR_UNSUP),
        (77, b"abc", Rep.ERR_UNSUP),
        (Option.SET_META_CONTEXT, packed_queries("disk", ["base:allocation"]), Rep.ERR_INVALID),
        (Option.LIST_META_CONTEXT, b"\0", Rep.ERR_INVALID),
    ],
)
def test_what_makes_no_sense_is_answered_so_and_haggling_goes_on(
    option: int, data: bytes, error: Rep
) -> None:
    server = offer()
    assert ask(server, option, data)[-1][0] == error
    assert server.stage is Stage.HAGGLING
    assert ask(server, Option.GO, packed_wish("disk", []))[-1][0] == Rep.ACK


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 16,
        option_bytes(Option.GO)[:12] + b"\xff\xff\xff\xff",
        option_bytes(Option.EXPORT_NAME, b"other"),
    ],
    ids=["magic", "4 GiB of data", "no such export"],
)
def test_what_cannot_be_answered_ends_the_connection(data: bytes) -> None:
    with pytest.raises(NbdError):
        feed(offer(), data)


def test_unknown_client_flags_end_the_connection() -> None:
    with pytest.raises(NbdError, match="client flags"):
        Offer({"": lambda: EXPORT}).receive(b"\0\0\0\x07")


@pytest.mark.parametrize(("flags", "length"), [(3, 10), (1, 134), (0, 134)])
def test_export_name(flags: int, length: int) -> None:
    server = offer(flags=flags)
    assert len(feed(server, option_bytes(Option.EXPORT_NAME, b"disk"))) == length
    assert server.stage is Stage.AGREED


def test_abort() -> None:
    server = offer()
    assert ask(server, Option.ABORT) == [(Rep.ACK, b"")]
    assert server.stage is Stage.ABORTED


def test_nothing_but_tls_before_tls() -> None:
    server = offer(tls=True)
    for option in (Option.LIST, Option.GO, Option.STRUCTURED_REPLY, 77):
        assert ask(server, option)[0][0] == Rep.ERR_TLS_REQD
    with pytest.raises(NbdError, match="TLS"):
        feed(offer(tls=True), option_bytes(Option.EXPORT_NAME, b"disk"))
    assert ask(server, Option.STARTTLS) == [(Rep.ACK, b"")]
    assert server.stage is Stage.TLS
    server.secured()
    assert ask(server, Option.STARTTLS)[0][0] == Rep.ERR_INVALID
    assert ask(server, Option.GO, packed_wish("", []))[-1][0] == Rep.ACK


def test_nothing_is_wanted_that_comes_after_what_changes_the_protocol() -> None:
    """Bytes behind STARTTLS or GO are not plain options: they must stay in the socket."""
    server = offer(tls=True)
    stream = option_bytes(Option.STARTTLS) + b"injected"
    while server.stage is Stage.HAGGLING:
        wanted = server.wanted
        server.receive(stream[:wanted])
        stream = stream[wanted:]
    assert stream == b"injected"


def test_what_was_agreed_before_tls_is_void() -> None:
    server = offer()
    ask(server, Option.STRUCTURED_REPLY)
    ask(server, Option.SET_META_CONTEXT, packed_queries("disk", ["base:allocation"]))
    server.secured()
    ask(server, Option.GO, packed_wish("disk", []))
    assert not server.structured and not server.allocation


@pytest.mark.parametrize(
    ("queries", "listed", "selected"),
    [
        ([], True, False),
        (["base:"], True, False),
        (["base:allocation"], True, True),
        (["qemu:dirty-bitmap:x"], False, False),
        (["x:", "base:allocation"], True, True),
        ([""], False, False),
    ],
)
def test_contexts(queries: list[str], listed: bool, selected: bool) -> None:
    server = offer()
    ask(server, Option.STRUCTURED_REPLY)
    query = packed_queries("disk", queries)
    found = [kind for kind, _ in ask(server, Option.LIST_META_CONTEXT, query)]
    assert found == [Rep.META_CONTEXT] * listed + [Rep.ACK]
    found = [kind for kind, _ in ask(server, Option.SET_META_CONTEXT, query)]
    assert found == [Rep.META_CONTEXT] * selected + [Rep.ACK]
    ask(server, Option.GO, packed_wish("disk", []))
    assert server.allocation is selected


def test_a_context_that_is_set_wrong_unsets_the_last() -> None:
    server = offer()
    ask(server, Option.STRUCTURED_REPLY)
    ask(server, Option.SET_META_CONTEXT, packed_queries("disk", ["base:allocation"]))
    ask(server, Option.SET_META_CONTEXT, b"\0")
    ask(server, Option.GO, packed_wish("disk", []))
    assert not server.allocation


def test_byte_by_byte() -> None:
    """Hostile 2.9: each message one byte at a time; two in one packet."""
    stream = option_bytes(Option.STRUCTURED_REPLY) + option_bytes(Option.LIST)
    stream += option_bytes(Option.GO, packed_wish("disk", [3]))
    server, whole = offer(), b""
    for byte in stream:
        whole += server.receive(bytes([byte]))
    kinds = [Rep.ACK, Rep.SERVER, Rep.ACK, Rep.INFO, Rep.INFO, Rep.ACK]
    assert [kind for _, kind, _ in replies(whole)] == kinds
    assert server.stage is Stage.AGREED


# -- both halves -----------------------------------------------------------------------------------


def meet(server: Offer, name: str, tls: bool = False) -> Agreed:
    """What a client and a server agree on."""
    client = join(name, tls=tls)
    waiting = server.greeting
    try:
        step = next(client)
        while True:
            answer = b""
            if isinstance(step, bytes):
                waiting += feed(server, step)
            elif step is Need.TLS:
                assert server.stage is Stage.TLS and not waiting
                server.secured()
            elif isinstance(step, int):
                answer, waiting = waiting[:step], waiting[step:]
                assert len(answer) == step, "both wait"
            step = client.send(answer)
    except StopIteration as stop:
        agreed: Agreed = stop.value
        return agreed


@pytest.mark.parametrize("tls", [False, True])
def test_both_halves_agree(tls: bool) -> None:
    server = Offer({"disk": lambda: EXPORT}, tls=tls)
    agreed = meet(server, "disk", tls)
    assert (agreed.export.size, agreed.export.flags) == (EXPORT.size, EXPORT.flags)
    assert agreed.structured and agreed.allocation == 1
    assert agreed.export == EXPORT
    assert server.structured and server.allocation


@pytest.mark.parametrize(
    ("name", "server_tls", "client_tls", "why"),
    [
        ("other", False, False, "no export 'other'"),
        ("disk", True, False, "wants TLS"),
        ("disk", False, True, "has no TLS"),
    ],
)
def test_they_say_why_they_cannot(name: str, server_tls: bool, client_tls: bool, why: str) -> None:
    with pytest.raises(NbdError, match=why):
        meet(Offer({"disk": lambda: EXPORT}, tls=server_tls), name, client_tls)


def drive(answers: bytes) -> None:
    """A client that is told `answers`."""
    client = join("disk", tls=False)
    step = next(client)
    while True:
        answer = b""
        if isinstance(step, int):
            answer, answers = answers[:step], answers[step:]
            if len(answer) < step:
                raise EOFError
        step = client.send(answer)


def rep(option: int, kind: int, data: bytes = b"", magic: int = REPLY_MAGIC) -> bytes:
    return RepHeader(magic, option, kind, len(data)).pack() + data


GREETING = Offer({"": lambda: EXPORT}).greeting
UNSUP = rep(Option.STRUCTURED_REPLY, Rep.ERR_UNSUP)


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (bytes(18), "no NBD server"),
        (GREETING[:8] + b"\0\0\x42\x02\x81\x86\x12\x53" + b"\0\0", "no NBD server"),
        (Greeting(0x4E42444D41474943, 0x49484156454F5054, 0).pack(), "newstyle"),
        (GREETING + rep(Option.LIST, Rep.ACK), "makes no sense"),
        (GREETING + rep(Option.STRUCTURED_REPLY, Rep.ACK, magic=5), "makes no sense"),
        (GREETING + UNSUP[:-4] + b"\xff" * 4, "makes no sense"),
        (GREETING + rep(Option.STRUCTURED_REPLY, Rep.SERVER) * 64, "more than 64"),
        (GREETING + UNSUP + rep(Option.GO, Rep.ACK), "how large"),
        (GREETING + UNSUP + rep(Option.GO, Rep.ERR_POLICY, b"no"), "ERR_POLICY: no"),
        (
            GREETING
            + UNSUP
            + rep(Option.GO, Rep.INFO, InfoExport(0, 1 << 63, 1).pack())
            + rep(Option.GO, Rep.ACK),
            "an export of",
        ),
        (
            GREETING
            + UNSUP
            + rep(Option.GO, Rep.INFO, InfoExport(0, 512, 1).pack())
            + rep(Option.GO, Rep.INFO, b"\0\3" + b"\0\0\0\3" * 3)
            + rep(Option.GO, Rep.ACK),
            "block sizes",
        ),
    ],
)
def test_a_server_that_lies_is_refused(answers: bytes, why: str) -> None:
    with pytest.raises(NbdError, match=why):
        drive(answers)


@pytest.mark.parametrize("zeroes", [b"", bytes(124)])
def test_an_old_server(zeroes: bytes) -> None:
    """It knows EXPORT_NAME, but not GO."""
    greeting = GREETING[:-1] + (b"\1" if zeroes else b"\3")
    answers = greeting + UNSUP + rep(Option.GO, Rep.ERR_UNSUP)
    with pytest.raises(StopIteration) as stop:
        drive(answers + (4096).to_bytes(8, "big") + b"\0\1" + zeroes)
    assert stop.value.value.export.size == 4096

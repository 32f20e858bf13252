"""The client's half of the handshake ("Fixed newstyle negotiation")."""

from __future__ import annotations

import enum
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, TypeAlias

from drivebay.disk.contract import MAX_BYTES, MAX_SECTOR_SIZE
from drivebay.disk.nbd.messages import (
    ALLOCATION,
    ERROR_BIT,
    IHAVEOPT,
    MOST_OPTION,
    MOST_PAYLOAD,
    NBDMAGIC,
    REPLY_MAGIC,
    ClientFlags,
    ContextId,
    Greeting,
    HandshakeFlags,
    Info,
    InfoBlockSize,
    InfoExport,
    NbdError,
    OldExport,
    Option,
    OptionHeader,
    Rep,
    RepHeader,
    TransmissionFlags,
    name_of,
)
from drivebay.disk.nbd.options import Export, Fields, packed_queries, packed_wish

__all__ = ["Agreed", "Joining", "Need", "join"]

MOST_REPLIES: Final = 64


class Need(enum.Enum):
    """What else a client does in a handshake."""

    TLS = "begin TLS"


@dataclass(frozen=True)
class Agreed:
    """How requests go from now on."""

    export: Export
    structured: bool
    allocation: int | None
    """How BLOCK_STATUS replies call base:allocation, where the server knows it."""


Joining: TypeAlias = Generator[int | bytes | Need, bytes, Agreed]
"""Yields bytes to send, a number of bytes to receive (and is sent them), or `Need.TLS`."""

Reply: TypeAlias = tuple[int, bytes]


def join(name: str, *, tls: bool) -> Joining:
    """Agree on the export `name`. Raises `NbdError`."""
    greeting = Greeting.unpack((yield Greeting.size))
    if greeting.magic != NBDMAGIC or greeting.option_magic != IHAVEOPT:
        raise NbdError("what listens there is no NBD server, or one from before 2011")
    offered = HandshakeFlags(greeting.flags)
    if not offered.FIXED_NEWSTYLE:
        raise NbdError("the server does not know the fixed newstyle handshake")
    flags = ClientFlags.of(FIXED_NEWSTYLE=True, NO_ZEROES=offered.NO_ZEROES)
    yield int(flags).to_bytes(ClientFlags.size, "big")
    if tls:
        [last] = yield from _ask(Option.STARTTLS)
        if last[0] != Rep.ACK:
            raise NbdError("the server has no TLS")
        yield Need.TLS
    *_, last = yield from _ask(Option.STRUCTURED_REPLY)
    structured = last[0] == Rep.ACK
    allocation = (yield from _contexts(name)) if structured else None
    *infos, last = yield from _ask(Option.GO, packed_wish(name, [Info.BLOCK_SIZE]))
    if last[0] == Rep.ACK:
        return Agreed(_export([data for _, data in infos]), structured, allocation)
    if last[0] != Rep.ERR_UNSUP:
        raise NbdError(_why(name, last))
    yield _option(Option.EXPORT_NAME, name.encode())
    old = OldExport.unpack((yield OldExport.size))
    if not flags.NO_ZEROES:
        yield 124
    return Agreed(_checked(old.export_size, old.flags), structured, allocation)


def _option(option: Option, data: bytes) -> bytes:
    return OptionHeader(IHAVEOPT, option, len(data)).pack() + data


def _ask(option: Option, data: bytes = b"") -> Generator[int | bytes | Need, bytes, list[Reply]]:
    """Send an option; its replies, of which the last says how it ended."""
    yield _option(option, data)
    replies: list[Reply] = []
    while len(replies) < MOST_REPLIES:
        header = RepHeader.unpack((yield RepHeader.size))
        if header.magic != REPLY_MAGIC or header.option != option or header.length > MOST_OPTION:
            raise NbdError(f"the reply to {option.name} makes no sense")
        replies.append((header.type, (yield header.length)))
        if header.type == Rep.ACK or header.type & ERROR_BIT:
            return replies
    raise NbdError(f"more than {MOST_REPLIES} replies to {option.name}")


def _contexts(name: str) -> Generator[int | bytes | Need, bytes, int | None]:
    query = packed_queries(name, [ALLOCATION])
    *found, last = yield from _ask(Option.SET_META_CONTEXT, query)
    for kind, data in found:
        fields = Fields(data)
        number = ContextId.unpack(fields.take(ContextId.size)).context
        if last[0] == Rep.ACK and kind == Rep.META_CONTEXT and fields.rest() == ALLOCATION:
            return number
    return None


def _export(infos: list[bytes]) -> Export:
    size, flags = None, 0
    sizes = InfoBlockSize(Info.BLOCK_SIZE, 1, 4096, MOST_PAYLOAD)
    for info in infos:
        kind = int.from_bytes(info[:2], "big")
        if kind == Info.EXPORT and len(info) == InfoExport.size:
            export = InfoExport.unpack(info)
            size, flags = export.export_size, export.flags
        elif kind == Info.BLOCK_SIZE and len(info) == InfoBlockSize.size:
            sizes = InfoBlockSize.unpack(info)
    if size is None:
        raise NbdError("the server does not say how large the export is")
    return _checked(size, flags, sizes.minimum, sizes.preferred, sizes.maximum)


def _checked(
    size: int,
    flags: int,
    minimum: int = 1,
    preferred: int = 4096,
    maximum: int = MOST_PAYLOAD,
) -> Export:
    """ "Block size constraints"."""
    powers = not minimum & (minimum - 1) and not preferred & (preferred - 1)
    if not (powers and 0 < minimum <= min(preferred, MAX_SECTOR_SIZE) and maximum >= minimum):
        raise NbdError(f"block sizes {minimum}, {preferred}, {maximum} make no sense")
    if size > MAX_BYTES:
        raise NbdError(f"an export of {size} bytes")
    return Export(size, TransmissionFlags(flags), minimum, preferred, maximum)


def _why(name: str, reply: Reply) -> str:
    kind, data = reply
    if kind == Rep.ERR_UNKNOWN:
        return f"there is no export {name!r}"
    if kind == Rep.ERR_TLS_REQD:
        return "the server wants TLS: nbds"
    text = data.decode(errors="replace")
    return f"the server refuses: {name_of(Rep, kind)}{': ' * bool(text)}{text}"

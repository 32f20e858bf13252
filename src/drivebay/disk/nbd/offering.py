"""The server's half of the handshake: options in, replies out ("Fixed newstyle negotiation")."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from drivebay.disk.nbd.messages import (
    ALLOCATION,
    IHAVEOPT,
    MOST_OPTION,
    NBDMAGIC,
    REPLY_MAGIC,
    ClientFlags,
    ContextId,
    Greeting,
    HandshakeFlags,
    NbdError,
    OldExport,
    Option,
    OptionHeader,
    Rep,
    RepHeader,
    name_of,
)
from drivebay.disk.nbd.options import Export, Fields, packed_string

__all__ = ["ALLOCATION_ID", "Offer", "Stage"]

ALLOCATION_ID: Final = 1
"""How BLOCK_STATUS replies call base:allocation."""

GREETING: Final = Greeting(
    NBDMAGIC, IHAVEOPT, HandshakeFlags.FIXED_NEWSTYLE | HandshakeFlags.NO_ZEROES
).pack()


class Stage(enum.Enum):
    """What is to be done."""

    HAGGLING = "more is to be received"
    TLS = "TLS is to begin; call `secured` when it has"
    AGREED = "requests follow"
    ABORTED = "the client wants no more: hang up"


class Offer:
    """Offers `exports`, by name, to one client; an empty name is the first.

    With `tls` everything but TLS itself is refused before it ("FORCEDTLS").
    """

    def __init__(self, exports: dict[str, Callable[[], Export]], *, tls: bool = False) -> None:
        self._exports = exports
        self._tls_wanted, self._secure = tls, False
        self.stage = Stage.HAGGLING
        self.name: str | None = None
        """The export that was agreed on."""
        self.structured = False
        self._context_of: str | None = None
        self._flags: ClientFlags | None = None
        self._option: OptionHeader | None = None
        self._received = bytearray()
        self._out: list[bytes] = []

    @property
    def greeting(self) -> bytes:
        """What the server says first."""
        return GREETING

    @property
    def wanted(self) -> int:
        """How many bytes to receive next, at most: never one that belongs to what comes after."""
        if self._flags is None:
            total = ClientFlags.size
        elif self._option is None:
            total = OptionHeader.size
        else:
            total = self._option.length
        return total - len(self._received)

    @property
    def allocation(self) -> bool:
        """Whether base:allocation was selected for the export."""
        return self.name is not None and self._context_of == self.name

    def receive(self, data: bytes) -> bytes:
        """Take bytes, at most those `wanted`; what to send. Raises `NbdError`."""
        self._received += data
        while self.stage is Stage.HAGGLING and not self.wanted:
            message = bytes(self._received)
            self._received.clear()
            if self._flags is None:
                self._flags = _client_flags(message)
            elif self._option is None:
                self._option = _header(message)
            else:
                option, self._option = self._option.option, None
                self._answer(option, message)
        out, self._out = b"".join(self._out), []
        return out

    def secured(self) -> None:
        """TLS has begun: what was agreed on before does not count."""
        self._tls_wanted = False
        self._secure = True
        self.structured, self._context_of = False, None
        self.stage = Stage.HAGGLING

    def _answer(self, option: int, data: bytes) -> None:
        if option == Option.EXPORT_NAME:
            self._export_name(data)
            return
        if self._tls_wanted and option not in (Option.STARTTLS, Option.ABORT):
            self._reply(option, Rep.ERR_TLS_REQD, b"this server wants TLS")
            return
        handler = _HANDLERS.get(option)
        if handler is None:
            self._reply(option, Rep.ERR_UNSUP)
            return
        try:
            handler(self, option, Fields(data))
        except NbdError as error:
            text = f"{name_of(Option, option)}: {error}"
            self._reply(option, Rep.ERR_INVALID, text.encode())

    def _reply(self, option: int, kind: Rep, data: bytes = b"") -> None:
        self._out += [RepHeader(REPLY_MAGIC, option, kind, len(data)).pack(), data]

    def _find(self, name: str) -> str | None:
        if not name:
            return next(iter(self._exports))
        return name if name in self._exports else None

    # -- options ---------------------------------------------------------------------------------

    def _export_name(self, data: bytes) -> None:
        """The option from before there were errors: who is refused is hung up on."""
        assert self._flags is not None
        name = self._find(data.decode(errors="replace"))
        if name is None or self._tls_wanted:
            raise NbdError("EXPORT_NAME of " + ("what needs TLS" if name else "no export"))
        export = self._exports[name]()
        self._out.append(OldExport(export.size, int(export.flags)).pack())
        if not self._flags.NO_ZEROES:
            self._out.append(bytes(124))
        self.name, self.stage = name, Stage.AGREED

    def _abort(self, option: int, fields: Fields) -> None:
        self._reply(option, Rep.ACK)
        self.stage = Stage.ABORTED

    def _list(self, option: int, fields: Fields) -> None:
        fields.end()
        for name in self._exports:
            self._reply(option, Rep.SERVER, packed_string(name))
        self._reply(option, Rep.ACK)

    def _starttls(self, option: int, fields: Fields) -> None:
        fields.end()
        if self._secure:
            raise NbdError("TLS is there already")
        if not self._tls_wanted:
            self._reply(option, Rep.ERR_POLICY, b"this server has no TLS")
            return
        self._reply(option, Rep.ACK)
        self.stage = Stage.TLS

    def _info(self, option: int, fields: Fields) -> None:
        name = self._find(fields.string())
        for _ in range(fields.u16()):
            fields.u16()  # what a client asks for is a hint; it gets all there is
        fields.end()
        if name is None:
            self._reply(option, Rep.ERR_UNKNOWN, b"there is no such export")
            return
        for info in self._exports[name]().infos():
            self._reply(option, Rep.INFO, info)
        self._reply(option, Rep.ACK)
        if option == Option.GO:
            self.name, self.stage = name, Stage.AGREED

    def _structured_reply(self, option: int, fields: Fields) -> None:
        fields.end()
        self.structured = True
        self._reply(option, Rep.ACK)

    def _meta_context(self, option: int, fields: Fields) -> None:
        setting = option == Option.SET_META_CONTEXT
        if setting:
            self._context_of = None  # whatever comes of this one, the last is void
        name = self._find(fields.string())
        queries = [fields.string() for _ in range(fields.u32())]
        fields.end()
        if not self.structured:
            raise NbdError("it needs structured replies")
        if name is None:
            self._reply(option, Rep.ERR_UNKNOWN, b"there is no such export")
            return
        listed = not setting and (not queries or "base:" in queries)
        if ALLOCATION in queries or listed:
            context = ContextId(ALLOCATION_ID if setting else 0).pack()
            self._reply(option, Rep.META_CONTEXT, context + ALLOCATION.encode())
            if setting:
                self._context_of = name
        self._reply(option, Rep.ACK)


_HANDLERS: Final[dict[int, Callable[[Offer, int, Fields], None]]] = {
    Option.ABORT: Offer._abort,
    Option.LIST: Offer._list,
    Option.STARTTLS: Offer._starttls,
    Option.INFO: Offer._info,
    Option.GO: Offer._info,
    Option.STRUCTURED_REPLY: Offer._structured_reply,
    Option.LIST_META_CONTEXT: Offer._meta_context,
    Option.SET_META_CONTEXT: Offer._meta_context,
}


def _client_flags(message: bytes) -> ClientFlags:
    flags = ClientFlags(int.from_bytes(message, "big"))
    if flags & ~(ClientFlags.NO_ZEROES | ClientFlags.FIXED_NEWSTYLE):
        raise NbdError(f"client flags {flags}")
    return flags


def _header(message: bytes) -> OptionHeader:
    header = OptionHeader.unpack(message)
    if header.magic != IHAVEOPT:
        raise NbdError("no option begins like that")
    if header.length > MOST_OPTION:
        raise NbdError(f"{name_of(Option, header.option)} with {header.length} bytes")
    return header

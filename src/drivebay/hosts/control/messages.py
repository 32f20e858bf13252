"""What goes over the control socket: JSON-RPC 2.0, a request or an answer a line of UTF-8.

https://www.jsonrpc.org/specification
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final, Literal

import msgspec

__all__ = [
    "LONGEST",
    "PROTOCOL",
    "Added",
    "Changed",
    "Code",
    "CommandState",
    "ControllerState",
    "DiskState",
    "FileState",
    "LeftOut",
    "Lines",
    "Parameter",
    "QueueState",
    "Refused",
    "Request",
    "Stopped",
    "Traced",
    "Tree",
    "Type",
    "Version",
    "failure",
    "parse",
    "success",
]

PROTOCOL: Final = 1
"""Of the methods: it grows when one of them changes so that who knew the last would be wrong."""
LONGEST: Final = 64 << 10
"""Bytes of a request's line."""
NOTHING: Final = msgspec.Raw(b"{}")

Id = int | str | None


class Code(IntEnum):
    """Of errors (section 5.1)."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    REFUSED = 1
    """Ours: it cannot be done; the message and the hint are for a person."""


class Refused(Exception):
    """A request cannot be done: a line that says why, and perhaps a hint."""

    def __init__(self, message: str, hint: str = "", code: Code = Code.REFUSED) -> None:
        super().__init__(message)
        self.hint, self.code = hint, code


class Lines:
    """Cuts what comes in into lines; None stands for one that is too long."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._skipping = False

    def receive(self, data: bytes) -> Iterator[bytes | None]:
        """The lines that `data` ends, but for empty ones."""
        *ended, rest = data.split(b"\n")
        for part in ended:
            line = self._begun + part
            too_long = self._skipping or len(line) > LONGEST
            self._begun.clear()
            self._skipping = False
            if too_long:
                yield None
            elif not line.isspace() and line:
                yield bytes(line)
        self._begun += rest
        if len(self._begun) > LONGEST:
            self._begun.clear()
            self._skipping = True


# -- requests --------------------------------------------------------------------------------------


class Request(msgspec.Struct, frozen=True):
    """A request; a notification, which is not answered, has no `id`."""

    jsonrpc: Literal["2.0"]
    method: str
    params: msgspec.Raw = NOTHING
    id: Id | msgspec.UnsetType = msgspec.UNSET


class _Identified(msgspec.Struct):
    """What may be told of a request that makes no sense."""

    id: Id = None


def parse(line: bytes | None) -> tuple[Request | None, Id, Refused | None]:
    """The request of a line, or why it is none and whose answer that is."""
    if line is None:
        too_long = f"a line of more than {LONGEST} bytes"
        return None, None, Refused(too_long, "a request is a line", Code.PARSE_ERROR)
    try:
        return msgspec.json.decode(line, type=Request), None, None
    except msgspec.ValidationError as error:
        message, code = f"no request: {error}", Code.INVALID_REQUEST
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return None, None, Refused(f"no JSON: {error}", "", Code.PARSE_ERROR)
    try:
        ident = msgspec.json.decode(line, type=_Identified).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        ident = None
    hint = '{"jsonrpc": "2.0", "id": 1, "method": "methods"} lists what can be asked'
    return None, ident, Refused(message, hint, code)


def success(ident: Id, result: Any) -> bytes:
    """The line that answers a request."""
    answer = {"jsonrpc": "2.0", "id": ident, "result": result}
    return msgspec.json.encode(answer) + b"\n"


def failure(ident: Id, refused: Refused) -> bytes:
    """The line that says why a request was not done."""
    error = {"code": refused.code, "message": str(refused), "data": {"hint": refused.hint}}
    return msgspec.json.encode({"jsonrpc": "2.0", "id": ident, "error": error}) + b"\n"


# -- results ---------------------------------------------------------------------------------------


class Version(msgspec.Struct, frozen=True):
    """Of ``version``."""

    protocol: int
    drivebay: str
    pid: int


Type = Literal["string", "integer", "boolean"]


class Parameter(msgspec.Struct, frozen=True):
    """Of a method, in ``methods``."""

    type: Type
    required: bool


class DiskState(msgspec.Struct, frozen=True):
    """A place for a disk on a controller, and what is in it."""

    name: str
    """How other methods are told of it."""
    spec: str | None
    """What opens this disk as it is now; None for an empty drive."""
    disk: dict[str, Any] | None
    """What `drivebay.disk.tree.describe` says of it."""
    tray: Literal["open", "closed", "locked"] | None = None
    """Of a drive with removable media."""


class QueueState(msgspec.Struct, frozen=True):
    """Where commands come in, or their ends go out."""

    name: str
    """``sq 1``, ``ring 0``, ``port 2``, ``lun 0``."""
    state: dict[str, int]
    """What there is to say of it, by the words of its spec: size, head, tail, ..."""


class CommandState(msgspec.Struct, frozen=True):
    """A command that waits for something."""

    name: str
    """As its spec calls it."""
    place: str
    """What it is about: its queue, its blocks."""
    queue: int
    tag: int
    age: float
    """Seconds since it was taken from the guest."""


class ControllerState(msgspec.Struct, frozen=True):
    """A controller."""

    id: str
    kind: str
    socket: str
    connected: bool
    """Whether a guest is attached to it."""
    statistics: dict[str, int]
    """What it has done, where that is counted."""
    disks: list[DiskState]
    stopped: bool = False
    """It takes no commands, until ``controller.cont``."""
    queues: list[QueueState] = []
    """Those that its guest has made."""
    under_way: int = 0
    """How many commands wait for something."""
    commands: list[CommandState] = []
    """The oldest of those."""


class Tree(msgspec.Struct, frozen=True):
    """Of ``tree``: everything."""

    controllers: list[ControllerState]


class Stopped(msgspec.Struct, frozen=True):
    """Of ``controller.stop``: how many commands were taken before and have not ended."""

    under_way: int


class FileState(msgspec.Struct, frozen=True):
    """Of ``controller.save`` and ``controller.restore``: a state's file, and its size in bytes."""

    path: str
    size: int


class Traced(msgspec.Struct, frozen=True):
    """Of ``trace.stop``: where the trace is, and how many records could not be kept up with."""

    path: str
    lost: int


class Added(msgspec.Struct, frozen=True):
    """Of ``disk.add``: what it is called."""

    disk: str


class Changed(msgspec.Struct, frozen=True):
    """Of what changes the layers or the medium of a disk: what opens it as it is from now on."""

    spec: str | None


class LeftOut(msgspec.Struct, frozen=True):
    """Of ``disk.commit``: what opens the disk from now on, and the layer that is no longer part of
    it: its kind, and what `Disk.details` says.
    """

    spec: str | None
    kind: str
    details: dict[str, Any]

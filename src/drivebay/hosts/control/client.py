"""The client of a control socket."""

from __future__ import annotations

import contextlib
import socket
from itertools import count
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

import msgspec

from drivebay.hosts.control.messages import (
    LONGEST,
    Added,
    Changed,
    FileState,
    LeftOut,
    Parameter,
    Stopped,
    Traced,
    Tree,
    Version,
)

__all__ = ["Control", "ControlError"]

T = TypeVar("T")
RECEIVE: Final = 1 << 16


class ControlError(Exception):
    """What was asked for was not done: a line that says why, and a hint."""

    def __init__(self, message: str, hint: str = "", code: int = 0) -> None:
        super().__init__(message)
        self.hint, self.code = hint, code
        """The error's number (`messages.Code`), 0 if there was no answer at all."""


class _Data(msgspec.Struct):
    hint: str = ""


class _Error(msgspec.Struct):
    code: int
    message: str
    data: _Data


class _Answer(msgspec.Struct):
    id: int | None
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _Error | None = None


class Control:
    """Controls the ``drivebay serve --control PATH`` that listens at `path`::

        with Control("/run/bay.sock") as bay:
            bay.snapshot("vda", "sqldiff:/srv/monday.dbhd;create")

    A call waits for its answer, at most `timeout` seconds. Every method raises `ControlError`.
    """

    def __init__(self, path: str, *, timeout: float | None = None) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout)
        self._unread = bytearray()
        self._numbers = count(1)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise ControlError(
                f"control socket {path}: {error.strerror or error}",
                "drivebay serve --control PATH listens at one",
            ) from None

    def call(self, method: str, /, **params: Any) -> Any:
        """The result of any method, as plain data; parameters that are None are left out."""
        return self._call(Any, method, **params)

    def _call(self, result: Any, method: str, /, **params: Any) -> Any:
        number = next(self._numbers)
        given = {name: value for name, value in params.items() if value is not None}
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": given}
        line = msgspec.json.encode(request)
        if len(line) > LONGEST:
            raise ControlError(f"a request of {len(line)} bytes", f"{LONGEST} bytes at most")
        try:
            with contextlib.suppress(BrokenPipeError):  # who has hung up may have said why
                self._socket.sendall(line + b"\n")
            while (answer := self._answer()).id not in (number, None):
                pass  # of a call that was given up
        except (OSError, msgspec.DecodeError) as error:
            raise ControlError(f"control socket {self._path}: {error}") from None
        if answer.error is not None:
            raise ControlError(answer.error.message, answer.error.data.hint, answer.error.code)
        return msgspec.json.decode(answer.result, type=result)

    def _answer(self) -> _Answer:
        while (end := self._unread.find(b"\n")) < 0:
            data = self._socket.recv(RECEIVE)
            if not data:
                raise ConnectionResetError("the server has hung up")
            self._unread += data
        line = bytes(memoryview(self._unread)[:end])
        del self._unread[: end + 1]
        return msgspec.json.decode(line, type=_Answer)

    # -- methods ---------------------------------------------------------------------------------

    def version(self) -> Version:
        """Who listens."""
        return cast(Version, self._call(Version, "version"))

    def methods(self) -> dict[str, dict[str, Parameter]]:
        """The methods, each with its parameters in order."""
        methods = dict[str, dict[str, Parameter]]
        return cast(methods, self._call(methods, "methods"))

    def tree(self) -> Tree:
        """Everything that is served."""
        return cast(Tree, self._call(Tree, "tree"))

    def info(self, disk: str) -> dict[str, Any]:
        """What `drivebay.disk.tree.describe` says of a disk."""
        return cast(dict[str, Any], self._call(dict[str, Any], "disk.info", disk=disk))

    def snapshot(self, disk: str, layer: str) -> Changed:
        """Put a layer on a disk: ``memdiff`` or ``sqldiff:PATH;create``."""
        return cast(Changed, self._call(Changed, "disk.snapshot", disk=disk, layer=layer))

    def commit(self, disk: str) -> LeftOut:
        """Merge the top layer of a disk into the next."""
        return cast(LeftOut, self._call(LeftOut, "disk.commit", disk=disk))

    def resize(self, disk: str, size: int) -> None:
        """Give a disk `size` bytes."""
        self._call(None, "disk.resize", disk=disk, size=size)

    def refresh(self, disk: str) -> None:
        """Look at the size of a disk's medium again."""
        self._call(None, "disk.refresh", disk=disk)

    def mark(self, disk: str, text: str) -> None:
        """Put a mark into the log of a ``record:``."""
        self._call(None, "disk.mark", disk=disk, text=text)

    def set(
        self,
        disk: str,
        *,
        latency: str | None = None,
        limits: str | None = None,
        protected: bool | None = None,
    ) -> None:
        """Set the profile of a ``delay:``, the limits of a ``throttle:``, and whether all that
        would change the disk fails.
        """
        settings = {"latency": latency, "limits": limits, "protected": protected}
        self._call(None, "disk.set", disk=disk, **settings)

    def add(self, controller: str, disk: str) -> str:
        """Put a disk, named as for the controller's option of ``serve``, on a controller; returns
        the name it has there.
        """
        return cast(Added, self._call(Added, "disk.add", controller=controller, disk=disk)).disk

    def remove(self, disk: str) -> None:
        """Take a disk from its guest, and close it."""
        self._call(None, "disk.remove", disk=disk)

    def swap(self, disk: str, by: str) -> Changed:
        """Put another disk, named as for `add` but for its place, in the place of one."""
        return cast(Changed, self._call(Changed, "disk.swap", disk=disk, by=by))

    def eject(self, disk: str, *, force: bool = False) -> None:
        """Take the medium out of a drive."""
        self._call(None, "media.eject", disk=disk, force=force)

    def insert(self, disk: str, spec: str, *, force: bool = False) -> Changed:
        """Put another medium into a drive."""
        return cast(Changed, self._call(Changed, "media.insert", disk=disk, spec=spec, force=force))

    def add_fault(self, controller: str, rule: str) -> None:
        """Have something go wrong, by a rule as for ``--fault`` of ``serve``."""
        self._call(None, "fault.add", controller=controller, rule=rule)

    def faults(self, controller: str) -> dict[str, int]:
        """The rules of a controller, and how often each has fired."""
        return cast(dict[str, int], self._call(dict[str, int], "fault.list", controller=controller))

    def release_faults(self, controller: str) -> int:
        """Let go the commands that rules hold; how many there were."""
        return cast(int, self._call(int, "fault.release", controller=controller))

    def clear_faults(self, controller: str) -> None:
        """No rule works any more, and what was held goes on."""
        self._call(None, "fault.clear", controller=controller)

    def stop(self, controller: str) -> int:
        """Have a controller take no commands; how many it has taken and not ended."""
        stopped = self._call(Stopped, "controller.stop", controller=controller)
        return cast(Stopped, stopped).under_way

    def cont(self, controller: str) -> None:
        """Have it take what has come, and go on."""
        self._call(None, "controller.cont", controller=controller)

    def save(self, controller: str, path: str) -> FileState:
        """Write the whole state of a controller that is stopped."""
        method = "controller.save"
        return cast(FileState, self._call(FileState, method, controller=controller, path=path))

    def restore(self, controller: str, path: str) -> FileState:
        """Have a controller that is stopped become what was saved."""
        method = "controller.restore"
        return cast(FileState, self._call(FileState, method, controller=controller, path=path))

    def health(self, of: str) -> dict[str, int]:
        """How a drive says that it is."""
        return cast(dict[str, int], self._call(dict[str, int], "health.get", of=of))

    def set_health(self, of: str, values: str) -> dict[str, int]:
        """Have it say something else: ``NAME=VALUE,...``, or a profile. Answers all of it."""
        return cast(dict[str, int], self._call(dict[str, int], "health.set", of=of, values=values))

    def start_metrics(self, address: str = "") -> str:
        """Measure, and serve that at ``ADDRESS:PORT`` or a path; where it is served."""
        return cast(str, self._call(str, "metrics.start", address=address))

    def stop_metrics(self) -> None:
        """Measure no more."""
        self._call(None, "metrics.stop")

    def metrics(self) -> str:
        """What was measured, as Prometheus reads it."""
        return cast(str, self._call(str, "metrics.text"))

    def start_trace(self, to: str) -> None:
        """Record commands, and what else ``FILE,OPTION,...`` says."""
        self._call(None, "trace.start", to=to)

    def stop_trace(self) -> Traced:
        """Record no more; where it is, when all is written."""
        return cast(Traced, self._call(Traced, "trace.stop"))

    def crash(self) -> None:
        """Kill the data plane, as a bug or a front end could."""
        self._call(None, "crash")

    def quit(self) -> None:
        """End the server."""
        self._call(None, "quit")

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

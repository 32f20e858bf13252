"""The test's side of qtest and QMP, as QEMU's libqtest plays it: it listens, drivebay connects."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TIMEOUT = 20.0


class Qtest:
    """A ``drivebay qtest`` with `arguments`, and both sockets to it."""

    def __init__(self, folder: Path, *arguments: str, qmp: bool = True) -> None:
        self.lines: deque[str] = deque()
        self.irqs: dict[int, bool] = {}
        self.irq_log: list[str] = []
        self.events: list[dict[str, Any]] = []
        qtest, monitor = _listen(folder / "qtest.sock"), _listen(folder / "qmp.sock")
        command = [sys.executable, "-m", "drivebay.cli.main", "qtest", *arguments]
        command += ["--qtest", str(folder / "qtest.sock")]
        if qmp:
            command += ["--qmp", str(folder / "qmp.sock")]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            self.socket = _accept(qtest)
            self.qmp = _accept(monitor) if qmp else None
        except TimeoutError:
            self.process.kill()
            raise AssertionError(self.process.communicate()[1]) from None
        self._rest = b""
        if self.qmp is not None:
            self._qmp_file = self.qmp.makefile("rb")
            self.greeting = self.qmp_message()
            assert self.execute("qmp_capabilities") == {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Every test ends as libqtest does: SIGTERM, and the status must be 0."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=TIMEOUT)
        self.socket.close()
        if self.qmp is not None:
            self._qmp_file.close()
            self.qmp.close()
        if value is None:
            assert self.process.returncode == 0, errors
            assert "Traceback" not in errors
            assert "unexpected" not in errors

    # -- qtest -----------------------------------------------------------------------------------

    def send(self, line: str | bytes) -> None:
        self.socket.sendall((line.encode() if isinstance(line, str) else line) + b"\n")

    def line(self) -> str:
        while not self.lines:
            data = self.socket.recv(1 << 16)
            assert data, "drivebay has hung up"
            *whole, self._rest = (self._rest + data).split(b"\n")
            self.lines += [line.decode() for line in whole]
        return self.lines.popleft()

    def ask(self, line: str | bytes) -> str:
        """Send a line; the answer. Interrupts on the way are noted."""
        self.send(line)
        return self.answer()

    def answer(self) -> str:
        while (line := self.line()).startswith("IRQ "):
            _, what, number = line.split(" ")
            self.irqs[int(number)] = what == "raise"
            self.irq_log.append(line)
        return line

    def ok(self, line: str) -> str:
        """Send a line that works; what the answer says."""
        answer = self.ask(line)
        assert answer == "OK" or answer.startswith("OK "), f"{line}: {answer}"
        return answer[3:]

    def read(self, width: str, address: int) -> int:
        return int(self.ok(f"read{width} {address:#x}"), 0)

    def write(self, width: str, address: int, value: int) -> None:
        self.ok(f"write{width} {address:#x} {value:#x}")

    def inp(self, width: str, port: int) -> int:
        return int(self.ok(f"in{width} {port:#x}"), 0)

    def outp(self, width: str, port: int, value: int) -> None:
        self.ok(f"out{width} {port:#x} {value:#x}")

    def memory(self, address: int, length: int) -> bytes:
        return bytes.fromhex(self.ok(f"read {address:#x} {length:#x}")[2:])

    def store(self, address: int, data: bytes) -> None:
        self.ok(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def intercept(self) -> None:
        self.ok("irq_intercept_in ioapic")

    def irq(self, number: int) -> bool:
        """Whether a line is up; as in libqtest an access makes sure that we know."""
        self.inp("b", 0)
        return self.irqs.get(number, False)

    # -- QMP -------------------------------------------------------------------------------------

    def qmp_message(self) -> dict[str, Any]:
        line = self._qmp_file.readline()
        assert line, "drivebay has hung up QMP"
        message = json.loads(line)
        assert isinstance(message, dict)
        return message

    def qmp_send(self, command: str, **arguments: Any) -> None:
        assert self.qmp is not None
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        request = {"execute": command, "arguments": named}
        self.qmp.sendall(json.dumps(request).encode() + b"\n")

    def reply(self) -> dict[str, Any]:
        while "event" in (message := self.qmp_message()):
            self.events.append(message)
        return message

    def execute(self, command: str, **arguments: Any) -> Any:
        """What the command returns."""
        self.qmp_send(command, **arguments)
        reply = self.reply()
        assert "return" in reply, reply
        return reply["return"]

    def refused(self, command: str, **arguments: Any) -> str:
        """Class and description of the command's error."""
        self.qmp_send(command, **arguments)
        error = self.reply()["error"]
        return f"{error['class']}: {error['desc']}"

    def event(self, name: str) -> dict[str, Any]:
        """The next event of that name; its data."""
        while True:
            for number, event in enumerate(self.events):
                if event["event"] == name:
                    del self.events[number]
                    assert event["timestamp"]["seconds"] > 0
                    data = event.get("data", {})
                    assert isinstance(data, dict)
                    return data
            self.events.append(self.qmp_message())


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    listener.settimeout(TIMEOUT)
    return listener


def _accept(listener: socket.socket) -> socket.socket:
    connection, _ = listener.accept()
    listener.close()
    connection.settimeout(TIMEOUT)
    return connection

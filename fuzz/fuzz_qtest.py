"""Arbitrary qtest lines and QMP requests against a PC with a disk and a DVD drive.

    python -m fuzz.fuzz_qtest -max_total_time=60

Whatever comes, each line has one answer. An exception, a line in the log at ERROR or a second
answer is a find.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["drivebay"]):
    from drivebay.disk.backends.ram import RamDisk
    from drivebay.hosts.qtest.monitor import Monitor
    from drivebay.hosts.qtest.qmp import QmpSession
    from drivebay.hosts.qtest.runstate import RunState
    from drivebay.hosts.qtest.session import QtestSession
    from drivebay.machines.ide import PcWithIde
    from drivebay.platform.engine import Engine
    from fuzz.support import fuzz

RAM = 1 << 20
PORTS = [*range(0x1F0, 0x1F8), 0x3F6, *range(0x170, 0x178), 0x376, 0xCF8, 0xCFC, 0x510, 0x511]
PORTS += [0x70, 0x71, *range(0xC000, 0xC010), 0x20, 0x40, 0x43, 0x61, 0x10000]
NUMBERS = [0, 1, 4, 8, 0x200, 0x1000, RAM - 1, RAM, 0x8000_0000, (1 << 64) - 1, 1 << 64]
NAMES = ["hd", "cd", "n", "x"]
ARGUMENTS = {
    "device": NAMES,
    "id": NAMES,
    "drive": NAMES,
    "node-name": NAMES,
    "driver": ["ide-hd", "ide-cd", "file", "raw"],
    "bus": ["ide.0", "ide.1"],
    "unit": [0, 1, 2],
    "filename": ["mem:2K", "mem:3K", "mem:"],
    "size": [0, 512, 100, 1 << 20, -1, 1 << 63],
    "force": [True, False],
    "serial": ["s", "x" * 30, 5],
}


class Tape:
    """A peer that counts what it is told."""

    def __init__(self) -> None:
        self.sent = b""

    def send(self, data: bytes) -> bool:
        self.sent += data
        return True

    def listen(self, wanted: bool) -> None:
        """It always may talk."""

    def later(self, callback: Callable[[], None]) -> None:
        engine.later(callback)

    def answers(self, asynchronous: tuple[bytes, ...]) -> int:
        lines = self.sent.splitlines()
        self.sent = b""
        return sum(not line.startswith(asynchronous) for line in lines)


def line(data: atheris.FuzzedDataProvider, verbs: list[bytes]) -> bytes:
    """A line that may make sense, or anything."""
    if not data.ConsumeIntInRange(0, 15):
        return bytes(data.ConsumeBytes(data.ConsumeIntInRange(0, 40))).replace(b"\n", b"")
    verb = bytes(data.PickValueInList(verbs))
    words = [verb]
    if verb.startswith((b"in", b"out")):
        words.append(b"0x%x" % data.PickValueInList(PORTS))
    for _ in range(data.ConsumeIntInRange(0, 3)):
        known = data.ConsumeBool()
        number = data.PickValueInList(NUMBERS) if known else data.ConsumeIntInRange(0, 0xFFFF)
        words.append(b"0x%x" % number)
    return b" ".join(words)


def request(data: atheris.FuzzedDataProvider, commands: list[str]) -> bytes:
    """A request that may make sense, or anything."""
    if not data.ConsumeIntInRange(0, 15):
        return bytes(data.ConsumeBytes(data.ConsumeIntInRange(0, 60)))
    arguments = {
        name: data.PickValueInList(values)
        for name, values in ARGUMENTS.items()
        if not data.ConsumeIntInRange(0, 4)
    }
    command = data.PickValueInList(commands)
    return json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"


def one_input(raw: bytes) -> None:
    data = atheris.FuzzedDataProvider(raw)
    state = RunState()
    machine = PcWithIde(RAM, engine)
    disks = [RamDisk(1 << 16), RamDisk(1 << 14, read_only=True)]
    for number, driver in enumerate(("ide-hd", "ide-cd")):
        place = {"bus": f"ide.{number}", "unit": 0}
        disk = state.guard(disks[number], NAMES[number])
        machine.plug(driver, NAMES[number], disk, place)
    monitor = Monitor(machine, state, lambda: None)
    lines, requests = Tape(), Tape()
    session = QtestSession(machine.board, machine.clock, lines)
    qmp = QmpSession(monitor, engine, requests)
    qmp.receive(b'{"execute": "qmp_capabilities"}')
    verbs, commands = list(session._verbs), list(monitor.commands)
    session.receive(b"irq_intercept_in ioapic\n")
    lines.sent = b""
    while data.remaining_bytes() > 1:
        if data.ConsumeIntInRange(0, 7):
            session.receive(line(data, verbs) + b"\n")
            engine.run_until(lambda: not (session._held or session._queue), 5)
            assert lines.answers((b"IRQ ",)) == 1
        else:
            qmp.receive(request(data, commands))
            engine.run_until(lambda: not qmp._busy, 1)
            for answer in requests.sent.splitlines():
                json.loads(answer)
            requests.sent = b""
        engine.turn(0)
    session.close()
    monitor.close()
    for disk in disks:
        disk.close()


engine = Engine(workers=0)

if __name__ == "__main__":
    fuzz(one_input)

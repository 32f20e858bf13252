"""Anything asked in any order, against what the disks must hold."""

from __future__ import annotations

import json
import logging
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.hosts.control import session as sessions
from drivebay.hosts.control.bay import Bay
from drivebay.hosts.control.methods import methods
from drivebay.hosts.control.session import Session
from drivebay.hosts.control.slot import Slot
from drivebay.platform.engine import Engine
from drivebay.scsi.dvd import Dvd
from drivebay.suspend import run

from .support import MIB, Tape, controller, layered, ram

SECTOR, MOST = 512, 64
NAMES = ("vda", "rack/0", "rack/1", "dvd/0", "vda/0", "vda/1", "rack", "nothing", "")
TEXTS = ("memdiff", "mem:64s", "mem:16s;sector=2048", "off", "2ms", "iops=9", "sqldiff:", "\0", "")
VALUES = st.one_of(
    st.sampled_from(NAMES + TEXTS), st.integers(-1, 1 << 70), st.booleans(), st.none()
)


class ControlMachine(RuleBasedStateMachine):
    """One disk whose content and layers are known, and others with which anything may be done."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine(workers=0)
        self.slots: dict[str, Slot] = {}
        vda = ram(MOST * SECTOR)
        dvd = Slot(None, "mem", dvd=Dvd(RamDisk(MIB, sector_size=2048)))
        self.bay = Bay(
            [
                controller("vda", {"": vda}),
                controller("rack", self.slots, add=self.add),
                controller("dvd", {"0": dvd}),
            ]
        )
        self.known = methods(self.bay, lambda: None)
        self.tape = Tape()
        self.session = Session(self.known, self.engine, self.tape)
        self.content = bytearray(MOST * SECTOR)
        self.pushed = 0
        self.asked = 0
        self.errors: list[logging.LogRecord] = []
        self.handler = logging.Handler(logging.ERROR)
        self.handler.emit = self.errors.append  # type: ignore[assignment,method-assign]
        sessions.log.addHandler(self.handler)

    async def add(self, text: str) -> str:
        name = str(len(self.slots))
        disk = layered(RamDisk(MOST * SECTOR))
        self.slots[name] = Slot(disk, text, pull=lambda: lambda: True)
        return name

    def ask(self, method: str, **params: Any) -> Any:
        self.asked += 1
        request = {"jsonrpc": "2.0", "id": self.asked, "method": method, "params": params}
        self.session.receive(json.dumps(request).encode() + b"\n")
        for _ in range(1000):
            self.engine.turn(0)
            if self.session.at_rest and self.tape.sent:
                break
        [answer] = self.tape.take()
        assert answer["id"] == self.asked
        return answer

    @property
    def vda(self) -> Disk:
        disk = self.bay.slot("vda").disk
        assert disk is not None
        return disk

    @rule(sector=st.integers(0, MOST - 1), value=st.integers(0, 255))
    def write(self, sector: int, value: int) -> None:
        """What the guest writes."""
        start, data = sector * SECTOR, bytes([value]) * SECTOR
        if start < len(self.content):
            run(self.vda.write(sector, [memoryview(data)]))
            self.content[start : start + SECTOR] = data

    @rule()
    def snapshot(self) -> None:
        """As often as one likes."""
        self.pushed += 1
        spec = self.ask("disk.snapshot", disk="vda", layer="memdiff")["result"]["spec"]
        assert spec.count("memdiff:") == self.pushed

    @rule()
    def commit(self) -> None:
        """As often as there were snapshots."""
        answer = self.ask("disk.commit", disk="vda")
        assert ("result" in answer) == (self.pushed > 0)
        self.pushed = max(self.pushed - 1, 0)

    @rule(sectors=st.integers(1, MOST))
    def resize(self, sectors: int) -> None:
        """What is cut off comes back as zeroes."""
        assert "result" in self.ask("disk.resize", disk="vda", size=sectors * SECTOR)
        self.content = self.content[: sectors * SECTOR].ljust(sectors * SECTOR, b"\0")

    @rule(
        method=st.integers(0, 100),
        params=st.dictionaries(
            st.sampled_from(("disk", "layer", "size", "latency", "controller", "force", "spec")),
            VALUES,
            max_size=4,
        ),
    )
    def anything(self, method: int, params: dict[str, Any]) -> None:
        """Of the other disks."""
        if not str(params.get("disk")).startswith("vda"):
            names = sorted(self.known)
            self.ask(names[method % len(names)], **params)

    @rule(data=st.binary(max_size=80))
    def rubbish(self, data: bytes) -> None:
        """It has no effect, but on the line it is in."""
        self.session.receive(data + b"\n")
        self.engine.turn(0)
        self.tape.take()

    @invariant()
    def is_as_it_must_be(self) -> None:
        """The disk shows what was written, and nothing went wrong that was not told."""
        assert self.vda.byte_count == len(self.content)
        data = memoryview(bytearray(len(self.content)))
        run(self.vda.read(0, [data]))
        assert data == self.content
        assert self.session.at_rest
        assert [record.getMessage() for record in self.errors] == []

    def teardown(self) -> None:
        sessions.log.removeHandler(self.handler)
        for disk in self.bay.disks:
            disk.close()
        self.engine.close()


TestControl = ControlMachine.TestCase
TestControl.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)

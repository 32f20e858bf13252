"""Controllers that are stopped, saved and restored, while somebody drives them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drivebay.cli.backend import Backend
from drivebay.controllers.nvme.opcodes import LogId
from drivebay.controllers.nvme.structures import SmartLog
from drivebay.drivers.ahci import AhciDriver
from drivebay.drivers.arena import Arena
from drivebay.drivers.nvme import NvmeDriver
from drivebay.drivers.pci import PciConfig
from drivebay.drivers.virtio_blk import VirtioBlkPci
from drivebay.hosts.control import running
from drivebay.hosts.control.bay import Described
from drivebay.hosts.control.client import Control, ControlError
from drivebay.hosts.vfio_user.messages import Region
from drivebay.platform.observer import InFlight, Tap
from drivebay.testing import FrontEnd
from drivebay.testing.vfio_user import Monitor
from drivebay.testing.vhost_user import GuestRam
from tests.vfio_user.test_virtio import AT as ORIGIN
from tests.vfio_user.test_virtio import Memory as Bars
from tests.vfio_user.test_virtio import Ports

from .support import controller, ram, serve

MIB = 1 << 20


class Bar:
    """A BAR as a monitor reaches it; the monitor may change."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.monitor: Monitor

    def read(self, address: int, width: int) -> int:
        return self.monitor.read(self.index, address, width)

    def write(self, address: int, width: int, value: int) -> None:
        self.monitor.write(self.index, address, width, value)

    def attach(self, monitor: Monitor) -> None:
        self.monitor = monitor
        monitor.write(Region.CONFIG, 4, 2, 6)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "bay.sock")


@pytest.fixture
def guest_ram() -> Iterator[GuestRam]:
    memory = GuestRam(16 * MIB)
    yield memory
    memory.close()


def arena_of(memory: GuestRam) -> Arena:
    region = memory.region
    return Arena(memory.memory, region.guest_address, region.length)


def pause() -> None:
    time.sleep(0.001)


# -- with drivers ----------------------------------------------------------------------------------


def test_an_nvme_driver_goes_on_in_another_process(
    path: str, tmp_path: Path, guest_ram: GuestRam
) -> None:
    """Commands that came while it was stopped are served by whoever takes up its state."""
    words = ["--nvme", f"file:{tmp_path}/disk.img;create=1M", "--control", path]
    state, bar = str(tmp_path / "nvme.state"), Bar(0)
    with (
        Backend(words) as backend,
        Control(path, timeout=60) as bay,
        Monitor(backend.controllers[0]["socket"], ram=guest_ram) as monitor,
    ):
        bar.attach(monitor)
        driver = NvmeDriver(bar, 0, arena_of(guest_ram), poll=pause)
        disk = driver.namespace(1)
        disk.write(0, b"before" * 512)
        assert bay.stop("nvme") == 0
        ids = [disk.prepare_write(slot, 8 * slot, bytes([slot]) * 4096) for slot in range(4)]
        disk.queue.ring()
        [shown] = bay.tree().controllers
        assert shown.stopped
        queue = {each.name: each.state for each in shown.queues}["sq 1"]
        assert (queue["tail"] - queue["head"]) % queue["size"] == 4
        assert bay.save("nvme", state).size == os.stat(state).st_size
        assert os.stat(state).st_mode & 0o777 == 0o600
    with (
        Backend(words) as backend,
        Control(path, timeout=60) as bay,
        Monitor(backend.controllers[0]["socket"], ram=guest_ram) as monitor,
    ):
        bar.monitor = monitor
        bay.stop("nvme")
        assert bay.restore("nvme", state).path == state
        bay.cont("nvme")
        disk.finish(ids)
        assert disk.read(8, 8) == b"\1" * 4096
        names = {each.name for each in bay.tree().controllers[0].queues}
        assert names == {"sq 0", "cq 0", "sq 1", "cq 1"}


def test_an_ahci_driver_goes_on_in_another_process(
    path: str, tmp_path: Path, guest_ram: GuestRam
) -> None:
    words = ["--ahci", f"file:{tmp_path}/disk.img;create=1M", "--control", path]
    state, bar = str(tmp_path / "ahci.state"), Bar(5)
    with (
        Backend(words) as backend,
        Control(path, timeout=60) as bay,
        Monitor(backend.controllers[0]["socket"], ram=guest_ram) as monitor,
    ):
        bar.attach(monitor)
        driver = AhciDriver(bar, 0, arena_of(guest_ram), poll=pause)
        disk = driver.disk(0)
        disk.write(0, b"before" * 512)
        bay.stop("ahci")
        for tag in range(4):
            disk.prepare_write(tag, 8 * tag, bytes([tag]) * 4096)
        disk.port.issue(0xF, queued=True)
        bay.save("ahci", state)
    with (
        Backend(words) as backend,
        Control(path, timeout=60) as bay,
        Monitor(backend.controllers[0]["socket"], ram=guest_ram) as monitor,
    ):
        bar.monitor = monitor
        bay.stop("ahci")
        bay.restore("ahci", state)
        bay.cont("ahci")
        disk.port.finish(0xF)
        assert disk.read(8, 8) == b"\1" * 4096


@pytest.mark.parametrize("packed", ["", ",packed"], ids=["split", "packed"])
def test_a_virtio_driver_goes_on_in_another_process(
    path: str, tmp_path: Path, guest_ram: GuestRam, packed: str
) -> None:
    disk = f"file:{tmp_path}/disk.img;create=1M{packed}"
    words, state = ["--virtio-blk-pci", disk, "--control", path], str(tmp_path / "virtio.state")

    def buses(monitor: Monitor) -> tuple[Ports, Bars]:
        ports = Ports(monitor)
        config = PciConfig(ports)
        return ports, Bars(monitor, {bar: config.address(ORIGIN, bar) for bar in (0, 1)})

    with (
        Backend(words) as backend,
        Control(path, timeout=60) as bay,
        Monitor(backend.controllers[0]["socket"], ram=guest_ram) as monitor,
    ):
        PciConfig(Ports(monitor)).place(ORIGIN, 0, 0xFE000000)
        driver = VirtioBlkPci(*buses(monitor), ORIGIN, arena_of(guest_ram), poll=pause)
        driver.write(0, b"before" * 512)
        bay.stop("vda")
        pending = [driver.submit(1, 8 * n, data=bytes([n]) * 4096) for n in range(4)]
        bay.save("vda", state)
    with (
        Backend(words) as backend,
        Control(path, timeout=60) as bay,
        Monitor(backend.controllers[0]["socket"], ram=guest_ram) as monitor,
    ):
        driver._ports, driver._mmio = buses(monitor)
        bay.stop("vda")
        bay.restore("vda", state)
        driver._ports, driver._mmio = buses(monitor)  # where its BARs are is in the state
        bay.cont("vda")
        assert [driver.wait(each) for each in pending] == [0] * 4
        assert driver.read(8, 4096) == b"\1" * 4096


def test_an_ide_command_goes_on_in_another_process(path: str, tmp_path: Path) -> None:
    """By the registers of its native channel: BAR0."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"".join(bytes([n]) * 512 for n in range(64)))
    words, state = ["--ide", f"file:{disk}", "--control", path], str(tmp_path / "ide.state")
    with (
        Backend(words) as backend,
        Control(path, timeout=60) as bay,
        Monitor(backend.controllers[0]["socket"]) as monitor,
    ):
        bay.stop("ide")
        for register, value in ((2, 1), (3, 5), (4, 0), (5, 0), (6, 0xE0), (7, 0x20)):
            monitor.write(0, register, 1, value)
        assert monitor.read(0, 7, 1) & 0x80  # BSY
        bay.save("ide", state)
    with (
        Backend(words) as backend,
        Control(path, timeout=60) as bay,
        Monitor(backend.controllers[0]["socket"]) as monitor,
    ):
        bay.stop("ide")
        bay.restore("ide", state)
        assert monitor.read(0, 7, 1) & 0x80
        bay.cont("ide")
        while not monitor.read(0, 7, 1) & 0x08:  # DRQ
            pass
        assert monitor.read(0, 0, 4) == 0x05050505


def test_every_kind_can_be_stopped(path: str) -> None:
    words = ["--nvme", "mem:1M", "--scsi", "mem:1M", "--ahci", "mem:1M", "--control", path]
    words += ["--ide", "mem:1M", "--virtio-blk", "mem:1M"]
    with Backend(words) as backend, Control(path, timeout=60) as bay:
        names = [each.id for each in bay.tree().controllers]
        for name in names:
            assert bay.stop(name) == 0
        assert all(each.stopped for each in bay.tree().controllers)
        bay.add("ahci", "mem:1M,port=3")
        with FrontEnd(backend.controllers[0]["socket"]) as guest:
            pending = guest.submit(1, 0, data=b"x" * 512)
            [vda] = [each for each in bay.tree().controllers if each.id == "vda"]
            assert [each.state["used"] for each in vda.queues] == [0]
            bay.cont("vda")
            assert guest.wait(pending) == 0
        for name in names:
            bay.cont(name)
        assert not any(each.stopped for each in bay.tree().controllers)


def test_commands_under_way_are_shown_by_name_and_age(path: str) -> None:
    with (
        Backend(["--virtio-blk", "delay:1000s:mem:1M,ro", "--control", path]) as backend,
        Control(path, timeout=60) as bay,
        FrontEnd(backend.controllers[0]["socket"]) as guest,
    ):
        guest.submit(0, 8, 4096)
        guest.submit(0, 0, 512)
        while (vda := bay.tree().controllers[0]).under_way < 2:
            pass
        first, second = vda.commands
        assert (first.name, first.place, first.queue) == ("IN", "queue 0 lba 8+8", 0)
        assert (second.name, second.place) == ("IN", "queue 0 lba 0+1")
        assert 0 <= second.age <= first.age < 600
        assert bay.stop("vda") == 2


# -- what cannot be --------------------------------------------------------------------------------


class Part:
    """What takes commands, of which one is under way."""

    def __init__(self) -> None:
        self.tap: Tap | None = None

    def in_flight(self) -> list[InFlight]:
        return [InFlight(1, 2, "a command", time.monotonic())]


class Stateful:
    """What is saved and restored, unless its state says "no"."""

    def __init__(self) -> None:
        self.state: Mapping[str, Any] = {"value": 1}

    def save(self) -> Mapping[str, Any]:
        return self.state

    def restore(self, state: Mapping[str, Any]) -> None:
        self.state = state
        if "no" in state:
            raise KeyError("value")


def test_what_a_state_cannot_be(tmp_path: Path) -> None:
    busy = threading.Event()
    saved = Stateful()
    stopped: list[bool] = []
    guest: list[bool] = []
    one = controller(
        "nvme",
        {"1": ram()},
        hold=stopped.append,
        saved=saved,
        parts=lambda: {"": Part()},
        describe=lambda queue, command: Described("READ", f"queue {queue}"),
        at_rest=lambda: not busy.is_set(),
    )
    one.connected = lambda: bool(guest)
    other = controller("vda", {"": ram()})
    file = str(tmp_path / "state")
    with serve(tmp_path, one, other) as bay, bay.control() as control:

        def refused(message: str, hint: str = "", path: str = file) -> None:
            with pytest.raises(ControlError, match=message) as caught:
                control.restore("nvme", path)
            assert hint in caught.value.hint

        for method in (control.save, control.restore):
            with pytest.raises(ControlError, match="vda: test keeps no state"):
                method("vda", file)
            with pytest.raises(ControlError, match="nvme is running"):
                method("nvme", file)
        with pytest.raises(ControlError, match="vda: test cannot be stopped"):
            control.stop("vda")
        assert control.stop("nvme") == 1
        assert stopped == [True]
        refused("no guest is attached")
        guest.append(True)
        refused("No such file", "controller.save writes one")
        with pytest.raises(ControlError, match="No such file"):
            control.save("nvme", str(tmp_path / "none" / "state"))
        control.save("nvme", file)
        content = Path(file).read_bytes()
        for wrong, message in {
            b"": "is not a controller's state",
            b"\x93\x01": "is not a controller's state",
            msgspec.msgpack.encode({"magic": "x", "format": 1, "kind": "test", "state": {}}): (
                "is not a controller's state"
            ),
            content.replace(b"\xa6format\x01", b"\xa6format\x02"): "a state of format 2",
            content.replace(b"\xa4test", b"\xa4nvme"): "of a controller of kind nvme",
        }.items():
            Path(file).write_bytes(wrong)
            refused(message)
        saved.state = {"no": 1}
        control.save("nvme", file)
        saved.state = {"value": 2}
        refused(r"not of this test: KeyError\('value'\)")
        assert saved.state == {"value": 2}
        Path(file).write_bytes(content)
        control.restore("nvme", file)
        assert saved.state == {"value": 1}
        assert sorted(os.listdir(tmp_path)) == ["control", "state"]


def test_a_save_waits_for_commands_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not for ever; and who goes on meanwhile is not saved."""
    busy, looked = threading.Event(), threading.Event()

    def at_rest() -> bool:
        looked.set()
        return not busy.is_set()

    one = controller(
        "nvme",
        {"1": ram()},
        hold=lambda held: None,
        saved=Stateful(),
        parts=lambda: {"": Part()},
        describe=lambda queue, command: Described("READ", f"queue {queue}"),
        at_rest=at_rest,
    )
    file = str(tmp_path / "state")
    with (
        serve(tmp_path, one) as bay,
        bay.control() as control,
        bay.control() as other,
        ThreadPoolExecutor(1) as pool,
    ):
        busy.set()
        control.stop("nvme")
        save = pool.submit(lambda: other.save("nvme", file))
        assert looked.wait(30)
        busy.clear()
        assert save.result(30).path == file
        busy.set()
        looked.clear()
        save = pool.submit(lambda: other.save("nvme", file))
        assert looked.wait(30)
        control.cont("nvme")
        with pytest.raises(ControlError, match="nvme is running"):
            save.result(30)
        control.stop("nvme")
        monkeypatch.setattr(running, "PATIENCE", 0)
        with pytest.raises(ControlError, match="1 commands do not end") as caught:
            control.save("nvme", file)
        assert caught.value.hint == "the oldest is READ queue 1"


# -- health ----------------------------------------------------------------------------------------


def test_a_guest_reads_the_health_that_was_set(path: str, guest_ram: GuestRam) -> None:
    words = ["--nvme", "mem:1M", "--ahci", "mem:1M", "--virtio-blk", "mem:1M", "--control", path]
    with Backend(words) as backend, Control(path, timeout=60) as bay:
        sockets = {each["id"]: each["socket"] for each in backend.controllers}
        with Monitor(sockets["nvme"], ram=guest_ram) as monitor:
            bar = Bar(0)
            bar.attach(monitor)
            driver = NvmeDriver(bar, 0, arena_of(guest_ram), poll=pause)
            told = bay.set_health("nvme", "available-spare=5,temperature=85C,power-on-hours=31200")
            assert told["temperature"] == 273 + 85
            log = SmartLog.unpack(driver.log_page(LogId.SMART, 512))
            assert (log.available_spare, log.temperature) == (5, 358)
            assert int.from_bytes(log.power_on_hours, "little") == 31200
            assert log.critical_warning & 1
        assert bay.set_health("ahci/0", "reallocated-sectors=12")["reallocated-sectors.raw"] == 12
        for of in ("vda", "ahci", "ahci/1"):
            with pytest.raises(ControlError, match="has no health") as caught:
                bay.health(of)
            assert caught.value.hint == "these have: ahci/0, nvme"


# -- the end of a data plane -----------------------------------------------------------------------


def test_a_data_plane_that_is_killed_is_started_again(path: str, tmp_path: Path) -> None:
    words = ["--virtio-blk", f"file:{tmp_path}/disk.img;create=1M", "--control", path]
    with Backend(words) as backend:
        with Control(path, timeout=60) as bay:
            before = backend.pid
            bay.crash()
        backend.read_ready()
        with Control(path, timeout=60) as bay:
            assert bay.version().pid == backend.pid != before

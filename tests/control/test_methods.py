"""What each method does to a bay."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.errors import IoError
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.ram import RamLayer
from drivebay.disk.spec import open_disk
from drivebay.hosts.control.client import Control, ControlError
from drivebay.hosts.control.messages import Code
from drivebay.hosts.control.slot import Slot
from drivebay.scsi.dvd import Dvd
from drivebay.suspend import run
from drivebay.testing import PuppetDisk

from .support import MIB, Served, controller, layered, ram, serve


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """vda, layered on memory; drives/0, a delay and a throttle; drives/1, a DVD drive with a disc;
    drives/2, a file; drives/3, read-only; drives/4, with reservations.
    """
    dvd = Dvd(RamDisk(MIB, sector_size=2048))
    (tmp_path / "disk.img").write_bytes(bytes(MIB))
    fixed = RamDisk(MIB)
    fixed.read_only = True
    slots = {
        "0": Slot(open_disk("delay:2ms:throttle:iops=500:mem:1M"), "delay:2ms:mem:1M"),
        "1": Slot(None, "mem:1M;sector=2048", dvd=dvd),
        "2": Slot(layered(FileDisk(str(tmp_path / "disk.img"))), "file:disk.img"),
        "3": Slot(LayeredDisk([RamLayer(MIB)], read_only=True), "ro"),
        "4": Slot(open_disk("prwrap:memdiff:mem:1M"), "prwrap:memdiff:mem:1M"),
    }
    one = controller("vda", {"": ram()}, statistics=lambda: {"reads": 7})
    with serve(tmp_path, one, controller("drives", slots)) as found:
        yield found


@pytest.fixture
def control(served: Served) -> Iterator[Control]:
    with served.control() as control:
        yield control


def write(disk: Disk | None, sector: int, text: bytes) -> None:
    assert disk is not None
    run(disk.write(sector, [memoryview(text.ljust(512))]))


def read(disk: Disk | None, sector: int) -> bytes:
    assert disk is not None
    data = memoryview(bytearray(512))
    run(disk.read(sector, [data]))
    return bytes(data).rstrip()


def refused(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(ControlError) as caught:
        call()
    assert caught.value.code == Code.REFUSED
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.hint


# -- looking ---------------------------------------------------------------------------------------


def test_the_tree_is_all_there_is(control: Control) -> None:
    first, second = control.tree().controllers
    assert (first.id, first.kind, first.socket) == ("vda", "test", "/tmp/vda")
    assert (first.connected, first.statistics) == (False, {"reads": 7})
    [disk] = first.disks
    assert (disk.name, disk.spec, disk.tray) == ("vda", f"mem:{MIB}", None)
    assert disk.disk == control.info("vda")
    assert disk.disk is not None
    assert disk.disk["kind"] == "layered"
    assert [each.name for each in second.disks] == [f"drives/{n}" for n in range(5)]
    assert [each.tray for each in second.disks] == [None, "closed", None, None, None]


def test_who_listens(control: Control) -> None:
    assert control.version().protocol == 1


def test_every_method_says_its_parameters(control: Control) -> None:
    known = control.methods()
    assert list(known["disk.snapshot"]) == ["disk", "layer"]
    insert = known["media.insert"]
    assert [(each.type, each.required) for each in insert.values()] == [
        ("string", True),
        ("string", True),
        ("boolean", False),
    ]
    for method in set(known) - {"quit"}:
        with pytest.raises(ControlError) as caught:
            control.call(method, nonsense=1)
        assert caught.value.code == Code.INVALID_PARAMS


def test_a_disk_inside_another_has_a_name_too(control: Control) -> None:
    assert control.info("vda/0")["kind"] == "mem"
    assert control.info("drives/0/0/0")["kind"] == "mem"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "there is no disk "),
        ("vdb", "there is no disk vdb"),
        ("drives", "there is no disk drives"),
        ("drives/9", "there is no disk drives/9"),
        ("vda/1", "there is no disk vda/1"),
        ("vda/-1", "there is no disk vda/-1"),
        ("vda/0/0", "there is no disk vda/0/0"),
        ("vda/", "there is no disk vda/"),
        ("vda/\u0663", "there is no disk vda/\u0663"),
        ("x" * 1000, "there is no disk " + "x" * 80),
        ("vda/" + "9" * 60, "there is no disk vda/" + "9" * 60),
    ],
)
def test_names_of_nothing(control: Control, name: str, message: str) -> None:
    found, hint = refused(lambda: control.info(name))
    assert found == message
    assert "disks: vda, drives/0" in hint or hint.startswith("in ")


# -- layers ----------------------------------------------------------------------------------------


def test_a_snapshot_keeps_what_is_there(served: Served, control: Control, tmp_path: Path) -> None:
    disk = served.bay.slot("drives/2").disk
    write(disk, 0, b"before")
    path = f"{tmp_path}/monday.dbhd"
    assert control.snapshot("drives/2", f"sqldiff:{path};create").spec == (
        f"sqldiff:{path}:file:disk.img"
    )
    assert served.changes == ["changed"]
    write(disk, 0, b"after")
    assert disk is not None
    run(disk.flush())
    assert (tmp_path / "disk.img").read_bytes().startswith(b"before")
    assert read(disk, 0) == b"after"
    assert [inner["kind"] for inner in control.info("drives/2")["inner"]] == ["sql", "file"]


def test_what_opens_the_disk_from_then_on_shows_the_same(
    served: Served, control: Control, tmp_path: Path
) -> None:
    disk = served.bay.slot("drives/2").disk
    for n in range(3):
        control.snapshot("drives/2", f"sqldiff:{tmp_path}/{n}.dbhd;create")
        write(disk, n, b"written %d" % n)
    control.commit("drives/2")
    spec = control.tree().controllers[1].disks[2].spec
    assert spec == f"sqldiff:{tmp_path}/1.dbhd:sqldiff:{tmp_path}/0.dbhd:file:disk.img"
    assert disk is not None
    run(disk.flush())
    served.bay.controllers["drives"].slots.pop("2")
    disk.close()
    again = open_disk(spec.replace("disk.img", f"{tmp_path}/disk.img"))
    assert [read(again, n) for n in range(3)] == [b"written 0", b"written 1", b"written 2"]
    again.close()


def test_a_commit_merges_the_last_snapshot(served: Served, control: Control) -> None:
    disk = served.bay.slot("vda").disk
    write(disk, 0, b"base")
    control.snapshot("vda", "memdiff")
    write(disk, 1, b"first")
    control.snapshot("vda", "memdiff")
    write(disk, 2, b"second")
    done = control.commit("vda")
    assert (done.spec, done.kind) == (f"memdiff:mem:{MIB}", "ram layer")
    assert control.commit("vda").spec == f"mem:{MIB}"
    assert served.changes == ["changed"] * 4
    base = served.bay.disk("vda/0")
    assert [read(base, n) for n in range(3)] == [b"base", b"first", b"second"]
    message, _ = refused(lambda: control.commit("vda"))
    assert message == "there is no layer to merge the top one into"


def test_a_layer_must_be_empty(served: Served, control: Control, tmp_path: Path) -> None:
    """It would hide what is there."""
    full = open_disk(f"sqldiff:{tmp_path}/full.dbhd;create:mem:1M")
    write(full, 0, b"old")
    run(full.flush())
    full.close()
    message, _ = refused(lambda: control.snapshot("vda", f"sqldiff:{tmp_path}/full.dbhd"))
    assert "the layer holds something" in message
    assert served.changes == []


@pytest.mark.parametrize(
    ("disk", "layer", "message", "hint"),
    [
        ("vda", "qcow2:a", "expected a layer", "memdiff, or sqldiff:PATH;create"),
        ("vda", "", "expected a layer", "memdiff, or sqldiff:PATH;create"),
        ("vda", "memdiff:mem:1M", "expected the end", ""),
        ("vda", "sqldiff:", "expected a path", ""),
        ("vda", "sqldiff:/nowhere/a.dbhd;create", "/nowhere", ""),
        ("vda", "sqldiff:/tmp;create", "/tmp", ""),
        ("drives/0", "memdiff", "drives/0: delay has no layers", "memdiff: and sqldiff: have"),
        ("drives/2", "memdiff", "would lose what drives/2 has promised", "sqldiff:PATH;create"),
        ("drives/3", "memdiff", "drives/3 is read-only", ""),
        ("drives/4", "memdiff", "drives/4: prwrap has no layers", "drives/4/0 has"),
        ("drives/1", "memdiff", "drives/1: mem has no layers", ""),
    ],
)
def test_snapshots_that_cannot_be(
    control: Control, disk: str, layer: str, message: str, hint: str
) -> None:
    found, hinted = refused(lambda: control.snapshot(disk, layer))
    assert message in found
    assert hint in hinted


def test_a_layer_under_reservations_is_the_inner_disks(served: Served, control: Control) -> None:
    """Nobody keeps the spec of a disk inside another."""
    assert control.snapshot("drives/4/0", "memdiff").spec is None
    assert len(control.info("drives/4/0")["inner"]) == 3


def test_others_are_answered_while_a_commit_takes_its_time(
    served: Served, control: Control
) -> None:
    puppet = PuppetDisk(RamDisk(MIB), holds=lambda name, _sector, _count: name == "write")
    served.bay.controllers["vda"].slots[""] = Slot(layered(puppet), "puppet")
    control.snapshot("vda", "memdiff")
    top = served.bay.disk("vda")
    assert isinstance(top, LayeredDisk)
    write(top, 9, b"kept")
    with served.control() as one, served.control() as two, ThreadPoolExecutor(2) as pool:
        commit = pool.submit(lambda: one.commit("vda"))
        [held] = puppet.wait(1)
        assert control.info("vda")["kind"] == "layered"
        # What changes the layers, too, has to wait until a piece is copied, and is refused then.
        second = pool.submit(lambda: refused(lambda: two.snapshot("vda", "memdiff")))
        while not top._gate._alone._waiting:
            assert control.info("vda")["kind"] == "layered"
        held.complete()
        assert second.result(10)[0] == "the top layer is being merged into the next"
        assert commit.result(10).kind == "ram layer"
    assert read(puppet.below, 9) == b"kept"


def test_a_commit_that_fails_leaves_the_layers(served: Served, control: Control) -> None:
    puppet = PuppetDisk(RamDisk(MIB), holds=lambda name, _sector, _count: name == "write")
    served.bay.controllers["vda"].slots[""] = slot = Slot(layered(puppet), "puppet")
    control.snapshot("vda", "memdiff")
    write(slot.disk, 9, b"kept")
    with served.control() as other, ThreadPoolExecutor(1) as pool:
        commit = pool.submit(lambda: refused(lambda: other.commit("vda")))
        [held] = puppet.wait(1)
        held.fail(IoError(errno.EIO, "cable"))
        assert "cable" in commit.result(10)[0]
    assert slot.spec == "memdiff:puppet"
    assert read(slot.disk, 9) == b"kept"


# -- size and behaviour ----------------------------------------------------------------------------


def test_resize(served: Served, control: Control) -> None:
    sizes: list[int] = []
    served.bay.disk("vda").on_resize(sizes.append)
    control.resize("vda", 2 * MIB)
    assert sizes == [4096]
    assert control.info("vda")["size"] == 2 * MIB


@pytest.mark.parametrize("size", [0, -512, 1000])
def test_sizes_that_make_no_sense(control: Control, size: int) -> None:
    assert "sectors have 512" in refused(lambda: control.resize("vda", size))[0]
    assert control.info("vda")["size"] == MIB


def test_refresh_finds_that_a_file_has_grown(control: Control, tmp_path: Path) -> None:
    with open(tmp_path / "disk.img", "r+b") as file:
        file.truncate(3 * MIB)
    control.refresh("drives/2")
    assert control.info("drives/2")["size"] == 3 * MIB


def test_latency_and_limits_are_set(control: Control) -> None:
    control.set("drives/0", latency="fixed=5ms", limits="bps=1M")
    assert control.info("drives/0")["details"] == {"delay": "fixed=5ms"}
    assert control.info("drives/0/0")["details"] == {"limits": "bps=1048576,burst=0.1"}
    control.set("drives/0", latency="off", limits="off")
    assert control.info("drives/0")["details"] == {"delay": "fixed=0ms"}
    assert control.info("drives/0/0")["details"] == {"limits": "burst=0.1"}
    control.set("drives/0", latency="hdd,rpm=5400")
    assert "rpm=5400" in control.info("drives/0")["details"]["delay"]


def test_both_are_set_or_none(control: Control) -> None:
    message, _ = refused(lambda: control.set("drives/0", latency="9ms", limits="nonsense"))
    assert "expected one of iops" in message
    assert control.info("drives/0")["details"] == {"delay": "fixed=2ms"}


@pytest.mark.parametrize("latency", ["", "-1ms", "2h", "2ms:mem:1M", "fixed=1ms,fixed=2ms", "é"])
def test_latencies_that_make_no_sense(control: Control, latency: str) -> None:
    refused(lambda: control.set("drives/0", latency=latency))
    assert control.info("drives/0")["details"] == {"delay": "fixed=2ms"}


def test_what_is_not_there_cannot_be_set(control: Control) -> None:
    assert refused(lambda: control.set("vda", latency="1ms")) == (
        "vda has no delay",
        "start it with delay:0:DISK",
    )
    assert refused(lambda: control.set("vda", limits="off"))[0] == "vda has no throttle"


def test_a_disk_is_protected(control: Control) -> None:
    control.set("vda", protected=True)
    assert control.info("vda")["read_only"]
    message, _ = refused(lambda: control.snapshot("vda", "memdiff"))
    assert message == "vda is read-only"
    control.set("vda", protected=False)
    assert not control.info("vda")["read_only"]
    assert "has no layers" in refused(lambda: control.set("drives/0", protected=True))[0]
    assert "opened read-only" in refused(lambda: control.set("drives/3", protected=False))[0]


# -- disks that come and go ------------------------------------------------------------------------


class Rack:
    """A controller whose disks come and go; `busy` keeps one that is pulled under way."""

    def __init__(self, folder: Path) -> None:
        self.busy = False
        self.closed: list[Disk] = []
        self.slots: dict[str, Slot] = {}
        self.folder = folder

    async def add(self, text: str) -> str:
        disk = PuppetDisk(open_disk(text), holds=lambda name, _sector, _count: name == "flush")
        close = disk.close

        def closed() -> None:
            self.closed.append(disk)
            close()

        disk.close = closed  # type: ignore[method-assign]
        name = str(len(self.slots))
        self.slots[name] = Slot(disk, text, pull=lambda: lambda: not self.busy)
        return name

    def puppet(self, name: str) -> PuppetDisk:
        disk = self.slots[name].disk
        assert isinstance(disk, PuppetDisk)
        return disk


@pytest.fixture
def rack(tmp_path: Path) -> Rack:
    return Rack(tmp_path)


@pytest.fixture
def racked(rack: Rack) -> Iterator[Served]:
    with serve(rack.folder, controller("rack", rack.slots, add=rack.add)) as found:
        yield found


def test_a_disk_comes_and_goes(racked: Served, rack: Rack) -> None:
    with racked.control() as control, ThreadPoolExecutor(1) as pool:
        assert control.add("rack", "mem:1M") == "rack/0"
        assert control.info("rack/0")["size"] == MIB
        puppet = rack.puppet("0")
        removed = pool.submit(lambda: control.remove("rack/0"))
        [flush] = puppet.wait(1)
        assert rack.closed == []
        with racked.control() as other:
            assert other.tree().controllers[0].disks == []
        flush.complete()
        removed.result(10)
        assert rack.closed == [puppet]
    assert racked.changes == ["changed"] * 2


def test_it_is_closed_when_nothing_uses_it(racked: Served, rack: Rack) -> None:
    rack.busy = True
    with racked.control() as control, racked.control() as other, ThreadPoolExecutor(1) as pool:
        control.add("rack", "mem:1M")
        puppet = rack.puppet("0")
        removed = pool.submit(lambda: control.remove("rack/0"))
        while other.tree().controllers[0].disks:
            pass
        assert not removed.done()
        assert puppet.held == []
        assert racked.bay.disks == [puppet]
        assert not racked.bay.at_rest
        rack.busy = False
        puppet.wait(1)
        puppet.complete_all()
        removed.result(10)
    assert racked.bay.at_rest


def test_a_last_flush_that_fails_is_told_and_it_is_closed(racked: Served, rack: Rack) -> None:
    with racked.control() as control, ThreadPoolExecutor(1) as pool:
        control.add("rack", "mem:1M")
        puppet = rack.puppet("0")
        removed = pool.submit(lambda: refused(lambda: control.remove("rack/0")))
        [flush] = puppet.wait(1)
        flush.fail(IoError(errno.EIO, "cable"))
        assert "cable" in removed.result(10)[0]
    assert rack.closed == [puppet]


def test_a_removal_that_the_end_overtakes_leaves_the_disk_to_be_closed(
    racked: Served, rack: Rack
) -> None:
    with racked.control() as control, ThreadPoolExecutor(1) as pool:
        control.add("rack", "mem:1M")
        puppet = rack.puppet("0")
        removed = pool.submit(lambda: refused(lambda: control.remove("rack/0")))
        puppet.wait(1)
        racked.engine.later(racked.server.close)
        assert removed.result(10) == ("disk.remove: given up", "the server ends")
    assert racked.bay.disks == [puppet]
    assert rack.closed == []


def test_what_cannot_come_or_go(served: Served, control: Control) -> None:
    assert refused(lambda: control.add("nobody", "mem:1M")) == (
        "there is no controller nobody",
        "controllers: vda, drives",
    )
    assert refused(lambda: control.add("vda", "mem:1M"))[0].startswith("vda: no disk can be added")
    assert refused(lambda: control.remove("vda"))[0] == "vda cannot be taken away"
    assert refused(lambda: control.remove("vda/0"))[0] == "vda/0 is part of a disk"
    assert served.changes == []


def test_a_disk_that_cannot_be_opened(racked: Served) -> None:
    with racked.control() as control:
        message, hint = refused(lambda: control.add("rack", "nonsense:1"))
        assert "expected a kind of disk" in message
        assert "kinds of disk" in hint
    assert racked.changes == []


@pytest.mark.parametrize("gone", [False, True])
def test_a_swap_may_come_too_late(tmp_path: Path, gone: bool) -> None:
    """Somebody else has swapped the disk, or taken it, while the new one was opened."""
    slots = {"0": ram(), "1": ram()}
    slots["0"].pull = lambda: lambda: True
    old = slots["0"].disk

    async def swap(place: str, text: str, free: Callable[[], None]) -> None:
        if gone:
            del slots["0"]
        else:
            slots["0"] = slots["1"]
        free()

    with serve(tmp_path, controller("rack", slots, swap=swap)) as bay, bay.control() as control:
        message, _ = refused(lambda: control.swap("rack/0", "mem:1M"))
        assert message == ("there is no disk rack/0" if gone else "rack/0 is another disk by now")
        message, _ = refused(lambda: control.swap("rack/1", "mem:1M"))
        assert message == "rack/1 cannot be taken away"
    assert old is not None
    old.close()


def test_a_swap_that_fails_at_the_last_lets_go_of_what_was_there(tmp_path: Path) -> None:
    slots = {"0": ram()}
    slots["0"].pull = lambda: lambda: True
    old = slots["0"].disk

    async def swap(place: str, text: str, free: Callable[[], None]) -> None:
        free()
        raise IoError(errno.EIO, "the new disk")

    with serve(tmp_path, controller("rack", slots, swap=swap)) as bay, bay.control() as control:
        assert "the new disk" in refused(lambda: control.swap("rack/0", "mem:1M"))[0]
        assert not slots
        assert bay.changes
        assert old not in bay.bay.disks


# -- media -----------------------------------------------------------------------------------------


def state(control: Control) -> Any:
    return control.tree().controllers[1].disks[1]


def test_media_are_changed(served: Served, control: Control, tmp_path: Path) -> None:
    (tmp_path / "next.iso").write_bytes(bytes(4 * MIB))
    control.eject("drives/1")
    assert (state(control).disk, state(control).spec, state(control).tray) == (None, None, "open")
    assert refused(lambda: control.info("drives/1"))[0] == "drives/1: there is no medium"
    spec = f"iso:{tmp_path}/next.iso"
    assert control.insert("drives/1", spec).spec == spec
    assert state(control).disk["size"] == 4 * MIB
    assert state(control).tray == "closed"
    control.insert("drives/1", "mem:2M;sector=2048")
    assert state(control).disk["size"] == 2 * MIB
    assert served.changes == ["changed"] * 3


def test_a_locked_drive_lets_go_by_force_only(served: Served, control: Control) -> None:
    dvd = served.bay.slot("drives/1").dvd
    assert dvd is not None
    dvd.lock(True)
    assert state(control).tray == "locked"
    for call in (
        lambda: control.eject("drives/1"),
        lambda: control.insert("drives/1", "mem:2M;sector=2048"),
    ):
        message, hint = refused(call)
        assert message == "the guest has locked the DVD drive"
        assert "force" in hint
    assert state(control).disk["size"] == MIB
    control.eject("drives/1", force=True)
    assert state(control).disk is None


def test_what_is_no_medium_changes_nothing(served: Served, control: Control) -> None:
    refused(lambda: control.insert("drives/1", "file:/nowhere"))
    refused(lambda: control.insert("drives/1", "mem:1s"))  # no whole blocks of 2048 bytes
    assert state(control).disk["size"] == MIB
    assert refused(lambda: control.eject("vda"))[0] == "vda is no drive with media"


def test_quit_is_answered_and_ends_it(served: Served, control: Control) -> None:
    control.quit()
    served.thread.join(10)
    assert not served.thread.is_alive()

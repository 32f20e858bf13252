"""`drivebay serve --control` in a process of its own, and the commands that talk to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from drivebay.cli.backend import Backend
from drivebay.cli.errors import ToldAlready
from drivebay.cli.main import cli, main
from drivebay.disk.spec import open_disk
from drivebay.hosts.control.client import Control, ControlError
from drivebay.suspend import run
from drivebay.testing import FrontEnd

from ..vhost_user.test_crash import BLOCK, BLOCKS, Load

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "bay.sock")


def content(spec: str) -> list[bytes]:
    disk = open_disk(spec)
    data = memoryview(bytearray(BLOCK * BLOCKS))
    run(disk.read(0, [data]))
    disk.close()
    return [bytes(data[start : start + BLOCK]) for start in range(0, len(data), BLOCK)]


def test_a_guest_writes_on_while_layers_come_and_go(path: str, tmp_path: Path) -> None:
    """Nothing is lost, live or by the spec that opens the disk afterwards."""

    def layers() -> str | None:
        with Control(path, timeout=60) as control:
            spec = None
            for n in range(8):
                spec = control.snapshot("vda", f"sqldiff:{tmp_path}/{n}.dbhd;create").spec
                if n % 3:
                    spec = control.commit("vda").spec
            return spec

    disk = f"file:{tmp_path}/disk.img;create={BLOCK * BLOCKS}"
    with (
        Backend(["--virtio-blk", f"{disk},queues=2", "--control", path]) as backend,
        FrontEnd(backend.controllers[0]["socket"], queues=2, queue_size=256) as guest,
        ThreadPoolExecutor(1) as pool,
    ):
        load = Load(guest, 3)
        spec = pool.submit(layers)
        while not spec.done():
            load.run(50)
        load.finish()
        for block, contents in enumerate(load.contents):
            assert guest.read(8 * block, BLOCK) == contents
        guest.flush()
        with Control(path) as control:
            [state] = control.tree().controllers
            assert state.connected
            assert state.statistics["requests"] >= load.ended
            assert [each.spec for each in state.disks] == [spec.result()]
    names = [f"sqldiff:{tmp_path}/{n}.dbhd" for n in (6, 3, 0)]
    assert spec.result() == ":".join([*names, disk])
    assert content(":".join([*names, disk])) == load.contents
    assert not os.path.exists(path)


def test_every_kind_of_controller(path: str, tmp_path: Path) -> None:
    words = ["--nvme", "mem:1M", "--scsi", "mem:1M", "--ahci", "mem:1M", "--control", path]
    words += ["--ide", "mem:1M;sector=2048,dvd", "--virtio-blk", "mem:1M"]
    with Backend(words), Control(path, timeout=60) as control:
        for kind in ("nvme", "scsi", "ahci", "ide"):
            first = next(each for each in control.tree().controllers if each.id == kind)
            name = control.add(kind, "mem:2M")
            assert control.info(name)["size"] == 2 * MIB
            control.snapshot(name, "memdiff")
            control.resize(name, 3 * MIB)
            control.remove(name)
            again = next(each for each in control.tree().controllers if each.id == kind)
            assert again.disks == first.disks
        assert control.add("nvme", "mem:1M,nsid=9,block=4096") == "nvme/9"
        assert control.add("scsi", "mem:1M,lun=5") == "scsi/5"
        assert control.add("ahci", "mem:1M,port=4,serial=X") == "ahci/4"
        assert control.add("ahci", "mem:1M;sector=2048,dvd") == "ahci/1"
        assert control.add("ide", "mem:1M,s,1") == "ide/s1"
        places = {"nvme/9": "nsid=3", "scsi/5": "lun=3", "ahci/4": "port=3", "ide/s1": "p"}
        for disk, more in places.items():
            assert control.swap(disk, "mem:2M").spec == "mem:2M"
            with pytest.raises(ControlError, match="/nowhere"):
                control.swap(disk, "file:/nowhere")
            with pytest.raises(ControlError, match=more):
                control.swap(disk, f"mem:3M,{more}")
            assert control.info(disk)["size"] == 2 * MIB
        with pytest.raises(ControlError, match="cannot be taken away"):
            control.swap("vda", "mem:1M")
        for disk in ("ahci/1", "ide/p0"):
            control.eject(disk)
            control.insert(disk, "mem:2M;sector=2048")
        for text, message in {
            "mem:1M,nsid=9": "nsid 9 taken by mem:2M,nsid=9",
            "mem:1M,nsid=x": "nsid=x",
            "mem:1M,port=1": "expected one of ro",
            "file:/nowhere": "/nowhere",
            "mem:1M;sector=4096,block=512": "block=512",
        }.items():
            with pytest.raises(ControlError, match=message):
                control.add("nvme", text)
        with pytest.raises(ControlError, match="secondary unit 1 taken"):
            control.add("ide", "mem:1M,s,1")
        with pytest.raises(ControlError, match="port 31"):
            control.add("ahci", "mem:1M,port=31")
        with pytest.raises(ControlError, match="on-error=stop"):
            control.add("ahci", "mem:1M,on-error=stop")
        with pytest.raises(ControlError, match="no disk can be added"):
            control.add("vda", "mem:1M")
        assert len(control.tree().controllers) == 5


def test_what_was_not_changed_is_started_again(path: str, tmp_path: Path) -> None:
    disk = f"file:{tmp_path}/disk.img;create=1M"
    with Backend(["--virtio-blk", disk, "--control", path]) as backend:
        with Control(path, timeout=60) as control:
            before = control.version().pid
            os.kill(before, signal.SIGKILL)
            with pytest.raises(ControlError):
                control.version()
        backend.read_ready()
        with Control(path, timeout=60) as control:
            assert control.version().pid == backend.pid != before


def test_what_was_changed_is_not_started_again_as_it_was(
    path: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its guest would read what was there before the snapshot."""
    disk = f"file:{tmp_path}/disk.img;create=1M"
    backend = Backend(["--virtio-blk", disk, "--control", path])
    with backend, Control(path, timeout=60) as control:
        control.snapshot("vda", f"sqldiff:{tmp_path}/a.dbhd;create")
        os.kill(control.version().pid, signal.SIGKILL)
        with pytest.raises(ToldAlready):
            backend.read_ready()
    error = capfd.readouterr().err
    assert "killed by SIGKILL, and its disks had been changed through the control socket" in error


def test_the_end_gives_up_a_commit(path: str, tmp_path: Path) -> None:
    """What was written is where the last spec says."""
    base = f"throttle:bps=128K:file:{tmp_path}/disk.img;create=64M"
    pieces = [b"%02d" % n * 32768 for n in range(32)]
    with (
        Backend(["--virtio-blk", base, "--control", path]) as backend,
        FrontEnd(backend.controllers[0]["socket"]) as guest,
        Control(path, timeout=60) as control,
        Control(path, timeout=60) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        spec = control.snapshot("vda", f"sqldiff:{tmp_path}/top.dbhd;create").spec
        for n, piece in enumerate(pieces):
            guest.write(n * 2 * MIB // 512, piece)
        guest.flush()
        commit = pool.submit(lambda: other.commit("vda"))
        while not commit.done():
            try:
                control.resize("vda", 64 * MIB)
            except ControlError as error:
                assert "merged" in str(error)
                break
        control.quit()
        with pytest.raises(ControlError):
            commit.result(60)
    assert spec is not None
    disk = open_disk(spec.replace("throttle:bps=128K:", ""))
    for n, piece in enumerate(pieces):
        data = memoryview(bytearray(len(piece)))
        run(disk.read(n * 2 * MIB // 512, [data]))
        assert data == piece
    disk.close()


def test_there_is_one_server_at_a_path(path: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Backend(["--virtio-blk", "mem:1M", "--control", path]):
        with pytest.raises(ToldAlready), Backend(["--virtio-blk", "mem:1M", "--control", path]):
            pass
        with Control(path) as control:
            assert len(control.tree().controllers) == 1
    error = capfd.readouterr().err
    assert f"socket {path}: another server is listening there" in error
    assert "--control PATH" in error


def test_a_disk_that_is_removed_at_the_end_is_closed_once(
    path: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        Backend(["--nvme", f"file:{tmp_path}/a.img;create=1M", "--control", path]),
        Control(path) as control,
        ThreadPoolExecutor(1) as pool,
    ):
        control.add("nvme", f"delay:20ms:file:{tmp_path}/b.img;create=1M")
        removed = pool.submit(lambda: control.remove("nvme/2"))
        with Control(path) as other:
            other.quit()
        removed.exception(60)
    assert capfd.readouterr().err == ""


# -- commands --------------------------------------------------------------------------------------


@pytest.fixture
def served(path: str, tmp_path: Path) -> Iterator[str]:
    disk = f"file:{tmp_path}/disk.img;create=1M"
    words = ["--virtio-blk", disk, "--nvme", "delay:1ms:mem:1M", "--control", path]
    with Backend([*words, "--ide", "mem:1M;sector=2048,dvd"]):
        yield path


def test_inspect(served: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", served]) == 0
    shown = capsys.readouterr().out
    assert "vda: virtio-blk, no guest, " in shown
    assert "requests 0, reads 0" in shown
    assert "ide/p0  mem:1M;sector=2048  tray closed" in shown
    assert "└─ delay  1M  delay=fixed=1ms" in shown
    assert main(["inspect", served, "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert [each["id"] for each in tree["controllers"]] == ["vda", "ide", "nvme"]


def test_inspect_goes_on_with_rates(
    served: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest writes between two looks; the third is Ctrl-C."""
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt
        with Control(served) as control, FrontEnd(control.tree().controllers[0].socket) as guest:
            for _ in range(10):
                guest.write(0, bytes(512))

    monkeypatch.setattr("drivebay.cli.inspect.time.sleep", wait)
    assert main(["inspect", served, "--watch", "--interval", "2"]) == 130
    first, second = capsys.readouterr().out.split("vda: ")[1:]
    assert "writes 0, " in first
    assert "writes 10 (5/s), write-bytes 5120 (2560/s), " in second
    assert waits == [2.0, 2.0]


def test_ctl(served: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["ctl", served, "disk.resize", "vda", "2M"]) == 0
    assert main(["ctl", served, "disk.resize", "size=3M", "disk=vda"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["ctl", served, "disk.add", "nvme", "mem:1M,nsid=5"]) == 0
    assert json.loads(capsys.readouterr().out) == {"disk": "nvme/5"}
    assert main(["ctl", served, "disk.set", "nvme/1", "fixed=3ms"]) == 0
    assert main(["ctl", served, "media.eject", "ide/p0", "force=true"]) == 0
    assert main(["ctl", served, "disk.info", "vda"]) == 0
    assert json.loads(capsys.readouterr().out)["size"] == 3 * MIB
    layer = f"sqldiff:{tmp_path}/a=b.dbhd;create"
    assert main(["disk", "snapshot", served, "vda", layer]) == 0
    assert capsys.readouterr().out.startswith(f"sqldiff:{tmp_path}/a=b.dbhd:file:")


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["nonsense"], "there is no method nonsense", "methods: version, tree"),
        (["tree", "x"], "tree: x is one too many", "tree"),
        (["disk.info", "vda", "vda"], "disk.info: vda is one too many", "disk.info DISK"),
        (["disk.info", "disk=vda", "disk=vda"], "one too many", "disk.info DISK"),
        (["disk.info"], "missing required field", "its parameters: disk"),
        (["disk.info", "vdb"], "there is no disk vdb", "disks: vda, ide/p0, nvme/1"),
        (["disk.resize", "vda", "huge"], "expected a size", "K, M, G"),
        (["media.eject", "ide/p0", "force=yes"], "force=yes", "true or false"),
    ],
)
def test_ctl_says_what_is_wrong(
    served: str, capsys: pytest.CaptureFixture[str], words: list[str], message: str, hint: str
) -> None:
    assert main(["ctl", served, *words]) == 1
    error, _, hinted = capsys.readouterr().err.rstrip("\n").partition("\n")
    assert message in error
    assert hint in hinted


def test_nobody_listens(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["inspect", path], ["ctl", path, "tree"], ["disk", "snapshot", path, "a", "b"]):
        assert main(words) == 1
        assert "hint: drivebay serve --control PATH" in capsys.readouterr().err


def complete(*words: str, begun: str) -> list[str]:
    found = ShellComplete(cli, {}, "drivebay", "_C").get_completions(list(words), begun)
    return [each.value for each in found]


def test_names_are_completed(served: str) -> None:
    assert complete("ctl", served, begun="media.") == ["media.eject", "media.insert"]
    assert complete("ctl", served, "disk.info", begun="") == ["vda", "ide/p0", "nvme/1"]
    assert complete("ctl", served, "disk.info", "vda", begun="") == []
    assert complete("ctl", served, "disk.resize", "size=1M", begun="i") == ["ide/p0"]
    assert complete("ctl", served, "controller.stop", begun="") == ["vda", "ide", "nvme"]
    assert complete("ctl", served, "health.set", begun="n") == ["nvme", "nvme/1"]
    assert complete("ctl", served, "disk.add", "nvme", begun="") == []
    assert complete("ctl", served, "nonsense", begun="") == []
    assert complete("disk", "snapshot", served, begun="n") == ["nvme/1"]
    assert complete("ctl", "/nowhere", "disk.info", begun="") == []
    assert complete("ctl", "/nowhere", begun="") == []


def test_whoever_reads_the_events_may_go_first(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["serve", "--json", "--virtio-blk", f"mem:1M,socket={tmp_path}/vda.sock"]
    command = [sys.executable, "-m", "drivebay.cli.main", *words]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline()
    server.stdout.close()
    server.terminate()
    assert server.wait(60) == 1
    assert capfd.readouterr().err == ""
    assert not os.path.exists(tmp_path / "vda.sock")

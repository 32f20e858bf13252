"""The command line as a person meets it: one line for each mistake, a hint, exit status 1."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drivebay.cli.backend import Backend
from drivebay.cli.errors import CliError
from drivebay.cli.main import main
from drivebay.disk.spec import SpecError
from drivebay.testing.vhost_user import FrontEnd, GuestRam
from tests.cli.support import parse


def drivebay(*arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "drivebay.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


MISTAKES = {
    "unknown disk kind": (["--virtio-blk", "vmdk:x.vmdk"], "character 1 is 'v'", "kinds of disk"),
    "missing file": (["--virtio-blk", "file:/tmp/no-such.img"], "/tmp/no-such.img", ";create="),
    "size with a unit of its own": (
        ["--virtio-blk", "mem:64Mi"],
        "character 8 is 'i'",
        "a size is",
    ),
    "socket in a missing folder": (
        ["--virtio-blk", "mem:1M,socket=/nowhere/x.sock"],
        "there is no folder /nowhere",
        "mkdir -p",
    ),
    "unknown option": (["--virtio-blk", "mem:1M,rw"], "expected one of", None),
    "option twice": (["--virtio-blk", "mem:1M,ro,ro"], "ro only once", None),
    "nothing to serve": ([], "nothing to serve", "--virtio-blk"),
    "unknown flag": (["--no-such"], "No such option", "--help"),
    "disk for nobody": (["--disk", "mem:1M,on=x"], "no controller 'x'", "on=NAME"),
    "controller without a disk": (["--controller", "virtio-blk,id=x"], "has no disks", "--disk"),
    "two disks on one": (
        ["--controller", "virtio-blk,id=x", "--disk", "mem:1M,on=x", "--disk", "mem:1M,on=x"],
        "2 disks",
        None,
    ),
    "a name twice": (
        ["--virtio-blk", "mem:1M,id=x", "--virtio-blk", "mem:1M,id=x"],
        "same id",
        "id=NAME",
    ),
    "too many queues": (["--virtio-blk", "mem:1M,queues=65"], "queues=65", "1 to 64"),
    "odd queue size": (["--virtio-blk", "mem:1M,queue-size=100"], "queue-size=100", "power of two"),
    "long serial": (["--virtio-blk", "mem:1M,serial=" + 21 * "x"], "too long", "20 bytes"),
}


@pytest.mark.parametrize(("arguments", "message", "hint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_a_hint(
    arguments: list[str], message: str, hint: str | None
) -> None:
    done = drivebay("serve", *arguments)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert lines[0].startswith("drivebay: error: ")
    assert message in lines[0]
    assert len(lines) <= 2
    if hint:
        assert hint in lines[1]
    assert done.stdout == ""


def test_a_busy_disk_is_refused_and_left_alone(tmp_path: Path) -> None:
    spec = f"file:{tmp_path}/x.img;create=1M"
    with Backend(["--virtio-blk", spec]):
        done = drivebay("serve", "--virtio-blk", spec)
    assert done.returncode == 1
    assert "drivebay: error:" in done.stderr
    assert "use" in done.stderr or "lock" in done.stderr


def test_a_socket_in_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with Backend(["--virtio-blk", f"mem:1M,socket={path}"]):
        done = drivebay("serve", "--virtio-blk", f"mem:1M,socket={path}")
        assert done.returncode == 1
        assert "another server is listening there" in done.stderr
    assert not path.exists()


def test_a_full_disk_is_an_error_when_creating(tmp_path: Path) -> None:
    done = drivebay("disk", "create", str(tmp_path / "big.img"), "7E")
    assert done.returncode in (0, 1)  # a file system may take it: sparse
    assert "Traceback" not in done.stderr


def test_help_lists_all_and_imports_no_device() -> None:
    code = (
        "import sys; from drivebay.cli.main import main; main(['--help']);"
        "sys.exit(any(m.startswith(('drivebay.controllers', 'drivebay.hosts', 'drivebay.guests'))"
        " for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for word in ("serve", "boot", "disk", "demo"):
        assert word in done.stdout


def test_help_is_quick() -> None:
    """It takes the time of what it imports: click, and of ours four modules."""
    code = (
        "import sys; before = set(sys.modules); from drivebay.cli.main import main;"
        "main(['--help']); print(); print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = done.stdout.splitlines()[-1].split()
    ours = [name for name in imported if name.startswith("drivebay")]
    others = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    assert (ours, others) == (
        ["drivebay", "drivebay.cli", "drivebay.cli.lazy", "drivebay.cli.main"],
        {"click", "drivebay"},
    )
    assert not {"asyncio", "ctypes", "email", "sqlite3", "ssl"} & set(imported)


def test_version_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert main(["completion", "bash"]) == 0
    assert "_drivebay_completion" in capsys.readouterr().out


def test_disk_info_and_create(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "x.img")
    assert main(["disk", "create", path, "10M", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size"] == 10 << 20
    assert main(["disk", "info", f"memdiff:{path}", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["kind"] == "layered"
    assert len(described["inner"]) == 2
    assert main(["disk", "create", path, "10M"]) == 1
    assert "there is such a file already" in capsys.readouterr().err
    assert main(["disk", "create", str(tmp_path / "y"), "64Mi"]) == 1
    assert "character 4" in capsys.readouterr().err


def test_short_and_long_form_say_the_same() -> None:
    (short,) = parse(virtio_blk=["mem:1M,ro,id=a,queues=2,serial=S"])
    (long,) = parse(controller=["virtio-blk,id=a,queues=2"], disk=["mem:1M,on=a,ro,serial=S"])
    assert (short.kind, short.id, short.settings) == (long.kind, long.id, long.settings)
    assert short.disks[0].read_only == long.disks[0].read_only is True
    assert short.disks[0].serial == long.disks[0].serial == "S"


def test_names_are_given_in_order() -> None:
    found = parse(virtio_blk=["mem:1M", "mem:1M,id=vda", "mem:1M"])
    assert [controller.id for controller in found] == ["vdb", "vda", "vdc"]


def test_a_controller_option_that_makes_no_sense() -> None:
    for text in ("virtio-blk,id=a,colour=red", "virtio-blk", "floppy,id=a", "virtio-blk,id=a,id=b"):
        with pytest.raises((CliError, SpecError)):
            parse(controller=[text])


def test_serve_prints_the_arguments_for_front_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with Backend(["--virtio-blk", f"mem:1M,socket={path},queues=2,id=boot"]) as backend:
        (controller,) = backend.controllers
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert f"socket,id=boot,path={path},reconnect-ms=100" in controller["qemu"]
        assert any("num-queues=2" in word for word in controller["qemu"])
        assert any(str(path) in word for word in controller["cloud-hypervisor"])
    assert backend.statistics == [
        {
            "id": "boot",
            "requests": 0,
            "reads": 0,
            "read-bytes": 0,
            "writes": 0,
            "write-bytes": 0,
            "flushes": 0,
            "errors": 0,
        }
    ]


def test_sockets_without_a_name_go_to_a_folder_of_their_own() -> None:
    with Backend(["--virtio-blk", "mem:1M", "--virtio-blk", "mem:1M"]) as backend:
        sockets = [Path(controller["socket"]) for controller in backend.controllers]
        assert [path.name for path in sockets] == ["vda.sock", "vdb.sock"]
        assert stat.S_IMODE(sockets[0].parent.stat().st_mode) == 0o700
    assert not sockets[0].parent.exists()


def test_a_killed_data_plane_is_started_again(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    spec = f"file:{tmp_path}/x.img;create=1M,socket={path}"
    with Backend(["--virtio-blk", spec]) as backend:
        first = backend.pid
        os.kill(first, signal.SIGKILL)
        backend.read_ready()
        assert backend.pid != first
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_front_end_that_truncates_its_memory_harms_only_itself(tmp_path: Path) -> None:
    """hostile.md 2.9: the access is a SIGBUS; the data plane is started again, nothing is lost."""
    path = tmp_path / "x.sock"
    spec = f"file:{tmp_path}/x.img;create=1M,socket={path}"
    with Backend(["--virtio-blk", spec]) as backend:
        first = backend.pid
        hostile = FrontEnd(str(path), ram=GuestRam(16 << 20, sealed=False))
        hostile.write(0, b"kept".ljust(512))
        os.ftruncate(hostile.ram.fd, 0)
        os.eventfd_write(hostile.kicks[0], 1)
        backend.read_ready()
        assert backend.pid != first
        with FrontEnd(str(path)) as guest:
            assert guest.read(0, 512) == b"kept".ljust(512)


def test_a_killed_data_plane_whose_disk_was_memory_is_the_end() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "drivebay.cli.main", "serve", "--json", "--virtio-blk", "mem:1M"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    os.kill(json.loads(process.stdout.readline())["pid"], signal.SIGKILL)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "lost" in errors


def test_serve_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "from drivebay.cli.backend import Backend\n"
        f"b = Backend(['--virtio-blk', 'mem:1M,socket={tmp_path}/x.sock']).__enter__()\n"
        "print(b.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pid = int(done.stdout)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.05)
    raise AssertionError("the data plane outlived its parent")


def test_socket_activation(tmp_path: Path) -> None:
    """systemd's protocol: descriptor 3 is a listening socket, LISTEN_PID says that it is for us."""
    path = tmp_path / "activated.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    code = (
        f"import os, sys; os.dup2({listener.fileno()}, 3); os.set_inheritable(3, True);"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
        "os.execv(sys.executable, [sys.executable, '-m', 'drivebay.cli.main', 'serve', '--json',"
        " '--virtio-blk', 'mem:1M'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[listener.fileno()],
    )
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        assert ready["controllers"][0]["socket"] == str(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    finally:
        process.terminate()
        process.wait(10)

"""Other people's programs: their clients on our server, our client on their servers, and TLS."""

from __future__ import annotations

import datetime
import functools
import ipaddress
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.backends.nbd import NbdDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskError, DiskOpenError, IoError, NoSpace
from drivebay.disk.nbd.tls import server_context
from drivebay.guests.errors import GuestError
from drivebay.guests.qemu import Qemu, find_qemu
from drivebay.suspend import run
from tests.disk.support import fill, get, noise, put
from tests.nbd.support import WAIT, Serving, tools

SIZE = 8 << 20


@functools.cache
def qemu() -> Qemu:
    try:
        return find_qemu()
    except GuestError as error:
        pytest.skip(f"no QEMU: {error}")


def tool(*command: str) -> str:
    """What a program of the tests prints; it must succeed."""
    tools(command[0])
    return finish(list(command), dict(os.environ))


def qemu_tool(*command: str) -> str:
    words = [*qemu().command(command[0]), *command[1:]]
    return finish(words, {**os.environ, **qemu().environment})


def finish(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert not done.returncode, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Data, a hole, data."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.write(noise(1 << 20))
        file.seek(SIZE - 5000)
        file.write(noise(5000, 2))
    return path


@pytest.fixture
def serving(image: Path, tmp_path: Path) -> Iterator[Serving]:
    with Serving(FileDisk(str(image)), tmp_path) as serving:
        yield serving


# -- their clients ---------------------------------------------------------------------------------


def test_nbdinfo(serving: Serving) -> None:
    info = json.loads(tool("nbdinfo", "--json", serving.uri))
    [export] = info["exports"]
    assert export["export-size"] == SIZE and export["contexts"] == ["base:allocation"]
    for name in ("multi_conn", "flush", "fua", "trim", "zero", "fast_zero", "df", "cache"):
        assert export[f"can_{name}"], name
    assert json.loads(tool("nbdinfo", "--json", "--list", serving.uri))["exports"]


def test_nbdinfo_map(serving: Serving) -> None:
    found = json.loads(tool("nbdinfo", "--json", "--map", serving.uri))
    assert found[0]["type"] == 0 and found[0]["length"] == 1 << 20
    assert found[1]["type"] == 3
    assert sum(extent["length"] for extent in found) == SIZE


def test_nbdcopy_both_ways(serving: Serving, image: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    tool("nbdcopy", serving.uri, str(copy))
    assert copy.read_bytes() == image.read_bytes()
    copy.write_bytes(noise(SIZE, 9))
    tool("nbdcopy", "--flush", str(copy), serving.uri)
    assert image.read_bytes() == copy.read_bytes()


def test_qemu_img(serving: Serving, image: Path, tmp_path: Path) -> None:
    made = str(tmp_path / "made.qcow2")
    qemu_tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", serving.uri, made)
    qemu_tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", made, serving.uri)
    found = json.loads(qemu_tool("qemu-img", "map", "--output=json", "-f", "raw", serving.uri))
    assert not found[0]["zero"] and found[1]["zero"]
    raw = tmp_path / "raw"
    raw.write_bytes(noise(SIZE, 4))
    qemu_tool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(raw), serving.uri)
    assert image.read_bytes() == raw.read_bytes()


def test_qemu_io(serving: Serving) -> None:
    commands = [
        "write -P 5 1M 64k",
        "read -P 5 1M 64k",
        "write -P 6 1234 100",
        "read -P 6 1234 100",
        "write -f -P 7 2M 4k",
        "write -z 3M 1M",
        "write -z -u 4M 1M",
        "read -P 0 3M 2M",
        "discard 1M 64k",
        "flush",
        "aio_read -P 7 2M 4k",
        "aio_flush",
    ]
    words = [word for command in commands for word in ("-c", command)]
    output = qemu_tool("qemu-io", "-f", "raw", *words, serving.uri)
    assert "error" not in output.lower() and "fail" not in output.lower()


@pytest.mark.parametrize("size", ["4k", "64k-300k"])
def test_fio_verifies(serving: Serving, tmp_path: Path, size: str) -> None:
    tools("fio")
    if "nbd" not in tool("fio", "--enghelp"):
        pytest.skip("this fio has no NBD engine")
    job = ["--name=v", "--ioengine=nbd", f"--uri={serving.uri}", "--rw=randwrite", "--iodepth=16"]
    job += [f"--bsrange={size}" if "-" in size else f"--bs={size}", "--size=8M", "--fsync=64"]
    job += ["--verify=crc32c", "--verify_fatal=1", "--output-format=json", f"--aux-path={tmp_path}"]
    output = tool("fio", *job)
    [found] = json.loads(output[output.index("{") :])["jobs"]
    assert found["error"] == 0 and found["write"]["total_ios"] and found["read"]["total_ios"]


def test_run_serves_while_a_command_runs(image: Path) -> None:
    serve = [sys.executable, "-m", "drivebay.cli.main", "nbd", "serve", str(image)]
    check = 'test "$uri" = "nbd+unix:///name%20x?socket=$unixsocket" && test -S $unixsocket'
    done = subprocess.run(
        [*serve, "--export-name", "name x", "--run", f"{check} && exit 7"], check=False, timeout=60
    )
    assert done.returncode == 7


def test_serve_by_tcp_until_it_is_told_to_end(image: Path) -> None:
    serve = [sys.executable, "-m", "drivebay.cli.main", "nbd", "serve", f"memdiff:{image}"]
    with subprocess.Popen(
        [*serve, "--port", "0", "--json"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        disk = NbdDisk(ready["uri"])
        assert ready["size"] == disk.byte_count == SIZE
        put(disk, 3, noise(512, 8))
        assert get(disk, 3, 1) == noise(512, 8)
        disk.close()
        process.terminate()
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "no place to listen"),
        (["--socket", "x", "--port", "1"], "one server listens in one place"),
        (["--port", "0", "--tls-certificates", "/does/not/exist"], "server-cert.pem"),
        (["--socket", "/does/not/exist/x"], "no folder"),
    ],
)
def test_serve_says_why_it_does_not(image: Path, arguments: list[str], why: str) -> None:
    serve = [sys.executable, "-m", "drivebay.cli.main", "nbd", "serve", str(image)]
    done = subprocess.run([*serve, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 1 and why in done.stderr and len(done.stderr.splitlines()) <= 2


# -- their servers ---------------------------------------------------------------------------------


class Server:
    """Somebody's server, while it is entered."""

    def __init__(
        self, folder: Path, *command: str, environment: dict[str, str] | None = None
    ) -> None:
        self.socket = str(folder / "theirs.sock")
        self.uri = f"nbd+unix:///?socket={self.socket}"
        self._command = [word.replace("SOCKET", self.socket) for word in command]
        self._environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> Server:
        self.process = subprocess.Popen(self._command, env=self._environment)
        end = time.monotonic() + WAIT
        while not self._listens():
            assert self.process.poll() is None, "it ended"
            assert time.monotonic() < end, "it does not listen"
            time.sleep(0.01)
        return self

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(self.socket) == 0

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()


def nbdkit(folder: Path, *arguments: str) -> Server:
    [program] = tools("nbdkit")
    return Server(folder, program, "-f", "-U", "SOCKET", *arguments)


def use(disk: Disk) -> None:
    """A bit of everything."""
    data = noise(1 << 20)
    put(disk, 7, data)
    put(disk, 5000, data[:512], fua=True)
    run(disk.flush())
    assert get(disk, 7, 2048) == data and get(disk, 5000, 1) == data[:512]
    run(disk.write_zeroes(100, 50, fua=True, unmap=True))
    run(disk.write_zeroes(200, 50))
    run(disk.unmap(1000, 100))
    assert not any(get(disk, 100, 50)) and not any(get(disk, 200, 50))
    assert get(disk, 300, 500) == data[293 * 512 :][: 500 * 512]
    sector = 0
    while sector < disk.sector_count:
        found = run(disk.extents(sector, disk.sector_count - sector))
        for extent in found:
            assert extent.sector == sector
            assert not (extent.zero and any(get(disk, sector, extent.count)))
            sector += extent.count


@pytest.mark.parametrize(
    "arguments",
    [
        ["memory", "8M"],
        ["--no-sr", "memory", "8M"],
        ["--filter=nozero", "memory", "8M"],
        ["--filter=fua", "memory", "8M"],
        ["--filter=blocksize-policy", "memory", "8M", "blocksize-maximum=64K"],
        ["--filter=noextents", "--mask-handshake=0", "memory", "8M"],
    ],
    ids=" ".join,
)
def test_nbdkit_memory(tmp_path: Path, arguments: list[str]) -> None:
    if "--mask-handshake=0" in arguments:
        with nbdkit(tmp_path, *arguments) as server, pytest.raises(DiskOpenError, match="newstyle"):
            NbdDisk(server.uri)
        return
    with nbdkit(tmp_path, *arguments) as server:
        disk = NbdDisk(server.uri, connections=2)
        use(disk)
        disk.close()


def test_qemu_nbd(image: Path, tmp_path: Path) -> None:
    command = [*qemu().command("qemu-nbd"), "-f", "raw", "-t", "-e", "4", "-k", "SOCKET"]
    environment = dict(qemu().environment)
    with Server(tmp_path, *command, str(image), environment=environment) as server:
        disk = NbdDisk(server.uri, connections=3)
        use(disk)
        disk.close()


@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EPERM", "EINVAL", "ENOMEM", "ESHUTDOWN"])
def test_nbdkit_errors(tmp_path: Path, error: str) -> None:
    words = ["--filter=error", "memory", "8M", f"error={error}", "error-pread-rate=100%"]
    with nbdkit(tmp_path, *words, "error-pwrite-rate=50%") as server:
        disk = NbdDisk(server.uri)
        with pytest.raises(DiskError) as caught:
            get(disk, 0, 8)
        failed = 0
        for sector in range(64):
            try:
                put(disk, sector, noise(512))
            except DiskError as failure:
                failed += 1
                assert type(failure) is type(caught.value)
        assert failed and (error != "ENOSPC" or caught.type is NoSpace)
        disk.close()


def test_a_server_that_is_killed_and_comes_back(image: Path, tmp_path: Path) -> None:
    """What was written is there, or a flush says that it may not be; reads go on."""
    arguments = ["file", str(image)]
    with nbdkit(tmp_path, *arguments) as server:
        disk = NbdDisk(server.uri, retry=WAIT)
        for round_ in range(3):
            put(disk, round_, noise(512, round_))
            server.process.kill()
            server.process.wait()
            os.unlink(server.socket)
            server.__enter__()
            assert get(disk, round_, 1) == noise(512, round_)
            with pytest.raises(IoError, match="perhaps writes"):
                run(disk.flush())
            run(disk.flush())
        disk.close()


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What nbdkit, qemu and libnbd expect in such a folder."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("certificates")
    authority_key = ec.generate_private_key(ec.SECP256R1())
    start = datetime.datetime(2020, 1, 1)

    def make(name: str, key: ec.EllipticCurvePrivateKey, authority: bool) -> None:
        def named(text: str) -> object:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named("ca"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=36500))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        (folder / f"{name}-cert.pem").write_bytes(made.public_bytes(pem))
        private = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{name}-key.pem").write_bytes(private)

    make("ca", authority_key, authority=True)
    for side in ("server", "client"):
        make(side, ec.generate_private_key(ec.SECP256R1()), authority=False)
    return folder


def secure_uri(serving: Serving, certificates: Path, more: str = "") -> str:
    return f"nbds+unix:///?socket={serving.path}&tls-certificates={certificates}{more}"


@pytest.mark.parametrize("verify_peer", [False, True])
def test_tls(certificates: Path, tmp_path: Path, verify_peer: bool) -> None:
    below = RamDisk(SIZE)
    content = fill(below)
    context = server_context(str(certificates), verify_peer)
    with Serving(below, tmp_path, tls=context) as serving:
        disk = NbdDisk(secure_uri(serving, certificates), connections=2)
        assert get(disk, 0, SIZE >> 9) == content
        use(disk)
        disk.close()
        with pytest.raises(DiskOpenError, match="wants TLS"):
            NbdDisk(serving.uri)
        wrong = secure_uri(serving, certificates, "&tls-hostname=example.com")
        with pytest.raises(DiskOpenError, match=r"TLS: CERTIFICATE_VERIFY_FAILED"):
            NbdDisk(wrong)


def test_tls_with_libnbd(certificates: Path, tmp_path: Path) -> None:
    below = RamDisk(SIZE)
    content = fill(below)
    context = server_context(str(certificates), verify_peer=True)
    with Serving(below, tmp_path, tls=context) as serving:
        copy = tmp_path / "copy"
        uri = secure_uri(serving, certificates, "&tls-hostname=localhost")
        tool("nbdcopy", uri, str(copy))
        assert copy.read_bytes() == content
        tool("nbdcopy", str(copy), uri)


def test_tls_with_nbdkit(certificates: Path, tmp_path: Path) -> None:
    words = ["--tls=require", f"--tls-certificates={certificates}", "memory", "8M"]
    with nbdkit(tmp_path, *words) as server:
        disk = NbdDisk(f"nbds+unix:///?socket={server.socket}&tls-certificates={certificates}")
        use(disk)
        disk.close()

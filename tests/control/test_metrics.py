"""What Prometheus reads: its own parser takes it, over HTTP, and the numbers are right."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from drivebay.cli.backend import Backend
from drivebay.cli.errors import ToldAlready
from drivebay.hosts.control.bay import Bay
from drivebay.hosts.control.client import Control, ControlError
from drivebay.hosts.control.scrape import MOST_REQUEST, ScrapeServer
from drivebay.hosts.listening import listen_tcp
from drivebay.lab.dialects import virtio
from drivebay.lab.metrics import BUCKETS, MOST_BEGUN, Meter, Metrics
from drivebay.lab.taps import Taps, tap_into
from drivebay.platform.engine import Engine
from drivebay.platform.observer import InFlight, Tap
from drivebay.testing import FrontEnd

from .support import controller, ram

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    """What its own parser says: each sample by its name and labels, which are all different."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.type in ("counter", "gauge", "histogram")
        assert family.documentation
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


class Part:
    """What takes commands."""

    def __init__(self) -> None:
        self.tap: Tap | None = None
        self.flying: list[InFlight] = []

    def in_flight(self) -> list[InFlight]:
        return self.flying


# -- measuring -------------------------------------------------------------------------------------


def test_a_meter_measures() -> None:
    times = iter([0.0, 1.0, 1.00002, 3.0, 50.0])
    meter = Meter(virtio, lambda: next(times))
    meter.ended(0, 9, 0)  # it began before us
    meter.began(0, 1, (0, 0, 512))
    meter.began(0, 2, (1, 0, 512))
    meter.ended(0, 2, 0)
    meter.ended(0, 1, 1)
    meter.began(0, 1, (4, 0, 0))
    assert set(meter.latencies) == {"IN", "OUT"}
    writes, reads = meter.latencies["OUT"], meter.latencies["IN"]
    assert writes.counts[1] == sum(writes.counts) == 1
    assert BUCKETS[1] == 2.5e-5
    assert not writes.errors
    assert reads.counts[BUCKETS.index(5.0)] == sum(reads.counts) == 1
    assert reads.seconds == 3.0
    assert reads.errors == {"IOERR": 1}


def test_commands_that_never_end_are_forgotten() -> None:
    """A guest may begin as many as there are queues and tags, over resets."""
    meter = Meter(virtio)
    for n in range(2 * MOST_BEGUN + 1):
        meter.began(n >> 16, n & 0xFFFF, (0, 0, 512))
    assert len(meter._begun) == 1


def test_several_taps_see_the_same() -> None:
    class Seen(list[tuple[Any, ...]]):
        def began(self, *what: Any) -> None:
            self.append(what)

        ended = began

    part = Part()
    one, two, three = Seen(), Seen(), Seen()
    end_one, end_two, end_three = (tap_into(part, each) for each in (one, two, three))
    assert isinstance(part.tap, Taps)
    part.tap.began(0, 1, "command")
    end_two()
    part.tap.ended(0, 1, "outcome")
    end_three()
    left: object = part.tap
    assert left is one
    end_one()
    left = part.tap
    assert left is None
    assert one == three == [(0, 1, "command"), (0, 1, "outcome")]
    assert two == [(0, 1, "command")]


def test_the_text() -> None:
    slots = {'"\\\n': ram()}
    part, other = Part(), Part()
    parts = {"": part}
    counted = {"reads": 7, "media-errors": 1}
    bay = Bay([controller("vda", slots, parts=lambda: parts, statistics=lambda: counted)])
    metrics = Metrics(bay, {"test": lambda: virtio})
    assert part.tap is not None
    part.tap.began(0, 1, (0, 8, 512))
    part.tap.ended(0, 1, 1)
    part.flying = [InFlight(0, 2, (0, 0, 512), 0.0)]
    samples = parsed(metrics.text())
    of = {"controller": "vda", "device": "vda"}
    read = {**of, "command": "IN"}
    assert value(samples, "drivebay_command_seconds_count", **read) == 1
    assert value(samples, "drivebay_command_seconds_bucket", **read, le="+Inf") == 1
    bounds = [sample for name, sample in samples if name == "drivebay_command_seconds_bucket"]
    assert len(bounds) == len(BUCKETS) + 1
    assert value(samples, "drivebay_command_errors_total", **read, status="IOERR") == 1
    assert value(samples, "drivebay_commands_under_way", **of) == 1
    assert value(samples, "drivebay_reads_total", controller="vda") == 7
    assert value(samples, "drivebay_media_errors_total", controller="vda") == 1
    assert value(samples, "drivebay_connected", controller="vda", kind="test") == 0
    assert value(samples, "drivebay_disk_bytes", disk='vda/"\\\n') == 1 << 20
    parts["1"] = other
    metrics.refresh()
    assert other.tap is not None
    del parts[""]
    metrics.refresh()
    assert part.tap is None
    metrics.close()
    assert other.tap is None
    for slot in slots.values():
        assert slot.disk is not None
        slot.disk.close()


# -- HTTP ------------------------------------------------------------------------------------------


@pytest.fixture
def page() -> Iterator[tuple[str, int]]:
    """The address of a server whose page is "it\\n" 100 000 times."""
    engine = Engine(workers=0)
    listener = listen_tcp("127.0.0.1", 0, "--metrics")
    address: tuple[str, int] = listener.getsockname()
    server = ScrapeServer(lambda: 100_000 * "it\n", engine, listener)
    thread = threading.Thread(target=engine.run)
    thread.start()
    yield address
    engine.stop()
    thread.join()
    server.close()
    engine.close()


def asked(address: tuple[str, int], method: str, path: str) -> tuple[int, bytes]:
    client = http.client.HTTPConnection(*address, timeout=30)
    client.request(method, path)
    answer = client.getresponse()
    found = answer.status, answer.read()
    client.close()
    return found


def test_requests(page: tuple[str, int]) -> None:
    assert asked(page, "GET", "/metrics") == (200, 100_000 * b"it\n")
    assert asked(page, "GET", "/metrics?collect[]=all")[0] == 200
    assert asked(page, "HEAD", "/metrics") == (200, b"")
    assert asked(page, "GET", "/")[0] == 404
    assert asked(page, "POST", "/metrics")[0] == 405


@pytest.mark.parametrize(
    "sent",
    [b"\r\n\r\n", b"GET /metrics\r\n\r\n", b"x" * (MOST_REQUEST + 1), b"\xff \xfe z\r\n\r\n"],
)
def test_what_is_no_http(page: tuple[str, int], sent: bytes) -> None:
    with socket.create_connection(page, timeout=30) as client:
        client.sendall(sent)
        assert client.recv(100).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert asked(page, "GET", "/metrics")[0] == 200


def test_whoever_hangs_up_is_forgotten(page: tuple[str, int]) -> None:
    """More of them than may be connected at once."""
    for n in range(40):
        with socket.create_connection(page, timeout=30) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n"[: n % 26])
    assert asked(page, "GET", "/metrics")[0] == 200


# -- a server --------------------------------------------------------------------------------------


def test_a_server_is_scraped(tmp_path: Path) -> None:
    path, place = str(tmp_path / "bay.sock"), str(tmp_path / "metrics.sock")
    words = ["--virtio-blk", "mem:1M", "--ahci", "mem:1M", "--control", path, "--metrics", place]
    with (
        Backend(words) as backend,
        Control(path, timeout=60) as bay,
        FrontEnd(backend.controllers[0]["socket"]) as guest,
    ):
        for _ in range(10):
            guest.write(0, bytes(512))
        bay.add("ahci", "mem:1M,port=4")

        def scraped() -> str:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(30)
                client.connect(place)
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                data = b"".join(iter(lambda: client.recv(1 << 16), b""))
            head, _, body = data.decode().partition("\r\n\r\n")
            assert "text/plain; version=0.0.4" in head
            return body

        for get in (scraped, bay.metrics):
            samples = parsed(get())
            of = {"controller": "vda", "device": "vda", "command": "OUT"}
            assert value(samples, "drivebay_command_seconds_count", **of) == 10
            assert value(samples, "drivebay_connected", controller="vda", kind="virtio-blk") == 1
            drive = {"controller": "ahci", "device": "ahci/4"}
            assert value(samples, "drivebay_commands_under_way", **drive) == 0
        with pytest.raises(ControlError, match="measured already"):
            bay.start_metrics()
        bay.stop_metrics()
        with pytest.raises(ControlError, match="nothing is measured"):
            bay.metrics()
        assert bay.start_metrics("127.0.0.1:0").startswith("http://127.0.0.1:")
        bay.stop_metrics()
        for address in ("127.0.0.1:x", "127.0.0.1:70000", str(tmp_path)):
            with pytest.raises(ControlError):
                bay.start_metrics(address)
        assert bay.start_metrics() == ""
    assert not Path(place).exists()


def test_a_place_that_cannot_be(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ToldAlready), Backend(["--virtio-blk", "mem:1M", "--metrics", "x:y"]):
        pass
    assert "--metrics x:y: 'y' is no port" in capfd.readouterr().err


def test_without_a_control_socket(tmp_path: Path) -> None:
    place = tmp_path / "metrics.sock"
    with Backend(["--virtio-blk", "mem:1M", "--metrics", str(place)]):
        assert place.is_socket()

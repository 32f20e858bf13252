"""QMP: the wire, the negotiation, and what each command does to a machine."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.errors import IoError, NoSpace
from drivebay.disk.filters.stop_on_error import StopOnError
from drivebay.testing import PuppetDisk

from .support import Bench, Tray

# -- the wire ------------------------------------------------------------------------------------


def test_the_greeting_says_who_we_are(bench: Bench) -> None:
    (greeting,) = bench.raw_qmp("")
    assert greeting["QMP"]["capabilities"] == []
    assert set(greeting["QMP"]["version"]["qemu"]) == {"major", "minor", "micro"}
    assert greeting["QMP"]["version"]["package"].startswith("drivebay ")


def test_capabilities_come_first_and_once(bench: Bench) -> None:
    bench.qmp_tape.take()
    for command in ("query-status", "stop", "nonsense"):
        (answer,) = bench.execute(command)
        assert answer["error"]["class"] == "CommandNotFound"
        assert "qmp_capabilities" in answer["error"]["desc"]
    assert bench.state.running
    assert bench.execute("qmp_capabilities") == [{"return": {}}]
    assert bench.execute("qmp_capabilities")[0]["error"]["class"] == "CommandNotFound"
    assert bench.execute("query-status") == [{"return": {"status": "running", "running": True}}]


def test_nobody_hears_of_events_before_the_negotiation(bench: Bench) -> None:
    bench.qmp_tape.take()
    bench.state.stop()
    assert bench.qmp_tape.take() == ""


@pytest.mark.parametrize("ident", [1, "a", None, [1, {"x": 2}], {"deep": [1.5]}])
def test_ids_are_echoed(monitor: Bench, ident: object) -> None:
    request = {"execute": "query-status", "id": ident}
    assert monitor.raw_qmp(json.dumps(request) + "\n")[0]["id"] == ident
    request = {"execute": "nonsense", "id": ident}
    answer = monitor.raw_qmp(json.dumps(request) + "\n")[0]
    assert answer["id"] == ident
    assert answer["error"]["class"] == "CommandNotFound"


def test_a_request_needs_no_end_of_line_and_may_have_many(monitor: Bench) -> None:
    ask = '{"execute": "query-status"}'
    assert len(monitor.raw_qmp(ask)) == 1
    assert len(monitor.raw_qmp(ask + ask + "\r\n  \n" + ask)) == 3
    assert len(monitor.raw_qmp('{\n"execute":\n"query-status"\n}\n')) == 1
    answers = [monitor.raw_qmp(letter) for letter in '{"execute": "stop\\u0031{}[]\\"}"}']
    assert [len(found) for found in answers] == [0] * (len(answers) - 1) + [1]


HOSTILE = {
    "no object": "[]\n",
    "a number": "42\n",
    "a word": "help\n",
    "a string": '"stop"\n',
    "an empty object": "{}\n",
    "no JSON": '{"execute": }\n',
    "single quotes": "{'execute': 'stop'}\n",
    "half a string": '{"execute": "stop\n',
    "a bracket too much": "]\n",
    "a brace too much": "}\n",
    "not UTF-8": b'{"execute": "\xff\xfe"}\n',
    "bytes": b"\xff\n",
    "zeroes": b"\0\0\0\n",
    "a lonely surrogate": '{"execute": "\\ud800"}\n',
    "deep arrays": "[" * 100_000 + "\n",
    "deep objects": '{"a":' * 100_000 + "\n",
    "deep arguments": '{"execute": "stop", "arguments": ' + '{"a":' * 70 + "1" + "}" * 71 + "\n",
    "a long one": '{"execute": "' + "x" * (2 << 20) + '"}\n',
    "a long word": "x" * (2 << 20) + "\n",
    "an unknown member": '{"execute": "stop", "run": 1}\n',
    "out of band": '{"exec-oob": "stop"}\n',
    "a name that is none": '{"execute": 5}\n',
    "arguments that are none": '{"execute": "stop", "arguments": [1]}\n',
    "an argument too much": '{"execute": "stop", "arguments": {"x": 1}}\n',
    "an argument too few": '{"execute": "block_resize", "arguments": {}}\n',
    "a size that is text": '{"execute": "block_resize", "arguments": {"size": "1"}}\n',
    "a size beyond all": '{"execute": "block_resize", "arguments": {"size": 1e999}}\n',
    "a long name": '{"execute": "' + "x" * 1000 + '"}\n',
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_makes_no_sense_is_refused(monitor: Bench, data: bytes | str) -> None:
    raw = data if isinstance(data, bytes) else data.encode()
    answers = [answer for at in range(0, len(raw), 65536) for answer in _piece(monitor, raw, at)]
    assert len(answers) == 1
    assert answers[0]["error"]["class"] in ("GenericError", "CommandNotFound")
    assert len(answers[0]["error"]["desc"]) < 400
    assert len(monitor.qmp._messages._buffer) == 0
    assert monitor.execute("query-status")[0]["return"]["running"] is True


def _piece(monitor: Bench, raw: bytes, at: int) -> list[dict[str, Any]]:
    return monitor.raw_qmp(raw[at : at + 65536])


# -- the machine ---------------------------------------------------------------------------------


def events(messages: list[dict[str, Any]]) -> list[str]:
    """The messages in short: names of events, and ``return`` or ``error``."""
    return [message.get("event") or next(iter(message)) for message in messages]


def test_stop_and_cont(monitor: Bench) -> None:
    assert events(monitor.execute("stop")) == ["STOP", "return"]
    assert monitor.execute("query-status")[0]["return"] == {"status": "paused", "running": False}
    assert events(monitor.execute("stop")) == ["return"]
    assert events(monitor.execute("cont")) == ["RESUME", "return"]
    assert events(monitor.execute("cont")) == ["return"]


def test_an_event_says_when_it_was(monitor: Bench) -> None:
    (event, _) = monitor.execute("stop")
    assert event["timestamp"]["seconds"] > 1_600_000_000
    assert 0 <= event["timestamp"]["microseconds"] < 1_000_000
    assert "data" not in event


def test_system_reset(monitor: Bench) -> None:
    answer, event = monitor.execute("system_reset")
    assert answer == {"return": {}}
    assert event["event"] == "RESET"
    assert event["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
    assert monitor.machine.resets == 1


def test_a_guest_that_resets_the_machine_is_told_of(monitor: Bench) -> None:
    monitor.machine.board.reset()
    (event,) = monitor.raw_qmp("")
    assert (event["event"], event["data"]["guest"]) == ("RESET", True)


def test_quit_answers_and_says_good_bye(monitor: Bench) -> None:
    answer, event = monitor.execute("quit")
    assert answer == {"return": {}}
    assert (event["event"], event["data"]["reason"]) == ("SHUTDOWN", "host-qmp-quit")
    assert monitor.quits == 1


def test_what_can_be_asked(monitor: Bench) -> None:
    names = {entry["name"] for entry in monitor.execute("query-commands")[0]["return"]}
    assert {"qmp_capabilities", "device_add", "eject", "quit"} <= names
    assert monitor.execute("query-version")[0]["return"]["package"].startswith("drivebay")


# -- devices -------------------------------------------------------------------------------------


def put(bench: Bench, name: str, driver: str = "fixed", disk: Disk | None = None) -> Disk:
    disk = disk or RamDisk(1 << 20)
    bench.machine.plug(driver, name, disk, {})
    return disk


def test_a_device_that_is_deleted_leaves_its_disk_to_the_next(monitor: Bench) -> None:
    disk = put(monitor, "d0")
    assert monitor.execute("device_del", id="d0") == [{"return": {}}]
    monitor.machine.going[0]()
    (event,) = monitor.raw_qmp("")
    assert (event["event"], event["data"]["device"]) == ("DEVICE_DELETED", "d0")
    add = {"driver": "fixed", "id": "d1", "drive": "d0"}
    assert monitor.execute("device_add", **add) == [{"return": {}}]
    assert monitor.machine.drives["d1"].disk is disk
    assert "error" in monitor.execute("device_add", **add | {"id": "d2"})[0]


REFUSED = {
    "an unknown device": ("device_del", {"id": "x"}, "DeviceNotFound"),
    "a device without a driver": ("device_add", {"id": "x"}, "'driver' is missing"),
    "a device without an id": ("device_add", {"driver": "fixed"}, "'id' is missing"),
    "a device of no kind": ("device_add", {"driver": "floppy", "id": "x"}, "is no device"),
    "an id twice": ("device_add", {"driver": "fixed", "id": "d0"}, "Duplicate"),
    "a disk that is none": (
        "device_add",
        {"driver": "fixed", "id": "x", "drive": "none"},
        "Cannot find",
    ),
    "an option that is none": (
        "device_add",
        {"driver": "fixed", "id": "x", "drive": "n0", "colour": "red"},
        "colour",
    ),
    "a tray that is none": ("eject", {"device": "d0"}, "not removable"),
    "a drive that is none": ("eject", {"device": "x"}, "DeviceNotFound"),
    "no drive": ("eject", {}, "'id' is missing"),
    "a closed tray to take from": ("blockdev-remove-medium", {"id": "t0"}, "not open"),
    "a closed tray to put in": (
        "blockdev-insert-medium",
        {"id": "t0", "node_name": "n0"},
        "not open",
    ),
    "a medium that is none": (
        "blockdev-insert-medium",
        {"id": "t0", "node_name": "x"},
        "Cannot find",
    ),
    "an image that is none": (
        "blockdev-change-medium",
        {"id": "t0", "filename": "/nowhere/x.iso"},
        "/nowhere/x.iso",
    ),
    "a format that is none": (
        "blockdev-change-medium",
        {"id": "t0", "filename": "mem:2K", "format": "vmdk"},
        "vmdk",
    ),
    "a medium that does not fit": (
        "blockdev-change-medium",
        {"id": "t0", "filename": "mem:3K"},
        "does not fit",
    ),
    "a driver of no disk": (
        "blockdev-add",
        {"driver": "quorum", "node_name": "x"},
        "only driver 'file'",
    ),
    "a disk without a name": ("blockdev-add", {"driver": "file", "filename": "mem:1M"}, "missing"),
    "a disk of a name twice": (
        "blockdev-add",
        {"driver": "file", "filename": "mem:1M", "node_name": "n0"},
        "Duplicate",
    ),
    "a disk to forget that is none": ("blockdev-del", {"node_name": "x"}, "Cannot find"),
    "a size of no sectors": ("block_resize", {"device": "d0", "size": 100}, "multiple of 512"),
    "a size below zero": ("block_resize", {"device": "d0", "size": -512}, "multiple of 512"),
    "a size beyond all": ("block_resize", {"device": "d0", "size": 1 << 64}, "error"),
    "a disk to resize that is none": ("block_resize", {"device": "x", "size": 512}, "NotFound"),
}


@pytest.mark.parametrize(("command", "arguments", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_command_that_cannot_be_done_says_why(
    monitor: Bench, command: str, arguments: dict[str, Any], words: str
) -> None:
    put(monitor, "d0")
    put(monitor, "t0", "tray")
    added = {"driver": "file", "filename": "mem:2M", "node_name": "n0"}
    assert monitor.execute("blockdev-add", **added) == [{"return": {}}]
    answer = monitor.execute(command, **arguments)[-1]
    monitor.qmp_tape.take()
    assert "error" in answer
    assert words in json.dumps(answer)
    assert monitor.execute("query-status")[0]["return"]["running"] is True
    monitor.monitor.close()


# -- disks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["device", "node_name"])
@pytest.mark.parametrize("size", [512, 2 << 20])
def test_block_resize(monitor: Bench, named: str, size: int) -> None:
    disk = put(monitor, "drive0")
    answers = monitor.execute("block_resize", size=size, **{named: "drive0"})
    assert monitor.engine.run_until(lambda: monitor.qmp_tape.listening)
    assert answers + monitor.raw_qmp("") == [{"return": {}}]
    assert disk.byte_count == size


def test_block_resize_of_what_has_no_size_to_change(monitor: Bench) -> None:
    put(monitor, "d0", disk=RamDisk(1 << 20, read_only=True))
    assert "error" in monitor.execute("block_resize", device="d0", size=512)[0]


def test_commands_wait_for_one_that_is_not_done(monitor: Bench) -> None:
    class Slow(PuppetDisk):
        async def resize(self, sector_count: int) -> None:
            await self._pass("resize", 0, sector_count)
            await self.below.resize(sector_count)

    slow = Slow(RamDisk(1 << 20))
    put(monitor, "d0", disk=slow)
    assert monitor.execute("block_resize", device="d0", size=512) == []
    assert monitor.execute("query-status") == []
    assert not monitor.qmp_tape.listening
    slow.complete_all()
    assert monitor.engine.run_until(lambda: monitor.qmp_tape.listening)
    assert events(monitor.raw_qmp("")) == ["return", "return"]


def test_query_block(monitor: Bench) -> None:
    put(monitor, "d0")
    monitor.machine.plug("tray", "t0", None, {})
    fixed, tray = monitor.execute("query-block")[0]["return"]
    assert fixed["inserted"]["image"]["virtual-size"] == 1 << 20
    assert (fixed["removable"], tray["removable"]) == (False, True)
    assert "inserted" not in tray
    assert tray["tray_open"] is False


# -- media ---------------------------------------------------------------------------------------


def tray(bench: Bench) -> Tray:
    drive = bench.machine.drives["t0"]
    assert isinstance(drive, Tray)
    return drive


def test_eject_opens_the_tray_and_takes_the_medium(monitor: Bench) -> None:
    put(monitor, "t0", "tray")
    event, answer = monitor.execute("eject", device="t0")
    assert (event["event"], answer) == ("DEVICE_TRAY_MOVED", {"return": {}})
    assert event["data"] == {"device": "t0", "id": "t0", "tray-open": True}
    assert tray(monitor).disk is None
    assert events(monitor.execute("eject", id="t0")) == ["return"]


def test_a_locked_tray_opens_by_force_only(monitor: Bench) -> None:
    disk = put(monitor, "t0", "tray")
    tray(monitor).locked = True
    for command in ("eject", "blockdev-open-tray", "blockdev-change-medium"):
        arguments = {"filename": "mem:1M"} if "change" in command else {}
        answer = monitor.execute(command, id="t0", **arguments)[0]
        assert "locked" in answer["error"]["desc"]
    assert tray(monitor).asked == 3
    assert tray(monitor).disk is disk
    assert events(monitor.execute("eject", id="t0", force=True)) == ["DEVICE_TRAY_MOVED", "return"]


def test_a_medium_step_by_step(monitor: Bench) -> None:
    put(monitor, "t0", "tray")
    moved = ["DEVICE_TRAY_MOVED", "return"]
    assert events(monitor.execute("blockdev-open-tray", id="t0")) == moved
    assert events(monitor.execute("blockdev-open-tray", id="t0")) == ["return"]
    assert events(monitor.execute("blockdev-remove-medium", id="t0")) == ["return"]
    node = {"driver": "raw", "node_name": "n", "file": {"driver": "file", "filename": "mem:4K"}}
    assert events(monitor.execute("blockdev-add", **node)) == ["return"]
    insert = {"id": "t0", "node_name": "n"}
    assert events(monitor.execute("blockdev-insert-medium", **insert)) == ["return"]
    assert events(monitor.execute("blockdev-close-tray", id="t0")) == moved
    disk = tray(monitor).disk
    assert disk is not None
    assert disk.byte_count == 4096


def test_a_tray_takes_one_medium(monitor: Bench) -> None:
    put(monitor, "t0", "tray")
    monitor.execute("blockdev-open-tray", id="t0")
    monitor.execute("blockdev-add", driver="file", filename="mem:4K", node_name="n")
    answer = monitor.execute("blockdev-insert-medium", id="t0", node_name="n")[0]
    assert "already is a medium" in answer["error"]["desc"]
    assert monitor.execute("blockdev-del", node_name="n") == [{"return": {}}]


def test_change_medium_in_one_go(monitor: Bench, tmp_path: Path) -> None:
    put(monitor, "t0", "tray")
    (tmp_path / "new.iso").write_bytes(bytes(6144))
    change = {"device": "t0", "filename": f"{tmp_path}/new.iso", "format": "raw"}
    messages = monitor.execute("blockdev-change-medium", **change)
    assert events(messages) == ["DEVICE_TRAY_MOVED", "DEVICE_TRAY_MOVED", "return"]
    assert [m["data"]["tray-open"] for m in messages[:2]] == [True, False]
    disk = tray(monitor).disk
    assert disk is not None
    assert (disk.byte_count, disk.read_only) == (6144, True)


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["read", "write", "flush"])
def test_an_error_stops_the_guest_until_it_goes_on(monitor: Bench, name: str) -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    disk = monitor.state.guard(puppet, "drive0", stop=True)
    buffers = [memoryview(bytearray(512))]
    call = {"read": lambda: disk.read(0, buffers), "write": lambda: disk.write(0, buffers)}
    ends: list[BaseException | None] = []
    monitor.engine.start(call.get(name, disk.flush)(), lambda _, error: ends.append(error))
    for _ in range(2):
        puppet.wait()[0].fail(NoSpace(errno.ENOSPC, "disk"))
        monitor.engine.turn(0)
        error, stop = monitor.raw_qmp("")
        assert error["event"] == "BLOCK_IO_ERROR"
        assert error["data"] == {
            "device": "drive0",
            "node-name": "drive0",
            "operation": "read" if name == "read" else "write",
            "action": "stop",
            "nospace": True,
            "reason": "No space left on device",
        }
        assert stop["event"] == "STOP"
        status = monitor.execute("query-status")[0]["return"]
        assert status == {"status": "io-error", "running": False}
        assert not ends
        assert events(monitor.execute("cont")) == ["RESUME", "return"]
        monitor.engine.turn(0)
    puppet.wait()[0].complete()
    monitor.engine.turn(0)
    assert ends == [None]


def test_an_error_that_is_reported_fails_the_command(monitor: Bench) -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    disk = monitor.state.guard(puppet, "drive0")
    assert isinstance(disk, StopOnError)
    ends: list[BaseException | None] = []
    monitor.engine.start(disk.flush(), lambda _, error: ends.append(error))
    puppet.wait()[0].fail(IoError(errno.EIO, "disk"))
    monitor.engine.turn(0)
    (error,) = monitor.raw_qmp("")
    assert (error["data"]["action"], error["data"]["nospace"]) == ("report", False)
    assert isinstance(ends[0], IoError)
    assert monitor.state.running

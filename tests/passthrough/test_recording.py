"""What a device answered, written down and told again."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest

from drivebay.ata.passthrough import (
    PassthroughDrive,
    Policy,
    RecordedAnswers,
    Recorder,
    identify,
)
from drivebay.ata.passthrough.recording import UnknownCommandError
from drivebay.platform.engine import Engine
from tests.ide.support import content, filled, noise

from .in_guest import SEED, read_only
from .support import Hand, Rig, taskfile

ALL = Policy.of("write")


def test_a_session_played_back(engine: Engine) -> None:
    rig = Rig(engine, filled(1 << 20))
    tape = io.StringIO()
    recorder = Recorder(rig.sat, tape.write)
    commands = [taskfile(0x25, count=3, lba=4), taskfile(0x25, count=1, lba=5000), taskfile(0xE5)]

    def session(drive: PassthroughDrive) -> list[object]:
        hand, seen = Hand(drive, engine), []
        for registers in commands:
            data = bytearray(1536)
            hand.do(registers, memoryview(data))
            seen.append((bytes(data), drive.status, drive.error, drive.taskfile.save()))
        hand.do(taskfile(0x35, count=1, lba=9), memoryview(bytearray(noise(512))))
        return [*seen, drive.status]

    live = session(PassthroughDrive(recorder, engine, identify(recorder), ALL))
    assert content(rig.disk)[9 * 512 :][:512] == noise(512)
    rig.sat.log.clear()

    played = RecordedAnswers(io.StringIO(tape.getvalue()))
    assert session(PassthroughDrive(played, engine, identify(played), ALL)) == live
    assert rig.sat.log == []
    assert [cdb[14] for cdb in played.cdbs] == [0xEC, 0x25, 0x25, 0xE5, 0x35]


def test_errors_are_answers_too(engine: Engine) -> None:
    rig = Rig(engine)
    tape = io.StringIO()
    rig.sat.instead = [OSError(errno.ETIMEDOUT, "too late")]
    cdb = bytes.fromhex("85 06 20 00 00 00 00 00 00 00 00 00 00 e0 e5 00")
    recorder = Recorder(rig.sat, tape.write)
    with pytest.raises(OSError, match="too late"):
        recorder.execute(cdb, "none", [], 1)
    recorder.execute(cdb, "none", [], 1)
    played = RecordedAnswers(tape.getvalue().splitlines())
    with pytest.raises(TimeoutError):
        played.execute(cdb, "none", [], 1)
    for _ in range(2):  # the last answer stays
        assert played.execute(cdb, "none", [], 1)[0] == 2
    with pytest.raises(UnknownCommandError):
        played.execute(cdb[:-1] + b"\1", "none", [], 1)


def test_what_linux_6_1_answered(engine: Engine) -> None:
    """As test_guest.py has recorded it, of QEMU's disk."""
    with (Path(__file__).parent / "libata-6.1.jsonl").open() as tape:
        read_only(engine, RecordedAnswers(tape), noise(1 << 20, SEED))


def test_the_format(tmp_path: Path) -> None:
    """As docs/passthrough.md shows it."""
    tape = tmp_path / "answers.jsonl"
    tape.write_text(
        '{"cdb": "85 08", "direction": "in", "length": 4, "status": 0, "sense": "",'
        ' "residual": 1, "data": "AQIDBA=="}\n\n'
    )
    with tape.open() as lines:
        played = RecordedAnswers(lines)
    data = bytearray(4)
    parts = [memoryview(data)[:1], memoryview(data)[1:]]
    assert played.execute(b"\x85\x08", "in", parts, 1) == (0, b"", 1)
    assert data == b"\1\2\3\4"

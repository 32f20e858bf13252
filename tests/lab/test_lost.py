"""Commands that are held or lost, when something else happens to them."""

from __future__ import annotations

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.platform.engine import Engine
from drivebay.scsi.target import Outcome
from tests.ide.support import noise

from .rigs import MIB, AhciRig, Lost, NcqRig, ScsiRig, VirtioRig

ORIGINAL = noise(MIB, 1)
READ = bytes.fromhex("28000000000000000800")


@pytest.mark.parametrize("action", ["hold", "drop", "ignore", "delay=60s"])
def test_a_task_is_aborted(engine: Engine, action: str) -> None:
    """What acted and was never told is under way, as far as its initiator knows."""
    rig = ScsiRig(engine)
    rig.rules(f"read:{action}")
    target = rig.initiator.target
    ends: list[Outcome] = []
    memory = memoryview(bytearray(4096))
    target.submit(0, READ, 7, [memory], [], ends.append)
    rig.settle()
    assert not ends
    assert target.has_task(0, 7)
    assert not target.at_rest
    then: list[bool] = []
    target.abort_task(0, 7, lambda: then.append(True))
    assert then == [True]
    assert ends[0].aborted
    assert target.at_rest


def test_a_unit_is_removed_with_a_task_that_was_lost(engine: Engine) -> None:
    rig = ScsiRig(engine)
    rig.rules("read:drop")
    with pytest.raises(Lost):
        rig.read(0, 8)
    gone: list[bool] = []
    rig.initiator.target.remove(0, lambda: gone.append(True))
    assert gone == [True]


@pytest.mark.parametrize("cancel", [True, False])
def test_a_queue_is_stopped_with_a_request_that_was_lost(engine: Engine, cancel: bool) -> None:
    rig = VirtioRig(engine)
    rig.rules("read:drop")
    with pytest.raises(Lost):
        rig.read(0, 8)
    stopped: list[int] = []
    rig.device.stop_queue(0, stopped.append, cancel=cancel)
    assert len(stopped) == 1


@pytest.mark.parametrize("rig_class", [AhciRig, NcqRig])
@pytest.mark.parametrize("action", ["hold", "delay=60s", "drop", "ignore"])
def test_a_machine_is_saved(rig_class: type[AhciRig], action: str, engine: Engine) -> None:
    """Who restores it has no rules: he begins the command anew."""
    rig = rig_class(engine)
    rig.rules(f"read:{action}")
    drive = rig.drive
    if rig.queued:
        drive.prepare_read(3, 8, 8)
        drive.port.issue(1 << 3, queued=True)
    else:
        command = drive._on(0x25, 8, 8)
        at = drive.port.buffer(3, 4096)
        drive.port.prepare(3, command, [(at, 4096)])
        drive.port.issue(1 << 3)
    rig.settle()
    assert drive.port.outstanding() & 1 << 3
    other = rig.bench.replaced({0: AtaDisk(rig.disk, engine)})
    rig.torment.close()
    assert engine.run_until(lambda: not other.port().ci | other.port().sact)
    assert drive.taken(3, 4096) == ORIGINAL[4096:8192]

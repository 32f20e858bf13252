"""Whatever rules say, each sort of core goes on when they are gone and it has been reset."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from drivebay.platform.engine import Engine
from tests.ide.support import content

from .rigs import RIGS, Failed, Lost, Rig

COMMANDS = ("any", "io", "read", "write", "read+write")
CONDITIONS = ("", ",nth=2", ",every=2", ",p=0.5", ",lba=0-7", ",direction=read")
ACTIONS = (
    *("drop", "ignore", "skip", "hold", "lose-interrupt", "die", "delay=0", "delay=1ms"),
    *("error=io", "error=write-fault", "error=no-space", "corrupt=9", "torn", "torn=2"),
    *("misdirect=+8", "misdirect=-100", "misdirect=+99999999", "patch,at=4090,hex=0102"),
)
OWN = {
    "virtio-blk": ("status=ioerr", "status=unsupp,late", "rewrite,type=1", "rewrite,sector=-1"),
    "scsi": ("status=busy", "status=write-error,late", "rewrite,cdb0=0x2a", "rewrite,cdb8=0"),
    "storvsp": ("status=busy", "status=task-aborted", "rewrite,cdb0=0x2a", "rewrite,cdb8=0"),
    "ide": ("status=idnf", "status=abrt,late", "rewrite,count=0", "rewrite,device=0"),
    "ide-pio": ("status=unc", "status=abrt,late", "rewrite,count=3", "rewrite,lba=+99999999"),
    "ahci": ("status=icrc", "status=abrt,late", "rewrite,count=1", "rewrite,features=1"),
    "ahci-ncq": ("status=icrc", "status=abrt,late", "rewrite,features=1", "rewrite,lba=+99999999"),
}
STEPS = ("read", "write", "reset", "release")


def work(rig: Rig, steps: list[str]) -> None:
    """What a host does; it resets what does not answer."""
    for step in steps:
        try:
            if step == "read":
                rig.read(4, 8)
            elif step == "write":
                rig.write(0, bytes(4096))
            elif step == "release":
                rig.torment.faults.release()
            else:
                rig.reset()
        except Failed:
            continue
        except Lost:
            with contextlib.suppress(Failed, Lost):
                rig.reset()


@pytest.mark.parametrize("name", OWN)
@example(texts=["any:hold", "any:die"], own=0, steps=["write", "release", "read"])
@example(texts=["read:drop", "any,nth=2:skip"], own=1, steps=["read", "write"])
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(
        st.builds(
            lambda command, condition, action: f"{command}{condition}:{action}",
            st.sampled_from(COMMANDS),
            st.sampled_from(CONDITIONS),
            st.sampled_from(ACTIONS),
        ),
        max_size=3,
    ),
    own=st.integers(0, 3),
    steps=st.lists(st.sampled_from(STEPS), max_size=6),
)
def test_any_rules(name: str, engine: Engine, texts: list[str], own: int, steps: list[str]) -> None:
    rig = RIGS[name](engine)
    rig.patient(300)
    rig.rules(*texts, f"any,every=3:{OWN[name][own]}")
    work(rig, steps)
    rig.torment.close()
    rig.reset()
    assert rig.read(100, 8) == content(rig.disk)[51200:55296]

"""Whatever rules say, the controller goes on when they are gone."""

from __future__ import annotations

import contextlib

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from drivebay.drivers.nvme import NvmeDriver, NvmeError
from drivebay.drivers.nvme.errors import NvmeTimeout
from drivebay.lab import NVME, NvmeFaults, parse_rule
from tests.ide.support import filled
from tests.nvme.conftest import MakeBench

MIB = 1 << 20
COMMANDS = ("any", "io", "admin", "read", "write+flush", "identify", "abort", "enable")
CONDITIONS = ("", ",nth=2", ",every=2", ",p=0.5", ",lba=0-7", ",nsid=1", ",direction=read")
ACTIONS = (
    *("drop", "ignore", "hold", "duplicate", "lose-interrupt", "die", "delay=0", "delay=1ms"),
    *("status=write-fault", "status=internal-error,retry,late", "corrupt=9"),
    *("rewrite,nlb=0x10000", "rewrite,slba=-1", "rewrite,opcode=2", "rewrite,prp1=+3,dw0=1"),
    *("rewrite,flags=1", "rewrite,flags=0x40", "rewrite,nsid=0xffffffff", "patch,at=4090,hex=0102"),
)
ON_ENABLE = ("drop", "ignore", "hold", "die", "delay=1ms")


@st.composite
def rules(draw: st.DrawFn) -> str:
    command = draw(st.sampled_from(COMMANDS))
    action = draw(st.sampled_from(ON_ENABLE if command == "enable" else ACTIONS))
    return f"{command}{draw(st.sampled_from(CONDITIONS))}:{action}"


def work(driver: NvmeDriver, steps: list[str]) -> None:
    """What a host does; it gives up what is not answered."""
    namespace = driver.namespace(1)
    for step in steps:
        with contextlib.suppress(NvmeError, NvmeTimeout):
            if step == "reset":
                driver.enable()
                driver.create_queues(1, 16)
                namespace = driver.namespace(1)
            elif step == "write":
                namespace.write(0, bytes(8192))
            elif step == "flush":
                namespace.flush()
            elif step == "abort":
                driver.run(8, dwords=(1 << 16 | 1,))
            else:
                namespace.read(4, 8)


@example(texts=["any,every=2:hold"], steps=["read", "reset"])
@example(texts=["write:hold", "write:hold"], steps=["write"])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(rules(), min_size=1, max_size=4),
    steps=st.lists(st.sampled_from(("read", "write", "flush", "abort", "reset")), max_size=8),
)
def test_any_rules(make_bench: MakeBench, texts: list[str], steps: list[str]) -> None:
    disk = filled(MIB, 1)
    bench = make_bench({1: disk})
    driver = bench.driver(depth=16)
    driver.patience = 40
    torment = NvmeFaults(bench.controller, [parse_rule(text, NVME) for text in texts])
    with contextlib.suppress(NvmeError, NvmeTimeout):
        work(driver, steps)
    torment.close()
    bench.controller.reset()
    assert bench.engine.run_until(lambda: bench.nvme.at_rest)
    assert len(bench.driver().namespace(1).read(0, 8)) == 4096

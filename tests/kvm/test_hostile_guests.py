"""Guests that run wild on KVM, on a PC with every controller: each run ends, and says how."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from drivebay.hosts.cpu import CpuError, End
from drivebay.hosts.kvm.host import KvmHost
from drivebay.machines.pc import Pc
from drivebay.platform.engine import Engine
from tests.emulator.test_hostile_guests import begin, every_page, pc_with_everything, protected
from tests.emulator.x86 import Code

pytestmark = pytest.mark.usefixtures("kvm")

SECONDS = 60
Boot = Callable[[Code], tuple[Pc, KvmHost]]


@pytest.fixture
def boot(engine: Engine) -> Iterator[Boot]:
    hosts: list[KvmHost] = []

    def boot(code: Code) -> tuple[Pc, KvmHost]:
        pc = pc_with_everything(engine, code, wall_clock=True)
        hosts.append(KvmHost(pc))
        return pc, hosts[-1]

    yield boot
    for host in hosts:
        host.close()


@pytest.mark.parametrize(
    "body",
    [
        "BC00000080 CD80",
        "31C0 F7F0",  # div eax
        "B8000000D0 FFE0",
        "B8000000FE FFE0",  # the registers of a controller as code
        "66B8FFFF 8ED8",  # a segment that there is not
    ],
    ids=["no gate", "division", "nowhere", "registers", "segment"],
)
def test_a_fault_that_nobody_handles(boot: Boot, body: str) -> None:
    _, host = boot(protected(body))
    with pytest.raises(CpuError, match=r"CPU 0 at 0008:[0-9a-f]{8}: .* rax=[0-9a-f]+ .* efer=0$"):
        host.run(SECONDS)


def test_a_guest_that_resets_itself_for_ever(boot: Boot) -> None:
    pc, host = boot(begin()("B006 BAF90C EE").label("wait")("EB <wait>"))
    resets: list[None] = []
    pc.on_reset(lambda: resets.append(None))
    assert host.run(SECONDS, lambda: len(resets) > 10) is End.STOPPED


@pytest.mark.parametrize("value", [0, 0xFFFFFFFF, 0x00100001])
def test_a_guest_that_writes_where_there_is_nothing(boot: Boot, value: int) -> None:
    """Every 256th page of registers and holes, in three widths."""
    body = f"B8 {value.to_bytes(4, 'little').hex()} 8907 66894704 884708"
    _, host = boot(every_page(body, 0x100000))
    assert host.run(SECONDS) is End.HALTED


@pytest.mark.parametrize("seed", range(12))
def test_a_guest_that_does_anything(boot: Boot, seed: int) -> None:
    """Noise at the first instruction: it runs for ever, halts, exits, or cannot go on."""
    noise = random.Random(seed).randbytes(2048)
    _, host = boot(Code(0xF000).data("noise", noise))
    try:
        assert host.run(0.1) in End
    except CpuError as error:
        assert str(error).startswith("CPU 0 at ")
        assert "\n" not in str(error)

"""--nvme: what the command line says of namespaces."""

from __future__ import annotations

import pytest

from drivebay.cli import nvme
from drivebay.cli.controllers import check_servable
from drivebay.cli.errors import CliError, told
from drivebay.cli.kind import ControllerConfig
from drivebay.controllers.nvme import Nvme
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory

from .support import parse


def controller(*texts: str) -> ControllerConfig:
    [found] = parse(nvme=texts)
    check_servable([found])
    return found


def test_namespaces_take_the_first_ids_that_are_free() -> None:
    found = controller("mem:1M", "mem:2M,nsid=1,ro", "mem:3M,nsid=7,block=4096", "mem:4M")
    assert [(each.place, each.attachment.disk.text) for each in found.disks] == [
        (1, "mem:2M"),
        (2, "mem:1M"),
        (3, "mem:4M"),
        (7, "mem:3M"),
    ]
    assert found.settings.queues == 64


def test_two_controllers_by_name() -> None:
    found = parse(
        controller=["nvme,id=left,queues=2", "nvme,id=right"],
        disk=["mem:1M,on=left,nsid=3", "mem:2M,on=right"],
    )
    assert [[each.place for each in config.disks] for config in found] == [[3], [1]]
    assert [config.settings.queues for config in found] == [2, 64]
    engine = Engine(workers=0)
    functions = [nvme.build(config, GuestMemory(), engine)[0] for config in found]
    names = {each.subsystem.nqn for each in functions if isinstance(each, Nvme)}
    assert len(names) == 2
    engine.close()


def test_memory_for_what_hosts_create() -> None:
    [found] = parse(controller=["nvme,id=a,spare=64M"])
    check_servable([found])
    engine = Engine(workers=0)
    function, _ = nvme.build(found, GuestMemory(), engine)
    assert isinstance(function, Nvme)
    assert function.subsystem.unallocated == 64 << 20
    engine.close()
    with pytest.raises(CliError, match="spare 1K"):
        parse(controller=["nvme,id=a,spare=1K"])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["mem:1M,nsid=0"], "nsid=0"),
        (["mem:1M,nsid=x"], "nsid=x"),
        (["mem:1M,nsid=257"], "nsid=257"),
        (["mem:1M,nsid=1", "mem:2M,nsid=1"], "nsid 1 taken by mem:1M,nsid=1"),
        (["mem:1M"] * 257, "257 namespaces"),
        (["mem:1M,block=1024"], "block=1024"),
        (["mem:1M,serial=" + 21 * "x"], "20 ASCII"),
        (["mem:1M,serial=a", "mem:1M,serial=b"], "share one"),
        (["mem:1M,dvd"], "expected one of ro"),
    ],
)
def test_a_mistake_is_one_line(texts: list[str], message: str) -> None:
    with pytest.raises(Exception) as caught:
        controller(*texts)
    known = told(caught.value)
    assert known is not None
    assert message in f"{known} {known.hint}"
    assert "\n" not in str(known)

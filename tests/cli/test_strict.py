"""``--strict``."""

from __future__ import annotations

import pytest

from drivebay.cli.errors import CliError

from .support import parse


def test_which_controllers() -> None:
    three = {"nvme": ["mem:1M"], "ahci": ["mem:1M"], "virtio_blk": ["mem:1M"]}
    assert [each.id for each in parse(**three, strict=["all"]) if each.strict] == ["ahci", "nvme"]
    assert [each.id for each in parse(**three, strict=["nvme"]) if each.strict] == ["nvme"]
    assert not any(each.strict for each in parse(**three))


@pytest.mark.parametrize("text", ["vda", "none"])
def test_no_such_controller(text: str) -> None:
    with pytest.raises(CliError, match="no such PCI controller") as caught:
        parse(nvme=["mem:1M"], virtio_blk=["mem:1M"], strict=[text])
    assert caught.value.hint == "all or nvme"
    with pytest.raises(CliError):
        parse(virtio_blk=["mem:1M"], strict=["all"])

"""Words of a command line."""

from __future__ import annotations

from collections.abc import Iterable

from drivebay.cli.controllers import parse_controllers
from drivebay.cli.kind import ControllerConfig


def parse(**texts: Iterable[str]) -> list[ControllerConfig]:
    """The controllers that these options name: ``parse(virtio_blk=["mem:1M"])``."""
    return parse_controllers(
        [(name.replace("_", "-"), text) for name, each in texts.items() for text in each]
    )

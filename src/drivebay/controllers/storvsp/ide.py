"""The IDE accelerator: a drive of an emulated IDE controller, beside it on a channel of its own.

A guest that knows it leaves the ports alone. Both are the same disk, which their owner opens once.
"""

from __future__ import annotations

import uuid
from typing import Final

from drivebay.controllers.storvsp.storvsp import StorVsp
from drivebay.disk.contract import Disk
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.target import Target
from drivebay.wire import U8, U16, U32, Struct

__all__ = ["IDE", "IdeOffer", "build_ide"]

IDE: Final = uuid.UUID("32412632-86cb-44a2-9b5c-50d1417354f5")
"""The interface of an accelerated IDE drive."""


class IdeOffer(Struct, size=24):
    """The user data of its offer."""

    reserved: U16 = 0
    path_id: U8 = 0
    target_id: U8 = 0
    reserved_1: U32 = 0
    flags: U32 = 2
    reserved_2: U32 = 0
    reserved_3: U32 = 0
    reserved_4: U32 = 0


def build_ide(
    disk: Disk, memory: GuestMemory, engine: Engine, channel: int, device: int
) -> StorVsp:
    """The accelerator of `device` (0 or 1) of an IDE `channel` (0 or 1).

    `disk` is the one that the emulated drive has. The instance id says which drive it is, and the
    guest finds it by that. Raises `ValueError` for a drive that there cannot be.
    """
    if channel not in (0, 1) or device not in (0, 1):
        raise ValueError(f"device {device} of IDE channel {channel}")
    target = Target(engine)
    target.add(0, ScsiDisk(disk))
    return StorVsp(
        target,
        memory,
        engine,
        interface=IDE,
        instance=uuid.UUID(fields=(channel, device, 0x8899, 0, 0, 0)),
        path=channel,
        target_id=device,
        only_target=True,
        user_data=IdeOffer(path_id=channel, target_id=device).pack(),
    )

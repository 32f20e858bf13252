"""The guest's side of an IDE controller: ports, PCI configuration and guest memory."""

from drivebay.drivers.ide.cd import IdeCd
from drivebay.drivers.ide.channel import AtaCommand, ChannelPorts, IdeChannel
from drivebay.drivers.ide.controller import IdeDriver
from drivebay.drivers.ide.disk import By, IdeDisk, Via
from drivebay.drivers.ide.errors import IdeError, IdeTimeout, PacketError
from drivebay.drivers.ide.identity import Identity

__all__ = [
    "AtaCommand",
    "By",
    "ChannelPorts",
    "IdeCd",
    "IdeChannel",
    "IdeDisk",
    "IdeDriver",
    "IdeError",
    "IdeTimeout",
    "Identity",
    "PacketError",
    "Via",
]

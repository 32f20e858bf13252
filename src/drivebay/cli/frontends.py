"""The arguments with which stock virtual machine monitors attach to our sockets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from typing import Final

from drivebay.cli.controllers import ControllerConfig

__all__ = ["SHARED_MEMORY", "bootable", "cloud_hypervisor", "qemu"]

SHARED_MEMORY = ("-object", "memory-backend-memfd,id=mem,size=1G,share=on")
"""Both protocols want guest memory that can be shared; add ``memory-backend=mem`` to -machine."""
FIRST_BOOT_INDEX: Final = 100
"""Below it is room for the devices that a user names besides."""


def qemu(controller: ControllerConfig, socket: str) -> list[str]:
    """QEMU's arguments for a controller. QEMU before 9.2 counts in seconds: ``reconnect=1``."""
    if controller.over_vfio_user:
        return ["-device", json.dumps(_vfio_user(socket), separators=(",", ":"))]
    path = socket.replace(",", ",,")
    packed = ",packed=on" if controller.packed else ""
    return [
        "-chardev",
        f"socket,id={controller.id},path={path},reconnect-ms=100",
        "-device",
        f"vhost-user-blk-pci,chardev={controller.id},num-queues={controller.queues}"
        f",queue-size={controller.queue_size}{packed}",
    ]


def bootable(arguments: Sequence[str]) -> list[str]:
    """The arguments of controllers, which firmware then tries in this order. Left to itself, OVMF
    may prefer its shell.
    """
    numbers, words = count(FIRST_BOOT_INDEX), list(arguments)
    for at, word in enumerate(arguments[:-1]):
        if word == "-device":
            words[at + 1] = _numbered(arguments[at + 1], next(numbers))
    return words


def _numbered(device: str, index: int) -> str:
    if device.startswith("{"):
        return json.dumps({**json.loads(device), "bootindex": index}, separators=(",", ":"))
    return f"{device},bootindex={index}"


def _vfio_user(socket: str) -> dict[str, object]:
    """QEMU takes the address of a socket as JSON only."""
    return {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": socket}}


def cloud_hypervisor(controller: ControllerConfig, socket: str) -> list[str]:
    """cloud-hypervisor's arguments for a controller."""
    return [
        "--memory",
        "size=1G,shared=on",
        "--disk",
        f"vhost_user=true,socket={socket},num_queues={controller.queues}"
        f",queue_size={controller.queue_size}",
    ]

"""VERSION: what both sides can do ("VFIO_USER_VERSION")."""

from __future__ import annotations

from typing import Final

import msgspec

from drivebay.hosts.peer import PeerError
from drivebay.hosts.vfio_user.messages import (
    MAJOR,
    MAX_DATA,
    MAX_DMA_MAPS,
    MAX_FDS,
    MINOR,
    Version,
)

__all__ = ["Capabilities", "negotiate"]

DEFAULT_XFER: Final = 1 << 20
LEAST_XFER: Final = 512
"""Bytes; with fewer, DMA by messages would not come to an end."""


class Capabilities(msgspec.Struct):
    """What the client says of itself; we read what concerns us."""

    max_msg_fds: int = 1
    max_data_xfer_size: int = DEFAULT_XFER
    write_multiple: bool = False


class _Data(msgspec.Struct):
    capabilities: Capabilities = msgspec.field(default_factory=Capabilities)


def negotiate(payload: bytes) -> tuple[Capabilities, bytes]:
    """The client's capabilities, and our answer. Raises `PeerError` if we do not go together."""
    if len(payload) < Version.size:
        raise PeerError(f"VERSION with {len(payload)} bytes")
    version = Version.unpack(payload)
    if version.major != MAJOR:
        raise PeerError(
            f"the client speaks vfio-user {version.major}.{version.minor}, not {MAJOR}.{MINOR}"
        )
    text = payload[Version.size :].rstrip(b"\0")
    try:
        client = msgspec.json.decode(text, type=_Data).capabilities if text else Capabilities()
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise PeerError(f"VERSION with capabilities that cannot be read: {error}") from None
    if client.max_data_xfer_size < LEAST_XFER:
        raise PeerError(f"VERSION with max_data_xfer_size {client.max_data_xfer_size}")
    ours: dict[str, int | bool] = {
        "max_msg_fds": MAX_FDS,
        "max_data_xfer_size": MAX_DATA,
        "max_dma_maps": MAX_DMA_MAPS,
    }
    if client.write_multiple:
        ours["write_multiple"] = True
    answer = Version(MAJOR, MINOR).pack() + msgspec.json.encode({"capabilities": ours}) + b"\0"
    return client, answer

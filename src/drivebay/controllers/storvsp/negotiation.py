"""How a guest and a StorVSP get to know each other, step by step."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, Final

from drivebay.controllers.storvsp.protocol import (
    SCSI_REQUEST_V1,
    SCSI_REQUEST_V2,
    VERSIONS,
    ChannelProperties,
    NtStatus,
    Operation,
    PropertyFlags,
    ProtocolVersion,
    SubChannels,
    Version,
)
from drivebay.platform.vmbus import ChannelError
from drivebay.wire import Struct

__all__ = ["Negotiation", "Stage"]


class Stage(enum.IntEnum):
    """What is expected next."""

    BEGIN = 0
    VERSION = 1
    PROPERTIES = 2
    END = 3
    """Or sub-channels first."""
    READY = 4


STEPS: Final = {
    Operation.BEGIN_INITIALIZATION: (Stage.BEGIN, Stage.VERSION),
    Operation.QUERY_PROTOCOL_VERSION: (Stage.VERSION, Stage.PROPERTIES),
    Operation.QUERY_PROPERTIES: (Stage.PROPERTIES, Stage.END),
    Operation.END_INITIALIZATION: (Stage.END, Stage.READY),
}
Answer = tuple[NtStatus, bytes]
INVALID_STATE: Final[Answer] = (NtStatus.INVALID_DEVICE_STATE, b"")


class Negotiation:
    """`create` is called with the number of sub-channels that a guest wants, once, up to `most`."""

    def __init__(self, most: int, create: Callable[[int], None]) -> None:
        self._most, self._create = most, create
        self.reset()

    def reset(self) -> None:
        """A guest comes that knows nothing."""
        self.stage = Stage.BEGIN
        self.version = 0
        self.sub_channels = 0

    @property
    def request_size(self) -> int:
        """Bytes of a SCSI request in packets that the guest has not asked for."""
        return SCSI_REQUEST_V2 if self.version >= Version.WIN8 else SCSI_REQUEST_V1

    @property
    def most_sub_channels(self) -> int:
        """How many the guest may ask for."""
        return self._most if self.version >= Version.WIN8 else 0

    def answer(self, operation: int, payload: bytes) -> Answer:
        """Status and payload of the completion. A wrong operation changes nothing.

        Raises `ChannelError` for a payload that is too short.
        """
        if operation == Operation.CREATE_SUB_CHANNELS:
            return self._create_sub_channels(payload)
        if operation not in STEPS:
            return INVALID_STATE
        expected, following = STEPS[Operation(operation)]
        if self.stage is not expected:
            return INVALID_STATE
        answer = b""
        if operation == Operation.QUERY_PROTOCOL_VERSION:
            answer = take(payload, ProtocolVersion).pack()
            version = ProtocolVersion.unpack(payload).version
            if version not in VERSIONS:  # the guest may ask for another
                return NtStatus.REVISION_MISMATCH, answer
            self.version = version
        elif operation == Operation.QUERY_PROPERTIES:
            most = self.most_sub_channels
            flags = PropertyFlags.of(MULTI_CHANNEL=most > 0)
            answer = ChannelProperties(max_sub_channels=most, flags=flags).pack()
        self.stage = following
        return NtStatus.SUCCESS, answer

    def _create_sub_channels(self, payload: bytes) -> Answer:
        count = take(payload, SubChannels).count
        if self.stage < Stage.END or self.version < Version.WIN8 or self.sub_channels:
            return INVALID_STATE
        if count > self._most:
            return NtStatus.INVALID_PARAMETER, b""
        self.sub_channels = count
        self._create(count)
        return NtStatus.SUCCESS, b""

    def save(self) -> dict[str, Any]:
        """The state as ints."""
        return {
            "stage": int(self.stage),
            "version": int(self.version),
            "sub_channels": self.sub_channels,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The state of `save` again. Raises `KeyError` or `ValueError` if it is none."""
        if not 0 <= state["sub_channels"] <= self._most:
            raise ValueError(f"{state['sub_channels']} sub-channels of {self._most}")
        self.stage, self.version = Stage(state["stage"]), state["version"]
        self.sub_channels = state["sub_channels"]
        self._create(self.sub_channels)


def take(payload: bytes, kind: type[Struct]) -> Any:
    """The struct that `payload` begins with. Raises `ChannelError` if it is too short."""
    if len(payload) < kind.size:
        raise ChannelError(f"{kind.__name__} in {len(payload)} bytes")
    return kind.unpack(payload)

"""Moving a function's state to another process ("VFIO_USER_DEVICE_FEATURE")."""

from __future__ import annotations

import errno
from typing import Any, Final

import msgspec

from drivebay.hosts.vfio_user.memory import Refused
from drivebay.hosts.vfio_user.messages import MAX_DATA, MigrationState
from drivebay.platform.pci import PciFunction

__all__ = ["Migration"]

S = MigrationState

MAX_STATE: Final = 64 << 20
"""Bytes of a state that we take."""

ARCS: Final = frozenset(
    {
        (S.RUNNING, S.STOP),
        (S.STOP, S.RUNNING),
        (S.STOP, S.STOP_COPY),
        (S.STOP_COPY, S.STOP),
        (S.STOP, S.RESUMING),
        (S.RESUMING, S.STOP),
    }
)
"""Direct transitions. Every other one goes by STOP ("Complex State Transitions")."""


class Migration:
    """Where `function` is on its way.

    The state is what `PciFunction.save` gives, as MessagePack. Commands in flight are saved as not
    begun, and begin again where they are restored.
    """

    def __init__(self, function: PciFunction) -> None:
        self._function = function
        self.state = S.RUNNING
        self._leaving = b""
        self._arriving = bytearray()

    def go(self, wanted: int) -> None:
        """Change to a state, by STOP if need be. Raises `Refused` if there is no way there."""
        if wanted not in (S.STOP, S.RUNNING, S.STOP_COPY, S.RESUMING) or self.state is S.ERROR:
            raise Refused(errno.EINVAL, f"migration state {wanted} from {self.state.name}")
        target = S(wanted)
        if target is self.state:
            return
        if (self.state, target) not in ARCS:
            self._step(S.STOP)
        self._step(target)

    def _step(self, target: MigrationState) -> None:
        before, self.state = self.state, target
        if before is S.RESUMING:
            self._restore()
        self._leaving = b""
        self._arriving.clear()
        if target is S.STOP_COPY:
            self._leaving = msgspec.msgpack.encode(self._function.save())

    def _restore(self) -> None:
        try:
            state = msgspec.msgpack.decode(bytes(self._arriving), type=dict[str, Any])
            self._function.restore(state)
        except Exception as error:  # it may be anything: a peer has made it
            self.state = S.ERROR
            self._arriving.clear()
            raise Refused(errno.EINVAL, f"no state of this device: {error!r:.200}") from None

    def read(self, size: int) -> bytes:
        """MIG_DATA_READ: at most `size` bytes; fewer when there is no more. Raises `Refused`."""
        if self.state is not S.STOP_COPY or size > MAX_DATA:
            raise Refused(errno.EINVAL, f"{size} bytes of migration data in {self.state.name}")
        data, self._leaving = self._leaving[:size], self._leaving[size:]
        return data

    def write(self, data: bytes) -> None:
        """MIG_DATA_WRITE. Raises `Refused`."""
        if self.state is not S.RESUMING:
            raise Refused(errno.EINVAL, f"migration data in {self.state.name}")
        if len(self._arriving) + len(data) > MAX_STATE:
            raise Refused(errno.ENOSPC, f"a state of more than {MAX_STATE} bytes")
        self._arriving += data

    def reset(self) -> None:
        """DEVICE_RESET: it runs, whatever has been."""
        self.state = S.RUNNING
        self._leaving = b""
        self._arriving.clear()

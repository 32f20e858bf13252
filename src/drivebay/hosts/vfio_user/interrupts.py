"""Interrupts of a function, as the client has wired them: eventfds, and INTx that masks itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import Final

from drivebay.hosts.peer import Notifier, PeerError
from drivebay.hosts.vfio_user.memory import Refused
from drivebay.hosts.vfio_user.messages import (
    Irq,
    IrqFlags,
    IrqInfo,
    IrqSet,
    IrqSetFlags,
)
from drivebay.platform.engine import Engine
from drivebay.platform.logs import RationedLog
from drivebay.platform.onlooker import Onlooker
from drivebay.platform.pci import PciFunction
from drivebay.platform.pci_capabilities import find_capability
from drivebay.platform.pci_messages import MsiCapability, MsixCapability

__all__ = ["Interrupts"]

INTX_FLAGS: Final = IrqFlags.EVENTFD | IrqFlags.MASKABLE | IrqFlags.AUTOMASKED
MESSAGE_FLAGS: Final = IrqFlags.EVENTFD | IrqFlags.NORESIZE
ACTIONS: Final = IrqSetFlags.ACTION_TRIGGER | IrqSetFlags.ACTION_UNMASK | IrqSetFlags.ACTION_MASK
DATA: Final = IrqSetFlags.DATA_EVENTFD | IrqSetFlags.DATA_BOOL | IrqSetFlags.DATA_NONE


class Interrupts:
    """`before` is called before anybody is notified: what the device has written must be there."""

    def __init__(
        self,
        function: PciFunction,
        engine: Engine,
        peer_log: RationedLog,
        before: Callable[[Callable[[], None]], None],
    ) -> None:
        self._engine, self._peer_log, self._before = engine, peer_log, before
        self._messages = (
            find_capability(function, MsiCapability),
            find_capability(function, MsixCapability),
        )
        msi, msix = self._messages
        counts = {
            Irq.INTX: 1 if function.identity.interrupt_pin else 0,
            Irq.MSI: msi.vectors if msi else 0,
            Irq.MSIX: msix.vectors if msix else 0,
            Irq.ERR: 1,  # never signalled; QEMU complains of a function without it
            Irq.REQ: 1,
        }
        self._vectors = {
            kind: [Notifier(-1, peer_log) for _ in range(count)] for kind, count in counts.items()
        }
        self._level = self._masked = False
        self._unmask = -1
        self.onlooker: Onlooker | None = None
        for kind, capability in zip((Irq.MSI, Irq.MSIX), self._messages, strict=True):
            if capability is not None:
                capability.take = partial(self._message, kind)

    def info(self, index: int) -> IrqInfo:
        """DEVICE_GET_IRQ_INFO. Raises `Refused`."""
        vectors = self._vectors_of(index)
        flags = INTX_FLAGS if index == Irq.INTX else MESSAGE_FLAGS
        return IrqInfo(IrqInfo.size, flags, index, len(vectors))

    def _vectors_of(self, index: int) -> list[Notifier]:
        for kind, vectors in self._vectors.items():
            if kind == index:
                return vectors
        raise Refused(errno.EINVAL, f"interrupts of kind {index}")

    # -- what the device does --------------------------------------------------------------------

    def intx(self, level: bool) -> None:
        """The pin has changed."""
        self._level = level
        if self.onlooker is not None:
            self.onlooker.interrupt("INTx", level)
        self._drive()

    def _drive(self) -> None:
        """Notify of a pin that is up; then it is masked until the client has seen it."""
        if self._level and not self._masked and self._vectors[Irq.INTX][0].fd >= 0:
            self._masked = True
            self._before(self._vectors[Irq.INTX][0].notify)

    def _message(self, kind: Irq, vector: int) -> None:
        if self.onlooker is not None:
            self.onlooker.interrupt(f"{kind.name} {vector}", None)
        notifier = self._vectors[kind][vector]
        if notifier.fd >= 0:
            self._before(notifier.notify)
            return
        capability = self._messages[kind - Irq.MSI]
        if capability is not None:  # it is masked, or not there yet
            capability.pending |= 1 << vector

    # -- what the client does --------------------------------------------------------------------

    def set(self, request: IrqSet, data: bytes, fds: tuple[int, ...]) -> None:
        """DEVICE_SET_IRQS. Raises `Refused`, or `PeerError`; the descriptors stay the caller's."""
        action, form = request.flags & ACTIONS, request.flags & DATA
        vectors = self._vectors_of(request.index)
        one_each = action.bit_count() == 1 and form.bit_count() == 1
        if not one_each or request.flags & ~(ACTIONS | DATA):
            raise PeerError(f"DEVICE_SET_IRQS with flags {request.flags:#x}")
        if request.start + request.count > len(vectors):
            what = f"{request.count} interrupts from {request.start} of {len(vectors)}"
            raise Refused(errno.EINVAL, f"DEVICE_SET_IRQS of {what}")
        if fds and (form != IrqSetFlags.DATA_EVENTFD or len(fds) != request.count):
            raise PeerError(f"DEVICE_SET_IRQS of {request.count} with {len(fds)} descriptors")
        chosen = range(request.start, request.start + request.count)
        if form == IrqSetFlags.DATA_EVENTFD:
            self._wire(action, Irq(request.index), chosen, fds)
            return
        if form == IrqSetFlags.DATA_BOOL:
            if len(data) != request.count:
                raise PeerError(f"DEVICE_SET_IRQS of {request.count} with {len(data)} bytes")
            which = [vector for vector, wanted in zip(chosen, data, strict=True) if wanted]
        else:
            which = list(chosen)
        if not request.count and action == IrqSetFlags.ACTION_TRIGGER:
            for vector in range(len(vectors)):
                self._rewire(Irq(request.index), vector, -1)
        elif action == IrqSetFlags.ACTION_TRIGGER:
            for vector in which:
                self._before(vectors[vector].notify)
        elif request.index == Irq.INTX and which:
            self._masked = action == IrqSetFlags.ACTION_MASK
            self._drive()

    def _wire(self, action: int, kind: Irq, chosen: range, fds: tuple[int, ...]) -> None:
        if action == IrqSetFlags.ACTION_TRIGGER:
            for n, vector in enumerate(chosen):
                self._rewire(kind, vector, os.dup(fds[n]) if fds else -1)
        elif action == IrqSetFlags.ACTION_UNMASK and kind == Irq.INTX:
            self._watch_unmask(os.dup(fds[0]) if fds else -1)
        elif fds:
            raise Refused(errno.EINVAL, "an eventfd to tell of masks")

    def _rewire(self, kind: Irq, vector: int, fd: int) -> None:
        self._vectors[kind][vector].close()
        self._vectors[kind][vector] = Notifier(fd, self._peer_log)
        if kind == Irq.INTX:
            self._masked = False
            if fd < 0:
                self._watch_unmask(-1)
            self._drive()
        elif fd >= 0 and kind in (Irq.MSI, Irq.MSIX):
            capability = self._messages[kind - Irq.MSI]
            if capability is not None and capability.pending >> vector & 1:
                capability.pending &= ~(1 << vector)
                self._before(self._vectors[kind][vector].notify)

    def _watch_unmask(self, fd: int) -> None:
        """Have INTx unmasked by an eventfd (KVM's way). Raises `OSError` if it cannot be."""
        if self._unmask >= 0:
            self._engine.unwatch(self._unmask)
            os.close(self._unmask)
        self._unmask = fd
        if fd >= 0:
            try:
                self._engine.watch(fd, self._unmasked, edge=True)  # so it need not be read
            except OSError:
                os.close(fd)
                self._unmask = -1
                raise

    def _unmasked(self) -> None:
        self._masked = False
        self._drive()

    def reset(self) -> None:
        """The function is as after power-on; eventfds stay."""
        self._masked = False
        for capability in self._messages:
            if capability is not None:
                capability.pending = 0

    def close(self) -> None:
        """The client is gone."""
        self._watch_unmask(-1)
        for vectors in self._vectors.values():
            for notifier in vectors:
                notifier.close()
        for capability in self._messages:
            if capability is not None:
                capability.take = None

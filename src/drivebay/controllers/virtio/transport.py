"""What transports by registers share: features, status, queues as a driver sets them up, resets.

Two put it before drivers, with their own names for the same things: `mmio` (virtio 1.2 section 4.2)
and `pci` (section 4.1).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from drivebay.controllers.virtio.registers import InterruptCause
from drivebay.platform.interrupts import Line, Message
from drivebay.platform.logs import RationedLog
from drivebay.platform.memory import GuestMemory
from drivebay.platform.virtio import Device, DeviceStatus, QueueSetup, RingAddresses, RingError
from drivebay.wire import RegisterMap

__all__ = ["CONFIG", "DRIVER_OK", "RegisterTransport", "half"]

log = logging.getLogger(__name__)

CONFIG = int(InterruptCause.CONFIG)
USED_BUFFER = int(InterruptCause.USED_BUFFER)
FEATURES_OK = int(DeviceStatus.FEATURES_OK)
DRIVER_OK = int(DeviceStatus.DRIVER_OK)
NEEDS_RESET = int(DeviceStatus.DEVICE_NEEDS_RESET)
LIVE = FEATURES_OK | DRIVER_OK


@dataclass
class Setup:
    """What the driver has said of a queue it is setting up."""

    size: int
    ready: bool = False
    descriptors: int = 0
    driver: int = 0
    device: int = 0


def half(
    area: str, shift: int
) -> tuple[Callable[[RegisterTransport], int], Callable[[RegisterTransport, int], None]]:
    """What reads and writes half of where the selected queue has an `area`, from bit `shift` on."""

    def read(transport: RegisterTransport) -> int:
        setup = transport.selected()
        return 0 if setup is None else getattr(setup, area) >> shift & 0xFFFFFFFF

    def write(transport: RegisterTransport, value: int) -> None:
        setup = transport.selected()
        if setup is not None and not setup.ready:
            kept = getattr(setup, area) & ~(0xFFFFFFFF << shift)
            setattr(setup, area, kept | value << shift)

    return read, write


class RegisterTransport:
    """Registers of `device`, whose rings are in `memory`, and its interrupt `line`.

    A register is read and written as a whole; other accesses read zero and change nothing, and the
    log says so. A reset that must wait for the disk shows as a status that is not yet zero (section
    2.4).
    """

    name: ClassVar[str]
    """As its messages call it."""
    registers: ClassVar[type[RegisterMap]]
    config_at: ClassVar[int]
    """Where the configuration space of the device begins, behind the registers."""

    _forget_memory: Callable[[], None] | None = None
    """Ends that we are told of changes of memory, from the first queue on."""

    def __init__(self, device: Device, memory: GuestMemory, line: Line) -> None:
        self._device, self._memory, self._line = device, memory, line
        self._registers = self.registers.bind(self)
        self._guest_log = RationedLog(log)
        self._generation = 0
        self._after_reset: list[Callable[[], None]] = []
        self._clear()
        device.attach(self)

    def _clear(self) -> None:
        """The state after a reset (section 4.2.2.1)."""
        self._status = 0
        self._features = 0
        self._device_features_sel = self._driver_features_sel = self._queue_sel = 0
        self._setups = [Setup(size) for size in self._device.queue_sizes]
        self._running: set[int] = set()
        self._ending: set[int] = set()  # queues that were told to stop and are not at rest
        self._resetting = False
        self._interrupts = 0
        self._line.set(False)
        if self._forget_memory is not None:
            self._forget_memory()
            self._forget_memory = None

    # -- saving ----------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """What the driver has set up, and where its queues are. What is under way is not in it."""
        return {
            "status": self._status,
            "features": self._features,
            "selected": [self._device_features_sel, self._driver_features_sel, self._queue_sel],
            "interrupts": self._interrupts,
            "generation": self._generation,
            "driver": self._device.driver_state,
            "setups": [list(vars(setup).values()) for setup in self._setups],
            "positions": list(self._device.queue_positions.items()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up, after a reset, what `save` gave when nothing was under way: rings and memory are
        as they were. Raises `ValueError` if it is of another device.
        """
        setups = [Setup(*said) for said in state["setups"]]
        sizes = self._device.queue_sizes
        if len(setups) != len(sizes) or any(
            each.size > most for each, most in zip(setups, sizes, strict=True)
        ):
            raise ValueError("the saved state has other queues")
        if state["features"] & ~self._device.features:
            raise ValueError("the saved state has other features")
        self._setups, self._status = setups, state["status"]
        self._features, self._generation = state["features"], state["generation"]
        self._device_features_sel, self._driver_features_sel, self._queue_sel = state["selected"]
        if self._status & FEATURES_OK:
            self._device.set_features(self._features)
        self._device.driver_state = state["driver"]
        for index, position in state["positions"]:
            self._start(index, position)
        self._interrupts = state["interrupts"]
        self.drive_line()

    # -- accesses --------------------------------------------------------------------------------

    def mmio_read(self, offset: int, width: int) -> int:
        """Read a register, or bytes of the configuration space."""
        if offset >= self.config_at:
            data = self._device.read_config()[offset - self.config_at :][:width]
            return int.from_bytes(data, "little")
        register = self._registers.get(offset)
        if register is None or width != register.type.size or register.read is None:
            self._guest_log.warning("%s: %d-byte read at %#x", self.name, width, offset)
            return 0
        return register.read()

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Write a register, or bytes of the configuration space."""
        value &= (1 << 8 * width) - 1
        if offset >= self.config_at:
            self._device.write_config(offset - self.config_at, value.to_bytes(width, "little"))
            return
        register = self._registers.get(offset)
        if register is None or width != register.type.size or register.write is None:
            self._guest_log.warning("%s: %d-byte write at %#x", self.name, width, offset)
            return
        register.write(value)

    # -- features --------------------------------------------------------------------------------

    def offered(self) -> int:
        """32 of the offered feature bits."""
        return self._device.features >> 32 * min(self._device_features_sel, 2) & 0xFFFFFFFF

    def select_offered(self, value: int) -> None:
        """Which 32: words from 2 on read zero."""
        self._device_features_sel = value

    def choose(self, value: int) -> None:
        """32 of the feature bits the driver chooses; none after FEATURES_OK."""
        if self._status & FEATURES_OK or self._driver_features_sel > 1:
            return
        shift = 32 * self._driver_features_sel
        self._features = self._features & ~(0xFFFFFFFF << shift) | value << shift

    def not_offered(self, value: int) -> int:
        """Of 32 feature bits that the driver would choose, those that the device does not have."""
        return value & ~(self._device.features >> 32 * min(self._driver_features_sel, 2))

    def select_chosen(self, value: int) -> None:
        """Which 32."""
        self._driver_features_sel = value

    # -- queues ----------------------------------------------------------------------------------

    @property
    def queue_count(self) -> int:
        """How many the device has."""
        return len(self._setups)

    def _setup(self) -> Setup | None:
        """The selected queue, while the driver may still change it."""
        setup = self.selected()
        return None if setup is None or setup.ready else setup

    def selected(self) -> Setup | None:
        """The selected queue, if there is such a one."""
        return self._setups[self._queue_sel] if self._queue_sel < len(self._setups) else None

    def select_queue(self, value: int) -> None:
        """Which queue the next registers are about; one that does not exist is size 0."""
        self._queue_sel = value

    def largest_size(self) -> int:
        """Its largest size."""
        sizes = self._device.queue_sizes
        return sizes[self._queue_sel] if self._queue_sel < len(sizes) else 0

    def choose_size(self, value: int) -> None:
        """Its size; one that is out of range is not taken."""
        setup = self._setup()
        if setup is not None and 0 < value <= self.largest_size():
            setup.size = value

    def queue_ready(self) -> int:
        """Whether the driver has finished setting it up; still 1 while it comes to rest."""
        setup = self.selected()
        return int(setup is not None and setup.ready)

    def set_queue_ready(self, value: int) -> None:
        """The driver has finished setting it up, or takes it back."""
        setup = self.selected()
        if setup is None or self._resetting:
            return
        if not value & 1:
            self._stop(self._queue_sel)
        elif not setup.ready:
            setup.ready = True
            if self._live():
                self._start(self._queue_sel)

    def notify(self, value: int) -> None:
        """There is work in queue `value`."""
        if value in self._running:
            self._device.kick(value)

    def start_ready(self) -> None:
        """Start the queues that the driver has set up, if they may run."""
        if self._live() and not self._resetting:
            for index, setup in enumerate(self._setups):
                if setup.ready and index not in self._ending:
                    self._start(index)

    def _start(self, index: int, position: int | None = None) -> None:
        if index in self._running:
            return
        self._running.add(index)
        if self._forget_memory is None:
            self._forget_memory = self._memory.on_change(self._device.remap)
        setup = self._setups[index]
        addresses = RingAddresses(setup.descriptors, setup.driver, setup.device)
        try:
            self._device.start_queue(
                index,
                QueueSetup(self._memory, setup.size, addresses, self._signal(index), position),
            )
        except RingError as error:
            self._guest_log.warning("%s queue %d: %s", self.name, index, error)
            self._running.discard(index)
            self.needs_reset()

    def _stop(self, index: int) -> None:
        if index in self._running:
            self._running.discard(index)
            self._ending.add(index)
            self._device.stop_queue(index, partial(self._stopped, index), cancel=True)
        elif index not in self._ending:
            self._setups[index].ready = False

    def _stopped(self, index: int, _position: int) -> None:
        self._ending.discard(index)
        self._setups[index].ready = False
        self._look_reset()

    # -- interrupts ------------------------------------------------------------------------------

    def _signal(self, _index: int) -> Message:
        """What interrupts the driver for a queue."""
        return self._used

    def _used(self) -> None:
        self._interrupt(USED_BUFFER)

    def _interrupt(self, cause: int) -> None:
        if not self._resetting:
            self._interrupts |= cause
            self.drive_line()

    def drive_line(self) -> None:
        """The line is up while there is a cause that the driver has not seen."""
        self._line.set(bool(self._interrupts))

    def config_changed(self) -> None:
        """The configuration space has new contents."""
        self._generation = (self._generation + 1) & 0xFFFFFFFF
        if self._status & DRIVER_OK:
            self._interrupt(CONFIG)

    def generation(self) -> int:
        """Changes whenever the configuration space does."""
        return self._generation

    def needs_reset(self) -> None:
        """The driver broke the rules of a ring (section 2.1.2)."""
        self._status |= NEEDS_RESET
        if self._status & DRIVER_OK:
            self._interrupt(CONFIG)

    # -- status ----------------------------------------------------------------------------------

    def status(self) -> int:
        """The device status."""
        return self._status

    def set_status(self, value: int) -> None:
        """The driver sets bits as it goes on, or resets the device with zero."""
        value &= 0xFF
        if value == 0:
            self._reset()
        if self._resetting:
            return
        gained = value & ~self._status & ~NEEDS_RESET
        if gained & FEATURES_OK and not self._acceptable():
            gained &= ~FEATURES_OK
        self._status |= gained
        if gained & FEATURES_OK:
            self._device.set_features(self._features)
        if gained & DRIVER_OK:
            if not self._settled():  # section 3.1.1: features come first
                self.needs_reset()
                return
            self.start_ready()

    def _settled(self) -> bool:
        """Whether driver and device have agreed on the features."""
        return bool(self._status & FEATURES_OK)

    def _live(self) -> bool:
        """Whether a queue that is ready may run."""
        return self._status & LIVE == LIVE

    def _acceptable(self) -> bool:
        """Whether the driver chose from what was offered.

        VERSION_1 may be missing, though section 6.1 lets us refuse that: xv6 never looks at the
        upper feature word.
        """
        return not self._features & ~self._device.features

    @property
    def at_rest(self) -> bool:
        """Whether no queue runs, and nothing of one that did is in flight."""
        return not self._running and not self._ending

    def reset(self, done: Callable[[], None] | None = None) -> None:
        """Reset the device, as the machine does; `done` is called when nothing is in flight."""
        if done is not None:
            self._after_reset.append(done)
        self._reset()

    def _reset(self) -> None:
        """Stop all queues; the reset has ended when nothing of them is in flight."""
        if self._resetting:
            return
        self._resetting = True
        self._line.set(False)
        for index in tuple(self._running):
            self._stop(index)
        self._look_reset()

    def _look_reset(self) -> None:
        if self._resetting and self.at_rest:
            self._clear()
            self._device.set_features(0)  # it shall forget the driver, too
            waiting, self._after_reset = self._after_reset, []
            for done in waiting:
                done()

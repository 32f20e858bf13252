"""Features: what a host may set, and what becomes of it (NVMe Base 2.0 section 5.27.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from drivebay.controllers.nvme.arbitration import ArbitrationFeature
from drivebay.controllers.nvme.events import EVERYTHING
from drivebay.controllers.nvme.logpages import WARNING_KELVIN
from drivebay.controllers.nvme.opcodes import FeatureId, Select
from drivebay.controllers.nvme.queues import SubmissionQueue
from drivebay.controllers.nvme.status import Refused, Status
from drivebay.controllers.nvme.structures import Command
from drivebay.wire import Bit, Bits, Register32

if TYPE_CHECKING:
    from drivebay.controllers.nvme.controller import Controller
    from drivebay.controllers.nvme.worker import Outcome

__all__ = ["Features"]

SAVE: Final = 1 << 31
CHANGEABLE: Final = 1 << 2
PER_NAMESPACE: Final = 1 << 1
MILLISECONDS: Final = 1 << 48
Get = Callable[[Command, bool], int]
Set = Callable[[Command], "Outcome"]

HOST_BEHAVIOR_SIZE: Final = 512
POWER_TABLE_SIZE: Final = 256


class PowerManagement(Register32):
    """CDW11."""

    WH = Bits(7, 5)
    PS = Bits(4, 0)


class TemperatureThreshold(Register32):
    """CDW11."""

    THSEL = Bits(21, 20)  # 0 over, 1 under
    TMPSEL = Bits(19, 16)  # 0 is the composite temperature, 1 the first sensor
    TMPTH = Bits(15, 0)  # kelvin


class ErrorRecovery(Register32):
    """CDW11."""

    DULBE = Bit(16)  # errors for deallocated blocks
    TLER = Bits(15, 0)


class QueueCounts(Register32):
    """CDW11, and DW0 of the completion."""

    NCQ_z = Bits(31, 16)
    NSQ_z = Bits(15, 0)


class Coalescing(Register32):
    """CDW11."""

    TIME = Bits(15, 8)  # units of 100 us
    THR_z = Bits(7, 0)


class VectorConfig(Register32):
    """CDW11."""

    CD = Bit(16)  # no coalescing
    IV = Bits(15, 0)


_PLAIN: Final = {
    FeatureId.ARBITRATION: (int(ArbitrationFeature.of(AB=7)), 0xFFFFFF07),
    FeatureId.POWER_MANAGEMENT: (0, 0xFF),
    FeatureId.ERROR_RECOVERY: (0, int(ErrorRecovery.TLER)),
    FeatureId.WRITE_ATOMICITY: (0, 1),
}
"""Features that are a number: what it is at first, and which bits there are."""


class Features:
    """The features of `controller`."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.hottest, self.coldest = WARNING_KELVIN, 0
        self.write_cache = True
        self.most_sqs = self.most_cqs = controller.queues
        """I/O queues of either kind that the host may create."""
        self.host_id = bytes(8)
        self._values = {number: value for number, (value, _) in _PLAIN.items()}
        self._timestamp, self._timestamp_at, self._timestamp_set = 0, 0.0, False
        self._power_table, self._autonomous = bytes(POWER_TABLE_SIZE), 0
        self._behavior = bytes(HOST_BEHAVIOR_SIZE)
        self._special: dict[int, tuple[Get, Set]] = {
            FeatureId.TEMPERATURE_THRESHOLD: (self._get_threshold, self._set_threshold),
            FeatureId.VOLATILE_WRITE_CACHE: (self._get_cache, self._set_cache),
            FeatureId.NUMBER_OF_QUEUES: (self._get_queues, self._set_queues),
            FeatureId.INTERRUPT_COALESCING: (self._get_coalescing, self._set_coalescing),
            FeatureId.INTERRUPT_VECTOR: (self._get_vector, self._set_vector),
            FeatureId.ASYNC_EVENTS: (self._get_events, self._set_events),
            FeatureId.AUTONOMOUS_POWER: (self._get_autonomous, self._set_autonomous),
            FeatureId.TIMESTAMP: (self._get_timestamp, self._set_timestamp),
            FeatureId.KEEP_ALIVE_TIMER: (self._get_keep_alive, self._set_keep_alive),
            FeatureId.HOST_BEHAVIOR: (self._get_behavior, self._set_behavior),
            FeatureId.HOST_IDENTIFIER: (self._get_host_id, self._set_host_id),
            FeatureId.RESERVATION_MASK: (self._get_mask, self._set_mask),
        }

    @property
    def arbitration(self) -> int:
        """The Arbitration feature."""
        return self._values[FeatureId.ARBITRATION]

    # -- commands --------------------------------------------------------------------------------

    def get(self, _sq: SubmissionQueue, command: Command) -> Outcome:
        """GET FEATURES. Raises `Refused`."""
        number, select = command.cdw10 & 0xFF, command.cdw10 >> 8 & 7
        if select > Select.CAPABILITIES:
            raise Refused(Status.INVALID_FIELD, f"value {select} of feature {number:#04x}")
        if number == FeatureId.RESERVATION_PERSISTENCE:
            if select == Select.CAPABILITIES:
                return PER_NAMESPACE | CHANGEABLE
            return self._controller.nvm.reservations.persistence(command)
        self._check_known(number)
        if select == Select.CAPABILITIES:
            return CHANGEABLE
        default = select != Select.CURRENT  # what is not saved is as it was at first
        if number in _PLAIN:
            plain = FeatureId(number)
            return _PLAIN[plain][0] if default else self._values[plain]
        return self._special[number][0](command, default)

    def set(self, _sq: SubmissionQueue, command: Command) -> Outcome:
        """SET FEATURES. Raises `Refused`."""
        number = command.cdw10 & 0xFF
        if number == FeatureId.RESERVATION_PERSISTENCE:
            return self._controller.nvm.reservations.set_persistence(command)
        self._check_known(number)
        if command.cdw10 & SAVE:
            raise Refused(Status.FEATURE_NOT_SAVEABLE, f"feature {number:#04x}")
        if number in _PLAIN:
            plain = FeatureId(number)
            if plain == FeatureId.POWER_MANAGEMENT and PowerManagement(command.cdw11).PS:
                raise Refused(Status.INVALID_FIELD, "there is one power state")
            if plain == FeatureId.ERROR_RECOVERY and ErrorRecovery(command.cdw11).DULBE:
                raise Refused(Status.INVALID_FIELD, "deallocated blocks can be read")
            self._values[plain] = command.cdw11 & _PLAIN[plain][1]
            self._controller.arbitration_changed()
            return 0
        return self._special[number][1](command)

    def _check_known(self, number: int) -> None:
        if number not in _PLAIN and number not in self._special:
            raise Refused(Status.INVALID_FIELD, f"there is no feature {number:#04x}")

    # -- one by one ------------------------------------------------------------------------------

    def _get_threshold(self, command: Command, default: bool) -> int:
        threshold = self._threshold(command)
        if threshold.THSEL:
            return 0 if default else self.coldest
        return WARNING_KELVIN if default else self.hottest

    def _set_threshold(self, command: Command) -> int:
        threshold = self._threshold(command)
        if threshold.THSEL:
            self.coldest = threshold.TMPTH
        else:
            self.hottest = threshold.TMPTH
        self._controller.logs.health.changed()
        return 0

    @staticmethod
    def _threshold(command: Command) -> TemperatureThreshold:
        threshold = TemperatureThreshold(command.cdw11)
        if threshold.THSEL > 1 or threshold.TMPSEL not in (0, 15):
            raise Refused(Status.INVALID_FIELD, f"temperature threshold {command.cdw11:#x}")
        return threshold

    def _get_cache(self, _command: Command, default: bool) -> int:
        self._check_cache()
        return int(default or self.write_cache)

    def _set_cache(self, command: Command) -> Outcome:
        self._check_cache()
        self.write_cache = bool(command.cdw11 & 1)
        return 0 if self.write_cache else self._controller.nvm.flush_all()

    def _check_cache(self) -> None:
        if not self._controller.admin.has_volatile_cache:
            raise Refused(Status.INVALID_FIELD, "there is no volatile write cache")

    def _get_queues(self, _command: Command, default: bool) -> int:
        most = self._controller.queues
        sqs, cqs = (most, most) if default else (self.most_sqs, self.most_cqs)
        return QueueCounts.of(NCQ_z=cqs - 1, NSQ_z=sqs - 1)

    def _set_queues(self, command: Command) -> int:
        controller, wanted = self._controller, QueueCounts(command.cdw11)
        if any(controller.cqs[1:]) or any(controller.sqs[1:]):
            raise Refused(Status.COMMAND_SEQUENCE_ERROR, "there are I/O queues already")
        if 0xFFFF in (wanted.NCQ_z, wanted.NSQ_z):
            raise Refused(Status.INVALID_FIELD, "65536 queues")
        self.most_sqs = min(wanted.NSQ_z + 1, controller.queues)
        self.most_cqs = min(wanted.NCQ_z + 1, controller.queues)
        return self._get_queues(command, default=False)

    def _get_coalescing(self, _command: Command, default: bool) -> int:
        interrupts = self._controller.interrupts
        if default:
            return 0
        return Coalescing.of(TIME=interrupts.time, THR_z=interrupts.threshold)

    def _set_coalescing(self, command: Command) -> int:
        wanted, interrupts = Coalescing(command.cdw11), self._controller.interrupts
        interrupts.time, interrupts.threshold = wanted.TIME, wanted.THR_z
        return 0

    def _vector(self, command: Command) -> VectorConfig:
        wanted = VectorConfig(command.cdw11)
        if self._controller.interrupts.count <= wanted.IV:
            raise Refused(Status.INVALID_FIELD, f"interrupt vector {wanted.IV}")
        return wanted

    def _get_vector(self, command: Command, default: bool) -> int:
        vector = self._vector(command).IV
        alone = vector in self._controller.interrupts.uncoalesced and not default
        return VectorConfig.of(CD=alone, IV=vector)

    def _set_vector(self, command: Command) -> int:
        wanted, alone = self._vector(command), self._controller.interrupts.uncoalesced
        (alone.add if wanted.CD else alone.discard)(wanted.IV)
        return 0

    def _get_events(self, _command: Command, default: bool) -> int:
        return EVERYTHING if default else self._controller.events.wanted

    def _set_events(self, command: Command) -> int:
        self._controller.events.wanted = command.cdw11 & EVERYTHING
        self._controller.logs.health.changed()
        return 0

    def _get_autonomous(self, command: Command, default: bool) -> int:
        table = bytes(POWER_TABLE_SIZE) if default else self._power_table
        self._controller.send(command, table, POWER_TABLE_SIZE)
        return 0 if default else self._autonomous

    def _set_autonomous(self, command: Command) -> int:
        self._power_table = self._controller.receive(command, POWER_TABLE_SIZE)
        self._autonomous = command.cdw11 & 1
        return 0

    def _get_timestamp(self, command: Command, default: bool) -> int:
        now = 0 if default else self._now()
        origin = 1 if self._timestamp_set and not default else 0
        self._controller.send(command, (origin << 49 | now).to_bytes(8, "little"), 8)
        return 0

    def _now(self) -> int:
        passed = self._controller.engine.now - self._timestamp_at
        return (self._timestamp + int(passed * 1000)) % MILLISECONDS

    def _set_timestamp(self, command: Command) -> int:
        told = int.from_bytes(self._controller.receive(command, 8), "little")
        self._timestamp, self._timestamp_set = told % MILLISECONDS, True
        self._timestamp_at = self._controller.engine.now
        return 0

    def _get_keep_alive(self, _command: Command, default: bool) -> int:
        return 0 if default else self._controller.admin.keep_alive.milliseconds

    def _set_keep_alive(self, command: Command) -> int:
        self._controller.admin.keep_alive.set(command.cdw11)
        return 0

    def _get_behavior(self, command: Command, default: bool) -> int:
        data = bytes(HOST_BEHAVIOR_SIZE) if default else self._behavior
        self._controller.send(command, data, HOST_BEHAVIOR_SIZE)
        return 0

    def _set_behavior(self, command: Command) -> int:
        data = self._controller.receive(command, HOST_BEHAVIOR_SIZE)
        if data[0] > 1:
            raise Refused(Status.INVALID_FIELD, f"advanced command retry {data[0]}")
        self._behavior = data[:1].ljust(HOST_BEHAVIOR_SIZE, b"\0")
        return 0

    def _get_host_id(self, command: Command, default: bool) -> int:
        size = 16 if command.cdw11 & 1 else 8
        data = b"" if default else self.host_id
        self._controller.send(command, data.ljust(size, b"\0"), size)
        return 0

    def _set_host_id(self, command: Command) -> int:
        self.host_id = self._controller.receive(command, 16 if command.cdw11 & 1 else 8)
        return 0

    def _get_mask(self, command: Command, default: bool) -> int:
        self._check_reservations(command)
        return 0 if default else self._controller.nvm.reservations.masks.get(command.nsid, 0)

    def _set_mask(self, command: Command) -> int:
        self._check_reservations(command)
        self._controller.nvm.reservations.masks[command.nsid] = command.cdw11 & 0xE
        return 0

    def _check_reservations(self, command: Command) -> None:
        if self._controller.nvm.namespace(command).disk.reservations is None:
            raise Refused(Status.INVALID_FIELD, "the disk has no reservations")

    # -- saving ----------------------------------------------------------------------------------

    def reset(self) -> None:
        """As at first; the time goes on (section 5.27.1.14)."""
        self.hottest, self.coldest = WARNING_KELVIN, 0
        self.write_cache = True
        self.most_sqs = self.most_cqs = self._controller.queues
        self.host_id = bytes(8)
        self._values = {number: value for number, (value, _) in _PLAIN.items()}
        self._power_table, self._autonomous = bytes(POWER_TABLE_SIZE), 0
        self._behavior = bytes(HOST_BEHAVIOR_SIZE)

    def save(self) -> dict[str, Any]:
        """Everything that no other part has."""
        return {
            "values": [[number, value] for number, value in self._values.items()],
            "temperature": [self.hottest, self.coldest],
            "write-cache": self.write_cache,
            "queues": [self.most_sqs, self.most_cqs],
            "host-id": self.host_id,
            "timestamp": [self._now(), self._timestamp_set],
            "power": [self._power_table, self._autonomous],
            "behavior": self._behavior,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave."""
        self._values = {FeatureId(number): value for number, value in state["values"]}
        self.hottest, self.coldest = state["temperature"]
        self.write_cache = state["write-cache"]
        self.most_sqs, self.most_cqs = state["queues"]
        self.host_id = state["host-id"]
        self._timestamp, self._timestamp_set = state["timestamp"]
        self._timestamp_at = self._controller.engine.now
        self._power_table, self._autonomous = state["power"]
        self._behavior = state["behavior"]

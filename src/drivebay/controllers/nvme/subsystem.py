"""The NVM subsystem: its namespaces, and the controllers that they may be attached to."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from drivebay.controllers.nvme.namespace import Namespace
from drivebay.controllers.nvme.opcodes import ALL_NAMESPACES
from drivebay.disk.contract import Disk

if TYPE_CHECKING:
    from drivebay.controllers.nvme.controller import Controller

__all__ = ["Subsystem"]

MODEL: Final = "drivebay NVMe"
NSID: Final = 3
"""Where in a row of a command its namespace is."""


class Subsystem:
    """Namespaces that one or more controllers show.

    `serial` (20 ASCII characters) and `model` (40) are on its plate, and the qualified name follows
    from them unless `nqn` says it. With `create`, hosts may create namespaces of up to `capacity`
    bytes together: it is given a size and a sector size in bytes. Raises `ValueError` for text that
    has no room.
    """

    def __init__(
        self,
        *,
        serial: str = "DRIVEBAY",
        model: str = MODEL,
        firmware: str = "1.0",
        nqn: str | None = None,
        create: Callable[[int, int], Disk] | None = None,
        capacity: int = 0,
        most_namespaces: int = 256,
    ) -> None:
        for text, room in ((serial, 20), (model, 40), (firmware, 8), (nqn or "", 223)):
            if len(text) > room or not text.isascii():
                raise ValueError(f"{text!r}: {room} ASCII characters at most")
        self.serial, self.model, self.firmware = serial, model, firmware
        own = uuid.uuid5(uuid.NAMESPACE_URL, f"{model}/{serial}")
        self.nqn = nqn or f"nqn.2014-08.org.nvmexpress:uuid:{own}"
        self.create, self.capacity = create, capacity
        self.most_namespaces = most_namespaces
        """NN: ids go from 1 to this."""
        self.namespaces: dict[int, Namespace] = {}
        self.controllers: dict[int, Controller] = {}
        self._created: dict[int, int] = {}
        self._watches: dict[int, Callable[[], None]] = {}

    # -- namespaces ------------------------------------------------------------------------------

    def add(
        self, nsid: int, disk: Disk, *, attach: bool = True, lba_size: int | None = None
    ) -> Namespace:
        """A new namespace, attached to every controller unless said. Hosts are told.

        Raises `ValueError` if there is one already, or it cannot be.
        """
        if not 0 < nsid <= self.most_namespaces:
            raise ValueError(f"namespace {nsid}: 1 to {self.most_namespaces}")
        if nsid in self.namespaces:
            raise ValueError(f"there is a namespace {nsid} already")
        namespace = self.namespaces[nsid] = Namespace(nsid, disk, lba_size=lba_size)
        self._watches[nsid] = disk.on_resize(lambda _count: self.changed(nsid))
        for controller in self.controllers.values():
            if attach:
                controller.attach(nsid)
        return namespace

    def remove(self, nsid: int) -> Disk:
        """Take a namespace away; returns its disk. Hosts are told. Raises `KeyError`."""
        namespace = self.namespaces.pop(nsid)
        self._watches.pop(nsid)()
        self._created.pop(nsid, None)
        for controller in self.controllers.values():
            controller.detach(nsid)
        return namespace.disk

    def changed(self, nsid: int) -> None:
        """A namespace is not what it was: those who see it are told."""
        for controller in self.controllers.values():
            if nsid in controller.attached:
                controller.namespace_changed(nsid)

    def refresh(self) -> None:
        """What controllers may do with namespaces has changed."""
        for controller in self.controllers.values():
            controller.refresh()

    # -- what hosts create -----------------------------------------------------------------------

    @property
    def unallocated(self) -> int:
        """Bytes that are left for new namespaces."""
        return self.capacity - sum(self._created.values())

    @property
    def total(self) -> int:
        """Bytes of all namespaces, and of those that may come."""
        given = sum(
            namespace.disk.byte_count
            for nsid, namespace in self.namespaces.items()
            if nsid not in self._created
        )
        return given + self.capacity

    def free_id(self) -> int | None:
        """The lowest id that no namespace has."""
        ids = range(1, self.most_namespaces + 1)
        return next((nsid for nsid in ids if nsid not in self.namespaces), None)

    def create_namespace(self, nsid: int, size: int, sector_size: int) -> None:
        """A host's own, of `size` bytes, attached to nobody. Raises `DiskError` or
        `DiskOpenError`.
        """
        assert self.create is not None
        self.add(nsid, self.create(size, sector_size), attach=False)
        self._created[nsid] = size

    def is_created(self, nsid: int) -> bool:
        """Whether a host has made it, and a host may delete it."""
        return nsid in self._created

    # -- saving ----------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Every namespace, but for its disk."""
        return {
            "namespaces": [each.save() for each in self.namespaces.values()],
            "created": [[nsid, size] for nsid, size in self._created.items()],
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Raises `ValueError` if what `save` gave has other namespaces."""
        if {each["nsid"] for each in state["namespaces"]} != set(self.namespaces):
            raise ValueError("the saved state is of an NVM subsystem with other namespaces")

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `save` gave. Raises `ValueError` if it has other namespaces."""
        self.check(state)
        for each in state["namespaces"]:
            self.namespaces[each["nsid"]].restore(each)
        self._created = dict(state["created"])

    def in_use(self, nsid: int) -> bool:
        """Whether an I/O command on a namespace is under way."""
        return any(
            row[NSID] in (nsid, ALL_NAMESPACES)
            for controller in self.controllers.values()
            for sq in controller.sqs[1:]
            if sq is not None
            for cid, row in sq.rows.items()
            if cid in sq.tasks
        )

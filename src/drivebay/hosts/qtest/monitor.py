"""What QMP's commands do to a machine.

https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Literal

import msgspec

from drivebay import __version__
from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskError, DiskOpenError
from drivebay.disk.spec import open_disk
from drivebay.hosts.qtest.qmp import QEMU_VERSION, Command, QmpError
from drivebay.hosts.qtest.runstate import RunState
from drivebay.platform.machine import Drive, Machine, MachineError

__all__ = ["Monitor"]


class _Arguments(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """None."""


class _OfDrive(_Arguments):
    """A drive: QEMU's older commands call it device, the newer ones id."""

    device: str | None = None
    id: str | None = None


class _Eject(_OfDrive):
    force: bool = False


class _Insert(_OfDrive, kw_only=True):
    node_name: str


class _Change(_OfDrive, kw_only=True):
    filename: str
    """A disk spec; a path is one."""
    format: Literal["raw"] = "raw"
    force: bool = False
    read_only_mode: Literal["retain", "read-only", "read-write"] = "retain"


class _Resize(_Arguments, kw_only=True):
    device: str | None = None
    node_name: str | None = None
    size: int


class _OfDevice(_Arguments):
    id: str


class _OfNode(_Arguments):
    node_name: str


class Monitor:
    """Commands on `machine`. `quit` ends the program."""

    def __init__(self, machine: Machine, state: RunState, quit: Callable[[], None]) -> None:
        self._machine, self._state, self._quit = machine, state, quit
        # Open disks in no drive: of ``blockdev-add``, and what a drive that has gone leaves behind.
        self._nodes: dict[str, Disk] = {}
        self._afterwards: list[Callable[[], None]] = []
        self._resetting = False
        machine.tray_moved = self._tray_moved
        machine.board.on_reset(self._was_reset)
        self.commands = {
            "query-status": Command(_Arguments, self._query_status),
            "query-version": Command(_Arguments, self._query_version),
            "query-commands": Command(_Arguments, self._query_commands),
            "query-block": Command(_Arguments, self._query_block),
            "stop": Command(_Arguments, lambda _: state.stop()),
            "cont": Command(_Arguments, lambda _: state.cont()),
            "system_reset": Command(_Arguments, self._system_reset),
            "quit": Command(_Arguments, self._end),
            "block_resize": Command(_Resize, self._block_resize),
            "eject": Command(_Eject, self._eject),
            "blockdev-open-tray": Command(_Eject, self._open_tray),
            "blockdev-close-tray": Command(_OfDrive, self._close_tray),
            "blockdev-remove-medium": Command(_OfDrive, self._remove_medium),
            "blockdev-insert-medium": Command(_Insert, self._insert_medium),
            "blockdev-change-medium": Command(_Change, self._change_medium),
            "blockdev-add": Command(dict[str, Any], self._blockdev_add),
            "blockdev-del": Command(_OfNode, self._blockdev_del),
            "device_add": Command(dict[str, Any], self._device_add),
            "device_del": Command(_OfDevice, self._device_del),
        }

    @property
    def emit(self) -> Callable[[str, dict[str, Any]], None]:
        """Where events go."""
        return self._state.emit

    @emit.setter
    def emit(self, emit: Callable[[str, dict[str, Any]], None]) -> None:
        self._state.emit = emit

    def answered(self) -> None:
        """The answer is on its way."""
        afterwards, self._afterwards = self._afterwards, []
        for call in afterwards:
            call()

    def _then(self, event: str, **data: Any) -> None:
        """Tell `event` after the answer."""
        named = {key.replace("_", "-"): value for key, value in data.items()}
        self._afterwards.append(lambda: self.emit(event, named))

    def close(self) -> None:
        """Close the disks that are in no drive."""
        for disk in self._nodes.values():
            disk.close()

    # -- the machine -----------------------------------------------------------------------------

    def _query_status(self, _: _Arguments) -> object:
        return {"status": self._state.status, "running": self._state.running}

    def _query_version(self, _: _Arguments) -> object:
        return {"qemu": QEMU_VERSION, "package": f"drivebay {__version__}"}

    def _query_commands(self, _: _Arguments) -> object:
        return [{"name": name} for name in ("qmp_capabilities", *self.commands)]

    def _system_reset(self, _: _Arguments) -> None:
        self._resetting = True
        self._machine.board.reset()
        self._resetting = False
        self._then("RESET", guest=False, reason="host-qmp-system-reset")

    def _was_reset(self) -> None:
        """If not by us, then by the guest, at one of the ports that do it."""
        if not self._resetting:
            self.emit("RESET", {"guest": True, "reason": "guest-reset"})

    def _end(self, _: _Arguments) -> None:
        self._then("SHUTDOWN", guest=False, reason="host-qmp-quit")
        self._afterwards.append(self._quit)

    # -- devices ---------------------------------------------------------------------------------

    def _device_add(self, options: dict[str, Any]) -> None:
        driver, ident, drive = (options.pop(name, None) for name in ("driver", "id", "drive"))
        if not isinstance(driver, str):
            raise QmpError("Parameter 'driver' is missing")
        if not isinstance(ident, str):
            raise QmpError("Parameter 'id' is missing: nobody could take the device away again")
        if ident in self._machine.drives:
            raise QmpError(f"Duplicate device ID '{ident}'")
        disk = None if drive is None else self._node(drive)
        try:
            self._machine.plug(driver, ident, disk, options)
        except MachineError as error:
            raise QmpError(str(error)) from None
        self._nodes.pop(str(drive), None)

    def _device_del(self, of: _OfDevice) -> None:
        drive = self._drive(of.id)
        disk = drive.disk

        def gone() -> None:
            if disk is not None:
                self._nodes[of.id] = disk
            self.emit("DEVICE_DELETED", {"device": of.id, "path": f"/machine/peripheral/{of.id}"})

        self._afterwards.append(partial(self._machine.unplug, of.id, gone))

    # -- disks -----------------------------------------------------------------------------------

    def _drive(self, name: str | None) -> Drive:
        if name is None:
            raise QmpError("Parameter 'id' is missing")
        drive = self._machine.drives.get(name)
        if drive is None:
            raise QmpError(f"Device '{name[:80]}' not found", "DeviceNotFound")
        return drive

    def _node(self, name: object) -> Disk:
        disk = self._nodes.get(name) if isinstance(name, str) else None
        if disk is None:
            raise QmpError(f"Cannot find device='' nor node-name='{str(name)[:80]}'")
        return disk

    def _open(self, spec: str, name: str, read_only: bool) -> Disk:
        try:
            return self._state.guard(open_disk(spec, read_only), name)
        except (DiskOpenError, DiskError) as error:
            raise QmpError(str(error)) from None

    def _query_block(self, _: _Arguments) -> object:
        return [
            {
                "device": name,
                "qdev": name,
                "type": "unknown",
                "removable": drive.removable,
                "locked": drive.locked,
            }
            | ({"tray_open": drive.tray_open} if drive.removable else {})
            | ({} if drive.disk is None else {"inserted": _inserted(name, drive.disk)})
            for name, drive in self._machine.drives.items()
        ]

    def _block_resize(self, to: _Resize) -> Coroutine[Any, Any, None]:
        name = to.device or to.node_name
        disk = self._nodes.get(str(name)) or self._drive(name).disk
        if disk is None:
            raise QmpError(f"Device '{name}' has no medium")
        if to.size < 0 or to.size % disk.sector_size:
            raise QmpError(f"Parameter 'size' expects a multiple of {disk.sector_size}")
        return _resize(disk, to.size // disk.sector_size)

    def _blockdev_add(self, options: dict[str, Any]) -> None:
        """A ``file``, plain or under a ``raw``."""
        name = options.get("node-name")
        if not isinstance(name, str) or not name:
            raise QmpError("Parameter 'node-name' is missing")
        if name in self._nodes or name in self._machine.drives:
            raise QmpError(f"Duplicate nodes with node-name='{name}'")
        read_only, inner = options.get("read-only", False), options
        if options.get("driver") == "raw" and isinstance(options.get("file"), dict):
            inner = options["file"]
        filename = inner.get("filename")
        if inner.get("driver") != "file" or not isinstance(filename, str):
            raise QmpError("only driver 'file' with a 'filename' is known, or 'raw' over it")
        self._nodes[name] = self._open(filename, name, bool(read_only))

    def _blockdev_del(self, of: _OfNode) -> None:
        self._node(of.node_name).close()
        del self._nodes[of.node_name]

    # -- media -----------------------------------------------------------------------------------

    def _tray_moved(self, name: str, opened: bool) -> None:
        self.emit("DEVICE_TRAY_MOVED", {"device": name, "id": name, "tray-open": opened})

    def _removable(self, of: _OfDrive) -> tuple[str, Drive]:
        name = of.id or of.device
        drive = self._drive(name)
        if not drive.removable:
            raise QmpError(f"Device '{name}' is not removable")
        return str(name), drive

    def _open_tray(self, of: _Eject) -> None:
        """A locked tray stays closed, but the guest hears of the wish."""
        name, drive = self._removable(of)
        if drive.tray_open:
            return
        if drive.locked:
            drive.request_eject()
            if not of.force:
                raise QmpError(
                    f"Device '{name}' is locked and force was not specified, "
                    "wait for tray to open and try again"
                )
        drive.move_tray(True)

    def _close_tray(self, of: _OfDrive) -> None:
        self._removable(of)[1].move_tray(False)

    def _remove_medium(self, of: _OfDrive) -> None:
        name, drive = self._removable(of)
        if not drive.tray_open:
            raise QmpError(f"Tray of device '{name}' is not open")
        self._take_out(drive)

    def _take_out(self, drive: Drive) -> None:
        disk = drive.remove()
        if disk is not None:
            disk.close()

    def _eject(self, of: _Eject) -> None:
        self._open_tray(of)
        self._take_out(self._removable(of)[1])

    def _insert_medium(self, what: _Insert) -> None:
        name, drive = self._removable(what)
        disk = self._node(what.node_name)
        if not drive.tray_open:
            raise QmpError(f"Tray of device '{name}' is not open")
        if drive.disk is not None:
            raise QmpError(f"There already is a medium in device '{name}'")
        self._put_in(drive, disk)
        del self._nodes[what.node_name]

    def _put_in(self, drive: Drive, disk: Disk) -> None:
        try:
            drive.insert(disk)
        except MachineError as error:
            raise QmpError(str(error)) from None

    def _change_medium(self, to: _Change) -> None:
        name, drive = self._removable(to)
        disk = self._open(to.filename, name, read_only=to.read_only_mode != "read-write")
        try:
            self._open_tray(_Eject(id=name, force=to.force))
            self._take_out(drive)
            self._put_in(drive, disk)
        except QmpError:
            disk.close()
            raise
        drive.move_tray(False)


async def _resize(disk: Disk, sectors: int) -> None:
    try:
        await disk.resize(sectors)
    except DiskError as error:
        raise QmpError(str(error)) from None


def _inserted(name: str, disk: Disk) -> dict[str, Any]:
    below = disk.inner[0] if disk.inner else disk
    return {
        "node-name": name,
        "drv": below.kind,
        "ro": disk.read_only,
        "image": {"virtual-size": disk.byte_count, "format": "raw"},
    }

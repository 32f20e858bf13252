"""``drivebay boot --host kvm``: a PC of our own whose CPUs are KVM's."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from drivebay.cli import scsi, virtio_blk
from drivebay.cli.console import console
from drivebay.cli.errors import CliError
from drivebay.cli.kind import ControllerConfig

if TYPE_CHECKING:
    from drivebay.cli.ide import IdeDrive
    from drivebay.controllers.storvsp import StorVsp
    from drivebay.disk.contract import Disk
    from drivebay.hosts.cpu import End
    from drivebay.hosts.kvm.linux import Linux
    from drivebay.machines.acpi import VirtioMmio
    from drivebay.machines.pc import Pc

__all__ = ["KvmPc", "read_kernel"]

MOST_CPUS: Final = 255


def read_kernel(kernel: str, initrd: str | None, command_line: str) -> Linux:
    """A kernel: an ELF image, or a bzImage, best one that we can unpack. Raises `CliError`."""
    from drivebay.guests.kernel import vmlinux
    from drivebay.hosts.kvm.linux import MAGIC, Linux

    try:
        image = Path(kernel).read_bytes()
        files = b"" if initrd is None else Path(initrd).read_bytes()
    except OSError as error:
        raise CliError(f"{error.filename}: {error.strerror}") from error
    if not image.startswith(MAGIC):
        with suppress(ValueError):
            image = vmlinux(image)
    return Linux(image, files, command_line)


class KvmPc:
    """A `drivebay.cli.boot_pc.Host` with `cpus` CPUs, which starts `linux` if that is given.

    With `hyperv` it finds Hyper-V, with SCSI controllers and accelerators of IDE disks on its bus.
    """

    wall_clock = True

    def __init__(self, cpus: int, linux: Linux | None, hyperv: bool = False) -> None:
        if cpus > MOST_CPUS:
            raise CliError(f"{cpus} CPUs", f"up to {MOST_CPUS}")
        self.cpus, self._linux, self._hyperv = cpus, linux, hyperv
        self._virtio: list[VirtioMmio] = []
        self._synthetic: list[StorVsp] = []

    def attach(self, pc: Pc, controller: ControllerConfig, stack: ExitStack) -> bool:
        """What a kernel finds by ACPI, and firmware would not: virtio over MMIO, VMBus."""
        if self._hyperv and controller.kind is scsi.KIND:
            self._put_storvsp(pc, controller, stack)
        elif self._linux is not None and controller.kind is virtio_blk.KIND:
            self._put_virtio(pc, controller, stack)
        else:
            return False
        return True

    def _put_storvsp(self, pc: Pc, controller: ControllerConfig, stack: ExitStack) -> None:
        from drivebay.controllers.storvsp import StorVsp

        target, places = scsi.open_target(controller, pc.engine)
        for disk in places.disks:
            stack.callback(disk.close)
        instance = uuid.uuid5(uuid.NAMESPACE_URL, f"drivebay:{controller.id}")
        self._synthetic.append(
            StorVsp(target, pc.memory, pc.engine, instance=instance, sub_channels=self.cpus - 1)
        )

    def accelerate(self, pc: Pc, drive: IdeDrive, disk: Disk) -> None:
        """Hyper-V's guests know a second way to its disks."""
        if self._hyperv and not drive.dvd:
            from drivebay.controllers.storvsp import build_ide

            self._synthetic.append(build_ide(disk, pc.memory, pc.engine, *drive.place))

    def _put_virtio(self, pc: Pc, controller: ControllerConfig, stack: ExitStack) -> None:
        from drivebay.controllers.virtio.block import BlockDevice
        from drivebay.machines.direct import put_virtio

        for wanted in controller.disks:
            disk = wanted.attachment.disk.open(wanted.read_only)
            stack.callback(disk.close)
            settings = asdict(controller.settings)
            device = BlockDevice(disk, pc.engine, serial=wanted.serial, **settings)
            try:
                self._virtio.append(put_virtio(pc, len(self._virtio), device))
            except ValueError as error:
                raise CliError(str(error)) from error

    def run(self, pc: Pc, timeout: float, until: Callable[[], bool]) -> End:
        """Run it. Raises `CliError`."""
        from drivebay.hosts.cpu import CpuError
        from drivebay.hosts.kvm.host import KvmHost
        from drivebay.hosts.kvm.hyperv_host import put_hyperv
        from drivebay.hosts.kvm.vcpu import Vcpu
        from drivebay.machines.direct import prepare
        from drivebay.machines.firmware import tell_of_hyperv

        try:
            host = KvmHost(pc, self.cpus)
        except CpuError as error:
            raise CliError(str(error), "--host unicorn needs no KVM") from error
        if self._hyperv:
            bus = put_hyperv(host).bus
            for device in self._synthetic:
                device.attach(bus)
        linux = self._linux
        if linux is not None:

            def start(vcpu: Vcpu) -> None:
                rsdp = prepare(pc, cpus=self.cpus, virtio=self._virtio, vmbus=self._hyperv)
                linux.start(vcpu, pc.memory, rsdp)

            host.start = start
        elif self._hyperv:
            tell_of_hyperv(pc, self.cpus)
        try:
            with console(pc.engine, pc.serial.receive) as left:
                return host.run(timeout, lambda: until() or left())
        except CpuError as error:
            raise CliError(str(error), "--host qemu has a CPU that can do more") from error
        finally:
            host.close()

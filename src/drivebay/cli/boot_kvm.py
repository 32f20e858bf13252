"""``drivebay boot --host kvm``: a PC of our own whose CPUs are KVM's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from drivebay.cli import virtio_blk
from drivebay.cli.errors import CliError
from drivebay.cli.kind import ControllerConfig

if TYPE_CHECKING:
    from drivebay.hosts.cpu import End
    from drivebay.hosts.kvm.linux import Linux
    from drivebay.machines.acpi import VirtioMmio
    from drivebay.machines.pc import Pc

__all__ = ["KvmPc", "read_kernel"]

MOST_CPUS: Final = 255


def read_kernel(kernel: str, initrd: str | None, command_line: str) -> Linux:
    """A kernel: an ELF image, or a bzImage with one inside. Raises `CliError`."""
    from drivebay.guests.kernel import vmlinux
    from drivebay.hosts.kvm.linux import MAGIC, Linux

    try:
        image = Path(kernel).read_bytes()
        files = b"" if initrd is None else Path(initrd).read_bytes()
    except OSError as error:
        raise CliError(f"{error.filename}: {error.strerror}") from error
    if not image.startswith(MAGIC):
        try:
            image = vmlinux(image)
        except ValueError as error:
            raise CliError(f"kernel {kernel}: {error}", "a vmlinux can be started, too") from error
    return Linux(image, files, command_line)


class KvmPc:
    """A `drivebay.cli.boot_pc.Host` with `cpus` CPUs, which starts `linux` if that is given."""

    wall_clock = True

    def __init__(self, cpus: int, linux: Linux | None) -> None:
        if cpus > MOST_CPUS:
            raise CliError(f"{cpus} CPUs", f"up to {MOST_CPUS}")
        self.cpus, self._linux = cpus, linux
        self._virtio: list[VirtioMmio] = []

    def attach(self, pc: Pc, controller: ControllerConfig, stack: ExitStack) -> bool:
        """virtio over MMIO, which a kernel finds by ACPI; firmware would not."""
        if controller.kind is not virtio_blk.KIND or self._linux is None:
            return False
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
        return True

    def run(self, pc: Pc, timeout: float, until: Callable[[], bool]) -> End:
        """Run it. Raises `CliError`."""
        from drivebay.hosts.cpu import CpuError
        from drivebay.hosts.kvm.host import KvmHost
        from drivebay.hosts.kvm.vcpu import Vcpu
        from drivebay.machines.direct import prepare

        try:
            host = KvmHost(pc, self.cpus)
        except CpuError as error:
            raise CliError(str(error), "--host unicorn needs no KVM") from error
        linux = self._linux
        if linux is not None:

            def start(vcpu: Vcpu) -> None:
                linux.start(vcpu, pc.memory, prepare(pc, cpus=self.cpus, virtio=self._virtio))

            host.start = start
        try:
            return host.run(timeout, until)
        except CpuError as error:
            raise CliError(str(error), "--host qemu has a CPU that can do more") from error
        finally:
            host.close()

"""A PC on KVM whose kernel is the tiny Linux, started directly."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Final, Protocol

from drivebay.controllers.storvsp import StorVsp
from drivebay.disk.contract import Disk
from drivebay.guests.tiny import INTERPRETED
from drivebay.hosts.cpu import End
from drivebay.hosts.kvm.host import KvmHost
from drivebay.hosts.kvm.hyperv import Hyperv
from drivebay.hosts.kvm.hyperv_host import put_hyperv
from drivebay.hosts.kvm.linux import Linux
from drivebay.hosts.kvm.vcpu import Vcpu
from drivebay.machines.acpi import VirtioMmio
from drivebay.machines.direct import prepare
from drivebay.machines.pc import Pc
from drivebay.platform.engine import Engine
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.target import Target

RAM_SIZE: Final = 128 << 20
INSTANCE: Final = uuid.UUID(int=0x5C51)
SECONDS: Final = 600.0
"""Where KVM interprets the kernel, it takes a minute on a quiet machine."""
WORDS: Final = f"console=ttyS0 panic=-1 reboot=t {INTERPRETED}"
"""Of every command line."""
MOUNTED: Final = "Kernel panic - not syncing: No working init"
"""What a kernel ends with that has mounted its root and finds no program there."""


class Start(Protocol):
    """The fixture `start`: a machine, which ends with the test."""

    def __call__(
        self,
        *,
        cpus: int = 1,
        hyperv: bool = False,
        ram_size: int = RAM_SIZE,
        firmware: bytes = b"",
    ) -> TinyLinux: ...


class TinyLinux:
    """The machine, before it is started: devices are put on `pc`, and on `hyperv`'s bus."""

    def __init__(
        self,
        engine: Engine,
        kernel: Path,
        *,
        cpus: int = 1,
        hyperv: bool = False,
        ram_size: int = RAM_SIZE,
        firmware: bytes = b"",
    ) -> None:
        self.serial = bytearray()
        self.engine, self.cpus = engine, cpus
        self.pc = Pc(
            engine, ram_size, firmware=firmware, serial=self.serial.extend, wall_clock=True
        )
        self.host = KvmHost(self.pc, cpus)
        self.hyperv: Hyperv | None = put_hyperv(self.host) if hyperv else None
        self.virtio: list[VirtioMmio] = []
        """What `put_virtio` has put there."""
        self.initrd = b""
        self.kernel = kernel

    def attach_scsi(self, disk: Disk, sub_channels: int = 0) -> StorVsp:
        """A StorVSP controller with a disk."""
        assert self.hyperv is not None
        target = Target(self.engine)
        target.add(0, ScsiDisk(disk))
        device = StorVsp(
            target, self.pc.memory, self.engine, instance=INSTANCE, sub_channels=sub_channels
        )
        device.attach(self.hyperv.bus)
        return device

    def boot(self, append: str, until: str) -> str:
        """Run until the console says what the pattern `until` matches; all that it has said."""
        linux = Linux(self.kernel.read_bytes(), self.initrd, f"{WORDS} {append}")

        def start(vcpu: Vcpu) -> None:
            vmbus = self.hyperv is not None
            rsdp = prepare(self.pc, cpus=self.cpus, virtio=self.virtio, vmbus=vmbus)
            linux.start(vcpu, self.pc.memory, rsdp)

        self.host.start = start
        return self.go_on(until)

    def go_on(self, until: str) -> str:
        """The same for a machine that was stopped by the former."""
        looked = len(self.serial)

        def says() -> bool:
            nonlocal looked
            line = self.serial.rfind(b"\n", 0, looked) + 1
            looked = len(self.serial)
            return pattern.search(self.serial, line) is not None

        pattern = re.compile(until.encode())
        end = self.host.run(SECONDS, says)
        assert end is End.STOPPED, f"{end}: {self.console}"
        return self.console

    def boot_to_root(self, device: str) -> str:
        """Boot until `device` is mounted as root, for writing, and nothing is left to do."""
        return self.boot(f"root={device} rw rootwait", MOUNTED)

    def go_on_to_root(self) -> str:
        """The same for a machine that was waiting for it."""
        return self.go_on(MOUNTED)

    @property
    def console(self) -> str:
        return self.serial.decode(errors="replace").replace("\r", "")

    def close(self) -> None:
        self.host.close()

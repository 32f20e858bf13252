"""The stock Linux guest under QEMU: the one way that the command line and the tests start it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from typing import Literal

from drivebay.guests import debian
from drivebay.guests.cache import Progress, silent
from drivebay.guests.errors import GuestError
from drivebay.guests.guest import BOOT_SECONDS, Guest
from drivebay.guests.initramfs import initramfs
from drivebay.guests.kernel import Kernel
from drivebay.guests.kvm import kvm_works
from drivebay.guests.process import Leash
from drivebay.guests.qemu import Qemu, find_qemu
from drivebay.guests.qmp import Qmp
from drivebay.guests.session import Session
from drivebay.guests.tsc import tsc_khz

Accel = Literal["auto", "tcg", "kvm"]

CONTROL = "ttyS1"


class LinuxGuest(Guest):
    """A small Debian kernel with busybox and disk tools, in memory that other processes may map.

    `qemu_args` are added to QEMU's command line; its memory backend is called `mem`. `memory` is
    QEMU's size text. `tools` names extra tools (see initramfs.EXTRA_TOOLS), `modules` kernel
    modules to load that no hardware asks for. `append` is added to the kernel's command line.

    Use it with `with` to `run` commands one after the other, or call `run_once` or `interact`.
    """

    def __init__(
        self,
        *,
        qemu_args: Sequence[str] = (),
        memory: str = "512M",
        cpus: int = 1,
        accel: Accel = "auto",
        tools: Sequence[str] = (),
        modules: Sequence[str] = (),
        append: str = "",
        machine: str = "q35,sata=off",
        boot_timeout: float = BOOT_SECONDS,
        qemu: Qemu | None = None,
        progress: Progress = silent,
    ) -> None:
        super().__init__()
        self.qemu_args = tuple(qemu_args)
        self.memory = memory
        self.cpus = cpus
        self.accel = accel
        self.tools = tuple(tools)
        self.modules = tuple(modules)
        self.append = append
        self.machine = machine
        self.boot_timeout = boot_timeout
        self.qemu = qemu or find_qemu(progress)
        self._tree = debian.tree(debian.GUEST, progress)
        self._qmp: Qmp | None = None

    @property
    def qmp(self) -> Qmp:
        """QEMU's machine protocol; GuestError before `start`."""
        if self._qmp is None:
            raise GuestError("the guest is not started")
        return self._qmp

    def interact(self) -> int:
        """Run the guest with a shell on this terminal until it ends; return QEMU's exit status.

        Ctrl-A X ends it at once, Ctrl-A C reaches QEMU's monitor.
        """
        terminal = ["-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console"]
        terminal += ["-mon", "chardev=console"]
        term = os.environ.get("TERM", "linux")
        command = [*self.command(f"TERM={term}"), *terminal]
        process = subprocess.Popen(command, env={**os.environ, **self.qemu.environment})
        leash = Leash(process.pid)
        try:
            return process.wait()
        finally:
            process.kill()
            process.wait()
            leash.go()

    def command(self, append: str = "") -> list[str]:
        """Return QEMU's command line without its serial lines; `append` is for the kernel."""
        kernel = Kernel(self._tree)
        kvm = self.accel == "kvm" or (self.accel == "auto" and kvm_works())
        backend = f"memory-backend-memfd,id=mem,size={self.memory},share=on"
        return [
            *self.qemu.command(),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-machine", f"{self.machine},memory-backend=mem", "-object", backend),
            *("-m", self.memory, "-smp", str(self.cpus), *_cpu(kvm)),
            *("-kernel", str(kernel.elf())),
            *("-initrd", str(initramfs(self._tree, kernel.modules, self.tools))),
            *("-append", self._kernel_command_line(kvm, append)),
            *self.qemu_args,
        ]

    def _kernel_command_line(self, kvm: bool, append: str) -> str:
        words = ["console=ttyS0", "panic=-1", "reboot=t", "quiet", "mitigations=off"]
        words += ["cryptomgr.notests", "rodata=off"]  # 1.2 s of self-checks under emulation
        khz = None if kvm else tsc_khz()
        if khz:
            # On a busy machine the guest's own calibration can fail.
            words += ["tsc=reliable", f"tsc_early_khz={khz}"]
        if self.modules:
            words.append("drivebay_modules=" + ",".join(self.modules))
        return " ".join([*words, append, self.append]).strip()

    def _launch(self) -> Session:
        control, guest_control = socket.socketpair()
        monitor, guest_monitor = socket.socketpair()
        self._qmp = Qmp(monitor)
        with guest_control, guest_monitor:
            lines = _lines(guest_control, guest_monitor)
            return Session(
                [*self.command(f"drivebay_control={CONTROL}"), *lines],
                control=control,
                pass_fds=(guest_control.fileno(), guest_monitor.fileno()),
                environment=self.qemu.environment,
            )

    def _forget(self) -> None:
        if self._qmp:
            self._qmp.close()
            self._qmp = None


def _cpu(kvm: bool) -> list[str]:
    if kvm:
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", "-cpu", "max,+invtsc"]


def _lines(control: socket.socket, monitor: socket.socket) -> list[str]:
    """Return the arguments for the console, the control line and the monitor, in this order."""
    return [
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=control,fd={control.fileno()}", "-serial", "chardev:control"),
        *("-chardev", f"socket,id=qmp,fd={monitor.fileno()}", "-mon", "chardev=qmp,mode=control"),
    ]

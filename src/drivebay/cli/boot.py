"""``drivebay boot``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from drivebay.cli.backend import Backend
from drivebay.cli.controllers import Words, check_servable, controller_options, parse_controllers
from drivebay.cli.errors import CliError
from drivebay.cli.floppy import FLOPPIES, floppy_option, parse_floppies
from drivebay.cli.frontends import bootable
from drivebay.cli.memory import parse_memory
from drivebay.cli.serve import metrics_option
from drivebay.cli.terminal import print_json, progress, stream
from drivebay.cli.trace import refuse_trace, trace_wish

if TYPE_CHECKING:
    from drivebay.cli.boot_pc import Host

__all__ = ["command"]

MOST_MEMORY: Final = 1 << 40
FIRMWARE = {"seabios": "seabios/bios-256k.bin", "ovmf": "OVMF/OVMF_CODE_4M.fd"}


@click.command(name="boot")
@controller_options
@floppy_option
@click.option(
    "--run",
    "script",
    metavar="COMMAND",
    help="Run a shell command in the guest; its exit status is ours.",
)
@click.option("--kernel", type=click.Path(exists=True, dir_okay=False), help="Boot this kernel.")
@click.option(
    "--initrd", type=click.Path(exists=True, dir_okay=False), help="Its initial file system."
)
@click.option("--append", default="", help="Its command line.")
@click.option(
    "--firmware", metavar="NAME|PATH", help="Boot from a disk by firmware: seabios, ovmf or a file."
)
@click.option(
    "--host",
    type=click.Choice(["qemu", "unicorn", "kvm"]),
    default="qemu",
    show_default=True,
    help="Who runs the guest: a PC in this process, with unicorn as its CPU or KVM's.",
)
@click.option(
    "--hyperv", is_flag=True, help="With --host kvm: the guest finds Hyper-V, --scsi on its bus."
)
@click.option("--kvm", "accel", flag_value="kvm", help="Use KVM.")
@click.option("--tcg", "accel", flag_value="tcg", help="Emulate the CPU.")
@click.option(
    "-m",
    "--memory",
    metavar="SIZE",
    default="512M",
    show_default=True,
    help="The guest's memory, as 2G.",
)
@click.option(
    "--cpus", type=click.IntRange(1), default=1, show_default=True, help="The guest's CPUs."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds --run, unicorn or kvm may take.",
)
@click.option(
    "--control", metavar="PATH", help="Listen there for `inspect`, `ctl` and `disk snapshot`."
)
@metrics_option
@click.option(
    "--json", "as_json", is_flag=True, help="With --run, unicorn or kvm: the outcome as JSON."
)
@click.argument("qemu_args", nargs=-1, type=click.UNPROCESSED)
def command(
    words: Words,
    floppies: Sequence[str],
    script: str | None,
    kernel: str | None,
    initrd: str | None,
    append: str,
    firmware: str | None,
    host: str,
    hyperv: bool,
    accel: str | None,
    memory: str,
    cpus: int,
    timeout: float,
    control: str | None,
    metrics: str | None,
    as_json: bool,
    qemu_args: Sequence[str],
) -> int:
    """Serve disks and start a guest on them, in one go.

    Without --kernel or --firmware it is a small Linux guest with disk tools: a shell on this
    terminal, or with --run a command whose output and exit status are the guest's.

    \b
    drivebay boot --virtio-blk mem:256M --run 'mkfs.ext4 -q /dev/vda && fsck.ext4 -f /dev/vda'
    drivebay boot --virtio-blk file:debian.img --firmware seabios -- -nic user
    drivebay boot --ahci mem:64M --run 'mkfs.ext4 -q /dev/sda && fsck.ext4 -f /dev/sda'
    drivebay boot --nvme mem:64M --run 'mkfs.ext4 -q /dev/nvme0n1 && fsck.ext4 -f /dev/nvme0n1'
    drivebay boot --scsi mem:64M --run 'mkfs.ext4 -q /dev/sda && fsck.ext4 -f /dev/sda'
    drivebay boot --host unicorn --ide file:disk.img
    drivebay boot --host kvm --kernel vmlinux --append console=ttyS0 --virtio-blk mem:64M
    """
    from drivebay.guests.qemu import find_qemu

    if kernel and firmware:
        raise CliError("--kernel and --firmware are two ways to boot", "choose one")
    if hyperv and host != "kvm":
        raise CliError(f"--hyperv with --host {host}", "--host kvm has it")
    if host != "qemu":
        from drivebay.cli import boot_pc

        if script is not None or any((accel, control, metrics, qemu_args)):
            raise CliError(
                f"--host {host} is a machine without QEMU", "it takes --firmware, -m and --timeout"
            )
        refuse_trace(words, "leave --host out")
        runner = _host(host, kernel, initrd, append, cpus, hyperv)
        controllers = parse_controllers(words, may_be_none=True, floppies=bool(floppies))
        boot_pc.check(controllers)
        rom = "" if kernel else _rom(firmware)
        disks = parse_floppies(floppies)
        judged = {text for name, text in words if name == "strict"}
        strict = bool(disks) and not judged.isdisjoint({FLOPPIES, "all"})
        wanted = boot_pc.Wanted(controllers, disks, rom, memory, timeout, as_json, strict)
        return boot_pc.boot(runner, wanted)

    # Mistakes first, before anything starts.
    if floppies:
        raise CliError("--floppy is for machines of ours", "--host unicorn has the controller")
    configs = parse_controllers(words)
    check_servable(configs)
    trace_wish(words)
    parse_memory("--memory", memory, most=MOST_MEMORY)
    if script is not None and (kernel or firmware):
        raise CliError("--run needs the guest that we know", "leave --kernel and --firmware out")
    qemu = find_qemu(progress)
    if not qemu.has_vfio_user and any(config.kind.vfio_user for config in configs):
        version = ".".join(map(str, qemu.version))
        raise CliError(f"QEMU {version} has no vfio-user-pci for PCI functions", "QEMU 10.1 has it")
    serve = [each for name, text in words for each in (f"--{name}", text)]
    serve += ["--control", control] if control else []
    serve += ["--metrics", metrics] if metrics else []
    with Backend(serve) as backend:
        arguments = backend.qemu_arguments(qemu.version)
        arguments = [*(bootable(arguments) if firmware else arguments), *qemu_args]
        common: dict[str, Any] = {"memory": memory, "cpus": cpus, "accel": accel or "auto"}
        if kernel or firmware:
            image = ["-kernel", str(kernel)] if kernel else _firmware(str(firmware))
            image += ["-initrd", initrd] if initrd else []
            image += ["-append", append] if append else []
            return _foreground([*_machine(**common), *image, *arguments])
        return _stock(script, arguments, append, timeout, as_json, common)


def _host(
    name: str, kernel: str | None, initrd: str | None, append: str, cpus: int, hyperv: bool
) -> Host:
    """Who runs the CPUs of a machine of ours."""
    if name == "unicorn":
        from drivebay.cli.boot_unicorn import UnicornHost

        if kernel or initrd or append or cpus > 1:
            raise CliError("--host unicorn runs firmware on one CPU", "--host kvm runs kernels")
        return UnicornHost()
    from drivebay.cli.boot_kvm import KvmPc, read_kernel

    if (initrd or append) and not kernel:
        raise CliError("--initrd and --append are for a kernel", "--kernel names it")
    return KvmPc(cpus, read_kernel(kernel, initrd, append) if kernel else None, hyperv)


def _rom(firmware: str | None) -> str:
    """The path of what a machine of ours begins with."""
    from drivebay.cli import boot_pc

    return boot_pc.seabios() if firmware in (None, "seabios") else _firmware_path(str(firmware))


def _stock(
    script: str | None,
    arguments: Sequence[str],
    append: str,
    timeout: float,
    as_json: bool,
    common: dict[str, Any],
) -> int:
    from drivebay.guests.initramfs import tools_for
    from drivebay.guests.linux import LinuxGuest

    guest = LinuxGuest(
        qemu_args=arguments,
        append=append,
        tools=tools_for(script or ""),
        progress=progress,
        **common,
    )
    if script is None:
        return guest.interact()
    result = guest.run_once(script, timeout=timeout, on_output=None if as_json else stream)
    if as_json:
        print_json({"status": result.status, "seconds": result.seconds, "output": result.output})
    return result.status


def _machine(memory: str, cpus: int, accel: str) -> list[str]:
    """QEMU on this terminal, with memory that can be shared."""
    from drivebay.guests.kvm import kvm_works
    from drivebay.guests.qemu import find_qemu

    kvm = accel == "kvm" or (accel == "auto" and kvm_works())
    return [
        *find_qemu(progress).command(),
        *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "mon:stdio"),
        *("-machine", "q35,memory-backend=mem", "-m", memory, "-smp", str(cpus)),
        *("-object", f"memory-backend-memfd,id=mem,size={memory},share=on"),
        *(
            ("-accel", "kvm", "-cpu", "host")
            if kvm
            else ("-accel", "tcg,thread=multi", "-cpu", "max")
        ),
    ]


def _firmware(name: str) -> list[str]:
    path = _firmware_path(name)
    if name == "ovmf":
        return ["-drive", f"if=pflash,format=raw,readonly=on,file={path}"]
    return ["-bios", path]


def _firmware_path(name: str) -> str:
    from drivebay.guests.qemu import find_qemu

    path = name
    if name in FIRMWARE:
        path = str(find_qemu(progress).firmware(FIRMWARE[name]))
    if not os.path.isfile(path):
        raise CliError(
            f"firmware {name}: there is no such file", f"or one of {', '.join(FIRMWARE)}"
        )
    return path


def _foreground(command_line: Sequence[str]) -> int:
    """Run QEMU to its end. It ends when this process does, however it does."""
    from drivebay.guests.process import Leash
    from drivebay.guests.qemu import find_qemu

    environment = {**os.environ, **find_qemu(progress).environment}
    process = subprocess.Popen(command_line, env=environment)
    leash = Leash(process.pid)
    try:
        return process.wait()
    finally:
        process.kill()
        process.wait()
        leash.go()

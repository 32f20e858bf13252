"""``drivebay boot --host kvm --hyperv``, with a kernel that asks for Hyper-V and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drivebay.cli.main import main
from tests.emulator.test_cli import EXIT_7, image

from .test_cli import boot, kernel

# CPUID's interface; then a name, a hypercall page, and two calls through it that end with an error.
ASK = (
    "B801000040 0FA2"  # mov eax, 40000001h; cpuid
    "BAF8030000 EE C1E808 EE C1E808 EE C1E808 EE"  # four bytes to the serial port
    "B900000040 B801000000 31D2 0F30"  # wrmsr GUEST_OS_ID, 1
    "B901000040 B801001001 0F30"  # wrmsr HYPERCALL, 1100000h and enabled
    "BC00002001 BB00001001"  # mov esp, 1200000h; mov ebx, 1100000h
    "B934120000 FFD3"  # mov ecx, 1234h; call rbx
    "0430 BAF8030000 EE"  # add al, '0'; to the serial port
    "B95D000100 BA03000000 FFD3"  # signal event, fast; connection 3; call rbx
    "0430 BAF8030000 EE"
    "B003 E6F4 F4"
)


@pytest.mark.usefixtures("kvm")
def test_a_kernel_finds_hyperv(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """KVM has registers of these numbers, too: they are ours here, and so is the page."""
    image = tmp_path / "vmlinux"
    image.write_bytes(kernel(ASK))
    disks = ["--scsi", "mem:1M", "--scsi", "mem:1M", "--ide", "mem:1M"]
    assert boot("--hyperv", "--kernel", str(image), "--cpus", "2", "--json", *disks) == 3
    outcome = json.loads(capfd.readouterr().out)
    assert outcome["serial"] == "Hv#1" + "2" + chr(ord("0") + 18), "code, connection: none such"


@pytest.mark.usefixtures("kvm", "seabios")
def test_firmware_boots_a_disk_that_has_an_accelerator(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert boot("--hyperv", "--ide", image(tmp_path, then=EXIT_7), "--json") == 7
    debug = json.loads(capfd.readouterr().out)["debug"]
    assert "Copying SMBIOS 3.0" in debug


def test_what_cannot_have_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for line, reason in (
        (["--host", "unicorn", "--hyperv", "--ide", "mem:1M"], "--hyperv with --host unicorn"),
        (["--hyperv", "--scsi", "mem:1M"], "--hyperv with --host qemu"),
    ):
        assert main(["boot", *line]) == 1
        assert reason in capfd.readouterr().err

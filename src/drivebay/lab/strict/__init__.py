"""A stricter device than any: what drivers may not do is told, with the section that says so."""

from __future__ import annotations

from dataclasses import replace

from drivebay.controllers.ahci import Ahci
from drivebay.controllers.floppy import FloppyController
from drivebay.controllers.floppy.ports import FloppyPorts
from drivebay.controllers.ide import PiixIde
from drivebay.controllers.ide.channel import Channel
from drivebay.controllers.ide.piix import BUS_MASTER_BAR
from drivebay.controllers.nvme import Nvme
from drivebay.controllers.virtio.pci import PciRegisterBlock
from drivebay.lab.strict.ahci import AhciJudge
from drivebay.lab.strict.floppy import FloppyJudge
from drivebay.lab.strict.ide import BusMasterJudge, CommandBlockJudge, ControlBlockJudge
from drivebay.lab.strict.judge import DriverSin, Judge, JudgedPorts, Rule, Sin, Sins, judged
from drivebay.lab.strict.nvme import NvmeJudge
from drivebay.lab.strict.virtio import VirtioJudge
from drivebay.platform.pci import PciFunction
from drivebay.platform.ports import PortRegion, PortSpace

__all__ = [
    "JUDGES",
    "AhciJudge",
    "BusMasterJudge",
    "CommandBlockJudge",
    "ControlBlockJudge",
    "DriverSin",
    "FloppyJudge",
    "Judge",
    "NvmeJudge",
    "Rule",
    "Sin",
    "Sins",
    "VirtioJudge",
    "be_strict",
    "be_strict_with_floppies",
    "judged",
]

JUDGES = (
    NvmeJudge,
    AhciJudge,
    CommandBlockJudge,
    ControlBlockJudge,
    BusMasterJudge,
    VirtioJudge,
    FloppyJudge,
)


def be_strict(function: PciFunction, sins: Sins, name: str = "") -> None:
    """Judge who drives `function`, from before it gets a place on a bus or a host."""
    if isinstance(function, Nvme):
        _judge(function, 0, NvmeJudge(function.controller, sins, name or "nvme"))
    elif isinstance(function, Ahci):
        _judge(function, 5, AhciJudge(function.hba, sins, name or "ahci"))
    elif isinstance(function, PiixIde):
        for channel in function.channels:
            _judge_channel(function, channel, sins, name or "ide")
        _judge(function, BUS_MASTER_BAR, BusMasterJudge(function.channels, sins, name or "ide"))
    else:
        for index, bar in tuple(function.bars.items()):
            if isinstance(bar.region, PciRegisterBlock):
                _judge(function, index, VirtioJudge(bar.region, sins, name or "virtio"))


def be_strict_with_floppies(
    controller: FloppyController, ports: PortSpace, sins: Sins, name: str = "floppy"
) -> None:
    """Judge who drives `controller` by its places in `ports`."""
    judge = FloppyJudge(controller, sins, name)

    def wrapper(region: PortRegion) -> PortRegion:
        return JudgedPorts(judge, region) if isinstance(region, FloppyPorts) else region

    ports.wrap(wrapper)


def _judge(function: PciFunction, index: int, judge: Judge) -> None:
    bar = function.bars[index]
    assert bar.region is not None
    function.bars[index] = replace(bar, region=judged(judge, bar.region))


def _judge_channel(function: PiixIde, channel: Channel, sins: Sins, name: str) -> None:
    """By its ports in compatibility mode, and by its BARs in native mode."""
    command = CommandBlockJudge(channel, sins, name)
    control, wide = (ControlBlockJudge(channel, sins, at, name) for at in (0, 2))
    channel.command_ports = JudgedPorts(command, channel.command_ports)
    channel.control_ports = JudgedPorts(control, channel.control_ports)
    native = 2 * channel.number
    if native in function.bars:
        _judge(function, native, command)
        _judge(function, native + 1, wide)

"""Watching and tormenting: what is done to a controller from outside, by observers on its core."""

from drivebay.lab.faults import Faults, Firing
from drivebay.lab.language import load_rules, parse_rule, parse_rules
from drivebay.lab.nvme import NVME, NvmeFaults
from drivebay.lab.rules import Match, Rule, Subject

__all__ = [
    "NVME",
    "Faults",
    "Firing",
    "Match",
    "NvmeFaults",
    "Rule",
    "Subject",
    "load_rules",
    "parse_rule",
    "parse_rules",
]

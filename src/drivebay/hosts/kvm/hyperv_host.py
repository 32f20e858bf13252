"""Hyper-V under the guest of a KVM host."""

from __future__ import annotations

from drivebay.hosts.cpu import CpuError
from drivebay.hosts.kvm.host import KvmHost
from drivebay.hosts.kvm.hyperv import Hyperv

__all__ = ["put_hyperv"]


def put_hyperv(host: KvmHost) -> Hyperv:
    """Have the guest of `host` find Hyper-V in place of KVM; before its first run."""
    hyperv = Hyperv(host.board.memory, host.signal_msi, processors=host.cpus, tsc=_Tsc(host))
    host.paravirtual = hyperv
    return hyperv


class _Tsc:
    """The counters of a host's CPUs, when it has them."""

    def __init__(self, host: KvmHost) -> None:
        self._host = host

    @property
    def hz(self) -> int:
        """Raises `CpuError` if KVM does not say."""
        khz = self._host.vcpus[0].tsc_khz()
        if not khz:
            raise CpuError("this KVM does not say how fast the time stamp counter is")
        return 1000 * khz

    def now(self, vp: int) -> int:
        """It is asked in an exit of this CPU."""
        return self._host.vcpus[vp].tsc()

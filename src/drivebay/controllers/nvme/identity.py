"""What IDENTIFY gives (NVMe Base 2.0 section 5.17.2, NVM Command Set 1.0 section 4.1.5)."""

from __future__ import annotations

import enum
from typing import Annotated

from drivebay.wire import U8, U16, U32, U64, Bit, Bits, Register8, Register16, Register32, Struct

__all__ = [
    "CTRATT",
    "DLFEAT",
    "FNA",
    "LBAF",
    "LPA",
    "NSFEAT",
    "OACS",
    "OAES",
    "ONCS",
    "SANICAP",
    "SGLS",
    "VWC",
    "DescriptorType",
    "IdentifyController",
    "IdentifyNamespace",
    "NamespaceIndependent",
    "NvmCommandSetController",
    "PowerState",
]


class OAES(Register32):
    """Asynchronous events there are."""

    FirmwareActivation = Bit(9)
    NamespaceAttributes = Bit(8)


class CTRATT(Register32):
    """Attributes of the controller."""

    TBKAS = Bit(6)  # keep alive by any traffic
    HostId128 = Bit(0)


class OACS(Register16):
    """Optional admin commands."""

    DoorbellBufferConfig = Bit(8)
    NamespaceManagement = Bit(3)
    Firmware = Bit(2)
    FormatNvm = Bit(1)


class LPA(Register8):
    """Log pages."""

    ExtendedData = Bit(2)  # offsets
    CommandEffects = Bit(1)


class SANICAP(Register32):
    """Ways to sanitize."""

    BlockErase = Bit(1)


class ONCS(Register16):
    """Optional NVM commands."""

    Copy = Bit(8)
    Verify = Bit(7)
    Timestamp = Bit(6)
    Reservations = Bit(5)
    SaveAndSelect = Bit(4)
    WriteZeroes = Bit(3)
    DatasetManagement = Bit(2)
    WriteUncorrectable = Bit(1)
    Compare = Bit(0)


class FNA(Register8):
    """Whether FORMAT NVM is about all namespaces."""

    CryptoErase = Bit(2)
    EraseAll = Bit(1)
    FormatAll = Bit(0)


class VWC(Register8):
    """The volatile write cache."""

    FlushAll = Bits(2, 1)  # FLUSH of all namespaces: 2 no, 3 yes
    Present = Bit(0)


class SGLS(Register32):
    """SGLs."""

    Supported = Bits(1, 0)  # 1: at any byte


class NSFEAT(Register8):
    """Features of a namespace."""

    OPTPERF = Bit(4)  # the preferred granularities are valid
    NSABP = Bit(1)
    THINP = Bit(0)


class DLFEAT(Register8):
    """Deallocated blocks."""

    WriteZeroesDeallocates = Bit(3)
    Reads = Bits(2, 0)  # 0: who knows, 1: zeroes


class LBAF(Register32):
    """An LBA format."""

    RP = Bits(25, 24)  # relative performance: 0 is best
    LBADS = Bits(23, 16)  # blocks of 2^n bytes
    MS = Bits(15, 0)  # metadata


class DescriptorType(enum.IntEnum):
    """In the list of namespace identification descriptors."""

    EUI64 = 1
    NGUID = 2
    UUID = 3
    CSI = 4


class PowerState(Struct, size=32):
    """A power state descriptor."""

    max_power: U16  # in units of 10 mW
    reserved: Annotated[bytes, "30s"] = b""


class IdentifyController(Struct, size=4096):
    """CNS 01h (figure 275)."""

    vid: U16 = 0
    ssvid: U16 = 0
    sn: Annotated[bytes, "20s"] = b""
    mn: Annotated[bytes, "40s"] = b""
    fr: Annotated[bytes, "8s"] = b""
    rab: U8 = 0
    ieee: Annotated[bytes, "3s"] = b""
    cmic: U8 = 0
    mdts: U8 = 0
    cntlid: U16 = 0
    ver: U32 = 0
    rtd3r: U32 = 0
    rtd3e: U32 = 0
    oaes: U32 = 0
    ctratt: U32 = 0
    rrls: U16 = 0
    reserved_102: Annotated[bytes, "9s"] = b""
    cntrltype: U8 = 0
    fguid: Annotated[bytes, "16s"] = b""
    reserved_128: Annotated[bytes, "128s"] = b""
    oacs: U16 = 0
    acl_z: U8 = 0
    aerl_z: U8 = 0
    frmw: U8 = 0
    lpa: U8 = 0
    elpe_z: U8 = 0
    npss_z: U8 = 0
    avscc: U8 = 0
    apsta: U8 = 0
    wctemp: U16 = 0
    cctemp: U16 = 0
    mtfa: U16 = 0
    hmpre: U32 = 0
    hmmin: U32 = 0
    tnvmcap: Annotated[bytes, "16s"] = b""
    unvmcap: Annotated[bytes, "16s"] = b""
    rpmbs: U32 = 0
    edstt: U16 = 0
    dsto: U8 = 0
    fwug: U8 = 0
    kas: U16 = 0
    hctma: U16 = 0
    mntmt: U16 = 0
    mxtmt: U16 = 0
    sanicap: U32 = 0
    reserved_332: Annotated[bytes, "180s"] = b""
    sqes: U8 = 0
    cqes: U8 = 0
    maxcmd: U16 = 0
    nn: U32 = 0
    oncs: U16 = 0
    fuses: U16 = 0
    fna: U8 = 0
    vwc: U8 = 0
    awun_z: U16 = 0
    awupf_z: U16 = 0
    icsvscc: U8 = 0
    nwpc: U8 = 0
    acwu_z: U16 = 0
    cdfs: U16 = 0
    sgls: U32 = 0
    mnan: U32 = 0
    reserved_544: Annotated[bytes, "224s"] = b""
    subnqn: Annotated[bytes, "256s"] = b""
    reserved_1024: Annotated[bytes, "1024s"] = b""
    psd0: Annotated[bytes, "32s"] = b""
    reserved_2080: Annotated[bytes, "2016s"] = b""


class IdentifyNamespace(Struct, size=4096):
    """CNS 00h (NVM Command Set 1.0 figure 97)."""

    nsze: U64 = 0
    ncap: U64 = 0
    nuse: U64 = 0
    nsfeat: U8 = 0
    nlbaf_z: U8 = 0
    flbas: U8 = 0
    mc: U8 = 0
    dpc: U8 = 0
    dps: U8 = 0
    nmic: U8 = 0
    rescap: U8 = 0
    fpi: U8 = 0
    dlfeat: U8 = 0
    nawun_z: U16 = 0
    nawupf_z: U16 = 0
    nacwu_z: U16 = 0
    nabsn: U16 = 0
    nabo: U16 = 0
    nabspf: U16 = 0
    noiob: U16 = 0
    nvmcap: Annotated[bytes, "16s"] = b""
    npwg_z: U16 = 0
    npwa_z: U16 = 0
    npdg_z: U16 = 0
    npda_z: U16 = 0
    nows_z: U16 = 0
    mssrl: U16 = 0
    mcl: U32 = 0
    msrc_z: U8 = 0
    reserved_81: Annotated[bytes, "11s"] = b""
    anagrpid: U32 = 0
    reserved_96: Annotated[bytes, "3s"] = b""
    nsattr: U8 = 0
    nvmsetid: U16 = 0
    endgid: U16 = 0
    nguid: Annotated[bytes, "16s"] = b""
    eui64: Annotated[bytes, "8s"] = b""
    lbaf: Annotated[bytes, "256s"] = b""
    reserved_384: Annotated[bytes, "3712s"] = b""


class NamespaceIndependent(Struct, size=4096):
    """CNS 08h (figure 280)."""

    nsfeat: U8 = 0
    nmic: U8 = 0
    rescap: U8 = 0
    fpi: U8 = 0
    anagrpid: U32 = 0
    nsattr: U8 = 0
    reserved_9: U8 = 0
    nvmsetid: U16 = 0
    endgid: U16 = 0
    nstat: U8 = 0  # bit 0: ready
    reserved_15: Annotated[bytes, "4081s"] = b""


class NvmCommandSetController(Struct, size=4096):
    """CNS 06h, command set 0 (NVM Command Set 1.0 figure 101); sizes are 2^n pages, 0 for any."""

    vsl: U8 = 0  # of Verify
    wzsl: U8 = 0  # of Write Zeroes
    wusl: U8 = 0  # of Write Uncorrectable
    dmrl: U8 = 0  # ranges of Dataset Management,
    dmrsl: U32 = 0  # blocks of one,
    dmsl: U64 = 0  # and of all
    reserved_16: Annotated[bytes, "4080s"] = b""

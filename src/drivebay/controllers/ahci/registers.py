"""The registers of an AHCI host bus adapter (AHCI 1.3.1 section 3)."""

from __future__ import annotations

import enum

from drivebay.wire import At, Bit, Bits, Register8, Register16, Register32, RegisterMap

__all__ = [
    "BOHC",
    "CAP",
    "CAP2",
    "GHC",
    "PORTS_AT",
    "PORT_SIZE",
    "AhciConfig",
    "CccCtl",
    "Communication",
    "Detection",
    "GenericRegisters",
    "PortRegisters",
    "PowerState",
    "PxCMD",
    "PxIE",
    "PxIS",
    "PxSCTL",
    "PxSERR",
    "PxSSTS",
    "PxTFD",
    "Speed",
]

PORTS_AT = 0x100
PORT_SIZE = 0x80


class Speed(enum.IntEnum):
    """Of a link."""

    NONE = 0
    GEN1 = 1  # 1.5 Gb/s
    GEN2 = 2
    GEN3 = 3


class Detection(enum.IntEnum):
    """PxSSTS.DET; of PxSCTL.DET, 1 resets the link and 4 switches it off."""

    NOTHING = 0
    NO_COMMUNICATION = 1
    ESTABLISHED = 3
    OFFLINE = 4


class PowerState(enum.IntEnum):
    """PxSSTS.IPM: how awake the link is."""

    NONE = 0
    ACTIVE = 1
    PARTIAL = 2
    SLUMBER = 6
    DEV_SLEEP = 8


class Communication(enum.IntEnum):
    """PxCMD.ICC: what the link is asked to become."""

    IDLE = 0
    ACTIVE = 1
    PARTIAL = 2
    SLUMBER = 6
    DEV_SLEEP = 8


class CAP(Register32):
    """What the adapter can do (section 3.1.1)."""

    S64A = Bit(31)  # 64-bit addresses
    SNCQ = Bit(30)  # native command queuing
    SSNTF = Bit(29)  # SNotification
    SMPS = Bit(28)  # mechanical presence switches
    SSS = Bit(27)  # staggered spin-up
    SALP = Bit(26)  # aggressive link power management
    SAL = Bit(25)  # activity LED
    SCLO = Bit(24)  # command list override
    ISS = Bits(23, 20, Speed)  # the fastest
    SAM = Bit(18)  # AHCI only, no legacy interface
    SPM = Bit(17)  # port multipliers
    FBSS = Bit(16)  # FIS-based switching
    PMD = Bit(15)  # PIO blocks of several sectors
    SSC = Bit(14)  # slumber
    PSC = Bit(13)  # partial
    NCS_z = Bits(12, 8)  # command slots
    CCCS = Bit(7)  # command completion coalescing
    EMS = Bit(6)  # enclosure management
    SXS = Bit(5)  # external SATA
    NP_z = Bits(4, 0)  # ports


class GHC(Register32):
    """Global control (section 3.1.2)."""

    AE = Bit(31)  # AHCI enabled
    MRSM = Bit(2)  # one message for all, though more were asked for
    IE = Bit(1)  # interrupts
    HR = Bit(0)  # reset


class CccCtl(Register32):
    """Command completion coalescing (section 3.1.6)."""

    TV = Bits(31, 16)  # milliseconds
    CC = Bits(15, 8)  # completions; 0: only time counts
    INT = Bits(7, 3)  # the bit of IS
    EN = Bit(0)


class CAP2(Register32):
    """What else it can do (section 3.1.10)."""

    DESO = Bit(5)
    SADM = Bit(4)
    SDS = Bit(3)  # device sleep
    APST = Bit(2)
    NVMP = Bit(1)
    BOH = Bit(0)  # BIOS/OS handoff


class BOHC(Register32):
    """Who owns the adapter (section 3.1.11)."""

    BB = Bit(4)  # the firmware is busy
    OOC = Bit(3)  # ownership has changed
    SOOE = Bit(2)  # and the firmware wants to know
    OOS = Bit(1)  # the system owns it
    BOS = Bit(0)  # the firmware does


class GenericRegisters(RegisterMap):
    """Generic host control, at the start of BAR5."""

    CAP = At(0x00, CAP)
    GHC = At(0x04, GHC)
    IS = At(0x08, Register32)
    PI = At(0x0C, Register32)
    VS = At(0x10, Register32)
    CCC_CTL = At(0x14, CccCtl)
    CCC_PORTS = At(0x18, Register32)
    EM_LOC = At(0x1C, Register32)
    EM_CTL = At(0x20, Register32)
    CAP2 = At(0x24, CAP2)
    BOHC = At(0x28, BOHC)


class PxIS(Register32):
    """What happened at a port (section 3.3.5)."""

    CPDS = Bit(31)  # cold presence detect
    TFES = Bit(30)  # the drive says ERR
    HBFS = Bit(29)  # no such memory
    HBDS = Bit(28)  # memory is broken
    IFS = Bit(27)  # the link failed, and a transfer with it
    INFS = Bit(26)  # the link failed, but went on
    OFS = Bit(24)  # more data than the table has room for
    IPMS = Bit(23)  # wrong port of a port multiplier
    PRCS = Bit(22)  # PhyRdy changed: PxSERR.N
    DMPS = Bit(7)  # mechanical presence switch
    PCS = Bit(6)  # a drive connected: PxSERR.X
    DPS = Bit(5)  # a region with the I bit has been used up
    UFS = Bit(4)  # unknown FIS: PxSERR.F
    SDBS = Bit(3)  # Set Device Bits FIS
    DSS = Bit(2)  # DMA Setup FIS
    PSS = Bit(1)  # PIO Setup FIS
    DHRS = Bit(0)  # device to host register FIS


class PxIE(PxIS):
    """What of it interrupts (section 3.3.6)."""


class PxCMD(Register32):
    """Command and status of a port (section 3.3.7)."""

    ICC = Bits(31, 28, Communication)
    ASP = Bit(27)  # of ALPM: slumber, not partial
    ALPE = Bit(26)  # aggressive link power management
    DLAE = Bit(25)  # LED for packet devices, too
    ATAPI = Bit(24)  # the LED's, not ours
    APSTE = Bit(23)
    FBSCP = Bit(22)
    ESP = Bit(21)  # external
    CPD = Bit(20)
    MPSP = Bit(19)
    HPCP = Bit(18)  # hot plug
    PMA = Bit(17)  # a port multiplier is attached
    CPS = Bit(16)
    CR = Bit(15)  # the command list is running
    FR = Bit(14)  # FISes are received
    MPSS = Bit(13)
    CCS = Bits(12, 8)  # the slot of the command under way
    FRE = Bit(4)  # receive FISes
    CLO = Bit(3)  # command list override: clear BSY and DRQ
    POD = Bit(2)  # power on
    SUD = Bit(1)  # spin up
    ST = Bit(0)  # start


class PxTFD(Register32):
    """The drive's status and error, as the last FIS said (section 3.3.8)."""

    ERR = Bits(15, 8)
    STS = Bits(7, 0)


class PxSSTS(Register32):
    """SStatus: the link as it is (section 3.3.10)."""

    IPM = Bits(11, 8, PowerState)
    SPD = Bits(7, 4, Speed)
    DET = Bits(3, 0, Detection)


class PxSCTL(Register32):
    """SControl: the link as it shall be (section 3.3.11)."""

    IPM = Bits(11, 8)  # bit 0 forbids partial, bit 1 slumber
    SPD = Bits(7, 4, Speed)  # at most; 0 for any
    DET = Bits(3, 0, Detection)


class PxSERR(Register32):
    """SError: diagnostics, then errors (section 3.3.12)."""

    X = Bit(26)  # exchanged: a drive has connected
    F = Bit(25)  # unknown FIS
    T = Bit(24)  # transport state
    S = Bit(23)  # link sequence
    H = Bit(22)  # handshake: R_ERR came back
    C = Bit(21)  # CRC
    D = Bit(20)  # disparity
    B = Bit(19)  # 10b to 8b
    W = Bit(18)  # wake
    I = Bit(17)  # noqa: E741  # Phy internal
    N = Bit(16)  # PhyRdy changed
    E = Bit(11)  # internal
    P = Bit(10)  # protocol
    C_ERR = Bit(9)  # persistent communication
    T_ERR = Bit(8)  # transient data integrity
    M = Bit(1)  # recovered communication
    I_ERR = Bit(0)  # recovered data integrity


class PortRegisters(RegisterMap):
    """One port's, at 0x100 and every 0x80."""

    PxCLB = At(0x00, Register32)
    PxCLBU = At(0x04, Register32)
    PxFB = At(0x08, Register32)
    PxFBU = At(0x0C, Register32)
    PxIS = At(0x10, PxIS)
    PxIE = At(0x14, PxIE)
    PxCMD = At(0x18, PxCMD)
    PxTFD = At(0x20, PxTFD)
    PxSIG = At(0x24, Register32)
    PxSSTS = At(0x28, PxSSTS)
    PxSCTL = At(0x2C, PxSCTL)
    PxSERR = At(0x30, PxSERR)
    PxSACT = At(0x34, Register32)
    PxCI = At(0x38, Register32)
    PxSNTF = At(0x3C, Register32)
    PxFBS = At(0x40, Register32)
    PxDEVSLP = At(0x44, Register32)


class MAP(Register8):
    """How the function shows itself (ICH9 section 14.1.30)."""

    SMS = Bits(7, 6)  # 1: AHCI


class AhciConfig(RegisterMap):
    """The configuration space of an ICH9 that drivers look at."""

    MAP = At(0x90, MAP)
    PCS = At(0x92, Register16)  # ports enabled, and present

"""IDE: two channels of two drives, bus-master DMA, and the PIIX function that carries them."""

from drivebay.controllers.ide.channel import Channel
from drivebay.controllers.ide.piix import PIIX3, PIIX4, PIIX4_NATIVE, PiixIde

__all__ = ["PIIX3", "PIIX4", "PIIX4_NATIVE", "Channel", "PiixIde"]

"""Record what comes to a PCI function, and replay it without the guest that it came from."""

from drivebay.lab.replay.log import Recording, RecordingError, cut
from drivebay.lab.replay.player import Divergence, Player
from drivebay.lab.replay.recorder import Recorder

__all__ = ["Divergence", "Player", "Recorder", "Recording", "RecordingError", "cut"]

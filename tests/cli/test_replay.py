"""``--record`` and ``drivebay lab replay``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from drivebay.cli.errors import CliError
from drivebay.cli.main import main
from drivebay.cli.recording import record, replay
from drivebay.lab.replay import Recording
from drivebay.lab.replay.log import Log
from drivebay.platform.engine import Engine
from drivebay.platform.pci import Header
from drivebay.platform.ports import PortRegion

from .support import parse


def recorded(path: Path, **texts: list[str]) -> Path:
    """A recording of a little that a guest does to the controller that `texts` describe."""
    [controller] = parse(**texts, record=[str(path)])
    engine = Engine(workers=0)
    recorder, controller = record(controller, engine)
    function, places, _ = controller.kind.serve.make(  # type: ignore[attr-defined]
        controller, recorder.memory, recorder.engine
    )
    shown = recorder.show(function)
    shown.config_read(Header.VendorID.offset, 4)
    for bar in function.bars.values():
        if bar.region is not None and not isinstance(bar.region, PortRegion):
            bar.region.mmio_read(0, 4)
    recorder.close()
    for disk in places.disks:
        disk.close()
    engine.close()
    return path


@pytest.mark.parametrize("option", ["nvme", "ahci", "ide", "scsi_pci"])
def test_every_function_is_made_again(tmp_path: Path, option: str) -> None:
    path = recorded(tmp_path / "it.dbreplay", **{option: ["mem:1M", "mem:2M,ro"]})
    recording = Recording(path)
    assert "mem:2M" not in str(recording.header)
    assert replay(recording) > 3


def test_a_virtio_disk(tmp_path: Path) -> None:
    assert replay(Recording(recorded(tmp_path / "it.dbreplay", virtio_blk_pci=["mem:1M"]))) > 3


def test_its_faults_are_in_it(tmp_path: Path) -> None:
    path = recorded(tmp_path / "it.dbreplay", nvme=["mem:1M"], fault=["read,nth=3:drop"])
    assert ["fault", "read,nth=3:drop"] in Recording(path).header["words"]
    assert replay(Recording(path))


def test_which_controller(tmp_path: Path) -> None:
    two = {"nvme": ["mem:1M"], "ahci": ["mem:1M"]}
    with pytest.raises(CliError, match="which controller") as caught:
        parse(**two, record=["x"])
    assert caught.value.hint == "ahci=x or nvme=x"
    with pytest.raises(CliError, match="which controller"):
        parse(virtio_blk=["mem:1M"], record=["x"])
    assert [each.record for each in parse(**two, record=["nvme=x"])] == [None, "x"]


def test_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded(tmp_path / "it.dbreplay", nvme=["mem:1M"])
    assert main(["lab", "replay", str(path)]) == 0
    assert "all of them the same" in capsys.readouterr().out
    assert main(["lab", "replay", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] is None


def test_a_difference_becomes_a_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, test = recorded(tmp_path / "it.dbreplay", nvme=["mem:1M"]), tmp_path / "test_again.py"
    recording, other = Recording(path), tmp_path / "other.dbreplay"
    log = Log(other, recording.header)
    for entry in recording:
        log(*(("value", 7) if entry[0] == "value" else entry))
    log.close()
    assert main(["lab", "replay", str(other), "--pytest", str(test)]) == 1
    assert "recorded was value 7, now value" in capsys.readouterr().out
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert again.returncode == 1 and "Divergence" in again.stdout, again.stdout
    cut = Recording(tmp_path / "again.dbreplay")
    assert [entry[0] for entry in cut][-1] == "value"


def test_a_name_that_pytest_does_not_find(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recorded(tmp_path / "it.dbreplay", nvme=["mem:1M"])
    assert main(["lab", "replay", str(path), "--pytest", str(tmp_path / "it.py")]) == 1
    assert "test_NAME.py" in capsys.readouterr().err


def test_no_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "replay", str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err

"""What the next server must do for a guest whose server died."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from drivebay.controllers.virtio.registers import CONFIG_WRITEBACK
from drivebay.disk.backends.file import FileDisk
from drivebay.hosts.peer import Notifier
from drivebay.hosts.vhost_user.messages import Request
from drivebay.testing import FrontEnd
from drivebay.testing.vhost_user import readable

from .conftest import MakeBay


def interrupted(guest: FrontEnd) -> bool:
    return bool(readable(guest.calls, 0))


def test_an_interrupt_that_was_lost_with_its_server_comes_from_the_next(
    make_bay: MakeBay, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the used index and the eventfd: the answer is there, and nobody says so."""
    first, second = make_bay(), make_bay()
    with first.guest(packed=packed) as guest:
        guest.write(0, bytes(512))
        while interrupted(guest):
            guest.acknowledge()
        with monkeypatch.context() as dying:
            dying.setattr(Notifier, "notify", lambda self: None)
            guest.submit(0, 0, 512)
            first.settle()
        assert not interrupted(guest)
        guest.reconnect(second.path)
        second.settle()
        assert interrupted(guest)


@pytest.mark.parametrize("order", ["area first", "features first"])
def test_a_write_cache_that_was_switched_off_stays_off(
    make_bay: MakeBay, tmp_path: object, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU before 5.2 hands over the in-flight area before it says the features."""
    disks = [FileDisk(f"{tmp_path}/{n}.img", create=1 << 20) for n in range(2)]
    first, second = (make_bay(disk) for disk in disks)
    with first.guest() as guest:
        guest.write_config(CONFIG_WRITEBACK, b"\0")
        guest.write(0, bytes(512))
        if order == "area first":
            tell = guest.tell

            def tell_area_first(
                request: int, payload: bytes = b"", fds: Sequence[int] = ()
            ) -> None:
                if request == Request.SET_FEATURES:
                    guest.share_inflight()
                tell(request, payload, fds)

            monkeypatch.setattr(guest, "tell", tell_area_first)
        guest.reconnect(second.path)
        guest.write(0, bytes(512))
        assert not second.device.writeback

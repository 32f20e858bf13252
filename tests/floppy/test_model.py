"""A disk against a bytearray with a geometry: whatever a guest asks for, both say the same."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from drivebay.controllers.floppy import MEDIA, FloppyDrive, Medium
from drivebay.controllers.floppy.registers import Opcode
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.floppy import FloppyError, Via
from drivebay.platform.engine import Engine

from .support import Bench, content, noise

MT, SK, MFM = 0x80, 0x20, 0x40


class Model(RuleBasedStateMachine):
    """Commands of the driver, and what the data sheet makes of them sector by sector."""

    @initialize(medium=st.sampled_from(MEDIA))
    def begin(self, medium: Medium) -> None:
        self.engine = Engine(workers=0)
        self.medium = medium
        self.disk = RamDisk(medium.byte_count)
        self.sectors = bytearray(medium.byte_count)
        self.deleted: set[int] = set()
        self.bench = Bench(self.engine, [FloppyDrive(self.disk)])
        self.drive = self.bench.disk(medium=medium)

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.disk.close()
            self.engine.close()

    @rule(
        via=st.sampled_from(Via),
        track=st.integers(0, 5),
        sector=st.integers(1, 36),
        count=st.integers(1, 40),
        seed=st.integers(0, 9),
        deleted=st.booleans(),
    )
    def write(
        self, via: Via, track: int, sector: int, count: int, seed: int, deleted: bool
    ) -> None:
        block = track * self.medium.sectors + (sector - 1) % self.medium.sectors
        data = noise(count * 512, seed)
        self.drive.via = via
        opcode = Opcode.WRITE_DELETED_DATA if deleted else Opcode.WRITE_DATA
        self.drive.write(block, data, opcode)
        self.sectors[block * 512 : block * 512 + len(data)] = data
        blocks = range(block, block + count)
        self.deleted = self.deleted | {*blocks} if deleted else self.deleted - {*blocks}

    @rule(
        via=st.sampled_from(Via),
        track=st.integers(0, 5),
        sector=st.integers(1, 36),
        count=st.integers(1, 40),
        modifiers=st.sampled_from([0, MT, SK, MT | SK]),
        deleted=st.booleans(),
        eot=st.integers(0, 40),
    )
    def read(
        self,
        via: Via,
        track: int,
        sector: int,
        count: int,
        modifiers: int,
        deleted: bool,
        eot: int,
    ) -> None:
        """READ DATA and READ DELETED DATA with any parameters; result and data are foreseen."""
        cylinder, head = divmod(track, 2)
        drive, driver = self.drive, self.drive.driver
        driver.use(via)
        drive.seek(cylinder, head)
        opcode = Opcode.READ_DELETED_DATA if deleted else Opcode.READ_DATA
        wanted = 1000 if via is Via.PIO else count
        data, failed = self._foreseen(cylinder, head, sector, eot, modifiers, deleted, wanted)
        parameters = (cylinder, head, sector, 2, eot, 0x1B, 0xFF)
        try:
            _, found = driver.transfer(
                opcode | modifiers | MFM, head << 2, *parameters, size=count * 512
            )
            assert not failed or (via is Via.PIO and failed == 0x80)
            assert found[: len(data)] == data[: len(found)]
        except FloppyError as error:
            assert error.st1 == failed

    def _foreseen(
        self, c: int, h: int, r: int, eot: int, modifiers: int, deleted: bool, wanted: int
    ) -> tuple[bytes, int]:
        """Sector by sector: the data, and ST1."""
        data = bytearray()
        while True:
            if not 1 <= r <= self.medium.sectors:
                return bytes(data), 0x04
            block = self.medium.block(c, h, r)
            other = (block in self.deleted) != deleted
            if not (other and modifiers & SK):
                data += self.sectors[block * 512 : block * 512 + 512]
                if other or len(data) == wanted * 512:
                    return bytes(data), 0
            if r != eot:
                r += 1
            elif modifiers & MT and h == 0:
                h, r = 1, 1
            else:
                return bytes(data), 0x80

    @rule(track=st.integers(0, 5), fill=st.integers(0, 255), via=st.sampled_from(Via))
    def format(self, track: int, fill: int, via: Via) -> None:
        cylinder, head = divmod(track, 2)
        count = self.medium.sectors
        self.drive.driver.use(via)
        self.drive.seek(cylinder, head)
        ids = b"".join(bytes((cylinder, head, r, 2)) for r in range(count, 0, -1))
        self.drive.driver.transfer(
            Opcode.FORMAT_TRACK | MFM, head << 2, 2, count, 0x6C, fill, data=ids
        )
        start = track * count
        self.sectors[start * 512 : (start + count) * 512] = bytes((fill,)) * (count * 512)
        self.deleted -= {*range(start, start + count)}

    @rule()
    def change(self) -> None:
        """Out and in again: marks are lost, as an image has no place for them."""
        assert self.bench.fdc.eject(0) is self.disk
        self.bench.fdc.insert(0, self.disk)
        self.deleted.clear()

    @rule()
    def restore(self) -> None:
        """Another controller goes on."""
        self.bench = self.bench.saved_and_restored()
        self.drive = self.bench.disk(medium=self.medium)

    @invariant()
    def same(self) -> None:
        if hasattr(self, "disk"):
            assert content(self.disk) == self.sectors


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)

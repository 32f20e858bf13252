"""All of the command set, by three routes, against one model.

Three controllers have the same four drives. One is worked through the legacy ports only, one by its
bus master, one by enlightened INT 13h; what a route cannot do goes through the ports. Each command
goes to all three: they must answer alike, and as the model does (model.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from drivebay.ata.disk import AtaDisk
from drivebay.ata.geometry import default_geometry
from drivebay.ata.registers import Error, Feature, Opcode, SmartFeature
from drivebay.ata.settings import Power
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.ide import AtaCommand, By, IdeDisk, IdeError, Via
from drivebay.platform.engine import Engine
from drivebay.testing import RecordingDisk

from .model import (
    KINDS,
    MOST,
    Model,
    Move,
    Part,
    counts,
    features,
    forms,
    lengths,
    places,
    seeds,
    some_moves,
    wheres,
)
from .support import Bench, Place, Wires, noise

ROUTES: list[list[Via]] = [[Via.PIO, Via.MULTIPLE], [Via.DMA], [Via.INT13]]


def verify(disk: IdeDisk, _: object, lba: int, count: int, by: By) -> None:
    disk.verify(lba, count, by)


class Rig:
    """A controller with the four drives, worked by one route."""

    def __init__(self, engine: Engine, vias: list[Via], polled: bool, width: int | None) -> None:
        self.engine, self.vias, self.polled = engine, vias, polled
        self.rams = {
            p: RamDisk(k.sectors * k.sector_size, sector_size=k.sector_size)
            for p, k in KINDS.items()
        }
        self.disks = {place: RecordingDisk(ram) for place, ram in self.rams.items()}
        for place, disk in self.disks.items():
            disk.volatile_cache = KINDS[place].cached
        self.wires = Wires(Bench(engine, self.drives()))
        self.wires.width = width
        self.look()

    def look(self) -> None:
        """What a guest does when it starts."""
        self.driver = self.wires.driver(self.polled)
        for channel in self.driver.channels:
            channel.buffer(MOST * 4096)

    def drives(self) -> dict[Place, AtaDisk]:
        """The drives as they are built, before they are told anything."""
        return {
            place: AtaDisk(disk, self.engine, serial=str(place))
            for place, disk in self.disks.items()
        }

    def via(self, multiple: bool) -> Via:
        return self.vias[multiple and len(self.vias) > 1]

    def close(self) -> None:
        for ram in self.rams.values():
            ram.close()


class IdeMachine(RuleBasedStateMachine):
    @initialize(polled=st.booleans(), width=st.sampled_from([None, 1, 2, 4]))
    def power_on(self, polled: bool, width: int | None) -> None:
        """With a `width`, strings are single accesses of so many bytes, which take their time."""
        self.most = MOST if width is None else 5
        self.engine = Engine(workers=0)
        self.rigs = [Rig(self.engine, vias, polled, width) for vias in ROUTES]
        self.models = {place: Model(kind) for place, kind in KINDS.items()}

    def teardown(self) -> None:
        if hasattr(self, "rigs"):
            for place in KINDS:
                for number in range(len(KINDS[place].windows)):
                    self.check_window(place, number)
            for rig in self.rigs:
                rig.close()
            self.engine.close()

    # -- on all three ------------------------------------------------------------------------------

    def all(self, place: Place, act: Callable[[IdeDisk, Rig], object]) -> list[object]:
        return [act(rig.driver.disk(*place), rig) for rig in self.rigs]

    def refused(self, place: Place, act: Callable[[IdeDisk, Rig], object], error: int) -> None:
        """All three end with `error`; of an enlightened request only the status is told."""
        for rig in self.rigs:
            try:
                act(rig.driver.disk(*place), rig)
            except IdeError as refusal:
                assert refusal.status.ERR
                assert refusal.error == error or "int13" in str(refusal)
            else:
                raise AssertionError("it was not refused")

    def ends(
        self, place: Place, legal: bool, act: Callable[[IdeDisk, Rig], object], error: Error
    ) -> list[object]:
        if legal:
            return self.all(place, act)
        self.refused(place, act, error)
        return []

    # -- reading and writing -----------------------------------------------------------------------

    @rule(seed=seeds, length=lengths)
    def move(self, seed: int, length: int) -> None:
        self.run(some_moves(seed, length, list(By)))

    @rule(seed=seeds, length=lengths)
    def move_by_chs(self, seed: int, length: int) -> None:
        self.run(some_moves(seed, length, [By.CHS]))

    @rule(seed=seeds, length=lengths)
    def move_by_28_bits(self, seed: int, length: int) -> None:
        self.run(some_moves(seed, length, [By.LBA28]))

    @rule(seed=seeds, length=lengths)
    def move_by_48_bits(self, seed: int, length: int) -> None:
        self.run(some_moves(seed, length, [By.LBA48]))

    def run(self, moves: Iterable[Move]) -> None:
        for move in moves:
            model = self.models[move.place]
            by, multiple = move.by, move.multiple and bool(model.multiple)
            number, at, lba, count = model.part(move.where, min(move.count, self.most))
            if not model.names(lba, count, by):
                by = By.LBA48
            legal = model.reaches(lba, count, by)
            part = Part(number, at, lba, count, by, multiple)
            if move.what == "read":
                self.read(move.place, part, legal)
            elif move.what == "verify":
                self.ends(
                    move.place, legal, partial(verify, lba=lba, count=count, by=by), OUT_OF_RANGE
                )
            else:
                self.write(move.place, part, legal, move)
            if legal:
                model.power = Power.ACTIVE

    def read(self, place: Place, part: Part, legal: bool) -> None:
        model = self.models[place]

        def act(disk: IdeDisk, rig: Rig) -> bytes:
            return disk.read(part.lba, part.count, rig.via(part.multiple), part.by)

        for got in self.ends(place, legal, act, OUT_OF_RANGE):
            assert got == model.data[part.number][model.bytes_of(part.at, part.count)]

    def write(self, place: Place, part: Part, legal: bool, move: Move) -> None:
        model = self.models[place]
        data = noise(part.count * model.kind.sector_size, move.seed)
        for rig in self.rigs:
            rig.disks[place].calls.clear()

        def fua(rig: Rig) -> bool:
            """Only the 48-bit writes but WRITE SECTORS have it."""
            return move.fua and part.by is By.LBA48 and rig.via(part.multiple) is not Via.PIO

        def act(disk: IdeDisk, rig: Rig) -> None:
            disk.write(part.lba, data, rig.via(part.multiple), part.by, fua=fua(rig))

        self.ends(place, legal, act, OUT_OF_RANGE)
        if legal:
            model.data[part.number][model.bytes_of(part.at, part.count)] = data
        for rig in self.rigs:
            calls = rig.disks[place].calls
            assert bool(calls) is legal
            assert all(call.fua is (fua(rig) or not model.cache) for call in calls)

    @rule(place=places, back=st.integers(0, 3), beyond=st.integers(1, 4), by=forms)
    def go_past_the_end(self, place: Place, back: int, beyond: int, by: By) -> None:
        model = self.models[place]
        lba, count = max(model.capacity - back, 0), back + beyond
        if not model.names(lba, count, by):
            return
        data = bytes(count * model.kind.sector_size)
        self.refused(place, lambda d, rig: d.read(lba, count, rig.vias[0], by), OUT_OF_RANGE)
        self.refused(place, lambda d, rig: d.write(lba, data, rig.vias[0], by), OUT_OF_RANGE)
        self.refused(place, lambda d, _: d.verify(lba, count, by), OUT_OF_RANGE)

    @rule(place=places, ranges=st.lists(st.tuples(wheres, counts), max_size=70))
    def trim(self, place: Place, ranges: list[tuple[tuple[int, int], int]]) -> None:
        model = self.models[place]
        parts = [model.part(where, count) for where, count in ranges]
        legal = all(lba + count <= model.capacity for _, _, lba, count in parts)
        wanted = [(lba, count) for _, _, lba, count in parts] or [(0, 0)]
        self.ends(place, legal, lambda disk, _: disk.trim(wanted), OUT_OF_RANGE)
        for number, at, _, count in parts if legal else []:
            zeroes = bytes(count * model.kind.sector_size)
            model.data[number][model.bytes_of(at, count)] = zeroes

    @rule(place=places, ext=st.booleans())
    def flush(self, place: Place, ext: bool) -> None:
        for rig in self.rigs:
            rig.disks[place].calls.clear()
        self.all(place, lambda disk, _: disk.flush(ext))
        for rig in self.rigs:
            assert [call.name for call in rig.disks[place].calls] == ["flush"]

    @rule(place=places, seed=seeds)
    def buffer(self, place: Place, seed: int) -> None:
        model, data = self.models[place], noise(512, seed)
        assert self.all(place, lambda disk, _: disk.read_buffer()) == [model.buffer] * 3
        self.all(place, lambda disk, _: disk.write_buffer(data))
        model.buffer = data

    # -- modes -------------------------------------------------------------------------------------

    @rule(place=places, sectors=st.sampled_from([0, 1, 2, 3, 4, 8, 12, 16, 32, 255]))
    def set_multiple(self, place: Place, sectors: int) -> None:
        model = self.models[place]
        legal = sectors in (0, 1, 2, 4, 8, 16)
        self.ends(place, legal, lambda disk, _: disk.set_multiple(sectors), ABORTED)
        if legal:
            model.multiple = sectors

    @rule(place=places, ext=st.booleans())
    def multiple_without_a_mode(self, place: Place, ext: bool) -> None:
        if not self.models[place].multiple:
            by = By.LBA48 if ext else By.LBA28
            self.refused(place, lambda disk, _: disk.read(0, 1, Via.MULTIPLE, by), ABORTED)

    @rule(place=places, chosen=st.lists(features, min_size=1, max_size=4))
    def set_features(self, place: Place, chosen: list[tuple[Feature, int]]) -> None:
        model = self.models[place]
        for feature, count in chosen:
            legal = model.takes(feature, count)

            def act(disk: IdeDisk, _: Rig, feature: Feature = feature, count: int = count) -> None:
                disk.set_features(feature, count)

            self.ends(place, legal, act, ABORTED)
            if legal:
                model.set_feature(feature, count)

    @rule(place=places, heads=st.integers(1, 16), track=st.integers(1, 255))
    def geometry(self, place: Place, heads: int, track: int) -> None:
        self.all(place, lambda disk, _: disk.initialize_parameters(heads, track))
        model = self.models[place]
        model.heads, model.track = heads, track

    @rule(place=places, last=st.integers(0, 3000), ext=st.booleans(), volatile=st.booleans())
    def set_max(self, place: Place, last: int, ext: bool, volatile: bool) -> None:
        model = self.models[place]
        native = model.kind.sectors - 1
        last = last if last < 2500 else native
        if not ext and last >= 1 << 28:
            return

        def act(disk: IdeDisk, _: Rig) -> None:
            disk.set_max(last, ext=ext, volatile=volatile)

        legal = last <= native
        self.ends(place, legal, act, OUT_OF_RANGE)
        if legal:
            model.capacity, model.capacity_volatile = last + 1, volatile
            self.all(place, lambda disk, _: disk.refresh())

    @rule(place=places, ext=st.booleans())
    def read_native_max(self, place: Place, ext: bool) -> None:
        last = self.models[place].kind.sectors - 1
        shown = last if ext else min(last, (1 << 28) - 1)
        assert self.all(place, lambda disk, _: disk.read_native_max(ext)) == [shown] * 3

    @rule(
        place=places,
        opcode=st.sampled_from([Opcode.STANDBY, Opcode.STANDBY_IMMEDIATE_OLD, Opcode.IDLE]),
    )
    def go_to_sleep(self, place: Place, opcode: Opcode) -> None:
        self.all(place, lambda disk, _: disk.non_data(AtaCommand(opcode)))
        self.models[place].power = Power.IDLE if opcode is Opcode.IDLE else Power.STANDBY

    @rule(place=places, on=st.booleans())
    def smart(self, place: Place, on: bool) -> None:
        model = self.models[place]
        if on:
            self.all(place, lambda disk, _: disk.smart(SmartFeature.ENABLE_OPERATIONS))
        else:
            act = SmartFeature.DISABLE_OPERATIONS
            self.ends(place, model.smart, lambda disk, _: disk.smart(act), ABORTED)
        model.smart = on

    @rule(place=places, number=st.integers(0x80, 0x9F), seed=seeds)
    def smart_log(self, place: Place, number: int, seed: int) -> None:
        smart = self.models[place].smart
        data = noise(1024, seed)
        self.ends(place, smart, lambda disk, _: disk.smart_write_log(number, data), ABORTED)

        def act(disk: IdeDisk, _: Rig) -> bytes:
            return disk.smart_read(SmartFeature.READ_LOG, number, 2)

        assert all(got == data for got in self.ends(place, smart, act, ABORTED))

    @rule(place=places, opcode=st.sampled_from([Opcode.NOP, 0x22, 0x60, 0x92, 0xF1, Opcode.PACKET]))
    def refused_command(self, place: Place, opcode: int) -> None:
        self.refused(place, lambda disk, _: disk.non_data(AtaCommand(opcode)), ABORTED)

    # -- resets and saving -------------------------------------------------------------------------

    @rule(channel=st.integers(0, 1))
    def software_reset(self, channel: int) -> None:
        for rig in self.rigs:
            rig.driver.channels[channel].reset()
        for unit in (0, 1):
            self.models[channel, unit].software_reset()
            self.all((channel, unit), lambda disk, _: disk.refresh())
            self.identify((channel, unit))

    @rule()
    def system_reset(self) -> None:
        for rig in self.rigs:
            rig.wires.bench.ide.reset()
            rig.look()
        for model in self.models.values():
            model.power_on()
            model.software_reset()  # the driver's, as it came up

    @rule(channel=st.integers(0, 1))
    def diagnostic(self, channel: int) -> None:
        self.all((channel, 1), lambda d, _: d.non_data(AtaCommand(DIAGNOSTIC)))
        for rig in self.rigs:
            assert rig.driver.channels[channel].get("Error") == 1
            assert rig.driver.channels[channel].get("LBALow") == 1

    @rule()
    def save_and_restore(self) -> None:
        for rig in self.rigs:
            rig.wires.replace(rig.drives())

    # -- the check ---------------------------------------------------------------------------------

    @rule(place=places)
    def identify(self, place: Place) -> None:
        """All three say the same of themselves, and what the model knows."""
        model = self.models[place]
        identities = [rig.driver.disk(*place).identify() for rig in self.rigs]
        assert len({identity.raw for identity in identities}) == 1
        identity = identities[0]
        words = identity.words
        assert identity.sectors == model.capacity
        assert words.lba28_sectors == min(model.capacity, (1 << 28) - 1)
        assert identity.sector_size == model.kind.sector_size
        assert identity.native_geometry == default_geometry(model.capacity)
        assert identity.geometry == model.geometry
        assert words.current_capacity == model.geometry.capacity
        assert identity.write_cache == (model.cache if model.kind.cached else None)
        assert identity.multiple == model.multiple
        assert identity.smart is model.smart
        assert identity.ultra_dma == model.ultra_dma
        assert words.apm_level == model.apm
        assert bool(words.enabled_1 & 1 << 6) is model.look_ahead

    @rule(place=places)
    def check_power(self, place: Place) -> None:
        power = self.models[place].power
        assert self.all(place, lambda disk, _: disk.check_power_mode()) == [power] * 3

    @rule(place=places, number=st.integers(0, 4))
    def check_window(self, place: Place, number: int) -> None:
        """What is on the disks, whatever the guest may reach."""
        model = self.models[place]
        number %= len(model.kind.windows)
        for rig in self.rigs:
            buffer = memoryview(bytearray(len(model.data[number])))
            self.engine.start(
                rig.rams[place].read(model.kind.windows[number], [buffer]), lambda *_: None
            )
            assert buffer == model.data[number]

    @invariant()
    def nothing_interrupts_unasked(self) -> None:
        for rig in getattr(self, "rigs", []):
            for number in (14, 15):
                assert not rig.wires.bench.board.line(number).level


OUT_OF_RANGE = Error.of(IDNF=1, ABRT=1)
ABORTED = Error.of(ABRT=1)
DIAGNOSTIC = Opcode.EXECUTE_DEVICE_DIAGNOSTIC

TestIde = IdeMachine.TestCase
TestIde.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)

"""Who may do what, and who is told what (SPC-4 section 5.13, NVMe 2.0 section 8.19)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import DiskError, InvalidInput, ReservationConflict
from drivebay.disk.filters.guarded import Guarded
from drivebay.disk.filters.prwrap import Prwrap
from drivebay.disk.filters.reservation_state import MOST_REGISTRANTS
from drivebay.disk.reservations import (
    NO_CONTROLLER,
    Nexus,
    Notice,
    Registrant,
    ReservationType,
)
from drivebay.suspend import run
from tests.disk.support import get, put, view

WE = ReservationType.WRITE_EXCLUSIVE
EA = ReservationType.EXCLUSIVE_ACCESS
WE_RO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
EA_RO = ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY
WE_AR = ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS
EA_AR = ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS

A, B, C = b"host-a..", b"host-b..", b"host-c.."


class Shared:
    """A disk that three hosts share; A has key 1, B key 2, C none."""

    def __init__(self) -> None:
        self.disk = Prwrap(RamDisk(1 << 20))
        self.told: list[tuple[str, Notice]] = []
        self.a, self.b, self.c = (self.connect(host, n) for n, host in enumerate((A, B, C)))
        run(self.a.register(0, 1))
        run(self.b.register(0, 2))

    def connect(self, host: bytes, controller: int) -> Nexus:
        def told(notice: Notice) -> None:
            self.told.append((host[5:6].decode(), notice))

        return self.disk.reservations.of(host, controller, told)

    @property
    def generation(self) -> int:
        return run(self.disk.reservations.report()).generation

    @property
    def keys(self) -> dict[bytes, int]:
        report = run(self.disk.reservations.report())
        return {one.host_id: one.key for one in report.registrants}

    @property
    def type(self) -> ReservationType | None:
        return run(self.disk.reservations.report()).type

    def holders(self) -> set[bytes]:
        report = run(self.disk.reservations.report())
        return {one.host_id for one in report.registrants if one.holds_reservation}


@pytest.fixture
def shared() -> Shared:
    return Shared()


def allowed(nexuses: Iterable[Nexus]) -> list[str]:
    return ["r" * nexus.may_read + "w" * nexus.may_write for nexus in nexuses]


@pytest.mark.parametrize(
    ("kind", "holder", "registrant", "other"),
    [
        (WE, "rw", "r", "r"),
        (EA, "rw", "", ""),
        (WE_RO, "rw", "rw", "r"),
        (EA_RO, "rw", "rw", ""),
        (WE_AR, "rw", "rw", "r"),
        (EA_AR, "rw", "rw", ""),
    ],
)
def test_who_may_read_and_write(
    shared: Shared, kind: ReservationType, holder: str, registrant: str, other: str
) -> None:
    hosts = (shared.a, shared.b, shared.c)
    assert allowed(hosts) == ["rw", "rw", "rw"]
    run(shared.a.reserve(1, kind))
    assert allowed(hosts) == [holder, registrant, other]
    assert shared.holders() == ({A, B} if kind.all_registrants else {A})
    run(shared.a.release(1, kind))
    assert allowed(hosts) == ["rw", "rw", "rw"]


def test_a_guarded_disk_refuses_what_the_host_may_not_do(shared: Shared) -> None:
    disks = [Guarded(shared.disk, nexus) for nexus in (shared.a, shared.c)]
    run(shared.a.reserve(1, EA))
    put(disks[0], 0, b"a" * 512)
    run(disks[0].flush())
    for operation in (
        disks[1].read(0, [view(512)]),
        disks[1].write(0, [view(512)]),
        disks[1].flush(),
        disks[1].unmap(0, 1),
        disks[1].write_zeroes(0, 1),
        disks[1].extents(0, 1),
    ):
        with pytest.raises(ReservationConflict, match="another host has reserved the disk"):
            run(operation)
    run(shared.a.release(1, EA))
    assert get(disks[1], 0, 1) == b"a" * 512


def test_a_guarded_disk_that_is_closed_leaves_the_shared_one_to_others(shared: Shared) -> None:
    Guarded(shared.disk, shared.a).close()
    assert get(Guarded(shared.disk, shared.b), 0, 1) == bytes(512)
    assert shared.keys == {A: 1, B: 2}
    run(shared.b.clear(2))
    assert shared.told == []  # A has gone
    shared.disk.close()
    shared.disk.close()


def test_a_key_is_registered_replaced_and_unregistered_by_who_knows_it(shared: Shared) -> None:
    for current in (1, 9):
        with pytest.raises(ReservationConflict):
            run(shared.c.register(current, 5))
    with pytest.raises(ReservationConflict):
        run(shared.a.register(0, 5))
    run(shared.a.register(1, 5))
    run(shared.c.register(None, 6))
    run(shared.b.register(None, 0))
    assert shared.keys == {A: 5, C: 6}
    assert (shared.a.key, shared.b.key, shared.c.key) == (5, 0, 6)
    run(shared.b.register(0, 0))  # nothing to do is no error
    assert shared.generation == 6


def test_the_generation_counts_all_but_reserve_and_release(shared: Shared) -> None:
    assert shared.generation == 2
    run(shared.a.reserve(1, WE))
    run(shared.a.release(1, WE))
    with pytest.raises(ReservationConflict):
        run(shared.c.clear(3))
    assert shared.generation == 2
    run(shared.a.preempt(1, 2, WE, abort=False))
    run(shared.a.clear(1))
    assert shared.generation == 4


def test_a_reservation_is_taken_once(shared: Shared) -> None:
    with pytest.raises(ReservationConflict):
        run(shared.c.reserve(0, WE))
    with pytest.raises(ReservationConflict):
        run(shared.a.reserve(2, WE))
    run(shared.a.reserve(1, WE_RO))
    run(shared.a.reserve(1, WE_RO))
    with pytest.raises(ReservationConflict):
        run(shared.a.reserve(1, WE))
    with pytest.raises(ReservationConflict):
        run(shared.b.reserve(2, WE_RO))
    run(shared.a.release(1, WE_RO))
    run(shared.b.reserve(2, WE_AR))
    run(shared.a.reserve(1, WE_AR))  # it is a holder as well


def test_who_holds_no_reservation_releases_none(shared: Shared) -> None:
    run(shared.a.release(1, WE))
    run(shared.a.reserve(1, WE))
    run(shared.b.release(2, EA))
    with pytest.raises(InvalidInput):
        run(shared.a.release(1, EA))
    with pytest.raises(ReservationConflict):
        run(shared.c.release(0, WE))
    assert shared.type is WE


@pytest.mark.parametrize("kind", list(ReservationType))
def test_those_who_gained_nothing_by_a_release_are_told(
    shared: Shared, kind: ReservationType
) -> None:
    run(shared.a.reserve(1, kind))
    run(shared.a.release(1, kind))
    assert shared.told == ([("b", Notice.RESERVATION_RELEASED)] if kind.shared else [])


def test_a_holder_that_unregisters_releases(shared: Shared) -> None:
    run(shared.a.reserve(1, WE_RO))
    run(shared.a.register(1, 0))
    assert (shared.type, shared.told) == (None, [("b", Notice.RESERVATION_RELEASED)])


def test_of_all_registrants_the_last_releases(shared: Shared) -> None:
    run(shared.a.reserve(1, EA_AR))
    run(shared.a.register(1, 0))
    assert (shared.type, shared.holders()) == (EA_AR, {B})
    run(shared.b.register(2, 0))
    assert (shared.type, shared.told) == (None, [])


def test_clear_drops_everything_and_tells_the_others(shared: Shared) -> None:
    run(shared.a.reserve(1, EA))
    run(shared.b.clear(2))
    assert (shared.type, shared.keys) == (None, {})
    assert shared.told == [("a", Notice.RESERVATION_PREEMPTED)]


def test_preempt_of_the_holder_takes_the_reservation(shared: Shared) -> None:
    run(shared.c.register(0, 3))
    run(shared.a.reserve(1, WE))
    run(shared.b.preempt(2, 1, EA_RO, abort=True))
    assert (shared.type, shared.holders(), shared.keys) == (EA_RO, {B}, {B: 2, C: 3})
    assert shared.told == [
        ("a", Notice.ABORT),
        ("a", Notice.REGISTRATION_PREEMPTED),
        ("c", Notice.RESERVATION_RELEASED),  # the type has changed
    ]


def test_preempt_of_another_only_unregisters(shared: Shared) -> None:
    run(shared.a.reserve(1, WE))
    run(shared.c.register(0, 2))
    run(shared.a.preempt(1, 2, EA, abort=False))
    assert (shared.type, shared.holders(), shared.keys) == (WE, {A}, {A: 1})
    assert shared.told == [(host, Notice.REGISTRATION_PREEMPTED) for host in "bc"]


def test_a_holder_changes_the_type_by_preempting_itself(shared: Shared) -> None:
    run(shared.a.reserve(1, WE))
    run(shared.a.preempt(1, 1, WE_RO, abort=True))
    assert (shared.type, shared.keys) == (WE_RO, {A: 1, B: 2})
    assert shared.told == [("b", Notice.RESERVATION_RELEASED)]


def test_preempt_of_all_registrants_is_by_key_zero(shared: Shared) -> None:
    run(shared.a.reserve(1, WE_AR))
    run(shared.c.register(0, 3))
    run(shared.b.preempt(2, 3, WE, abort=False))
    assert (shared.type, shared.keys) == (WE_AR, {A: 1, B: 2})
    run(shared.b.preempt(2, 0, WE, abort=False))
    assert (shared.type, shared.holders(), shared.keys) == (WE, {B}, {B: 2})


def test_preempt_needs_a_victim(shared: Shared) -> None:
    with pytest.raises(ReservationConflict):
        run(shared.a.preempt(1, 9, WE, abort=False))
    with pytest.raises(InvalidInput):
        run(shared.a.preempt(1, 0, WE, abort=False))
    run(shared.a.reserve(1, WE))
    with pytest.raises(InvalidInput):
        run(shared.b.preempt(2, 0, WE, abort=False))
    with pytest.raises(ReservationConflict):
        run(shared.c.preempt(1, 1, WE, abort=False))


def test_a_host_is_one_registrant_by_all_its_controllers(shared: Shared) -> None:
    """NVMe 2.0 section 8.19: the registration is of the host identifier."""
    second = shared.connect(A, 7)
    assert second.key == 1
    run(second.reserve(1, EA))
    assert (shared.a.may_write, shared.b.may_read) == (True, False)
    registrants = run(shared.disk.reservations.report()).registrants
    assert registrants[:2] == (Registrant(1, A, 0, True), Registrant(1, A, 7, True))
    shared.b.close()
    shared.b.close()
    assert run(shared.disk.reservations.report()).registrants[2] == (
        Registrant(2, B, NO_CONTROLLER, False)
    )
    run(shared.a.clear(1))
    assert shared.told == []  # B is not there, and A's own controllers are not told


def test_a_guest_cannot_register_without_end(shared: Shared) -> None:
    service = shared.disk.reservations
    for number in range(MOST_REGISTRANTS - 2):
        run(service.of(number.to_bytes(16, "big"), 0).register(0, 1))
    with pytest.raises(InvalidInput, match="256 hosts"):
        run(shared.c.register(0, 3))
    run(shared.a.register(1, 5))


class Model(RuleBasedStateMachine):
    """Any requests of four hosts, against the standard told another way: who holds is a set."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = Prwrap(RamDisk(1 << 16))
        self.nexuses = [self.disk.reservations.of(bytes([n]) * 16, n) for n in range(4)]
        self.keys = [0] * 4
        self.type: ReservationType | None = None
        self.holder: int | None = None  # whose reservation it is, if it is one host's
        self.generation = 0

    def holders(self) -> set[int]:
        if self.type is None:
            return set()
        registered = {n for n, key in enumerate(self.keys) if key}
        if self.type.all_registrants:
            return registered
        return {self.holder} & registered if self.holder is not None else set()

    def settle(self) -> None:
        if not self.holders():
            self.type = self.holder = None

    def ask(self, nexus_request: object, expected: type[DiskError] | None) -> bool:
        try:
            run(nexus_request)  # type: ignore[arg-type]
        except DiskError as error:
            assert type(error) is expected
            return False
        assert expected is None
        return True

    hosts = st.integers(0, 3)
    some_keys = st.integers(0, 3)
    kinds = st.sampled_from(list(ReservationType))

    @rule(n=hosts, current=st.none() | some_keys, new=some_keys)
    def register(self, n: int, current: int | None, new: int) -> None:
        wrong = current is not None and current != self.keys[n]
        if self.ask(self.nexuses[n].register(current, new), ReservationConflict if wrong else None):
            self.keys[n] = new
            self.generation += 1
            self.settle()

    @rule(n=hosts, kind=kinds)
    def reserve(self, n: int, kind: ReservationType) -> None:
        fine = self.keys[n] and (self.type is None or (self.type is kind and n in self.holders()))
        request = self.nexuses[n].reserve(self.keys[n], kind)
        if self.ask(request, None if fine else ReservationConflict) and self.type is None:
            self.type, self.holder = kind, n

    @rule(n=hosts, kind=kinds)
    def release(self, n: int, kind: ReservationType) -> None:
        expected: type[DiskError] | None = None
        if not self.keys[n]:
            expected = ReservationConflict
        elif n in self.holders() and kind is not self.type:
            expected = InvalidInput
        if self.ask(self.nexuses[n].release(self.keys[n], kind), expected) and (
            n in self.holders()
        ):
            self.type = self.holder = None

    @rule(n=hosts)
    def clear(self, n: int) -> None:
        expected = None if self.keys[n] else ReservationConflict
        if self.ask(self.nexuses[n].clear(self.keys[n]), expected):
            self.keys, self.type, self.holder = [0] * 4, None, None
            self.generation += 1

    @rule(n=hosts, victim=some_keys, kind=kinds)
    def preempt(self, n: int, victim: int, kind: ReservationType) -> None:
        everyone = self.type is not None and self.type.all_registrants
        of_holder = self.holder is not None and not everyone and self.keys[self.holder] == victim
        takes = of_holder or (everyone and not victim)
        expected: type[DiskError] | None = None
        if not self.keys[n]:
            expected = ReservationConflict
        elif not takes and not victim:
            expected = InvalidInput
        elif not takes and victim not in self.keys:
            expected = ReservationConflict
        if not self.ask(self.nexuses[n].preempt(self.keys[n], victim, kind, False), expected):
            return
        for other, key in enumerate(self.keys):
            if (victim in (0, key)) and not (takes and other == n):
                self.keys[other] = 0
        if takes:
            self.type, self.holder = kind, n
        self.generation += 1
        self.settle()

    @invariant()
    def the_report_is_right(self) -> None:
        report = run(self.disk.reservations.report())
        assert (report.generation, report.type) == (self.generation, self.type)
        found = {one.controller_id: (one.key, one.holds_reservation) for one in report.registrants}
        holders = self.holders()
        assert found == {n: (key, n in holders) for n, key in enumerate(self.keys) if key}
        for n, nexus in enumerate(self.nexuses):
            free = self.type is None
            privileged = (
                free or n in holders or bool(self.type and self.type.shared and self.keys[n])
            )
            assert nexus.may_write == privileged
            readable = privileged or bool(self.type and not self.type.exclusive_access)
            assert nexus.may_read == readable


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestModel = Model.TestCase

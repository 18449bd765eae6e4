"""The segments' state machine keeps S1 to S11 whatever the order of events (pure: no files, no threads)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peer.errors import Full
from peer.storage.operations import Create, Limits, Operation, Punch, Remove, Seal, Sync, segment_bytes
from peer.storage.records import Extent, record_bytes
from peer.storage.segment import InvariantError
from peer.storage.segments import Segments

KIB = 1024
LIMITS = Limits(
    floor=4096 * KIB,
    smallest=64 * KIB,
    largest=256 * KIB,
    least=32 * KIB,
    punch_bytes=48 * KIB,
    punch_count=4,
)
LENGTHS = st.sampled_from([0, 100, 4032, 4033, 12_000, 28_000])


@dataclass
class File:
    """What the model's disk knows of one segment file."""

    size: int
    created: bool = False
    sealed: bool = False
    sealed_before: bool = False  # by an earlier start
    adopted: bool = True
    extents: dict[Extent, str] = field(default_factory=dict)  # extent -> stage, as the model sees it


class SegmentsModel(RuleBasedStateMachine):
    """Events come in any order, operations end late, in another order, or fail; now and then all crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Segments(LIMITS)
        self.files: dict[int, File] = {}
        self.issued: set[int] = set()
        self.pins: Counter[Extent] = Counter()
        self.syncs: list[tuple[Sync, set[Extent]]] = []
        self.running: list[Operation] = []
        self.free = 1 << 30
        self.freest = self.free  # since operations were last asked for: creations were decided in between

    @initialize()
    def begin(self) -> None:
        self.machine.space(self.free)

    def of(self, *stages: str) -> list[Extent]:
        return [e for f in self.files.values() for e, stage in f.extents.items() if stage in stages]

    def pick(self, data: st.DataObject, *stages: str) -> Extent | None:
        there = self.of(*stages)
        return data.draw(st.sampled_from(there)) if there else None

    def become(self, extent: Extent, stage: str) -> None:
        self.files[extent.segment].extents[extent] = stage

    # --- appending ---

    @rule(length=LENGTHS)
    def allocate(self, length: int) -> None:
        try:
            extent = self.machine.allocate(length)
        except Full:
            return
        if extent is None:
            return
        file = self.files[extent.segment]
        assert self.free >= LIMITS.floor, "S11"
        assert file.created and not file.sealed, "S2, S5"
        assert extent.offset % 4096 == 0 and extent.end <= file.size, "S1"
        for other in file.extents:
            assert extent.end <= other.offset or other.end <= extent.offset, "S1"
        file.extents[extent] = "allocated"

    @precondition(lambda self: self.of("allocated"))
    @rule(data=st.data(), fails=st.integers(0, 4))
    def write_ends(self, data: st.DataObject, fails: int) -> None:
        if extent := self.pick(data, "allocated"):
            if fails == 0:
                self.machine.failed(extent)
                self.become(extent, "unnamed")
            else:
                self.machine.written(extent)
                self.become(extent, "written")

    @precondition(lambda self: self.of("written"))
    @rule(data=st.data())
    def sync_begins(self, data: st.DataObject) -> None:
        if extent := self.pick(data, "written"):
            sync = self.machine.begin_sync(extent.segment)
            running = any(s.segment == extent.segment for s, _ in self.syncs)
            assert (sync is None) == running
            if sync is not None:
                covered = {e for e, s in self.files[extent.segment].extents.items() if s == "written"}
                self.syncs.append((sync, covered))

    @precondition(lambda self: self.syncs)
    @rule(data=st.data())
    def sync_ends(self, data: st.DataObject) -> None:
        self.end_sync(*self.syncs.pop(data.draw(st.integers(0, len(self.syncs) - 1))))

    def end_sync(self, sync: Sync, covered: set[Extent]) -> None:
        self.machine.synced(sync)
        for extent in covered:
            self.become(extent, "synced")

    # --- naming and the end ---

    @precondition(lambda self: self.of("synced"))
    @rule(data=st.data(), keep=st.booleans())
    def name_or_abandon(self, data: st.DataObject, keep: bool) -> None:
        if extent := self.pick(data, "synced"):
            if keep:
                self.machine.named(extent)
                self.become(extent, "named")
            else:
                self.machine.abandon(extent)
                self.become(extent, "unnamed")

    @precondition(lambda self: self.of("allocated", "written"))
    @rule(data=st.data())
    def name_too_early(self, data: st.DataObject) -> None:
        if extent := self.pick(data, "allocated", "written"):
            assert not self.machine.is_synced(extent), "S3"
            before = self.machine.all[extent.segment].stages[extent.offset]
            with pytest.raises(InvariantError, match="S4"):
                self.machine.abandon(extent)
            assert self.machine.all[extent.segment].stages[extent.offset] is before

    @precondition(lambda self: self.of("named"))
    @rule(data=st.data())
    def doom(self, data: st.DataObject) -> None:
        if extent := self.pick(data, "named"):
            self.machine.doomed(extent)
            self.become(extent, "doomed")

    @precondition(lambda self: self.of("named", "doomed"))
    @rule(data=st.data())
    def unname(self, data: st.DataObject) -> None:
        if extent := self.pick(data, "named", "doomed"):
            self.machine.unnamed(extent)
            self.become(extent, "unnamed")

    @precondition(lambda self: any(f.extents for f in self.files.values()))
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        if extent := self.pick(
            data, "allocated", "written", "synced", "named", "doomed", "unnamed", "punching"
        ):
            stage = self.files[extent.segment].extents[extent]
            expected = stage in ("synced", "named", "doomed")
            assert self.machine.pin(extent) == expected, f"S7: pin of {stage}"
            if expected:
                self.pins[extent] += 1

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        extent = data.draw(st.sampled_from(sorted(self.pins)))
        self.pins[extent] -= 1
        if not self.pins[extent]:
            del self.pins[extent]
        self.machine.unpin(extent)

    @precondition(lambda self: self.of("lost", "synced", "written"))
    @rule(data=st.data())
    def find_stray(self, data: st.DataObject) -> None:
        """Scrub offers what no row names, also before it is allowed to."""
        if extent := self.pick(data, "lost", "synced", "written"):
            file = self.files[extent.segment]
            accepted = self.machine.stray(extent)
            allowed = file.sealed_before and file.adopted and file.extents[extent] == "lost"
            removing = any(isinstance(op, Remove) and op.segment == extent.segment for op in self.running)
            assert accepted == (allowed and not removing), "S10"
            if accepted:
                self.become(extent, "unnamed")

    @precondition(lambda self: any(not f.adopted for f in self.files.values()))
    @rule(data=st.data())
    def finish_adoption(self, data: st.DataObject) -> None:
        waiting = sorted(s for s, file in self.files.items() if not file.adopted)
        if waiting:
            segment = data.draw(st.sampled_from(waiting))
            for extent, stage in self.files[segment].extents.items():
                if stage == "lost" and data.draw(st.booleans()):
                    self.machine.adopt(extent)
                    self.become(extent, "named")
            self.machine.adopted(segment)
            self.files[segment].adopted = True

    # --- operations ---

    @rule(flush=st.booleans())
    def ask(self, flush: bool) -> None:
        for operation in self.machine.operations(flush=flush):
            self.check(operation)
            self.running.append(operation)
        self.freest = self.free

    def check(self, operation: Operation) -> None:
        match operation:
            case Create(segment, size):
                assert segment not in self.issued and segment > max(self.issued, default=0), "S9"
                assert size >= LIMITS.least and self.freest - size >= LIMITS.floor, "S11"
                self.issued.add(segment)
                self.files[segment] = File(size)
            case Seal(segment, size):
                file = self.files[segment]
                assert not set(file.extents.values()) & {"allocated", "written"}, "S5"
                assert all(e.end <= size for e in file.extents), "S5: cut through a record"
            case Punch(segment, ranges, extents):
                assert self.files[segment].sealed, "S6"
                for extent in extents:
                    assert self.files[segment].extents[extent] == "unnamed", "S6"
                    self.become(extent, "punching")
                for other, stage in self.files[segment].extents.items():
                    for offset, size in ranges:
                        if offset < other.end and other.offset < offset + size:
                            assert stage in ("punching", "punched"), "S6"
                            assert stage == "punched" or other not in self.pins, "S7"
            case Remove(segment):
                stages = set(self.files[segment].extents.values())
                assert stages <= {"punched", "lost"}, "S8"
                assert self.files[segment].adopted, "S10"
                assert not any(e.segment == segment for e in self.pins), "S8"
                assert segment != max(self.issued), "S9"

    @precondition(lambda self: self.running)
    @rule(data=st.data(), fails=st.integers(0, 3))
    def operation_ends(self, data: st.DataObject, fails: int) -> None:
        self.end(self.running.pop(data.draw(st.integers(0, len(self.running) - 1))), fails)

    def end(self, operation: Operation, fails: int = 1) -> None:
        match operation:
            case Create(segment, _) if fails == 0:
                del self.files[segment]
                self.machine.create_failed(segment)
            case Create(segment, _):
                self.files[segment].created = True
                self.machine.created(segment)
            case Seal(segment, _):
                self.files[segment].sealed = True
                self.machine.sealed(segment)
            case Punch(_, _, extents) if fails == 0:
                for extent in extents:
                    self.become(extent, "unnamed")
                self.machine.punch_failed(operation)
            case Punch(_, _, extents):
                for extent in extents:
                    self.become(extent, "punched")
                self.machine.punched(operation)
            case Remove(segment) if "lost" in self.files[segment].extents.values():
                self.machine.remove_refused(segment)
            case Remove(segment):
                del self.files[segment]
                self.machine.removed(segment)

    # --- the world ---

    @rule(free=st.sampled_from([0, LIMITS.floor - 1, LIMITS.floor, LIMITS.floor + 64 * KIB, 1 << 30]))
    def space_changes(self, free: int) -> None:
        self.free = free
        self.freest = max(self.freest, free)
        self.machine.space(free)

    @rule(count=st.integers(1, 8), length=LENGTHS)
    def append_many(self, count: int, length: int) -> None:
        """The usual way, so that runs get somewhere: written, synced, named; segments created and sealed."""
        for _ in range(count):
            self.ask(False)
            for operation in [op for op in self.running if isinstance(op, Create | Seal)]:
                self.running.remove(operation)
                self.end(operation)
            before = set(self.of("allocated"))
            self.allocate(length)
            for extent in set(self.of("allocated")) - before:
                self.machine.written(extent)
                self.become(extent, "written")
                self.sync_to_end(extent)
                self.machine.named(extent)
                self.become(extent, "named")

    def sync_to_end(self, extent: Extent) -> None:
        for running in [r for r in self.syncs if r[0].segment == extent.segment]:
            self.syncs.remove(running)
            self.end_sync(*running)
        sync = self.machine.begin_sync(extent.segment)
        assert sync is not None
        self.end_sync(sync, {e for e, s in self.files[extent.segment].extents.items() if s == "written"})

    @rule()
    def write_during_a_sync(self) -> None:
        """A write that returns while a sync runs is not covered by it."""
        for _ in range(2):
            self.allocate(100)
        for extent in self.of("allocated"):
            self.machine.written(extent)
            self.become(extent, "written")
            sync = self.machine.begin_sync(extent.segment)
            if sync is not None:
                stages = self.files[extent.segment].extents
                self.syncs.append((sync, {e for e, s in stages.items() if s == "written"}))

    @precondition(lambda self: self.of("named"))
    @rule()
    def unname_a_whole_segment(self) -> None:
        segment = self.of("named")[0].segment
        for extent in [e for e in self.of("named") if e.segment == segment]:
            self.machine.unnamed(extent)
            self.become(extent, "unnamed")

    @precondition(lambda self: len(self.issued) > 1)
    @rule(adopting=st.booleans(), data=st.data())
    def crash(self, adopting: bool, data: st.DataObject) -> None:
        """Rows stay; what was synced without a row, or died without a punch, becomes bytes nobody names."""
        before = self.machine.newest
        self.machine = Segments(LIMITS)
        self.syncs.clear()
        self.running.clear()
        self.pins.clear()
        for segment, file in sorted(self.files.items()):
            if not file.created and data.draw(st.booleans()):
                del self.files[segment]  # its name never became durable
                continue
            file.created = file.sealed = file.sealed_before = True
            file.adopted = not adopting
            kept = {e: s for e, s in file.extents.items() if s != "punched"}
            file.extents = {
                e: "named" if s in ("named", "doomed") and not adopting else "lost" for e, s in kept.items()
            }
            file.size = max([e.end for e in kept], default=0)
            self.machine.found(segment, file.size, adopting=adopting)
        for extent in self.of("named"):
            assert self.machine.found_named(extent) is None
        survivors = max(self.files, default=0)
        assert self.machine.newest == survivors <= before
        self.issued = {
            s for s in self.issued if s <= survivors
        }  # an id without a file was never written under
        self.machine.space(self.free)

    @invariant()
    def counts_agree(self) -> None:
        stats = self.machine.stats
        live = self.of("named", "doomed")
        assert stats.live_count == len(live)
        assert stats.live_bytes == sum(e.record_bytes for e in live)
        assert stats.dying_count == len(self.of("unnamed"))
        held = [*live, *self.of("allocated", "written", "synced")]
        assert self.machine._held == sum(e.record_bytes for e in held)
        for extent in self.of("synced", "written"):
            synced = self.files[extent.segment].extents[extent] == "synced"
            assert self.machine.is_synced(extent) == synced, "S3"


TestSegmentsModel = SegmentsModel.TestCase
TestSegmentsModel.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def appended(machine: Segments, length: int = 20_000) -> Extent:
    """An extent taken through to named, creating segments as needed."""
    extent = synced(machine, length)
    machine.named(extent)
    return extent


def synced(machine: Segments, length: int) -> Extent:
    while (extent := machine.allocate(length)) is None:
        for operation in machine.operations():
            assert isinstance(operation, Create)
            machine.created(operation.segment)
    machine.written(extent)
    sync = machine.begin_sync(extent.segment)
    assert sync is not None
    machine.synced(sync)
    return extent


def test_one_sync_serves_many_writes_but_not_later_ones() -> None:
    """S3: a sync covers exactly the writes that had returned when it began."""
    machine = Segments(LIMITS)
    machine.space(1 << 30)
    assert machine.allocate(100) is None
    (create,) = machine.operations()
    assert isinstance(create, Create)
    machine.created(create.segment)
    one, two, late = (machine.allocate(100) for _ in range(3))
    assert one and two and late
    machine.written(one)
    machine.written(two)
    sync = machine.begin_sync(one.segment)
    assert sync is not None
    machine.written(late)
    assert machine.begin_sync(one.segment) is None, "one sync of a file at a time"
    machine.synced(sync)
    assert [machine.is_synced(e) for e in (one, two, late)] == [True, True, False]


def test_punches_wait_for_a_batch_and_for_the_seal() -> None:
    """S6: nothing is punched in the open segment; in sealed ones adjacent extents go as one range."""
    machine = Segments(LIMITS)
    machine.space(1 << 30)
    extents = [appended(machine, 12_000) for _ in range(5)]
    first = [e for e in extents if e.segment == extents[0].segment]
    for extent in first[:2]:
        machine.unnamed(extent)
    assert not [op for op in machine.operations(flush=True) if isinstance(op, Punch)]
    machine.all[first[0].segment].seal_wanted = True
    machine._seal_if_quiet(machine.all[first[0].segment])
    (seal,) = (op for op in machine.operations(flush=True) if isinstance(op, Seal))
    machine.sealed(seal.segment)
    assert machine.has_dying and not [op for op in machine.operations() if isinstance(op, Punch)]
    (punch,) = (op for op in machine.operations(flush=True) if isinstance(op, Punch))
    assert punch.ranges == ((first[0].offset, 2 * record_bytes(12_000)),)


def test_a_quiet_peer_gives_space_back() -> None:
    """The open segment is sealed early when most of it waits to be punched."""
    machine = Segments(LIMITS)
    machine.space(1 << 30)
    extents = [appended(machine, 25_000) for _ in range(2)]
    assert len({e.segment for e in extents}) == 1
    for extent in extents:
        machine.unnamed(extent)
    (seal,) = (op for op in machine.operations() if isinstance(op, Seal))
    assert seal.segment == extents[0].segment


def test_rows_without_bytes_are_reported() -> None:
    """A row past its segment's end or of a missing segment gets a reason, and its id is not reissued."""
    machine = Segments(LIMITS)
    machine.found(3, 8192)
    assert machine.found_named(Extent(3, 0, 5000)) is None
    assert "ends at 8192" in str(machine.found_named(Extent(3, 4096, 5000)))
    assert "missing" in str(machine.found_named(Extent(9, 0, 10)))
    machine.space(1 << 30)
    machine.allocate(10)
    assert [op.segment for op in machine.operations() if isinstance(op, Create)] == [10]


def test_below_the_floor_chunks_are_refused_and_nothing_is_preallocated() -> None:
    """S11, also while the open segment has room; when space returns so do appends."""
    machine = Segments(LIMITS)
    machine.space(1 << 30)
    appended(machine)
    machine.space(LIMITS.floor - 1)
    assert machine.stats.below_floor
    with pytest.raises(Full, match="floor"):
        machine.allocate(10)
    assert machine.operations() == []
    machine.space(1 << 30)
    appended(machine)


@pytest.mark.parametrize(
    ("held", "free", "mib"),
    [
        (0, 500, 32),
        (0, 5000, 64),
        (600, 50_000, 64),
        (1100, 50_000, 128),
        (90_000, 900_000, 1024),
        (90_000, 1100, 8),
        (90_000, 1031, 0),
        (0, 1032, 8),
        (0, 900, 0),
    ],
)
def test_segment_sizes(held: int, free: int, mib: int) -> None:
    """Sizes grow with what the peer holds, shrink with free space, and never go below the floor."""
    floor = 1024 if free >= 900 and mib in (0, 8) else 100
    limits = Limits(floor=floor << 20)
    assert segment_bytes(held << 20, free << 20, limits) == mib << 20


def test_beyond_its_capacity_a_peer_refuses_chunks() -> None:
    """S11: what is named or may be soon counts; what failed, was abandoned or was let go does not."""
    machine = Segments(replace(LIMITS, capacity=3 * 8192))
    machine.space(1 << 30)
    first, second, third = (synced(machine, 5000) for _ in range(3))
    with pytest.raises(Full, match="capacity"):
        machine.allocate(10)
    machine.abandon(first)
    machine.named(second)
    fourth = synced(machine, 5000)
    with pytest.raises(Full, match="capacity"):
        machine.allocate(10)
    machine.unnamed(second)
    extent = machine.allocate(5000)
    assert extent is not None
    with pytest.raises(Full, match="capacity"):
        machine.allocate(10)
    machine.failed(extent)
    machine.named(third)
    machine.named(fourth)
    assert machine.allocate(5000) is not None
    again = Segments(replace(LIMITS, capacity=8192))
    again.found(1, 8192)
    assert again.found_named(Extent(1, 0, 5000)) is None
    again.space(1 << 30)
    with pytest.raises(Full, match="capacity"):
        again.allocate(10)

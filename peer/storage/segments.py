"""The life of a chunk's bytes: a state machine without I/O (architecture.md §9).

Events come in as method calls; what is to be done goes out as operations: `Create`, `Sync`, `Seal`,
`Punch`, `Remove`. `chunkfiles` executes them with threads, the simulator in other orders. Every call is
short and atomic: whoever shares the machine between threads holds one lock around each.

An extent goes

    allocated -> written -> synced -> named -> doomed -> unnamed -> punched
        \\          \\          \\_______________________/
         \\__________\\__ failed or abandoned ___________/

and a segment creating -> open -> sealing -> sealed -> removing. Named extents are not remembered one by
one (a peer holds millions): the rows know them, here they only count.

Invariants, checked where they are cited:

 S1  Records do not overlap: they start at a multiple of 4 KiB at their segment's end, which only grows,
     and lie inside what was preallocated.
 S2  Nothing is allocated in a segment before its creation (file, space and name) is durable.
 S3  A sync covers the writes that had returned when it began, no others.
 S4  Only what is synced becomes named. (The row may then be committed; the row decides existence.)
 S5  A segment is sealed when each of its extents is synced or failed, and is never written again.
 S6  Only unnamed extents of sealed segments are punched: the removal of the row is durable by then.
 S7  A pinned extent is not punched, and an unnamed one cannot be pinned.
 S8  A segment is removed when nothing in it is named, pinned or in flight; and not while it is the newest.
 S9  Ids are never reissued; the newest segment's file stays, so that the next start knows its id.
 S10 What no row names is punched only in segments of an earlier start whose adoption is complete.
 S11 Below the free-space floor, and beyond the peer's capacity, nothing is allocated or created.
"""

from __future__ import annotations

from collections import deque

from peer.buffers import PAGE_BYTES
from peer.errors import Full
from peer.storage.operations import (
    Create,
    Limits,
    Operation,
    Punch,
    Remove,
    Seal,
    SegmentsStats,
    Sync,
    segment_bytes,
)  # fmt: skip
from peer.storage.records import Extent, record_bytes
from peer.storage.segment import Phase, Segment, Stage, ranges_of, require


class Segments:
    """All segments of one peer. Not thread-safe: the caller holds a lock around each call."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.all: dict[int, Segment] = {}
        self.newest = 0  # highest id ever seen (S9)
        self._open: Segment | None = None
        self._next: Segment | None = None  # created ahead, so that no writer waits for a preallocation
        self._ready: deque[Create | Seal] = deque()
        self._mourning: set[int] = set()  # segments with extents that are dying
        self._emptier: set[int] = set()  # segments that may have become removable since `operations`
        self._free_bytes = 0
        self._held = 0  # bytes of records that are named, or may be soon
        self._create_failed = False
        self.create_failures = 0  # since the start

    # --- start-up ---

    def found(self, segment: int, end: int, *, adopting: bool = False) -> None:
        """A file of an earlier start, its unwritten tail cut off or about to be cut off at `end`."""
        require(segment not in self.all and end % PAGE_BYTES == 0, "S9: found twice, or not cut to pages")
        self.all[segment] = Segment(segment, end, Phase.SEALED, end, earlier=True, adopted=not adopting)
        self.newest = max(self.newest, segment)
        self._emptier.add(segment)

    def found_named(self, extent: Extent) -> str | None:
        """A row that names `extent`, at start-up: counted, or the reason why its bytes cannot be there."""
        self.newest = max(self.newest, extent.segment)  # S9, even when the file is gone
        held = self.all.get(extent.segment)
        if held is None:
            return f"segment {extent.segment} is missing"
        if extent.offset % PAGE_BYTES or extent.end > held.end:
            return f"segment {extent.segment} ends at {held.end}, before the record's end {extent.end}"
        held.count(extent)
        self._held += extent.record_bytes
        return None

    # --- space ---

    def space(self, free_bytes: int) -> None:
        """The file system's free space, told at start-up and now and then."""
        self._free_bytes = free_bytes
        self._create_failed = False

    def no_room(self, need: int, free: int = 0) -> str | None:
        """Why a record of `need` bytes is refused (S11); None if it is not. `free`: to be left above the floor."""
        limits = self.limits
        if self._free_bytes < limits.floor + free:
            what = "is below" if self._free_bytes < limits.floor else "leaves no room for a segment above"
            return f"{self._free_bytes >> 20} MiB free {what} the floor of {limits.floor >> 20} MiB"
        if limits.capacity is not None and self._held + need > limits.capacity:
            return f"{self._held >> 20} MiB held, of a capacity of {limits.capacity >> 20} MiB (--capacity)"
        return None

    # --- appending ---

    def allocate(self, length: int) -> Extent | None:
        """Room for a payload of `length` bytes; None when a `Create` must end first.

        Raises Full (S11, or no segment can be created); nothing changed.
        """
        need = record_bytes(length)
        require(need <= self.limits.least, "S1: a record larger than the smallest segment")
        if why := self.no_room(need):
            raise Full(why)
        if self._open is None or self._open.end + need > self._open.size:
            if self._next is None:
                self._create(need)
                return None
            if self._next.phase is not Phase.OPEN:
                return None
            if self._open is not None:
                self._open.seal_wanted = True
                self._seal_if_quiet(self._open)
            self._open, self._next = self._next, None
        home = self._open
        require(home.phase is Phase.OPEN, "S2")
        require(home.end % PAGE_BYTES == 0 and home.end + need <= home.size, "S1")
        extent = Extent(home.id, home.end, length)
        home.end += need
        home.stages[extent.offset] = Stage.ALLOCATED
        home.writing += 1
        self._held += need
        if self._next is None and home.size - home.end < home.size // 4 and not self._create_failed:
            self._create(0)
        return extent

    def written(self, extent: Extent) -> None:
        """The whole record's write returned."""
        home = self._advance(extent, Stage.ALLOCATED, Stage.WRITTEN, "S3")
        home.writing -= 1
        home.writes += 1
        home.numbers[extent.offset] = home.writes

    def failed(self, extent: Extent) -> None:
        """The write failed or was short: the extent is abandoned, its bytes mean nothing."""
        home = self._advance(extent, Stage.ALLOCATED, Stage.UNNAMED, "S3")
        home.writing -= 1
        self._let_go(home, extent)
        self._seal_if_quiet(home)

    def is_synced(self, extent: Extent) -> bool:
        """True once a sync covered the extent's write."""
        return self.all[extent.segment].stages.get(extent.offset) is Stage.SYNCED

    def begin_sync(self, segment: int) -> Sync | None:
        """A sync of all writes that have returned; None while another one runs."""
        home = self.all[segment]
        if home.syncing:
            return None
        home.syncing = True
        return Sync(segment, home.writes)

    def synced(self, sync: Sync) -> None:
        """The sync returned without an error. (After an error the process ends.)"""
        home = self.all[sync.segment]
        require(home.syncing, "S3: a sync that never began")
        home.syncing = False
        for offset in [offset for offset, number in home.numbers.items() if number <= sync.upto]:
            require(home.stages[offset] is Stage.WRITTEN, "S3")
            home.stages[offset] = Stage.SYNCED
            del home.numbers[offset]
        self._seal_if_quiet(home)

    # --- naming ---

    def named(self, extent: Extent) -> None:
        """The row that names the extent is durable."""
        home = self.all[extent.segment]
        require(home.stages.pop(extent.offset, None) is Stage.SYNCED, "S4")
        home.count(extent)

    def abandon(self, extent: Extent) -> None:
        """No row will ever name the synced extent: its commit failed, or the chunk was there already."""
        self._let_go(self._advance(extent, Stage.SYNCED, Stage.UNNAMED, "S4"), extent)

    def doomed(self, extent: Extent) -> None:
        """The row is marked doomed, durably. Readers that come now may still pin it."""
        home = self.all[extent.segment]
        require(extent.offset not in home.stages, "S6: doomed, but not named")
        home.stages[extent.offset] = Stage.DOOMED

    def unnamed(self, extent: Extent) -> None:
        """The removal of the row, or its move to another extent, is durable. No reader pins it from now."""
        home = self.all[extent.segment]
        require(home.stages.pop(extent.offset, Stage.DOOMED) is Stage.DOOMED, "S6: unnamed, but not named")
        require(home.live_count > 0 and extent.end <= home.end, "S6: unnamed twice")
        home.live_count -= 1
        home.live_bytes -= extent.record_bytes
        home.stages[extent.offset] = Stage.UNNAMED
        self._let_go(home, extent)

    # --- reading ---

    def pin(self, extent: Extent) -> bool:
        """Keep the extent from being punched until `unpin`; False if its bytes are gone or not there yet."""
        home = self.all.get(extent.segment)
        if home is None or home.phase is Phase.REMOVING or extent.end > home.end:
            return False
        if home.stages.get(extent.offset, Stage.DOOMED) not in (Stage.SYNCED, Stage.DOOMED):
            return False  # S7
        home.pins[extent.offset] = home.pins.get(extent.offset, 0) + 1
        return True

    def unpin(self, extent: Extent) -> bool:
        """End of one pin; True if a punch waited for it."""
        home = self.all[extent.segment]
        require(home.pins.get(extent.offset, 0) > 0, "S7: unpinned more often than pinned")
        home.pins[extent.offset] -= 1
        if home.pins[extent.offset]:
            return False
        del home.pins[extent.offset]
        self._emptier.add(home.id)
        return extent.offset in home.dying

    # --- adoption and strays ---

    def adopt(self, extent: Extent) -> None:
        """A row that names a record found by a scan is durable: amnesia's way to `named`."""
        home = self.all[extent.segment]
        require(home.earlier and not home.adopted and extent.end <= home.end, "S10: adopted out of turn")
        home.count(extent)
        self._held += extent.record_bytes

    def adopted(self, segment: int) -> None:
        """Every record of the segment that shall live is named, durably."""
        self.all[segment].adopted = True
        self._emptier.add(segment)

    def stray(self, extent: Extent) -> bool:
        """Scrub found bytes that no row names; True if they will be punched, False if they may not be yet."""
        home = self.all.get(extent.segment)
        if home is None or not (home.earlier and home.adopted) or home.phase is not Phase.SEALED:
            return False  # S10
        if extent.offset in home.stages or extent.offset in home.pins or extent.end > home.end:
            return False
        home.stages[extent.offset] = Stage.UNNAMED
        self._dies(home, extent)
        return True

    # --- operations and their ends ---

    def operations(self, *, flush: bool = False) -> list[Operation]:
        """What may be done now, each once. Without `flush`, punches only when a batch is worth it."""
        self._roll_if_dead()
        ready: list[Operation] = [self._ready.popleft() for _ in range(len(self._ready))]
        if flush or self.punch_due:
            ready += [punch for home in self._punchable() if (punch := self._punch(home)) is not None]
        for segment in sorted(self._emptier):
            home = self.all.get(segment)
            if home is not None and self._removable(home):
                home.phase = Phase.REMOVING
                ready.append(Remove(home.id))
        self._emptier.clear()
        return ready

    @property
    def punch_due(self) -> bool:
        """True when a batch of punches is worth it."""
        homes = self._punchable()
        count = sum(len(home.dying) for home in homes)
        dying = sum(home.dying_bytes for home in homes)
        return count >= self.limits.punch_count or dying >= self.limits.punch_bytes

    def created(self, segment: int) -> None:
        """The file, its space and its name are durable."""
        home = self.all[segment]
        require(home.phase is Phase.CREATING, "S2")
        home.phase = Phase.OPEN

    def create_failed(self, segment: int) -> None:
        """No file was left behind. Its id is not used again; nothing is created before `space` is told."""
        require(self._next is not None and self._next.id == segment, "S2")
        del self.all[segment]
        self._next = None
        self._create_failed = True
        self.create_failures += 1

    def sealed(self, segment: int) -> None:
        """The file was cut to its end."""
        home = self.all[segment]
        require(home.phase is Phase.SEALING, "S5")
        home.phase = Phase.SEALED
        home.size = home.end
        self._emptier.add(segment)

    def punched(self, punch: Punch) -> None:
        """The bytes are the file system's again."""
        home = self.all[punch.segment]
        home.punching -= 1
        home.not_empty = False
        self._emptier.add(home.id)
        for extent in punch.extents:
            require(home.stages.pop(extent.offset, None) is Stage.PUNCHING, "S6")

    def punch_failed(self, punch: Punch) -> None:
        """Nothing was lost: the extents wait for the next batch."""
        home = self.all[punch.segment]
        home.punching -= 1
        for extent in punch.extents:
            home.stages[extent.offset] = Stage.UNNAMED
            self._dies(home, extent)

    def removed(self, segment: int) -> None:
        """The file is gone (or will be found empty again by the next start)."""
        require(self.all[segment].phase is Phase.REMOVING, "S8")
        del self.all[segment]

    def remove_refused(self, segment: int) -> None:
        """The file still holds data: strays of a crash. It stays until scrub has named them."""
        home = self.all[segment]
        home.phase = Phase.SEALED
        home.not_empty = True

    @property
    def has_chores(self) -> bool:
        """True when a segment waits to be created or sealed: `operations` should be asked for soon."""
        return bool(self._ready)

    @property
    def has_dying(self) -> bool:
        """True when sealed segments hold extents that wait for a batch or for their readers."""
        return bool(self._punchable())

    @property
    def stats(self) -> SegmentsStats:
        homes = list(self.all.values())
        return SegmentsStats(
            segments=len(homes),
            live_count=sum(s.live_count for s in homes),
            live_bytes=sum(s.live_bytes for s in homes),
            dying_count=sum(len(s.dying) for s in homes),
            dying_bytes=sum(s.dying_bytes for s in homes),
            pinned=sum(len(s.pins) for s in homes),
            preallocated_bytes=sum(s.size - s.end for s in homes if s.phase is not Phase.SEALED),
            free_bytes=self._free_bytes,
            below_floor=self._free_bytes < self.limits.floor,
        )

    # --- inside ---

    def _create(self, need: int) -> None:
        """Ask for a new segment with room for `need` bytes. Raises Full when a needed one cannot be."""
        size = 0 if self._create_failed else segment_bytes(self._held, self._free_bytes, self.limits)
        if size < max(need, 1):
            if need:
                raise Full(f"{self._free_bytes >> 20} MiB free leave no room for another segment")
            return
        self._emptier.add(self.newest)  # the newest so far may go now
        self.newest += 1  # S9
        self._next = self.all[self.newest] = Segment(self.newest, size, Phase.CREATING)
        self._ready.append(Create(self.newest, size))

    def _advance(self, extent: Extent, before: Stage, after: Stage, invariant: str) -> Segment:
        home = self.all[extent.segment]
        require(home.stages.get(extent.offset) is before, f"{invariant}: {extent} is not {before.value}")
        home.stages[extent.offset] = after
        return home

    def _let_go(self, home: Segment, extent: Extent) -> None:
        self._held -= extent.record_bytes
        self._dies(home, extent)

    def _dies(self, home: Segment, extent: Extent) -> None:
        home.dying[extent.offset] = extent
        home.dying_bytes += extent.record_bytes
        self._mourning.add(home.id)

    def _punchable(self) -> list[Segment]:
        return [self.all[s] for s in sorted(self._mourning) if self.all[s].phase is Phase.SEALED]

    def _roll_if_dead(self) -> None:
        """Seal the open segment early when most of it waits to be punched: a quiet peer frees space too."""
        home = self._open
        if home and home.dying_bytes >= self.limits.punch_bytes and 2 * home.dying_bytes >= home.end:
            self._open = None
            home.seal_wanted = True
            self._seal_if_quiet(home)

    def _seal_if_quiet(self, home: Segment) -> None:
        if home.seal_wanted and not (home.writing or home.numbers or home.syncing):
            home.seal_wanted = False
            home.phase = Phase.SEALING  # S5
            self._ready.append(Seal(home.id, home.end))

    def _punch(self, home: Segment) -> Punch | None:
        extents = tuple(home.dying[o] for o in sorted(home.dying) if o not in home.pins)  # S7
        if not extents:
            return None
        for extent in extents:
            require(home.stages[extent.offset] is Stage.UNNAMED, "S6")
            home.stages[extent.offset] = Stage.PUNCHING
            del home.dying[extent.offset]
            home.dying_bytes -= extent.record_bytes
        home.punching += 1
        if not home.dying:
            self._mourning.discard(home.id)
        return Punch(home.id, ranges_of(extents), extents)

    def _removable(self, home: Segment) -> bool:
        return (
            home.phase is Phase.SEALED
            and home.adopted
            and home.id != self.newest  # S8, S9
            and not (home.live_count or home.stages or home.pins or home.punching or home.not_empty)
        )

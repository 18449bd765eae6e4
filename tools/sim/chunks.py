"""A chunk store on simulated files: the real `Segments` machine, its operations executed in any order.

It does what `peer/storage/chunkfiles.py` does with threads: write, sync, tell the machine, execute what it asks
for. Everything ends in a callback on the loop. `unsafe` removes one rule at a time, to show that the order matters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from blake3 import blake3

from peer.buffers import HEADER_BYTES, PAGE_BYTES
from peer.errors import Corrupt, Full, NotFound
from peer.storage.operations import Create, Limits, Operation, Punch, Remove, Seal, Sync
from peer.storage.records import Extent, pack_header, record_bytes, unpack_header
from peer.storage.segments import Segments
from tools.sim.blocks import SimFiles

KIB = 1024
LIMITS = Limits(
    floor=0, smallest=256 * KIB, largest=256 * KIB, least=256 * KIB, punch_bytes=64 * KIB, punch_count=8
)
FREE_BYTES = 1 << 40
Named = Callable[[Extent | Full], None]


def file_name(segment: int) -> str:
    return f"{segment:08d}"


class SimChunks:
    """One process's chunk store on one machine's files."""

    def __init__(
        self,
        files: SimFiles,
        named: Iterable[tuple[bytes, Extent]] = (),
        *,
        adopting: bool = False,
        unsafe: frozenset[str] = frozenset(),
        limits: Limits = LIMITS,
    ) -> None:
        self.files = files
        self.unsafe = unsafe
        self.machine = Segments(limits)
        self.machine.space(FREE_BYTES)
        self.lost: list[tuple[bytes, Extent, str]] = []
        self.running = 0  # operations under way
        self._waiting: deque[tuple[bytes, Named]] = deque()  # appends that need a segment first
        self._written: dict[Extent, Named] = {}
        for name in files.names():
            segment, end = int(name), self._data_end(name)
            self.machine.found(segment, end, adopting=adopting)
            files.cut(name, end)
        for chunk, extent in named:
            reason = self.machine.found_named(extent)
            if reason is not None:
                self.lost.append((chunk, extent, reason))

    # --- what a peer asks

    def append(self, payload: bytes, done: Named) -> None:
        """Store a record; `done(extent)` once a sync covers it, or Full."""
        try:
            extent = self.machine.allocate(len(payload))
        except Full as error:
            done(error)
            return
        if extent is None:
            self._waiting.append((payload, done))
        else:
            self._write(extent, payload, done)
        self.pump()

    def read(self, extent: Extent, name: bytes) -> bytes:
        """The payload under a pin. NotFound if it may not be pinned, Corrupt if it is not that chunk."""
        if not self.machine.pin(extent):
            raise NotFound(f"{extent} is gone")
        try:
            return self.read_pinned(extent, name)
        finally:
            self.machine.unpin(extent)

    def read_pinned(self, extent: Extent, name: bytes) -> bytes:
        record = self.files.read(file_name(extent.segment), extent.offset, extent.record_bytes)
        found = unpack_header(record[:HEADER_BYTES]) if len(record) >= HEADER_BYTES else None
        payload = record[HEADER_BYTES : HEADER_BYTES + extent.length]
        if found != (name, extent.length) or blake3(payload).digest() != name:
            raise Corrupt(f"{extent} does not hold chunk {name.hex()[:8]}")
        return payload

    def scan(self, segment: int) -> list[tuple[bytes, Extent]]:
        """Every whole record of a segment, found without rows."""
        name, found, offset = file_name(segment), [], 0
        length = self.files.length(name)
        while offset < length:
            header = unpack_header(self.files.read(name, offset, HEADER_BYTES))
            step = PAGE_BYTES
            if header is not None and offset + record_bytes(header[1]) <= length:
                extent = Extent(segment, offset, header[1])
                try:
                    self.read_pinned(extent, header[0])
                    found.append((header[0], extent))
                    step = extent.record_bytes
                except Corrupt:
                    pass
            offset += step
        return found

    def pump(self, *, flush: bool = False) -> None:
        """Execute what the machine asks for; ends come back as callbacks, in any order."""
        for operation in self.machine.operations(flush=flush):
            self.running += 1
            self._execute(operation)

    # --- appending

    def _write(self, extent: Extent, payload: bytes, done: Named) -> None:
        name = blake3(payload).digest()
        record = pack_header(name, len(payload)) + payload
        record += bytes(extent.record_bytes - len(record))
        file = file_name(extent.segment)
        if "sync_before_write_returned" in self.unsafe:
            both = [2]

            def half(_: Exception | None) -> None:
                both[0] -= 1
                if not both[0]:
                    self._pretend_synced(extent, done)

            self.files.write(file, extent.offset, record, half)
            self.files.sync(file, half)
        else:
            self.files.write(file, extent.offset, record, lambda _: self._returned(extent, done))

    def _returned(self, extent: Extent, done: Named) -> None:
        if "row_before_sync" in self.unsafe:
            self._pretend_synced(extent, done)
            return
        self.machine.written(extent)
        self._written[extent] = done
        self._sync(extent.segment)

    def _pretend_synced(self, extent: Extent, done: Named) -> None:
        """Negative controls: tell the machine of a sync that did not cover the write."""
        self.machine.written(extent)
        sync = self.machine.begin_sync(extent.segment)
        assert sync is not None
        self.machine.synced(sync)
        done(extent)
        self.pump()

    def _sync(self, segment: int) -> None:
        sync = self.machine.begin_sync(segment)
        if sync is not None:
            self.files.sync(file_name(segment), partial(self._synced, sync))

    def _synced(self, sync: Sync, error: Exception | None) -> None:
        assert error is None
        self.machine.synced(sync)
        here = [extent for extent in self._written if extent.segment == sync.segment]
        covered = [extent for extent in here if self.machine.is_synced(extent)]
        for extent in covered:
            self._written.pop(extent)(extent)
        if len(covered) < len(here):
            self._sync(sync.segment)
        self.pump()

    # --- what the machine asks for

    def _execute(self, operation: Operation) -> None:
        name = file_name(operation.segment)
        match operation:
            case Create(segment, size):
                create, sync = partial(self.files.create, name, size), partial(self.files.sync, name)
                self._steps([create, sync, self.files.sync_directory], lambda: self._created(segment))
            case Seal(segment, size):
                self._steps([partial(self.files.truncate, name, size)], lambda: self.machine.sealed(segment))
            case Punch(_, ranges, _):
                punches = [partial(self.files.punch, name, offset, size) for offset, size in ranges]
                self._steps([*punches], lambda: self.machine.punched(operation))
            case Remove(segment) if self._data_end(name):
                self._steps([], lambda: self.machine.remove_refused(segment))
            case Remove(segment):
                self._steps([partial(self.files.remove, name)], lambda: self.machine.removed(segment))

    def _steps(self, steps: list[Callable[..., None]], end: Callable[[], None]) -> None:
        """One after the other, then `end`."""

        def next_step(error: Exception | None) -> None:
            assert error is None
            if steps:
                steps.pop(0)(next_step)
            else:
                self.running -= 1
                end()
                self.pump()

        next_step(None)

    def _created(self, segment: int) -> None:
        self.machine.created(segment)
        waiting, self._waiting = self._waiting, deque()
        for payload, done in waiting:
            self.append(payload, done)

    def _data_end(self, name: str) -> int:
        """Where the last block with data ends: everything behind it is a hole."""
        end = self.files.length(name)
        while end and not any(self.files.read(name, end - PAGE_BYTES, PAGE_BYTES)):
            end -= PAGE_BYTES
        return end

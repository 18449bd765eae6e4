"""What the segments' state machine asks for, and the sizes it goes by. Plain data; see `segments`."""

from __future__ import annotations

from dataclasses import dataclass, field

from peer.storage.records import Extent

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes. Segments grow from `smallest` to `largest` with what the peer holds."""

    floor: int = 1 << 30  # free space below which new chunks are refused
    capacity: int | None = None  # bytes of records beyond which they are, too
    smallest: int = 64 * MIB
    largest: int = 1024 * MIB
    least: int = 8 * MIB  # how far segments shrink when space is scarce; holds one full record at least
    punch_bytes: int = 32 * MIB  # a batch of punches begins with so many bytes ...
    punch_count: int = 256  # ... or so many extents, or when asked to flush


@dataclass(frozen=True, slots=True)
class Create:
    """Create the file, preallocate it, sync it and its directory; then `created` or `create_failed`."""

    segment: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """fdatasync the segment; then `synced`. Covers writes numbered up to `upto`."""

    segment: int
    upto: int


@dataclass(frozen=True, slots=True)
class Seal:
    """Truncate the file to `size`, sync it, mark it as sealed; then `sealed`."""

    segment: int
    size: int


@dataclass(frozen=True, slots=True)
class Punch:
    """Return the ranges (offset, bytes) to the file system; then `punched` or `punch_failed`."""

    segment: int
    ranges: tuple[tuple[int, int], ...]
    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class Remove:
    """Unlink the file if it holds no data any more; then `removed`, or `remove_refused` if it does."""

    segment: int


Operation = Create | Seal | Punch | Remove


@dataclass(frozen=True, slots=True)
class SegmentsStats:
    """Counts of this moment; bytes are of whole records."""

    segments: int
    live_count: int
    live_bytes: int
    dying_count: int
    dying_bytes: int
    pinned: int
    preallocated_bytes: int
    free_bytes: int
    below_floor: bool


def segment_bytes(held: int, free: int, limits: Limits) -> int:
    """Size of a new segment: an eighth of what the peer holds, at most an eighth of the room above the floor.

    Powers of two between `smallest` and `largest`, shrinking to `least` when space is scarce; 0 when
    even that would go below the floor.
    """
    size = limits.smallest
    while size * 2 <= min(held // 8, limits.largest):
        size *= 2
    while size > limits.least and size > (free - limits.floor) // 8:
        size //= 2
    return size if size >= limits.least and free - size >= limits.floor else 0


@dataclass(frozen=True, slots=True)
class ChunkOptions:
    """What a peer sets once. The two `sync_` switches exist for negative controls of tests only."""

    limits: Limits = field(default_factory=Limits)
    direct: bool = True  # O_DIRECT for writes, where the file system takes it
    open_files: int = 256  # descriptors kept for reading
    punch_after_s: float = 1.0  # how long unnamed extents wait for a batch to fill
    full_for_s: float = 30.0  # how long a peer calls itself full after it refused a chunk
    space_every_s: float = 0.5  # how old the known free space may be when a chunk is accepted
    sync_data: bool = True
    sync_directory: bool = True


@dataclass(frozen=True, slots=True)
class OpenReport:
    """What a start found: segments, rows that name bytes, and rows whose bytes cannot be there."""

    segments: int
    named: int
    lost: int
    truncated_bytes: int
    direct: bool

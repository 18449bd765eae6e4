"""What the machine in `segments` knows of one segment, and the stages an extent in it goes through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from peer.storage.records import Extent


class InvariantError(AssertionError):
    """A caller or this machine broke one of S1 to S11: a defect, never a condition to handle."""


def require(condition: bool, invariant: str) -> None:
    if not condition:
        raise InvariantError(invariant)


class Stage(Enum):
    """Stages that are remembered for an extent; a named one is remembered only while doomed."""

    ALLOCATED = "allocated"
    WRITTEN = "written"
    SYNCED = "synced"
    DOOMED = "doomed"
    UNNAMED = "unnamed"
    PUNCHING = "punching"


class Phase(Enum):
    """A segment's state."""

    CREATING = "creating"
    OPEN = "open"
    SEALING = "sealing"
    SEALED = "sealed"
    REMOVING = "removing"


@dataclass(slots=True)
class Segment:
    """What is known of one segment file."""

    id: int
    size: int
    phase: Phase
    end: int = 0  # where the next record starts; of a sealed segment, the file's size
    live_count: int = 0
    live_bytes: int = 0  # of whole records
    earlier: bool = False  # sealed by an earlier start
    adopted: bool = True  # False while an amnesiac peer still hashes it into new rows
    stages: dict[int, Stage] = field(default_factory=dict)  # by offset
    numbers: dict[int, int] = field(default_factory=dict)  # written, not yet synced: offset -> number
    writes: int = 0  # writes that returned so far; their numbers are 1, 2, ...
    writing: int = 0  # allocated, neither returned nor failed
    syncing: bool = False
    seal_wanted: bool = False
    pins: dict[int, int] = field(default_factory=dict)  # offset -> readers
    dying: dict[int, Extent] = field(default_factory=dict)  # unnamed, neither punched nor being punched
    dying_bytes: int = 0
    punching: int = 0
    not_empty: bool = False  # the file still holds data that no event told us of: scrub's to find

    def count(self, extent: Extent) -> None:
        """A durable row names the extent."""
        self.live_count += 1
        self.live_bytes += extent.record_bytes


def ranges_of(extents: Iterable[Extent]) -> tuple[tuple[int, int], ...]:
    """(offset, bytes) of records in the order of their offsets, neighbours joined."""
    ranges: list[tuple[int, int]] = []
    for extent in extents:
        if ranges and sum(ranges[-1]) == extent.offset:
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + extent.record_bytes)
        else:
            ranges.append((extent.offset, extent.record_bytes))
    return tuple(ranges)

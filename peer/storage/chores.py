"""What the housekeeping thread of `chunkfiles` does to files: create, seal, punch, remove.

On a disk that takes no writes a seal, a punch or a removal waits for it: each can be done again from the beginning. That
a segment cannot be created is told at once, as appends wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from peer.storage.gauge import Gauge
from peer.storage.operations import Create, Operation, Punch, Remove, Seal
from peer.storage.segmentdir import SegmentDir
from peer.storage.segments import Segments

log = logging.getLogger(__name__)

Ended = Callable[[], None]


class Chores:
    """Executes operations, blocking. `counts` is the owner's."""

    def __init__(self, files: SegmentDir, machine: Segments, gauge: Gauge, counts: dict[str, int]) -> None:
        self._files = files
        self._machine = machine
        self._gauge = gauge
        self._counts = counts

    def do(self, operation: Operation) -> Ended | None:
        """Execute it; what tells the machine so, to be called under its lock. None: the disk takes no writes now, and the
        same operation is to be tried again. Raises OSError: the disk fails."""
        machine = self._machine
        try:
            match operation:
                case Create(segment, size):
                    return self._create(segment, size)
                case Seal(segment, size):
                    self._files.seal(segment, size)
                    return lambda: machine.sealed(segment)
                case Punch():
                    return self._punch(operation)
                case Remove(segment):
                    gone = self._files.remove(segment)
                    return lambda: machine.removed(segment) if gone else machine.remove_refused(segment)
        except OSError as error:
            if self._gauge.refused(error):
                return None
            raise

    def _create(self, segment: int, size: int) -> Ended:
        try:
            self._files.create(segment, size)
        except OSError as error:
            self._gauge.refused(error)
            log.warning("cannot create segment %d of %d MiB: %s", segment, size >> 20, error)
            return lambda: self._machine.create_failed(segment)
        return lambda: self._machine.created(segment)

    def _punch(self, punch: Punch) -> Ended:
        try:
            self._files.punch(punch.segment, punch.ranges)
        except OSError as error:
            if self._gauge.refused(error):
                raise
            log.warning("cannot punch segment %d: %s", punch.segment, error)
            return lambda: self._machine.punch_failed(punch)
        self._counts["punched_bytes"] += sum(size for _, size in punch.ranges)
        return lambda: self._machine.punched(punch)

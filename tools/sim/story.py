"""What happened in a run: counts always, a digest always, readable lines on request.

The digest makes two runs comparable bit for bit, so a seed can be replayed with its lines kept and
everyone can be sure to read the story of the same run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import blake2b

MAX_LINES = 200_000


class Story:
    """Counts faults by name, digests every event, and keeps lines if `keep` (messages too if `details`)."""

    def __init__(self, clock: Callable[[], float], keep: bool = False, details: bool = False) -> None:
        self.clock = clock
        self.keep = keep or details
        self.details = details  # every message too
        self.faults: Counter[str] = Counter()
        self.safeguards: Counter[str] = Counter()
        self.lines: list[str] = []
        self._digest = blake2b(digest_size=8)

    def event(self, who: str, what: str) -> None:
        """Part of the run's identity, and a line of its story. Events are not counted."""
        line = f"{self.clock():11.6f}  {who:<8} {what}"
        self._digest.update(line.encode())
        if self.keep and len(self.lines) < MAX_LINES:
            self.lines.append(line)

    def note(self, who: str, what: str) -> None:
        """A line that explains, for whoever reads; not part of the run's identity."""
        if self.keep and len(self.lines) < MAX_LINES:
            self.lines.append(f"{self.clock():11.6f}  {who:<8} {what}")

    def fault(self, name: str, who: str, what: str, quiet: bool = False) -> None:
        """A fault was injected (not merely possible): it counts. Quiet ones have no line of their own."""
        self.faults[name] += 1
        if not quiet:
            self.event(who, f"!! {name}: {what}")

    def bytes(self, data: bytes) -> None:
        """Digest what is too frequent for a line: the messages themselves, with their times."""
        self._digest.update(b"%r" % self.clock())
        self._digest.update(data)

    def digest(self) -> str:
        return self._digest.hexdigest()

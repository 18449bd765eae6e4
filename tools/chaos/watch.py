"""`status` against the disks: it must not say that all is well while an audit of the directories finds copies lacking."""

from __future__ import annotations

import time
from contextlib import suppress

from peer.errors import AtollError
from peer.recovery.audit import Audit, Lacking, audit
from tools.background import Background
from tools.chaos.machines import Machines

EVERY_S = 1.0
ALLOWED_S = 15.0
"""So long `status` may be better than the truth."""


class Watch(Background):
    """Polls both in a thread. `lies` are the copies that lacked for longer than allowed while `status` said healthy."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self._since: dict[Lacking, float] = {}  # since when it has lacked in every audit
        self._healthy_since_s: float | None = None
        super().__init__("chaos auditor")
        self.lies: list[str] = []
        self.audits = 0
        self.longest_s = 0.0

    def _run(self) -> None:
        with self._machines.client(patience_s=1.0) as client:
            while not self._stop.wait(EVERY_S):
                with suppress(AtollError):
                    found = audit(self._machines.directories)
                    info = client.cluster()
                    self._compare(found, bool(info.raw.get("redundancy", {}).get("whole")))

    def _compare(self, found: Audit, whole: bool) -> None:
        now = time.monotonic()
        self.audits += 1
        self._since = {one: self._since.get(one, now) for one in found.lacking}
        self._healthy_since_s = (self._healthy_since_s or now) if whole else None
        if self._healthy_since_s is None or not self._since:
            return
        lied_s = now - max(self._healthy_since_s, min(self._since.values()))
        self.longest_s = max(self.longest_s, lied_s)
        if lied_s > ALLOWED_S and len(self.lies) < 20:
            member, key = min(self._since, key=lambda one: self._since[one])
            self.lies.append(
                f"status says that all is well, {member} lacks {key.hex()} and {len(self._since) - 1} more"
            )


def whole(machines: Machines) -> bool:
    """Whether the cluster says, through whoever answers, that every object has all its replicas."""
    with suppress(AtollError), machines.client(patience_s=2.0) as client:
        info = client.cluster()
        return info.verdict == "healthy" and bool(info.raw.get("redundancy", {}).get("whole"))
    return False


FETCHING = ("hints", "anti-entropy", "transition", "recovery")
"""The workers that bring what other peers hold."""


def moved_bytes(machines: Machines) -> dict[str, int]:
    """What came to each peer for healing since its start: keys and digests too, but not what it read of its own disk."""
    with suppress(AtollError), machines.client(patience_s=2.0) as client:
        told: dict[str, int] = {}
        for one in client.workers().get("workers", ()):
            if one["worker"] not in FETCHING:
                continue
            name = str(one["node"]["name"])
            told[name] = told.get(name, 0) + int(one["bytes"])
        return told
    return {}

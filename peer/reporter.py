"""Writes a peer's journal: of what it is told, and of what changes in what it tells of itself, looked at once a second.

Causes and their ends come in pairs, so that whoever reads back sees for how long something lasted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from peer.journal import DAMAGE, DISK, ERROR, INFO, MEMBERSHIP, PROCESS, REPAIR, RING, WARNING, Journal
from peer.membership import MemberView
from ring.epoch import Epoch

log = logging.getLogger(__name__)

LOOK_S = 1.0
KNOWN_MOST = 4096
LEVELS = {"alive": INFO, "suspect": WARNING, "dead": ERROR, "left": INFO}
ENDED = {"slow": "is as fast as before", "full": "has room again", "read-only": "takes writes again"}
UNITS = {"chunks": ("chunk", "chunks"), "rows": ("row of metadata", "rows of metadata")}
BAD_ROWS = ("bad_rows", "bad_references")
Info = Mapping[str, Any]


class Reporter:
    """One peer's. All methods belong to the loop's thread."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._states: dict[str, tuple[str, int]] = {}  # member -> state and start that were written last
        self._epoch: Epoch | None = None
        self._flags: frozenset[str] = frozenset()
        self._last: Info = {}
        self._failing: dict[str, int] = {}  # worker -> what it had done when it failed
        self._bad: dict[
            str, int
        ] = {}  # what was found damaged and is not mended yet, and how much was told of

    # --- what it is told

    def process(self, code: str, message: str, level: str = INFO) -> None:
        self._journal.note(level, PROCESS, code, message)

    def member(self, view: MemberView) -> None:
        """Gossip has something new of a member. That one is alive of which nothing else was known is no news: who joins is
        told with the ring, and a start would be told by everybody of everybody."""
        before, boot = self._states.get(view.id, ("", 0))
        if (view.state, view.boot) == (before, boot):
            return
        if len(self._states) >= KNOWN_MOST:
            self._states.clear()
        self._states[view.id] = view.state, view.boot
        if view.state != "alive":
            code, what = f"peer_{view.state}", f"is {view.state}"
        elif before == "alive":
            code, what = "peer_restarted", "was started anew"
        elif before:
            code, what = "peer_alive", "is alive again"
        else:
            return
        where = f"{view.label} ({view.host}:{view.peer_port})"
        self._journal.note(LEVELS.get(view.state, WARNING), MEMBERSHIP, code, f"{where} {what}")

    def epoch(self, epoch: Epoch) -> None:
        """Another ring is in force."""
        before, self._epoch = self._epoch, epoch
        number = f"epoch {epoch.generation}.{epoch.number}"
        what = "; ".join(changes(before, epoch)) if before is not None else ""
        members = "1 member" if len(epoch.members) == 1 else f"{len(epoch.members)} members"
        settled = f"the ring is settled ({number}, {members})"
        message = f"the ring is being changed ({number})" if epoch.kind == "joint" else settled
        message += f": {what}" if what else ""
        self._journal.note(INFO, RING, f"ring_{epoch.kind}", message)

    def flags(self, flags: frozenset[str], info: Info) -> None:
        """This peer's own condition has changed (`peer.vitals`); `info` as in `look`."""
        raised, lowered, self._flags = flags - self._flags, self._flags - flags, flags
        condition: Info = info["condition"]
        for flag in sorted(raised & ENDED.keys()):
            level, message = ERROR, f"the disk is {flag}"
            if flag == "slow":
                level, slow = WARNING, condition["slow"]
                message += f": one {slow['operation']} took {slow['took_s']:g} s" if slow else ""
            elif why := info["full"] if flag == "full" else condition["read_only"]:
                message += f": {why}"
            self._journal.note(level, DISK, _code(flag), message)
        for flag in sorted(lowered & ENDED.keys()):
            self._journal.note(INFO, DISK, f"{_code(flag)}_over", f"the disk {ENDED[flag]}")

    # --- what it sees

    async def watch(self, info: Callable[[], Info]) -> NoReturn:
        """For ever."""
        while True:
            try:
                self.look(info())
            except Exception:
                log.exception("a look for the journal failed")  # the next one must still come
            await asyncio.sleep(LOOK_S)

    def look(self, info: Info) -> None:
        """`info` is what this peer tells of itself now (`peer.about`)."""
        before, self._last = self._last, info
        for worker in info["healing"]["workers"]:
            self._worker(worker)
        self._standstills(before.get("condition", {}), info["condition"])
        told, counts = info["healing"], info["replication"]
        earlier: Info = before.get("replication", {})
        self._damage("chunks", told["damaged"], _grown(earlier, counts, "quarantined", "lost"))
        rows = sum(_detail(info, "scrub", one) - _detail(before, "scrub", one) for one in BAD_ROWS if before)
        self._damage("rows", told["damaged_rows"], rows)
        self._missing(before.get("healing", {}).get("missing", 0), told["missing"])
        self._certificate(before.get("tls") or {}, info.get("tls") or {})
        self._evicted(_detail(before, "eviction", "removed"), _detail(info, "eviction", "removed"))

    def _worker(self, worker: Info) -> None:
        name, state = worker["name"], worker["state"]
        if state == "failing" and name not in self._failing:
            self._failing[name] = worker["done"]
            self._journal.note(WARNING, REPAIR, "worker_failing", f"{name} fails: {worker['last_error']}")
        elif name in self._failing and (
            state == "idle" or (state == "busy" and worker["done"] > self._failing[name])
        ):
            del self._failing[name]
            self._journal.note(INFO, REPAIR, "worker_works", f"{name} works again")

    def _standstills(self, before: Info, now: Info) -> None:
        if now.get("standstills", 0) > before.get("standstills", 0) and (blocked := now.get("blocked")):
            what = "the process was stopped" if blocked["stopped"] else "the event loop stood still"
            self.process("standstill", f"{what} for {blocked['lasted_s']:g} s", WARNING)

    def _damage(self, what: str, present: int, found: int) -> None:
        """`found` since the last look, mended by now perhaps; or `present` since an earlier life. More of the same is told
        when it has doubled: a disk that rots must not fill the journal."""
        noted, count = self._bad.get(what, 0), max(present, found)
        one, many = UNITS[what]
        if (count and not noted) or (noted and present >= 2 * noted):
            self._bad[what] = count
            which = f"1 {one} is" if count == 1 else f"{count} {many} are"
            message = f"{which} damaged or lost on this disk; copies of the other owners take their place"
            self._journal.note(ERROR, DAMAGE, f"{what}_damaged", message)
        if not present and self._bad.pop(what, 0):
            self._journal.note(INFO, DAMAGE, f"{what}_mended", f"no {one} is damaged here any more")

    def _missing(self, before: int, now: int) -> None:
        if now and not before:
            chunks = "1 chunk" if now == 1 else f"{now} chunks"
            self._journal.note(
                ERROR, DAMAGE, "chunks_missing", f"{chunks} could not be fetched from any owner"
            )
        elif before and not now:
            self._journal.note(INFO, DAMAGE, "chunks_found", "no chunk is missing any more")

    def _certificate(self, before: Info, now: Info) -> None:
        if before and now and before["fingerprint"] != now["fingerprint"]:
            self.process(
                "certificate_changed", f"clients are shown a new TLS certificate, until {now['not_after']}"
            )
        if now and now["problem"] not in ("", before.get("problem", "")):
            message = f"a new TLS certificate cannot be shown: {now['problem']}"
            self.process("certificate_unusable", message, WARNING)

    def _evicted(self, before: int, now: int) -> None:
        if now > before:
            message = "this peer had a member removed from the ring that had been dead for too long"
            self._journal.note(WARNING, RING, "evicted", message)


def changes(before: Epoch, after: Epoch) -> list[str]:
    """What differs between two rings, in words."""
    told = []
    old = {member.id: member for member in before.members}
    new = {member.id: member for member in after.members}
    told += [f"{new[one].name} joins" for one in new if one not in old]
    told += [f"{old[one].name} is out" for one in old if one not in new]
    for one in new.keys() & old.keys():
        if new[one].state != old[one].state:
            told.append(f"{new[one].name} is {new[one].state}")
        if (new[one].weight, new[one].zone) != (old[one].weight, old[one].zone):
            told.append(f"{new[one].name} has another capacity or zone")
    if after.replicas != before.replicas:
        told.append(f"{after.replicas} replicas instead of {before.replicas}")
    if after.generation != before.generation:
        told.append("by an operator's override")
    return sorted(told)


def _code(flag: str) -> str:
    return f"disk_{flag.replace('-', '_')}"


def _grown(before: Info, now: Info, *names: str) -> int:
    """By how much these counters have grown since the last look; what was before the first is none of ours."""
    return sum(now.get(name, 0) - before.get(name, now.get(name, 0)) for name in names)


def _detail(info: Info, worker: str, name: str) -> int:
    workers = info.get("healing", {}).get("workers", ())
    return sum(int(one["detail"].get(name, 0)) for one in workers if one["name"] == worker)

"""Has the verdict's changes in a journal also while nobody watches: the first living member looks, for all.

Every peer could; but a look asks everybody, and all would write the same. Two sides of a partition have one each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from peer.errors import AtollError
from peer.journal import CLOCK, ERROR, INFO, RING, WARNING, Journal
from peer.replication.node import Replica

from .clocks import SKEW_S
from .standing import Standing

log = logging.getLogger(__name__)

EVERY_S = 5.0
REASONS_MOST = 3
LEVELS = {"healthy": INFO, "degraded": WARNING, "unavailable": ERROR}


class Cluster(Protocol):
    """The views of the cluster (peer.api.cluster.ClusterView)."""

    async def looked(self) -> None: ...
    def standing(self) -> Standing: ...
    def verdict(self, standing: Standing | None = None) -> dict[str, Any]: ...


class Sentinel:
    """One peer's. `watch` runs for as long as the peer does."""

    def __init__(self, replica: Replica, cluster: Cluster, journal: Journal) -> None:
        self._replica = replica
        self._cluster = cluster
        self._journal = journal
        self._word = ""
        self._skewed: dict[str, str] = {}  # member -> its name

    async def watch(self) -> NoReturn:
        """For ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except AtollError as error:
                log.debug("no verdict to write down: %s", error)
            except Exception:
                log.exception("a look at the verdict failed")  # the next one must still come

    async def look(self) -> None:
        """Look, if it is this peer's part, and write what changed since it looked last."""
        living = self._cluster.standing().living
        if not living or min(member.id for member in living) != self._replica.me:
            self._word, self._skewed = "", {}
            return
        await self._cluster.looked()
        standing = self._cluster.standing()
        self._verdict(self._cluster.verdict(standing))
        self._clocks(standing)

    def _verdict(self, told: Mapping[str, Any]) -> None:
        before, self._word = self._word, told["verdict"]
        if self._word == before:
            return
        why = [reason["message"] for reason in told["reasons"]]
        more = f"; and {len(why) - REASONS_MOST} more reasons" if len(why) > REASONS_MOST else ""
        message = (
            f"the cluster is {self._word}" + (": " if why else "") + "; ".join(why[:REASONS_MOST]) + more
        )
        self._journal.note(LEVELS[self._word], RING, f"verdict_{self._word}", message)

    def _clocks(self, standing: Standing) -> None:
        names = {member.id: member.name for member in standing.epoch.members}
        for member, skew_s in standing.skews.items():
            if abs(skew_s) > SKEW_S and member not in self._skewed and member in names:
                self._skewed[member] = names[member]
                way = "ahead of" if skew_s > 0 else "behind"
                message = f"the clock of {names[member]} is {abs(skew_s):.0f} s {way} the others"
                self._journal.note(WARNING, CLOCK, "clock_skew", message)
            elif abs(skew_s) <= SKEW_S and (name := self._skewed.pop(member, None)):
                self._journal.note(INFO, CLOCK, "clock_right", f"the clock of {name} is right again")
        self._skewed = {member: name for member, name in self._skewed.items() if member in names}

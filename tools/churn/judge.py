"""What must hold: nobody is removed who was there, and in the end everybody agrees about everybody."""

from __future__ import annotations

from gossip.messages import ALIVE
from ring.changes import rebalanced
from ring.epoch import Epoch
from ring.members import LEAVING
from tools.churn.fleet import Fleet
from tools.churn.machine import Process

LATELY_S = 60.0
"""A removal is proposed, accepted and told; who returns in that very moment was away all the same."""


class Judge:
    """Looks at every epoch as it is decided, and at the fleet in the end."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.false_removals: list[str] = []
        self.removed_after_s: list[
            float
        ] = []  # of each that was removed though nobody asked: how long it was away
        self._last_final: Epoch | None = None
        fleet.on_decided = self.decided

    def decided(self, before: Epoch | None, epoch: Epoch) -> None:
        """Somebody uses a newer epoch than anybody before."""
        fleet = self.fleet
        names = {member.id: member.name for member in epoch.everybody}
        if before is not None:
            names |= {member.id: member.name for member in before.everybody}
            there = {member.id for member in epoch.members}
            final = self._last_final
            gone = [
                m for m in before.members if m.id not in there and final is not None and final.member(m.id)
            ]
            for member in gone:
                self._removed(member.id, member.name)
            come = [m.name for m in epoch.members if before.member(m.id) is None]
            change = "".join([*(f" -{m.name}" for m in gone), *(f" +{name}" for name in come)])
            fleet.story.event(
                "fleet", f"epoch {epoch.number} {epoch.kind}: {len(epoch.members)} members{change}"
            )
        if epoch.kind == "final":
            self._last_final = epoch

    def _removed(self, member_id: str, name: str) -> None:
        fleet = self.fleet
        if member_id in fleet.asked_to_leave:
            fleet.story.safeguards["left when it had given everything away"] += 1
            return
        machine = fleet.machines[fleet.machine_of[member_id]]
        away_s = fleet.away_s(machine, LATELY_S) if machine.id == member_id else float("inf")
        if away_s < fleet.evict_after_s:
            self.false_removals.append(f"{name} was removed, and had been away for {away_s:.0f} s at most")
        else:
            fleet.story.safeguards["removed because it was dead"] += 1
            self.removed_after_s.append(away_s)

    # --- the end

    def apart(self) -> str:
        """What is not in order yet; "" if everything is."""
        fleet, newest = self.fleet, self.fleet.newest()
        if newest.kind != "final":
            return f"epoch {newest.number} is joint"
        running = []
        for machine in fleet.machines:
            if machine.retired:
                continue
            if machine.process is None or not machine.process.serving:
                return f"{machine.name} does not serve"
            running.append(machine.process)
        ids = {process.me for process in running}
        assert len(ids) == len(running)
        for member in newest.members:
            if member.id not in ids:
                return f"{member.name} is in the ring, and does not run"
            if member.state == LEAVING:
                return f"{member.name} has not left yet"
        if len(newest.members) != len(running):
            return "who runs is not who is in the ring"
        for process in running:
            if word := self._differs(process, newest, running):
                return f"{process.machine.name} {word}"
        return ""

    def _differs(self, process: Process, newest: Epoch, running: list[Process]) -> str:
        """In what this member does not agree with the rest."""
        current = process.replica.epochs.current
        if current is None or (current is not newest and current != newest):
            return "has another epoch"
        if process.replica.epochs.fenced or not process.transition.merged:
            return "has not finished the change of the ring"
        seen = process.sees_alive()
        wanted = {one.me: (one.replica.identity.boot, newest.order) for one in running if one is not process}
        if seen != wanted:
            wrong = sorted(set(seen.items()) ^ set(wanted.items()))
            return f"believes otherwise of {len({member for member, _ in wrong})} members"
        return ""

    def settled(self) -> list[str]:
        """In a fleet that is in order: what is wrong with the ring itself, and what encoding shows."""
        fleet, newest = self.fleet, self.fleet.newest()
        problems = []
        encodings = {process.replica.epoch.encode() for process in fleet.running()}
        if len(encodings) != 1:
            problems.append(f"{len(encodings)} different encodings of one epoch")
        if rebalanced(newest) is not newest:
            problems.append("the table is not balanced")
        running = fleet.running()
        ids = {process.me for process in running}
        known = (member for one in running if one.node for member in one.node.swim.members.known.values())
        states = {member.state for member in known if member.id in ids}
        if states - {ALIVE}:
            problems.append("somebody who runs is not believed alive")
        return problems

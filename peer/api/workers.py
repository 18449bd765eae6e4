"""The background workers of all peers: what they do, and pausing, resuming, starting and throttling them.

A command goes to every peer that lives, or to one, and each keeps it durably; who did not answer is named, so that a
command is never believed to hold everywhere when it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from peer.errors import AtollError, NotFound
from peer.replication.env import Reply
from peer.replication.messages import FAILED, OK, WORKERS
from peer.replication.node import Replica
from peer.replication.quorum import Poll
from peer.replication.workers import Workers
from ring.members import Member

from .views import in_order

COMMAND_S = 5.0
VERBS = ("pause", "resume", "start", "throttle")
EVERYBODY = "all"


class Peers(Protocol):
    """What is known of the other peers (peer.api.cluster.ClusterView)."""

    def find(self, name: str) -> Member: ...
    async def infos(self) -> dict[str, dict[str, Any]]:
        """Member id -> what that peer tells of itself, of those that answered just now."""


class WorkersView:
    """Answers /v1/cluster/workers on one peer."""

    def __init__(self, replica: Replica, workers: Workers, peers: Peers) -> None:
        self._replica = replica
        self._workers = workers
        self._peers = peers
        replica.serve(WORKERS, self._on_command, votes=False)

    async def listed(self) -> dict[str, Any]:
        """{"workers": [...], "failed": [...]} of all members."""
        return self.listed_of(await self._peers.infos())

    def listed_of(self, infos: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The same from what the peers have told of themselves."""
        workers: list[dict[str, Any]] = []
        for member in self._members():
            if member.id in infos:
                workers += self._shown(member, infos[member.id].get("healing", {}).get("workers", []))
        return {"workers": workers, "failed": self._failed(self._members(), infos, "it did not answer")}

    async def command(self, verb: str, worker: str, node: str | None, value: float) -> dict[str, Any]:
        """Tell everybody, or one node; the workers concerned as they are afterwards. Raises NotFound."""
        if verb not in VERBS:
            raise NotFound(f"a worker has no {verb[:80]!r}; there are {', '.join(VERBS)}", code="NoSuchPath")
        names = self._workers.names if worker == EVERYBODY else [worker]
        if not set(names) <= set(self._workers.names):
            known = ", ".join(self._workers.names)
            raise NotFound(f"there is no worker {worker[:80]!r}; there are {known}", code="NoSuchWorker")
        members = [self._peers.find(node)] if node is not None else self._members()
        message = (WORKERS, 0, verb, names, value)
        ids = [member.id for member in members]
        poll = Poll(self._replica.env, self._replica.send, message, ids, COMMAND_S)
        await poll.run()
        told = {member: reply[1] for member, reply in poll.oks}
        workers = [
            one for member in members if member.id in told for one in self._shown(member, told[member.id])
        ]
        return {
            "workers": workers,
            "failed": self._failed(members, told, "it did not answer and goes on as before"),
        }

    def _members(self) -> list[Member]:
        return in_order(self._replica.epoch.members)

    @staticmethod
    def _shown(member: Member, statuses: list[dict[str, Any]]) -> list[dict[str, Any]]:
        node = {"id": member.id, "name": member.name}
        return [
            {"worker": status["name"], "node": node} | {k: v for k, v in status.items() if k != "name"}
            for status in statuses
        ]

    @staticmethod
    def _failed(members: list[Member], told: Mapping[str, Any], message: str) -> list[dict[str, str]]:
        return [{"node": member.name, "message": message} for member in members if member.id not in told]

    def _on_command(self, message: Any, reply: Reply) -> None:
        """(WORKERS, 0, verb, [worker], value) -> OK, [a map about each]."""
        _, _, verb, names, value = message
        self._replica.env.spawn(self._obey(verb, names, value, reply), "a command to workers")

    async def _obey(self, verb: str, names: list[str], value: float, reply: Reply) -> None:
        try:
            if verb == "pause":
                await self._workers.pause(names)
            elif verb == "resume":
                await self._workers.resume(names)
            elif verb == "throttle":
                await self._workers.limit(names, value)
            else:
                self._workers.start(names)
        except AtollError as error:
            return reply((FAILED, error.code, str(error)))
        return reply((OK, [status.to_map() for status in self._workers.statuses() if status.name in names]))

"""What an operator may do to a peer, or to repair on all of them: one table, and the words before and after. Pure.

Each action says first what it would do (the peer that is asked plans a change of the ring), and then what came of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tui.clean import clean
from tui.model import DASH, LEAVING, Cluster, Json, Peer, size_words, tolerance
from tui.repairing import workers

if TYPE_CHECKING:
    from peer.client import AsyncClient, AtollError

GAINS = 8
"""Peers that are named with what they would get."""
PAUSE_SAYS = "Lost and damaged copies are not made anew meanwhile, also not after a restart."


@dataclass(frozen=True, slots=True)
class Action:
    """`name` as the API has it; `key` as on the keyboard; `says` what it means, `alive` where the peer lives.

    `ring`: it changes the ring and is planned first; otherwise it commands the workers of repair. `typed`: the peer's
    name must be.
    """

    name: str
    key: str
    label: str
    says: str
    dead: str = ""
    ring: bool = True
    typed: bool = False
    first: bool = True
    """Whether the line at the foot of the screen names it; the help names all."""


ACTIONS: Mapping[str, Action] = {
    action.name: action
    for action in (
        Action(
            "drain", "D", "drain",
            "It gives everything it holds to the others and serves it meanwhile; it stays a member.",
            dead="It is dead and gives nothing: what it held is copied from the others; it stays a member.",
        ),
        Action("undrain", "U", "undrain", "It gets its share again.", first=False),
        Action(
            "remove", "X", "remove",
            "It gives everything it holds to the others, and then leaves for good.",
            dead="It is out at once, and what it held is copied from the others.",
            typed=True,
        ),
        Action("pause", "P", "pause repair", PAUSE_SAYS, ring=False, first=False),
        Action("resume", "R", "resume repair", "What waits is done.", ring=False, first=False),
    )
}  # fmt: skip


async def ask(client: AsyncClient, action: Action, peer: Peer | None, *, plan: bool) -> Json:
    """Have it done, or planned. Raises AtollError as the server refuses it; a plan changes nothing."""
    if action.ring:
        assert peer is not None
        return await client.change_node(peer.id, action.name, plan=plan)
    assert not plan
    return await client.command_workers(action.name, node=None if peer is None else peer.id)


def title(action: Action, peer: Peer | None) -> str:
    """Without a question mark."""
    words = action.label.capitalize()
    if action.ring:
        return f"{words} {peer.name if peer is not None else DASH}"
    return f"{words} on {'all peers' if peer is None else peer.name}"


def impact(
    action: Action, peer: Peer | None, cluster: Cluster | None, told: Json | None, plan: Json
) -> list[str]:
    """What would happen, line by line. `told` is GET /v1/cluster/workers, `plan` the server's for a change of the ring."""
    if not action.ring:
        return [action.says, *_waiting(told, peer)]
    dead = peer is not None and peer.state in ("dead", "left")
    lines = [action.dead if dead and action.dead else action.says, "", *_moves(plan, cluster)]
    if cluster is None:
        return lines
    lines += ["", f"Now {cluster.look.word.lower()}; it {tolerance(cluster.tolerates, cluster.verdict)}."]
    if action.name in ("drain", "remove") and peer is not None:
        lines += _afterwards(cluster, peer)
    return lines


def _moves(plan: Json, cluster: Cluster | None) -> list[str]:
    copies = _count(plan, "copies")
    if not copies:
        return ["Nothing has to move."]
    lines = [
        f"{_count(plan, 'partitions'):,} partitions get a new owner: {copies:,} copies, about"
        f" {size_words(_count(plan, 'bytes'))}, are made."
    ]
    nodes = plan.get("nodes")
    gains = [node for node in nodes if isinstance(node, Mapping)] if isinstance(nodes, list) else []
    gains.sort(key=lambda node: -_count(node, "bytes"))
    known = {peer.id: peer for peer in cluster.peers} if cluster is not None else {}
    for node in gains[:GAINS]:
        size = _count(node, "bytes")
        line = f"  {clean(str(node.get('name')))}: {_count(node, 'copies'):,} copies, {size_words(size)}"
        lines.append(line + _fuller(known.get(str(node.get("id"))), size))
    if len(gains) > GAINS:
        lines.append(f"  and {len(gains) - GAINS} more peers")
    return lines


def _fuller(peer: Peer | None, more: int) -> str:
    """How full a peer would be."""
    if peer is None or peer.used_bytes is None or not peer.capacity_bytes:
        return ""
    return f" (then {(peer.used_bytes + more) / peer.capacity_bytes * 100:.0f} % full)"


def _afterwards(cluster: Cluster, peer: Peer) -> list[str]:
    """How many could fail when it is done: a majority of the copies must be left."""
    staying = [
        one
        for one in cluster.peers
        if one.id != peer.id and one.state not in ("dead", "left", "unknown", *LEAVING)
    ]
    if cluster.replicas is None:
        return []
    copies = min(cluster.replicas, len(staying))
    some = "1 peer keeps" if len(staying) == 1 else f"{len(staying):,} peers keep"
    many = "1 copy" if copies == 1 else f"{copies} copies"
    return [f"Afterwards {some} {many} of everything, of which {max(0, (copies - 1) // 2)} may fail."]


def _waiting(told: Json | None, peer: Peer | None) -> list[str]:
    """What repair has to do now, and whether it is paused already."""
    mine = [one for one in workers(told) if peer is None or _node(one) == peer.id]
    if not mine:
        return []
    queued = sum(_count(one, "queue") for one in mine)
    paused = sum(one.get("state") == "paused" for one in mine)
    return [f"{queued:,} items wait now; {paused} of {len(mine)} workers are paused."]


def refusal(action: Action, peer: Peer | None, error: AtollError) -> str:
    """The server's words, without the client's before them, which name the peer by its id."""
    return clean(str(error).removeprefix(f"{action.name} {peer.id if peer is not None else 'all'}: "))


def outcome(action: Action, peer: Peer | None, answer: Json) -> tuple[str, str]:
    """What came of it, as a sentence and its level."""
    words = title(action, peer)
    if action.ring:
        copies = _count(answer, "copies")
        moving = f": about {size_words(_count(answer, 'bytes'))} move now" if copies else ""
        return f"{words}: accepted{moving}", "good"
    failed = _failures(answer)
    if failed:
        return f"{words}: done, but not on {'; '.join(failed[:GAINS])}", "error"
    return f"{words}: done", "good"


def _failures(answer: Json) -> Sequence[str]:
    failed = answer.get("failed")
    listed = [one for one in failed if isinstance(one, Mapping)] if isinstance(failed, list) else []
    return [clean(f"{one.get('node')}: {one.get('message')}") for one in listed]


def _count(told: Mapping[str, Any], name: str) -> int:
    value = told.get(name)
    return int(value) if isinstance(value, int | float) else 0


def _node(worker: Json) -> str:
    node = worker.get("node")
    return str(node.get("id")) if isinstance(node, Mapping) else ""

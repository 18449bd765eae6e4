"""The second of the figures: five peers full of objects, one lost for good and removed; how fast the others make up for it.

Heads are merged in the joint epoch, chunks are fetched after it; what each took is read from the workers of the peers that
are left. Progress of the backlog is what a poll finds still to be merged, fetched and compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peer.errors import AtollError
from peer.recovery.audit import audit, heads_in
from tools.chaos.load import Operation
from tools.chaos.machines import Machines
from tools.chaos.mixed import Filling, Mixed
from tools.chaos.watch import whole

PEERS = 5
CHUNK_BYTES = 4 << 20
CALM_S = 10.0
DEAD_S = 60.0
REBUILT_S = 900.0
POLL_S = 0.5
STALLED_S = 10.0
"""A backlog that has not become smaller for so long does not fall all the time."""

KNOWN_S = 3.0
"""After the removal, until every peer knows what it has to do: the backlog grows before it falls."""

Say = Callable[[str], None]


@dataclass(slots=True)
class Rebuild:
    """What came of a loss. Rates are of all peers together."""

    loaded: bool
    objects: int
    stored_bytes: int  # by clients
    heads: int = 0  # that the lost peer held
    chunk_bytes: int = 0  # that it held
    heads_s: float = 0.0  # from the removal until every head had its copies again
    whole_s: float | None = None  # from the removal until `status` said so
    before_s: float = 0.0  # operations of clients a second
    during_s: float = 0.0
    stalled_s: float = 0.0  # the longest time in which the backlog did not fall
    errors: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def heads_per_s(self) -> float:
        return self.heads / self.heads_s if self.heads_s else 0.0

    @property
    def chunk_mb_per_s(self) -> float:
        return self.chunk_bytes / 1e6 / self.whole_s if self.whole_s else 0.0

    @property
    def kept(self) -> float:
        """The share of their throughput that clients kept."""
        return self.during_s / self.before_s if self.before_s else 0.0


def measure(
    directory: Path, objects: int, object_bytes: int, clients: int, port: int, say: Say, *, loaded: bool
) -> Rebuild:
    """Raises DevError if the cluster does not start."""
    machines = Machines(directory, PEERS, port, None, {}, CHUNK_BYTES)
    found = Rebuild(loaded, objects, objects * object_bytes)
    try:
        machines.start_all()
        urls, keys = [machines.url(one) for one in machines.peers], machines.credentials()
        filling = Filling(urls, keys, "kept")
        took_s = filling.run(objects, object_bytes, "")
        found.problems += filling.failures[:5]
        say(f"{objects} objects of {object_bytes} bytes put in {took_s:.0f} s")
        if (settled_s := _await(lambda: whole(machines), DEAD_S)) is None:
            found.problems.append("not whole before anything was lost")
        else:
            say(f"whole after {settled_s:.0f} s")
        load = Mixed(urls, keys, clients) if loaded else None
        if load is not None:
            load.start()
            time.sleep(CALM_S)
        _lose(machines, load, found, say)
        if load is not None:
            load.stop()
            found.problems += load.wrong
            failed = [one.failure for one in load.operations if one.failure]
            found.errors, found.problems = len(failed), found.problems + failed[:5]
    finally:
        machines.close()
    return found


def _lose(machines: Machines, load: Mixed | None, found: Rebuild, say: Say) -> None:
    lost = PEERS - 1
    left = [peer for peer in machines.peers if peer != lost]
    with machines.client(lost) as client:
        found.chunk_bytes = int(client.node("self").raw["storage"]["live_bytes"])
    killed_s = time.monotonic()
    machines.kill(lost)
    name = machines.place(lost).name
    _await(lambda: all(_is_dead(machines, name, peer) for peer in left), DEAD_S)
    found.heads = heads_in(machines.directory(lost))
    with machines.client(*left) as client:
        removed_s = time.monotonic()
        answer = client.change_node(name, "remove")
        say(f"{name} is removed; about {answer.get('bytes', 0) / 1e6:.0f} MB to move")
        _follow(machines, found, removed_s, left)
    lacking = audit([machines.directory(peer) for peer in left]) if load is None else None
    if lacking is not None and lacking.lacking and found.whole_s is not None:
        found.problems.append(
            f"{len(lacking.lacking)} copies lack on the disks though all is said to be well"
        )
    if load is not None:
        found.before_s = _rate(load.operations, killed_s - CALM_S, killed_s)
        until_s = removed_s + (found.whole_s or REBUILT_S)
        found.during_s = _rate(load.operations, removed_s, until_s)


def _is_dead(machines: Machines, name: str, peer: int) -> bool:
    with machines.client(peer) as client:
        return client.node(name).state == "dead"


def _follow(machines: Machines, found: Rebuild, removed_s: float, left: list[int]) -> None:
    """Poll until all is well again."""
    best, best_s = float("inf"), removed_s
    final_s = None
    with machines.client(*left) as client:
        while (now_s := time.monotonic()) - removed_s < REBUILT_S:
            with suppress(AtollError):
                told = client.cluster().raw
                backlog, joint = _backlog(client.workers()), told["epoch"]["kind"] == "joint"
                if backlog < best or now_s - removed_s < KNOWN_S:
                    best, best_s = backlog, now_s
                found.stalled_s = round(max(found.stalled_s, now_s - best_s), 1)
                if final_s is None and not joint:
                    final_s = now_s
                    found.heads_s = round(now_s - removed_s, 1)
                if told["verdict"] == "healthy" and told["redundancy"]["whole"]:
                    found.whole_s = round(now_s - removed_s, 1)
                    return
            time.sleep(POLL_S)
    found.problems.append(f"not rebuilt within {REBUILT_S:g} s")


def _backlog(told: dict[str, Any]) -> int:
    """Partitions that are still to be merged, and those whose chunks are still to be fetched; of all peers together."""
    workers = told.get("workers", ())
    merging = sum(int(one["queue"]) for one in workers if one["worker"] == "transition")
    fetching = sum(int(one["detail"]["fetching"]) for one in workers if one["worker"] == "anti-entropy")
    return merging + fetching


def _rate(operations: list[Operation], from_s: float, to_s: float) -> float:
    ended = sum(from_s <= one.begun_s + one.took_s < to_s for one in operations if not one.failure)
    return round(ended / max(0.1, to_s - from_s), 1)


def _await(holds: Callable[[], bool], most_s: float) -> float | None:
    began_s = time.monotonic()
    while time.monotonic() - began_s < most_s:
        with suppress(AtollError):
            if holds():
                return time.monotonic() - began_s
        time.sleep(POLL_S)
    return None

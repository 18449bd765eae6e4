"""What is done to a peer: each fault is begun, held, and ended. One at a time, so no majority is ever destroyed."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from tools.chaos.ailments import SlowDisk, make_read_only, make_writable
from tools.chaos.machines import Machines
from tools.rot import fill_disk, flip_bits

FLIPS = 40


@dataclass(frozen=True, slots=True)
class Fault:
    """`begin(machines, peer, chance)`, later `end(machines, peer)`, after which the peer runs. `begin` raises NoAilment
    where this machine does not allow it. `small`: it strikes the peer that has a small disk of its own."""

    name: str
    what: str
    begin: Callable[[Machines, int, random.Random], None]
    end: Callable[[Machines, int], None]
    small: bool = False


def _kill(machines: Machines, peer: int, chance: random.Random) -> None:
    machines.kill(peer)


def _start(machines: Machines, peer: int) -> None:
    machines.start(peer)
    machines.wait_ready(peer)


def _freeze(machines: Machines, peer: int, chance: random.Random) -> None:
    machines.freeze(peer)


def _thaw(machines: Machines, peer: int) -> None:
    machines.thaw(peer)


def _drop(machines: Machines, peer: int, chance: random.Random) -> None:
    assert machines.network is not None
    machines.network.drop(peer)


def _restore(machines: Machines, peer: int) -> None:
    assert machines.network is not None
    machines.network.restore(peer)


def _corrupt(machines: Machines, peer: int, chance: random.Random) -> None:
    """Kill it, flip bits in what its segments and its rows hold."""
    machines.kill(peer)
    directory = machines.directory(peer)
    flip_bits(directory / "segments", FLIPS, chance)
    with closing(sqlite3.connect(directory / "rows" / "atoll.db")) as database, database:
        some = database.execute("select k, v from rows where k >= x'03' order by random() limit 5").fetchall()
        for key, value in some:
            damaged = bytearray(value)
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            database.execute("update rows set v = ? where k = ?", (bytes(damaged), key))


def _fill(machines: Machines, peer: int, chance: random.Random) -> None:
    """Fill its small disk to the last byte from outside."""
    fill_disk(machines.small[peer] / "filler")


def _unfill(machines: Machines, peer: int) -> None:
    (machines.small[peer] / "filler").unlink()
    if not machines.running(peer):
        _start(machines, peer)


def _slow(machines: Machines, peer: int, chance: random.Random) -> None:
    machines.slowed[peer] = SlowDisk(machines.pid(peer), machines.small[peer])


def _unslow(machines: Machines, peer: int) -> None:
    machines.slowed.pop(peer).end()
    if not machines.running(peer):
        _start(machines, peer)


def _refuse_writes(machines: Machines, peer: int, chance: random.Random) -> None:
    make_read_only(machines.directory(peer))


def _take_writes(machines: Machines, peer: int) -> None:
    make_writable(machines.directory(peer))
    if not machines.running(peer):
        _start(machines, peer)


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("kill", "SIGKILL, and a start", _kill, _start),
        Fault("freeze", "SIGSTOP and SIGCONT", _freeze, _thaw),
        Fault("drop", "all packets vanish", _drop, _restore),
        Fault("corrupt", "bits flipped in segments and rows while it is dead", _corrupt, _start),
        Fault("full", "its disk is filled from outside", _fill, _unfill, small=True),
        Fault("slow", "its disk takes one write a second", _slow, _unslow, small=True),
        Fault("readonly", "its disk takes no writes", _refuse_writes, _take_writes, small=True),
    )
}

"""The first of the figures: three peers under a mixed load, one of them gone in one of three ways, and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tools.chaos.faults import FAULTS
from tools.chaos.load import Operation, longest_outage_s
from tools.chaos.machines import Machines
from tools.chaos.mixed import Filling, Mixed
from tools.chaos.network import Network, NoNetwork
from tools.chaos.watch import whole
from tools.devlayout import DevError

WAYS = ("kill", "freeze", "drop")
CHUNK_BYTES = 1 << 20
CALM_S = 5.0
HOLD_S = 15.0
GRACE_S = 5.0
MEANWHILE, MEANWHILE_BYTES = 10_000, 4096
HEAL_S = 180.0
POLL_S = 0.2

Say = Callable[[str], None]


@dataclass(slots=True)
class Outage:
    """What clients saw of one fault. Times in seconds; `slowest_later_s` is of what was still under way GRACE_S after it."""

    way: str
    operations: int = 0
    errors: int = 0
    before_s: float = 0.0  # operations a second, before and while it was gone
    during_s: float = 0.0
    slowest_first_s: float = 0.0
    slowest_later_s: float = 0.0
    quiet_s: float = 0.0  # the longest time in which nothing succeeded
    meanwhile: int = 0  # objects written while it was away, besides the mixed load's
    healed_s: float | None = None
    problems: list[str] = field(default_factory=list)


def measure(
    directory: Path, ways: tuple[str, ...], clients: int, port: int, meanwhile: int, say: Say
) -> list[Outage]:
    """One cluster, one way after the other. Raises DevError if it does not start."""
    with _cluster(directory, "drop" in ways, port, say) as machines:
        found = []
        for way in ways:
            if way == "drop" and machines.network is None:
                continue
            found.append(_one(machines, way, clients, meanwhile, say))
        return found


@contextmanager
def _cluster(directory: Path, network: bool, port: int, say: Say) -> Iterator[Machines]:
    net: Network | None = None
    if network:
        try:
            net = Network(3).__enter__()
        except NoNetwork as why:
            say(f"drop is left out: no network namespaces here: {why}")
    machines = Machines(directory, 3, port, net, {}, CHUNK_BYTES)
    try:
        machines.start_all()
        yield machines
    finally:
        machines.close()
        if net is not None:
            net.close()


def _one(machines: Machines, way: str, clients: int, meanwhile: int, say: Say) -> Outage:
    fault, peer = FAULTS[way], 2
    urls, keys = [machines.url(one) for one in machines.peers], machines.credentials()
    load = Mixed(urls, keys, clients)
    load.start()
    say(f"{way}: under load")
    time.sleep(CALM_S)
    began_s = time.monotonic()
    fault.begin(machines, peer, None)  # type: ignore[arg-type]
    time.sleep(HOLD_S)
    stop_s = time.monotonic()
    load.stop()
    outage = judge(way, load.operations, began_s, stop_s)
    outage.problems += load.wrong
    say(f"{way}: {meanwhile} objects meanwhile")
    filling = Filling(urls[:peer], keys, "meanwhile")
    filling.run(meanwhile, MEANWHILE_BYTES, f"{way}/")
    outage.meanwhile = meanwhile - len(filling.failures)
    outage.problems += filling.failures[:5]
    fault.end(machines, peer)
    outage.healed_s = await_whole(machines, HEAL_S)
    say(f"{way}: whole again after {outage.healed_s} s")
    return outage


def judge(way: str, operations: list[Operation], began_s: float, stop_s: float) -> Outage:
    """What the operations say of a fault that began at `began_s`, under a load that was ended at `stop_s`."""
    outage = Outage(way, len(operations))
    calm = [one for one in operations if began_s - CALM_S <= one.begun_s + one.took_s < began_s]
    outage.before_s = round(len(calm) / CALM_S, 1)
    after = [one for one in operations if one.begun_s + one.took_s >= began_s]
    outage.during_s = round(len(after) / max(0.1, stop_s - began_s), 1)
    first = [one for one in after if one.begun_s < began_s + GRACE_S]
    later = [one for one in after if one.begun_s + one.took_s > began_s + GRACE_S]
    outage.slowest_first_s = round(max((one.took_s for one in first), default=0.0), 2)
    outage.slowest_later_s = round(max((one.took_s for one in later), default=0.0), 2)
    failed = [one.failure for one in operations if one.failure]
    outage.errors = len(failed)
    outage.problems += failed[:5]
    outage.quiet_s = round(longest_outage_s(sorted(after, key=lambda one: one.begun_s)), 2)
    return outage


def await_whole(machines: Machines, most_s: float) -> float | None:
    """Seconds until the cluster says that it is whole, None if it takes longer than `most_s`."""
    began_s = time.monotonic()
    while not whole(machines):
        if time.monotonic() - began_s > most_s:
            return None
        time.sleep(POLL_S)
    return round(time.monotonic() - began_s, 1)


__all__ = ["DevError", "Outage", "judge", "measure"]

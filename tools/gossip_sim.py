"""How fast and how reliably gossip notices a death, what it costs, and what stalled members do to others.

`measure` and `stalls` are the experiments, on a `tools.gossip_world.World`; `gossip_sim` prints them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import click

from gossip.config import Config
from tools.gossip_world import World


def expected_failure(loss: float) -> float:
    """The share of probes of healthy members that fail without the TCP probe: gossip/probe.py."""
    kept = 1 - loss
    return float((1 - kept**2) * (1 - kept**4) ** 3)


@dataclass(frozen=True, slots=True)
class Report:
    """One run. Times in seconds after the crash, None of what did not happen; rates per member."""

    members: int
    loss: float
    seconds: float
    first_suspicion_s: float | None
    first_death_s: float | None
    last_death_s: float | None
    noticed: int
    false_deaths: int
    false_deaths_per_member_hour: float
    packets_per_s: float
    bytes_per_s: float
    tcp_bytes_per_s: float
    probes: int
    probes_failed: int
    wall_s: float


def measure(
    size: int,
    loss: float,
    seconds: float,
    seed: int,
    config: Config | None = None,
    *,
    encrypted: bool = False,
) -> Report:
    """Let a cluster run for `seconds`, counting traffic and false deaths; then crash one and watch."""
    began = time.perf_counter()
    collecting = gc.isenabled()
    gc.disable()  # millions of objects in one process: a collection finds nothing and takes seconds
    try:
        world = World(size, loss, seed, config, encrypted=encrypted)
        world.run(seconds)
        packets, sent, tcp, stats = world.packets, world.bytes, world.tcp_bytes, world.stats()
        crashed_at = world.now
        world.crash(world.rng.randrange(size))
        _, longest_s = world.config.suspicion_s(size)
        limit = crashed_at + longest_s + 60.0
        while len(world.sightings.deaths) < size - 1 and world.now < limit:
            world.run(world.now + 0.5)
    finally:
        if collecting:
            gc.enable()
    seen = world.sightings
    deaths = sorted(moment - crashed_at for moment in seen.deaths.values())
    hours = size * world.now / 3600.0
    return Report(
        members=size,
        loss=loss,
        seconds=world.now,
        first_suspicion_s=None if seen.suspected is None else seen.suspected - crashed_at,
        first_death_s=deaths[0] if deaths else None,
        last_death_s=deaths[-1] if len(deaths) == size - 1 else None,
        noticed=len(deaths),
        false_deaths=len(world.false_deaths),
        false_deaths_per_member_hour=len(world.false_deaths) / hours,
        packets_per_s=packets / seconds / size,
        bytes_per_s=sent / seconds / size,
        tcp_bytes_per_s=tcp / seconds / size,
        probes=stats.probes,
        probes_failed=stats.probes_failed,
        wall_s=time.perf_counter() - began,
    )


@dataclass(frozen=True, slots=True)
class StallReport:
    """What stalls of one length did to the members that never stalled."""

    length_s: float
    stalled: int
    false_deaths: int
    false_suspicions: int
    pauses: int


def stalls(
    size: int,
    stalled: int,
    length_s: float,
    seed: int,
    config: Config | None = None,
    *,
    loss: float = 0.0,
    rounds: int = 4,
    drain_first: bool = True,
) -> StallReport:
    """Stop `stalled` members for `length_s`, at different moments, `rounds` times, a few seconds apart."""
    world = World(size, loss, seed, config, drain_first=drain_first)
    start = 3.0
    for _ in range(rounds):
        for index in range(stalled):
            world.stall(world.nodes[index], start + world.rng.random(), length_s)
        start += length_s + 2.0 + 4.0 * world.rng.random()
    _, longest_s = world.config.suspicion_s(size)
    world.run(start + longest_s + 5.0)
    stats = world.stats()
    return StallReport(
        length_s,
        stalled,
        len(world.false_deaths),
        len(world.false_suspicions),
        stats.pauses,
    )


_HEAD = (
    f"{'members':>7} {'loss':>5} {'suspected':>9} {'1st death':>9} {'last':>6} {'noticed':>9} {'false deaths':>12} "
    f"{'/member-h':>9} {'packets/s':>9} {'bytes/s':>8} {'TCP B/s':>8} {'failed probes':>13} {'formula':>8} {'run':>6}"
)


def _line(report: Report) -> str:
    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}s"

    failed = report.probes_failed / max(1, report.probes)
    return (
        f"{report.members:>7} {report.loss:>5.0%} {seconds(report.first_suspicion_s):>9} "
        f"{seconds(report.first_death_s):>9} {seconds(report.last_death_s):>6} "
        f"{report.noticed:>4}/{report.members - 1:<4} {report.false_deaths:>12} "
        f"{report.false_deaths_per_member_hour:>9.3f} {report.packets_per_s:>9.2f} {report.bytes_per_s:>8.0f} "
        f"{report.tcp_bytes_per_s:>8.0f} {failed:>13.3%} {expected_failure(report.loss):>8.3%} "
        f"{report.wall_s:>5.0f}s"
    )


@click.command("gossip")
@click.option(
    "--members", multiple=True, type=click.IntRange(2, 10_000), default=(100, 1000), show_default=True
)
@click.option(
    "--loss", multiple=True, type=click.FloatRange(0, 0.9), default=(0.0, 0.05, 0.1, 0.3), show_default=True
)
@click.option("--seconds", default=120.0, show_default=True, help="Virtual time before the crash.")
@click.option("--seed", default=1, show_default=True, help="The same seed repeats a run exactly.")
@click.option("--tcp/--no-tcp", default=True, show_default=True, help="The fallback probe over TCP.")
@click.option("--encrypt/--no-encrypt", default=False, show_default=True, help="Seal every datagram.")
@click.option(
    "--stall", multiple=True, type=float, help="Instead: stall a tenth of the members this many seconds."
)
def gossip_sim(
    members: Sequence[int],
    loss: Sequence[float],
    seconds: float,
    seed: int,
    tcp: bool,
    encrypt: bool,
    stall: Sequence[float],
) -> None:
    """Simulate the failure detector: detection times, false deaths, traffic."""
    config = replace(Config(), tcp_probe=tcp)
    if stall:
        for size in members:
            for length_s in stall:
                result = stalls(size, max(1, size // 10), length_s, seed, config)
                click.echo(f"{size} members, {result}")
        return
    click.echo(_HEAD)
    for size in members:
        for share in loss:
            click.echo(_line(measure(size, share, seconds, seed, config, encrypted=encrypt)))


if __name__ == "__main__":
    gossip_sim()

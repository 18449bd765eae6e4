"""`atoll sim ring-churn`: hours of coming and going among hundreds of members, and the verdict."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from tools.churn.run import Options, Result, Run
from tools.hours import HoursTold

STORY_LINES = 60


@click.command("ring-churn")
@click.option(
    "--members", default=200, type=click.IntRange(10, 2000), show_default=True, help="Members at first."
)
@click.option(
    "--hours",
    default=2.0,
    type=click.FloatRange(0.05, 240),
    show_default=True,
    help="Virtual hours of faults.",
)
@click.option("--seed", default=1, show_default=True, help="The same seed repeats a run exactly.")
@click.option(
    "--seeds", default=1, type=click.IntRange(min=1), show_default=True, help="How many, from --seed on."
)
@click.option("--story", is_flag=True, help="Print all that happened.")
def ring_churn(members: int, hours: float, seed: int, seeds: int, story: bool) -> None:
    """Gossip, the ring and its changes in a large cluster whose members fail, come and go; nobody may be removed wrongly."""
    options = Options(members=members, seconds=hours * 3600)
    for number in range(seed, seed + seeds):
        with _refusals_untold():
            run = Run(number, options, story=True)
            with HoursTold(run.loop, options.seconds):
                result = run.run()
        if story:
            click.echo("\n".join(result.lines))
        click.echo(summary(result))
        if not result.ok:
            if not story:
                click.echo("\n".join(result.lines[-STORY_LINES:]))
            again = f"atoll sim ring-churn --members {members} --hours {hours:g} --seed {number} --story"
            click.echo("\n".join([f"seed {number} is bad ({again}):", *result.problems]))
            sys.exit(1)
    click.echo("nobody was removed wrongly, and in the end all agreed")


@contextmanager
def _refusals_untold() -> Iterator[None]:
    """The peers log nothing meanwhile: thousands of their changes are meant to be refused."""
    peers = logging.getLogger("peer")
    level = peers.level
    peers.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        peers.setLevel(level)


def summary(result: Result) -> str:
    """What happened, in a few lines."""
    hours = result.virtual_s / 3600
    seconds = max(1.0, result.member_seconds)
    waits = ", ".join(f"{away_s:.0f}" for away_s in sorted(result.removed_after_s)) or "-"
    return "\n".join(
        [
            f"seed {result.seed}: {hours:.2f} virtual hours in {result.cpu_s:.0f} CPU-seconds, digest {result.digest}",
            f"  members in the end {result.members}, epochs decided {result.epochs - 1},"
            f" all in order {result.converged_s:.1f} s after the last fault",
            f"  faults: {_counts(result.faults)}",
            f"  held: {_counts(result.safeguards)}",
            f"  removed because dead after (s): {waits}",
            f"  believed dead: {result.deaths} lives, {result.false_deaths} of them healthy; false removals"
            f" {result.false_removals}",
            f"  clients: {_counts(result.answers)}",
            f"  gossip of one member: {result.datagrams / seconds:.2f} datagrams/s,"
            f" {result.udp_bytes / seconds:.0f} bytes/s, {result.tcp_bytes / seconds:.0f} TCP bytes/s",
        ]
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"


if __name__ == "__main__":
    ring_churn()

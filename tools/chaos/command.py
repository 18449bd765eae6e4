"""`atoll chaos`: faults on a cluster founded for it, under load; every acknowledged object is verified at the end."""

from __future__ import annotations

import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import click

from tools.chaos.faults import FAULTS
from tools.chaos.figures import OBJECTS, measure
from tools.chaos.run import Outcome, Plan, Run
from tools.cli.output import Column, clean, emit_one, print_table, seconds_text, size_text, write
from tools.cli.session import note
from tools.cli.settings import current, lists

FAILED = 1
_COLUMNS = (
    Column("FAULT", lambda one: one.fault),
    Column("PEER", lambda one: one.peer),
    Column("HELD", lambda one: seconds_text(one.held_s), right=True),
    Column(
        "HEALED IN", lambda one: "never" if one.healed_s is None else seconds_text(one.healed_s), right=True
    ),
    Column("LACKED", lambda one: size_text(one.lacking_bytes), right=True),
    Column("MOVED", lambda one: size_text(one.moved_bytes), right=True),
    Column("SLOW", lambda one: str(one.slow), right=True),
)
_FIGURES = (
    Column("FIGURE", lambda one: one.what),
    Column(
        "MEASURED",
        lambda one: "never" if one.measured is None else f"{one.measured:.4g} {one.unit}".strip(),
        right=True,
    ),
    Column("AIM", lambda one: f"{'≥' if one.higher else '≤'} {one.aim:g} {one.unit}".strip(), right=True),
    Column("", lambda one: "" if one.reached else "MISSED"),
)


@click.command()
@click.option("--peers", type=click.IntRange(3, 12), default=3, show_default=True)
@click.option("--clients", type=click.IntRange(1, 64), default=4, show_default=True, help="Clients at once.")
@click.option(
    "--keys", type=click.IntRange(1, 100_000), default=60, show_default=True, help="Keys of each client."
)
@click.option(
    "--seconds", type=click.FloatRange(0, 86_400), default=60.0, show_default=True, help="Strike so long."
)
@click.option(
    "--hold", type=click.FloatRange(0.5, 3600), default=6.0, show_default=True, help="Seconds a fault lasts."
)
@click.option(
    "--fault", "faults", type=click.Choice(list(FAULTS)), multiple=True, help="Only these; without it all."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the choice of peers and faults.")
@click.option(
    "--port", type=click.IntRange(1024, 65_000), default=7500, show_default=True, help="The first peer's."
)
@click.option(
    "--scratch", type=click.Path(path_type=Path, file_okay=False, exists=True), default=".", help="For data."
)
@click.option("--quick", is_flag=True, help="Do not kill each peer once more at the end.")
@click.option("--figures", is_flag=True, help="Measure the figures of healing instead; see below.")
@click.option(
    "--objects", type=click.IntRange(100, 1_000_000), default=OBJECTS, show_default=True,
    help="Of 256 KiB, on the five peers of --figures.",
)  # fmt: skip
@lists
def chaos(
    peers: int, clients: int, keys: int, seconds: float, hold: float, faults: tuple[str, ...], seed: int, port: int,
    scratch: Path, quick: bool, figures: bool, objects: int,
) -> int:  # fmt: skip
    """Kill, freeze, cut off, corrupt, fill and hamper peers of a cluster founded for it, under load.

    One fault at a time; after each the cluster must heal by itself. At the end every acknowledged object is
    read through every peer, an audit of the data directories must agree with `status`, and any one peer may
    be killed. Exit 1 if anything was wrong. `drop` needs root and `ip`; `full`, `slow` and `readonly` need root
    and mkfs.ext4, `slow` the kernel's limits of writes as well, `readonly` chattr; what is missing is left out,
    and it is said. Everything is removed at the end.

    With --figures: three peers under a mixed load lose one (killed, frozen, cut off), which comes back after 10,000
    objects were written; then five peers lose one for good, idle and under load. What was measured is held against
    what was aimed at. Some eight minutes and 16 GB below --scratch; other options than --port, --objects and --scratch
    do not count.
    """
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # clean up then, too: disks are mounted, networks made
    if figures:
        return _figures(scratch, objects, port)
    plan = Plan(
        peers=peers, clients=clients, keys=keys, seconds=seconds, hold_s=hold, seed=seed, port=port,
        faults=faults or tuple(FAULTS), kill_each=not quick,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="atoll-chaos-", dir=scratch) as directory:
        outcome = Run(plan, Path(directory).absolute(), lambda text: note(clean(text))).run()
    _show(outcome)
    return 0 if outcome.ok else FAILED


def _figures(scratch: Path, objects: int, port: int) -> int:
    """Measure, and print a line for each figure. Exit 1 if something was wrong or an aim was not reached."""
    with tempfile.TemporaryDirectory(prefix="atoll-chaos-", dir=scratch) as directory:
        lines, problems = measure(Path(directory).absolute(), objects, port, lambda text: note(clean(text)))
    good = not problems and all(line.reached for line in lines)
    if current().output != "table":
        told = [asdict(line) | {"reached": line.reached} for line in lines]
        emit_one({"figures": told, "problems": problems, "ok": good}, "ok" if good else "failed", [])
        return 0 if good else FAILED
    print_table(_FIGURES, [[column.text(line) for column in _FIGURES] for line in lines])
    for problem in problems[:20]:
        write(f"PROBLEM: {clean(problem)}")
    return 0 if good else FAILED


def _show(outcome: Outcome) -> None:
    if current().output != "table":
        emit_one(asdict(outcome) | {"ok": outcome.ok}, "ok" if outcome.ok else "failed", [])
        return
    failures = ", ".join(f"{count} {word}" for word, count in sorted(outcome.failures.items())) or "none"
    lines = [
        ("operations", str(outcome.operations)),
        ("answered in time", f"{100 * outcome.availability:.3f} %"),
        ("failures", failures),
        ("longest outage", f"{outcome.longest_outage_s:.2f} s"),
        ("objects verified", str(outcome.verified)),
        (
            "audits of the disks",
            f"{outcome.audits}; status was ahead of them for {outcome.status_ahead_s:.1f} s at most",
        ),
    ]
    print_table(_COLUMNS, [[column.text(one) for column in _COLUMNS] for one in outcome.struck])
    write("")
    emit_one({}, "", lines)
    for fault, why in outcome.skipped.items():
        write(f"left out: {fault}: {clean(why)}")
    for problem in outcome.problems[:20]:
        write(f"PROBLEM: {clean(problem)}")
    if len(outcome.problems) > 20:
        write(f"and {len(outcome.problems) - 20} more problems")
    sys.stdout.flush()

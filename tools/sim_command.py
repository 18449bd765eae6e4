"""`atoll sim`: the replication code under faults, thousands of operations a second of real time.

`atoll sim --seeds 200` runs 200 seeds and prints what struck and what held; `atoll sim --seed 17 --story` replays
one of them and tells what happened; `atoll sim --unsafe h_not_durable` removes a safeguard and must be
caught; `atoll sim controls` does that for each.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tools.hours import HoursTold
from tools.sim.batch import ENOUGH_SEEDS, Outcome, Totals, run_batch
from tools.sim.chunk_world import CONTROLS as DISK_CONTROLS
from tools.sim.chunk_world import hunt as hunt_on_disk
from tools.sim.chunk_world import run_chunk_seed
from tools.sim.controls import CONTROLS, hunt, sound
from tools.sim.object_batch import ENOUGH_OBJECT_SEEDS, object_totals, run_object_batch
from tools.sim.object_controls import OBJECT_CONTROLS, ObjectControl
from tools.sim.object_controls import hunt as hunt_objects
from tools.sim.object_day import PEERS as LONG_PEERS
from tools.sim.object_day import long_options
from tools.sim.object_world import ObjectOptions, ObjectWorld
from tools.sim.result import Result
from tools.sim.world import Options, run_seed

UNSAID = click.core.ParameterSource.DEFAULT
STORY_LINES = 60
FAULT_LINES = 12
"""Of the lines shown so many at least are faults: what went wrong last, however long before."""


def _consoles() -> tuple[Console, Console]:
    return Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False)


def _progress(title: str, total: int, console: Console) -> tuple[Progress, Any]:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    return progress, progress.add_task(title, total=total, note="")


def _run(results: Iterable[Outcome], count: int, totals: Totals, stderr: Console) -> Totals:
    progress, task = _progress("seeds", count, stderr)
    with progress:
        for result in results:
            totals.add(result)
            note = f"{totals.operations:,} operations, {len(totals.bad)} bad"
            progress.update(task, advance=1, note=note)
    return totals


def _report(totals: Totals, elapsed_s: float, stdout: Console) -> None:
    table = Table("struck", "times", "held", "times", box=None, pad_edge=False)
    faults = [(name, totals.faults[name]) for name in totals.expected_faults]
    safeguards = [(name, totals.safeguards[name]) for name in totals.expected_safeguards]
    for index in range(max(len(faults), len(safeguards))):
        left = faults[index] if index < len(faults) else ("", "")
        right = safeguards[index] if index < len(safeguards) else ("", "")
        table.add_row(left[0], str(left[1]), right[0], str(right[1]))
    stdout.print(table)
    answers = ", ".join(f"{name} {count:,}" for name, count in totals.outcomes.most_common())
    stdout.print(f"answers: {answers}")
    rate = totals.seeds / elapsed_s * 60 if elapsed_s > 0 else 0.0
    stdout.print(
        f"{totals.seeds} seeds, {totals.operations:,} operations completed in {totals.virtual_s:,.0f} s of"
        f" virtual time, {elapsed_s:.1f} s of real time ({rate:.0f} seeds a minute)"
    )


def tell(result: Outcome, stdout: Console, lines: int | None = STORY_LINES) -> None:
    """A bad run for a reader: what was broken, and the last lines of the story that touch it."""
    for problem in result.problems:
        stdout.print(problem, markup=False)
    shown = result.lines
    if lines is not None and len(shown) > lines:
        broken = {word.rstrip(":") for problem in result.problems for word in problem.split()[:4]}
        keys = {word for word in broken if word.startswith("k")}
        faults = [at for at, line in enumerate(shown) if "!!" in line]
        touching = [
            at
            for at, line in enumerate(shown)
            if "!!" in line or "over" in line or any(f" {key} " in line for key in keys)
        ] or list(range(len(shown)))
        kept = {*faults[-FAULT_LINES:], *touching[FAULT_LINES - lines :]}
        shown = [shown[at] for at in sorted(kept)]
        stdout.print(f"the last {len(shown)} lines that touch it:", markup=False)
    for line in shown:
        stdout.print(line, markup=False)


OPTIONS: list[Callable[[Any], Any]] = [
    click.option(
        "--seeds", default=100, type=click.IntRange(min=1), show_default=True, help="How many seeds to run."
    ),
    click.option("--seed", type=int, help="Run this one; with --seeds, start there."),
    click.option(
        "--peers", default=3, show_default=True, type=click.IntRange(1, 30), help="Peers in each run."
    ),
    click.option(
        "--operations",
        default=520,
        type=click.IntRange(min=1),
        show_default=True,
        help="Operations to complete in each run.",
    ),
    click.option("--story", is_flag=True, help="Print all that happened in one run."),
    click.option("--messages", is_flag=True, help="With --story: every message between peers as well."),
    click.option(
        "--unsafe", type=click.Choice(list(CONTROLS)), help="Remove this safeguard; must be caught."
    ),
    click.option("--jobs", default=0, type=click.IntRange(min=0), help="Processes; 0 is one for each core."),
]


def with_options(command: Any) -> Any:
    """Both ways to call it take the same options."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@with_options
@click.pass_context
def sim(ctx: click.Context, /, **options: Any) -> None:
    """Run the replication code on virtual time under drawn faults, and judge every answer."""
    logging.getLogger("peer").addHandler(logging.NullHandler())  # what peers warn of is what is done to them
    if ctx.invoked_subcommand is None:
        ctx.invoke(registers, **options)


@sim.command()
@with_options
@click.pass_context
def registers(
    ctx: click.Context,
    seeds: int,
    seed: int | None,
    peers: int,
    operations: int,
    story: bool,
    messages: bool,
    unsafe: str | None,
    jobs: int,
) -> None:
    """Registers, scans, epochs and identity under drawn faults; every answer is judged."""
    stdout, stderr = _consoles()
    options = CONTROLS[unsafe].options(True) if unsafe else Options(peers=peers, operations=operations)
    first = seed or 0
    if story:
        _story(first, options, messages, stdout)
    if unsafe is not None:
        sys.exit(0 if _control(unsafe, first, seeds, stdout) else 1)
    asked = ctx.get_parameter_source("seeds") or (ctx.parent and ctx.parent.get_parameter_source("seeds"))
    if seed is not None and asked in (None, UNSAID):
        seeds = 1
    started = time.monotonic()
    count = jobs or min(os.cpu_count() or 1, seeds)
    totals = _run(run_batch(range(first, first + seeds), options, count), seeds, Totals(), stderr)
    _report(totals, time.monotonic() - started, stdout)
    enough = totals.seeds >= ENOUGH_SEEDS and options.peers == 3
    _end(totals, "registers", lambda seed: run_seed(seed, options, story=True), enough, stdout)


def _story(seed: int, options: Options, messages: bool, stdout: Console) -> NoReturn:
    result = run_seed(seed, options, story=True, details=messages)
    for line in result.lines:
        stdout.print(line, markup=False)
    stdout.print(f"seed {seed}: {result.operations} operations, digest {result.digest}")
    tell(Result(**{**vars(result), "lines": []}), stdout)
    sys.exit(0 if result.ok else 1)


def _end(
    totals: Totals, command: str, again: Callable[[int], Outcome], enough: bool, stdout: Console
) -> None:
    """Exit 1 with the story of the first bad seed, or with what was never tested in `enough` seeds."""
    if totals.bad:
        worst = totals.bad[0]
        stdout.print(f"{len(totals.bad)} bad seeds: {' '.join(str(bad.seed) for bad in totals.bad[:20])}")
        stdout.print(f"seed {worst.seed} (replay: atoll sim {command} --seed {worst.seed} --story):")
        tell(again(worst.seed), stdout)
        sys.exit(1)
    missing = totals.missing() if enough else []
    if missing:
        stdout.print(f"never tested in this batch: {', '.join(missing)}")
        sys.exit(1)
    stdout.print("every promise held")


def _control(name: str, first: int, seeds: int, stdout: Console) -> bool:
    """Hunt without one safeguard; True if it was caught and the same seed is sound with it."""
    control = CONTROLS[name]
    caught = hunt(control, first, max(seeds, control.seeds))
    if caught is None:
        stdout.print(f"{name}: NOT caught; without it: {control.breaks}")
        return False
    healthy = sound(control, caught.seed)
    verdict = "sound with it" if healthy.ok else "but BROKEN with it as well"
    stdout.print(f"{name}: caught by seed {caught.seed} ({caught.tried} tried), {verdict}; {control.breaks}")
    stdout.print(f"  {caught.problem.splitlines()[0]}", markup=False)
    return healthy.ok


@sim.command()
@click.option(
    "--seeds", default=20, type=click.IntRange(min=1), show_default=True, help="How many seeds to run."
)
@click.option("--seed", type=int, help="Run this one; with --seeds, start there.")
@click.option("--peers", type=click.IntRange(1, 30), help="Peers in each run.  [3 to 12, drawn]")
@click.option("--hours", type=click.FloatRange(0.1, 240), help="One long run, of so many virtual hours.")
@click.option("--story", is_flag=True, help="Print all that happened in one run.")
@click.option("--jobs", default=0, type=click.IntRange(min=0), help="Processes; 0 is one for each core.")
@click.pass_context
def objects(
    ctx: click.Context, seeds: int, seed: int | None, peers: int | None, hours: float | None, story: bool, jobs: int
) -> None:  # fmt: skip
    """Whole objects, of chunks they share, under faults, while the ring changes and garbage is collected; every answer is
    judged."""
    stdout, stderr = _consoles()
    options = ObjectOptions(peers=peers) if hours is None else long_options(hours, peers or LONG_PEERS)
    first = seed or 0
    if story:
        result = _told_seed(first, options, story=True)
        for line in result.lines:
            stdout.print(line, markup=False)
        stdout.print(f"seed {first}: {result.operations} operations, digest {result.digest}")
        tell(replace(result, lines=[]), stdout)
        sys.exit(0 if result.ok else 1)
    if (seed is not None or hours is not None) and ctx.get_parameter_source("seeds") == UNSAID:
        seeds = 1
    started = time.monotonic()
    count = jobs or min(os.cpu_count() or 1, seeds)
    if seeds == 1:
        results = iter([_told_seed(first, options)])
    else:
        results = run_object_batch(range(first, first + seeds), options, count)
    totals = _run(results, seeds, object_totals(), stderr)
    _report(totals, time.monotonic() - started, stdout)
    enough = totals.seeds >= ENOUGH_OBJECT_SEEDS and peers is None
    _end(totals, "objects", lambda seed: _told_seed(seed, options, story=True), enough, stdout)


def _told_seed(seed: int, options: ObjectOptions, story: bool = False) -> Result:
    """One run in this process, which tells how far it has come if it is long."""
    world = ObjectWorld(seed, options, story)
    with HoursTold(world.loop, options.faulty_s + options.calm_s):
        return world.run()


@sim.command()
def controls() -> None:
    """Remove every safeguard in turn; each must be caught."""
    stdout, _ = _consoles()
    results = [_control(name, 0, 0, stdout) for name in CONTROLS]
    results += [_object_control(control, stdout) for control in OBJECT_CONTROLS.values()]
    results += [_disk_control(name, breaks, stdout) for name, breaks in DISK_CONTROLS.items()]
    sys.exit(0 if all(results) else 1)


def _object_control(control: ObjectControl, stdout: Console) -> bool:
    caught = hunt_objects(control)
    if caught is None:
        stdout.print(f"{control.name}: NOT caught; without it: {control.breaks}")
        return False
    sound_with = not control.run(caught[0], unsafe=False).problems
    verdict = "sound with it" if sound_with else "but BROKEN with it as well"
    stdout.print(f"{control.name}: caught by seed {caught[0]}, {verdict}; {control.breaks}")
    stdout.print(f"  {caught[1].splitlines()[0]}", markup=False)
    return sound_with


def _disk_control(name: str, breaks: str, stdout: Console) -> bool:
    caught = hunt_on_disk(name)
    if caught is None:
        stdout.print(f"{name}: NOT caught; without it: {breaks}")
        return False
    sound_with = not run_chunk_seed(caught[0]).problems
    verdict = "sound with it" if sound_with else "but BROKEN with it as well"
    stdout.print(f"{name}: caught by seed {caught[0]}, {verdict}; {breaks}")
    stdout.print(f"  {caught[1].splitlines()[0]}", markup=False)
    return sound_with

"""`atoll bench`: options in, tables out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tools.bench.workloads import BY_NAME, USUAL, WORKLOADS, Plan
from tools.cli import settings

if TYPE_CHECKING:
    from tools.bench.report import Report
    from tools.bench.run import Wish


@click.command()
@click.argument("workloads", nargs=-1, type=click.Choice([*BY_NAME, "all"]), metavar="[WORKLOAD]...")
@click.option(
    "--start",
    type=click.IntRange(1, 30),
    help="Found a cluster of N peers and measure that.",
    metavar="N",
)
@click.option(
    "--clients",
    type=click.IntRange(1, 4096),
    default=32,
    show_default=True,
    help="Clients at once (small objects).",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Rounds; medians are over them.",
)
@click.option(
    "--seconds", type=click.FloatRange(0.05, 3600), default=3.0, show_default=True, help="Length of a round."
)
@click.option(
    "--warm-up",
    type=click.FloatRange(0.0, 3600),
    default=1.0,
    show_default=True,
    help="Seconds before the first round.",
)
@click.option(
    "--keys",
    type=click.IntRange(1, 100_000_000),
    default=100_000,
    show_default=True,
    help="Keys in the listing.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(0.1, 3600),
    default=30.0,
    show_default=True,
    help="Seconds a request may take.",
)
@click.option(
    "--verify", is_flag=True, help="Compare every byte read and every page listed (costs the generator CPU)."
)
@click.option("--with-tls", is_flag=True, help="With --start: over TLS.")
@click.option("--floor", is_flag=True, help="Measure the bare machine in the same run.")
@click.option("--figures", is_flag=True, help="Run all workloads and print the release's table of figures.")
@click.option("--keep", is_flag=True, help="Leave the bucket and its objects.")
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path(),
    help="Where --start and --floor write; on the disk to be measured.  [default: .]",
)
@settings.connects
@settings.lists
def bench(
    workloads: tuple[str, ...],
    start: int | None,
    clients: int,
    rounds: int,
    seconds: float,
    warm_up: float,
    keys: int,
    deadline: float,
    verify: bool,
    with_tls: bool,
    floor: bool,
    figures: bool,
    keep: bool,
    scratch: Path,
) -> None:
    """Measure a cluster: the profile's, or one founded for it with --start.

    WORKLOADs: put-4k get-4k head put-inline put-above get-inline get-above put-128k get-128k put-64m get-64m
    get-64m-cold list put-one, or all. Requests are spread over all peers; CPU seconds are those of all peers
    together, without the generator. What it stores it deletes.
    """
    names = (
        [workload.name for workload in WORKLOADS]
        if figures or "all" in workloads
        else list(workloads or USUAL)
    )
    plan = Plan(clients, rounds, seconds, warm_up, deadline, keys, verify)
    from tools.bench.run import Wish

    if with_tls and not start:
        raise click.UsageError(
            "--with-tls goes with --start N; the profile says how another cluster is reached"
        )
    execute(Wish(names, plan, scratch, start or 0, floor, figures, keep, with_tls))


def execute(wish: Wish) -> None:
    """Run and print. Ctrl-C and SIGTERM stop its peers, delete what it stored and become KeyboardInterrupt."""
    import asyncio
    import signal

    import uvloop
    from rich.console import Console

    from peer.client import Unavailable
    from tools.bench.run import Access, progress_to_stderr, run
    from tools.bench.target import BenchError, NobodyAnswersError
    from tools.cli import session
    from tools.devlayout import DevError

    asked = settings.current()
    access = None
    if not wish.start:
        profile = session.resolve(asked)
        keys = (profile.access_key or "", profile.secret_key or "")
        tls = None
        if all(url.startswith("https:") for url in profile.endpoints):
            from peer.client.trust import trust

            tls = profile.tls_context() or trust()
        access = Access(profile.endpoints, *keys, pinned=asked.endpoint is not None, tls=tls)

    async def measure() -> Report:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await run(wish, access, progress_to_stderr)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(measure())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except NobodyAnswersError as error:
        raise Unavailable(str(error)) from None
    except (BenchError, DevError) as error:
        raise click.ClickException(str(error)) from None
    finally:
        click.echo(err=True)
    if asked.output == "table":
        report.show(Console())
    elif asked.output == "json":
        click.echo(json.dumps(report.document()))
    else:
        for result in report.document()["workloads"]:
            click.echo(json.dumps(result) if asked.output == "jsonl" else result["name"])

"""`atoll top`: the cluster in a terminal, live."""

from __future__ import annotations

import asyncio
import sys
import time

import click


@click.command()
@click.option("--endpoint", envvar="ATOLL_ENDPOINT", help="Look through this peer only (API address).")
@click.option("--profile", envvar="ATOLL_PROFILE", help="Profile to use.  [default: the default one]")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--ascii", "plain", is_flag=True, help="Draw without Unicode (also chosen by the locale).")
def top(endpoint: str | None, profile: str | None, interval: float, plain: bool) -> None:
    """Show the cluster live: verdict, ring and peers.

    Moves to another peer when the one it asks dies. Keys: q quit, p pause, r ask now, ? help.
    """
    if not sys.stdout.isatty():
        raise click.UsageError(
            "top needs a terminal; for scripts there are `atoll status` and `atoll status -o json`"
        )
    asyncio.run(_run(endpoint, profile, interval, plain))


async def _run(endpoint: str | None, profile: str | None, interval_s: float, plain: bool) -> None:
    from tui.access import access_to
    from tui.app import TopApp
    from tui.feed import Feed
    from tui.fetch import Requests
    from tui.terminal import can_unicode

    access = access_to(endpoint, profile)
    async with Requests(lambda: (access.access_key, access.secret_key), tls=access.tls) as requests:
        feed = Feed(list(access.endpoints), requests.get, time.monotonic, pinned=access.pinned)
        await TopApp(feed, interval_s=interval_s, unicode=can_unicode() and not plain).run_async()

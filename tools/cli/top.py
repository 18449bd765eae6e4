"""`atoll top`: the cluster in a terminal, live."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

import click

from tools.cli import settings

if TYPE_CHECKING:
    from peer.client import Profile


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--ascii", "plain", is_flag=True, help="Draw without Unicode (also chosen by the locale).")
@settings.connects
def top(interval: float, plain: bool) -> None:
    """Show the cluster live: verdict, ring and peers.

    Moves to another peer when the one it asks dies. Keys: q quit, p pause, r ask now, ? help.
    """
    from tools.cli import session

    if not sys.stdout.isatty():
        raise click.UsageError(
            "top needs a terminal; for scripts there are `atoll status` and `atoll status -o json`"
        )
    asked = settings.current()
    asyncio.run(_run(session.resolve(asked), asked.endpoint is not None, interval, plain))


async def _run(profile: Profile, pinned: bool, interval_s: float, plain: bool) -> None:
    from tui.app import TopApp
    from tui.feed import Feed
    from tui.fetch import Requests
    from tui.terminal import can_unicode

    keys = (profile.access_key or "", profile.secret_key or "")
    async with Requests(lambda: keys, tls=profile.tls_context()) as requests:
        feed = Feed(list(profile.endpoints), requests.get, time.monotonic, pinned=pinned)
        await TopApp(feed, interval_s=interval_s, unicode=can_unicode() and not plain).run_async()

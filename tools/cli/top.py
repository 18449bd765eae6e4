"""`atoll top`: the cluster in a terminal, live."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tools.cli import settings

if TYPE_CHECKING:
    from tui.source import Source


@click.command()
@click.option("--ascii", "plain", is_flag=True, help="Draw without Unicode (also chosen by the locale).")
@click.option("--readonly", is_flag=True, help="Hide everything that changes the cluster.")
@click.option("--theme", type=click.Choice(["auto", "dark", "light"]), default="auto", show_default=True)
@click.option(
    "--replay",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Show a recording instead of a cluster.",
)
@settings.connects
def top(plain: bool, readonly: bool, theme: str, replay: Path | None) -> None:
    """Show the cluster live: verdict, ring, peers, repair, log and objects.

    Moves to another peer when the one it listens to dies. Keys: 1 to 7 pages, : commands, ? help, q quit.
    """
    if not sys.stdout.isatty():
        raise click.UsageError(
            "top needs a terminal; elsewhere there is `atoll status --watch --plain`, and -o json"
        )
    asyncio.run(_run(_source(replay), readonly or replay is not None, theme, plain))


def _source(replay: Path | None) -> Source:
    from tools.cli import session
    from tui.source import Live, Recorded

    if replay is not None:
        return Recorded(replay)
    asked = settings.current()
    profile = session.resolve(asked)
    keys = (profile.access_key or "", profile.secret_key or "")
    pinned = asked.endpoint is not None
    return Live(list(profile.endpoints), lambda: keys, pinned=pinned, tls=profile.tls_context)


async def _run(source: Source, readonly: bool, theme: str, plain: bool) -> None:
    from tui.app import TopApp
    from tui.terminal import can_unicode, is_light

    app = TopApp(source, unicode=can_unicode() and not plain, readonly=readonly)
    light = is_light() if theme == "auto" else theme == "light"
    app.theme = "textual-light" if light else "textual-dark"
    try:
        await app.run_async()
    finally:
        await source.close()

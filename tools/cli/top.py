"""`atoll top`: the cluster in a terminal, live."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tools.cli import settings

if TYPE_CHECKING:
    from tui.source import Source

END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
LEAVE_S = 5
LOOK_S = 1.0


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
    with _ending(app.exit):
        try:
            await app.run_async()
        finally:
            await source.close()


@contextmanager
def _ending(end: Callable[[], object]) -> Iterator[None]:
    """SIGTERM, SIGHUP and a terminal that is gone end the screen as q does. What dies of a signal leaves its terminal in
    a mode in which every movement of the mouse types; what outlives its terminal draws for nobody, for ever.

    Whatever holds the end up then, a terminal that takes nothing say, SIGALRM ends it after `LEAVE_S`.
    """
    loop = asyncio.get_running_loop()
    terminal = sys.__stdout__.fileno() if sys.__stdout__ is not None else 1

    def ended(*_: object) -> None:
        signal.alarm(LEAVE_S)
        loop.call_soon_threadsafe(end)

    async def look() -> None:
        while os.isatty(terminal):  # noqa: ASYNC110 (a hangup that is ignored tells nobody)
            await asyncio.sleep(LOOK_S)
        ended()

    before = {number: signal.signal(number, ended) for number in END_SIGNALS}
    looking = asyncio.create_task(look(), name="terminal")
    try:
        yield
    finally:
        looking.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.alarm(0)

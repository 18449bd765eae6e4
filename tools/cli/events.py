"""`atoll events`: what happens in the cluster, as it happens; and recordings of it, which `atoll top --replay` shows."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

import click

from peer.client.following import Event
from tools.cli.output import clean
from tools.cli.session import connect_async
from tools.cli.settings import connects, current, lists

Line = Callable[[float, Event], str]


@click.command()
@click.option(
    "--types", metavar="A,B", default="", help="Only these: cluster, ring, views, repair, requests, log, ..."
)
@click.option(
    "--record",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a recording to FILE; `atoll top --replay FILE` shows it.",
)
@click.option("--for", "for_s", metavar="SECONDS", type=click.FloatRange(min=0), help="End after so long.")
@lists
@connects
def events(types: str, record: Path | None, for_s: float | None) -> None:
    """Tell what happens in the cluster, as it happens, until Ctrl-C.

    When the peer that is listened to dies, another one is within two seconds, and the event `connected` says so.
    With -o json or jsonl, and in recordings, each line is {"at": seconds since the start, "event": ..., "data": ...}.
    """
    form = recorded if record is not None or current().output in ("json", "jsonl") else as_text
    with nullcontext(sys.stdout) if record is None else record.open("w", encoding="utf-8") as out:
        asyncio.run(_follow([kind for kind in types.split(",") if kind], for_s, form, out))


async def _follow(types: list[str], for_s: float | None, line: Line, out: IO[str]) -> None:
    async with connect_async(current()) as client:
        with suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await tell(client.events(types), line, out)


async def tell(following: AsyncIterator[Event], line: Line, out: IO[str]) -> None:
    """Write a line for each event, for as long as there are some."""
    now = asyncio.get_running_loop().time
    began_s = now()
    async with aclosing(following) as coming:  # type: ignore[type-var]
        async for event in coming:
            out.write(line(now() - began_s, event) + os.linesep)
            out.flush()


def recorded(at_s: float, event: Event) -> str:
    """One line of a recording."""
    told = {"at": round(at_s, 3), "event": event.kind, "data": event.data}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def as_text(at_s: float, event: Event) -> str:
    """The same for people: the gist of it."""
    return clean(f"{at_s:8.1f}  {event.kind:<10}  {_gist(event.kind, event.data)}".rstrip())


def _gist(kind: str, data: Mapping[str, Any]) -> str:
    """What of an event is worth a line. A later version's says only its kind."""
    said: dict[str, Callable[[], str]] = {
        "connected": lambda: (
            f"{data['url']}" + (f", as {data['before']} {data['why']}" if data["why"] else "")
        ),
        "unreachable": lambda: "; ".join(f"{url}: {why}" for url, why in data["failures"]),
        "hello": lambda: f"{data['peer']['name']}, version {data['peer']['version']}",
        "cluster": lambda: (
            f"{data['verdict']}, tolerates {data['tolerates']}: {data['redundancy']['message']}"
        ),
        "ring": lambda: (
            f"epoch {data['epoch']['generation']}.{data['epoch']['number']}, {data['epoch']['kind']}"
        ),
        "views": lambda: (
            f"{sum(bool(one['believes']) for one in data['views'])} peers hold somebody for not alive"
        ),
        "repair": lambda: f"{sum(one['state'] == 'busy' for one in data['workers'])} workers are busy",
        "requests": lambda: f"{data['all']:g} a second, {data['errors']:g} errors, backlog {data['backlog']}",
        "membership": lambda: f"{data['name']} is {data['state']} {' '.join(data['flags'])}",
        "epoch": lambda: (
            f"{data['generation']}.{data['number']}, {data['kind']}: {', '.join(data['members'])}"
        ),
        "log": lambda: f"{data['time']} {data['node']['name']} {data['level']}: {data['message']}",
        "lost": lambda: f"{data['events']} events, as they were not read in time",
    }
    with suppress(KeyError, TypeError, ValueError):
        return said.get(kind, lambda: "")()
    return ""

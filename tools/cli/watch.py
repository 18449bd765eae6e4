"""`atoll status --watch`, as lines: the state first, then each change as it is heard of, until somebody ends it."""

from __future__ import annotations

import asyncio
import json
import os
import select
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from datetime import UTC, datetime

from peer.client.following import Event
from tools.cli.changes import Change, Changes, stamp
from tools.cli.output import clean, write
from tools.cli.session import connect_async
from tools.cli.settings import Settings

TYPES = ("cluster", "repair", "requests")
"""What every version tells; `requests` comes every second, so silence is noticed."""
TICK_S = 1.0
_WHOLE = ("state", "workers")


def watch(settings: Settings, pace_s: float) -> None:
    """Follow the cluster that the options name, for ever. Raises what the cluster refuses with (Denied), BrokenPipeError
    when nobody reads any more, KeyboardInterrupt."""
    asyncio.run(_watch(settings, pace_s))


async def _watch(settings: Settings, pace_s: float) -> None:
    async with connect_async(settings) as client:
        form = {"table": as_text, "name": as_verdict}.get(settings.output, as_json)
        await tell(client.events(TYPES), Changes(pace_s), form)


async def tell(
    events: AsyncIterator[Event], changes: Changes, form: Callable[[Change, datetime], Iterable[str]]
) -> None:
    """Write what changes, in this form, for as long as there are events and somebody reads."""
    loop = asyncio.get_running_loop()
    async with aclosing(events) as following:  # type: ignore[type-var]
        coming: asyncio.Future[Event] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(following))
                await asyncio.wait((coming,), timeout=TICK_S)
                found = []
                if coming.done():
                    done, coming = coming, None
                    try:
                        found = changes.apply(done.result(), loop.time())
                    except StopAsyncIteration:
                        return
                found += changes.tick(loop.time())
                moment = datetime.now(UTC)
                for line in (line for change in found for line in form(change, moment)):
                    write(line)
                sys.stdout.flush()
                _check_reader()
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)


def as_text(change: Change, moment: datetime) -> Iterable[str]:
    """The whole state as lines of its own, under the time; every change as one line behind it."""
    if change.kind not in _WHOLE:
        return [f"{stamp(moment)} {clean(change.message)}"]
    head = [f"{stamp(moment)} the state of the cluster:"] if change.kind == "state" else []
    return head + [clean(line) for line in change.message.split("\n")]


def as_verdict(change: Change, moment: datetime) -> Iterable[str]:
    """Only the verdict, whenever it changes, and `unreachable` for none."""
    if change.kind == "state":
        return [str(change.data["cluster"].get("verdict"))]
    return [str(change.data["verdict"])] if change.kind == "verdict" else []


def as_json(change: Change, moment: datetime) -> Iterable[str]:
    """One document a line: {"time", "kind", "message", ...}; of a whole state what the API tells, and no sentence."""
    said = {} if change.kind in _WHOLE else {"message": change.message}
    about = {"time": stamp(moment), "kind": change.kind}
    return [json.dumps(about | said | dict(change.data), ensure_ascii=False)]


def _check_reader() -> None:
    """Raises BrokenPipeError when whoever read our output is gone: it may be long until there is something to write."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):
        return  # it is no file
    poll = select.poll()
    poll.register(output, 0)
    if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
        raise BrokenPipeError(os.strerror(32))

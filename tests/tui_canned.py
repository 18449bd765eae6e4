"""Canned answers of the API and a stage for the terminal UI: no network, and a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from textual.pilot import Pilot

from peer.client import Event
from tui.app import TopApp
from tui.state import State

PEERS = ("http://127.0.0.1:7401", "http://127.0.0.1:7411", "http://127.0.0.1:7421")


def node(number: int, state: str = "alive", **changes: Any) -> dict[str, Any]:
    """One entry of `nodes`; peer-1 is the one that answers."""
    entry = {
        "id": f"{number:016x}",
        "name": f"peer-{number}",
        "self": number == 1,
        "host": "127.0.0.1",
        "s3_url": f"http://127.0.0.1:{7390 + 10 * number}",
        "api_url": f"http://127.0.0.1:{7391 + 10 * number}",
        "peer_address": f"127.0.0.1:{7392 + 10 * number}",
        "zone": f"rack-{number}",
        "state": state,
        "incarnation": number,
        "boot": 1,
        "last_heard_s": 0.4,
        "version": "0.1.0",
        "epoch": [1, 3],
        "flags": [],
        "capacity_bytes": 500 * 10**9,
        "used_bytes": number * 10**9,
        "partitions": 4096,
        "share": 1 / 3,
        "owned_fair": 1 / 3,
    }
    return entry | changes


def cluster(**changes: Any) -> dict[str, Any]:
    """`GET /v1/cluster` of three healthy peers."""
    answer = {
        "cluster_id": "c" * 32,
        "time": "2026-11-21T01:02:03.456789Z",
        "peer": {"id": f"{1:016x}", "name": "peer-1", "version": "0.1.0", "uptime_s": 10.0},
        "verdict": "healthy",
        "reasons": [],
        "tolerates": 1,
        "epoch": {"generation": 1, "number": 3, "kind": "final"},
        "replicas": 3,
        "partition_power": 12,
        "chunk_bytes": 4 << 20,
        "partitions": {"total": 4096, "full": 4096, "degraded": 0, "unavailable": 0},
        "nodes": [node(1), node(2), node(3)],
    }
    return answer | changes


def degraded() -> dict[str, Any]:
    """The same with peer-2 dead."""
    return cluster(
        verdict="degraded",
        reasons=[{"code": "PeerDead", "message": "peer-2 is dead: 4,096 partitions lack a copy"}],
        tolerates=0,
        partitions={"total": 4096, "full": 0, "degraded": 4096, "unavailable": 0},
        nodes=[node(1), node(2, "dead", used_bytes=None, last_heard_s=75.0), node(3)],
    )


def ring(members: int = 3) -> dict[str, Any]:
    return {
        "epoch": {"generation": 1, "number": 3, "kind": "final"},
        "partition_power": 4,
        "replicas": 3,
        "members": [{"id": f"{number:016x}", "name": f"peer-{number}"} for number in range(1, members + 1)],
        "owners": [[(part + i) % members for i in range(3)] for part in range(16)],
    }


class Quiet:
    """A source that tells nothing by itself: tests call `app.hear`."""

    def __init__(self, client: Any = None) -> None:
        self._client = client

    async def events(self) -> AsyncIterator[Event]:
        await asyncio.Event().wait()
        yield Event("", {})

    def client(self) -> Any:
        return self._client

    async def close(self) -> None:
        return None


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime(2026, 11, 21, 12, 0, tzinfo=UTC) + timedelta(seconds=self.now - 100.0)


def healthy_events(answer: Mapping[str, Any] | None = None) -> list[Event]:
    """What a peer tells first."""
    return [
        Event("connected", {"url": PEERS[0], "before": None, "why": None}),
        Event("cluster", answer or cluster()),
        Event("ring", ring()),
    ]


Story = Callable[[TopApp, Pilot[None]], Awaitable[None]]


def play(
    events: Iterable[Event],
    story: Story,
    *,
    size: tuple[int, int] = (80, 24),
    client: Any = None,
    **options: Any,
) -> TopApp:
    """Run the app headless through a story, after these events. Time stands still; nothing is drawn but when told."""
    clock = options.setdefault("clock", Clock())
    app = TopApp(Quiet(client), redraw_s=0, state=State(wall=clock.wall), **options)

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await tell(app, pilot, *events)
            await story(app, pilot)

    asyncio.run(run())
    return app


async def tell(app: TopApp, pilot: Pilot[None], *events: Event) -> None:
    """Let the app hear these, and draw."""
    for event in events:
        app.hear(event)
    app.redraw()
    await pilot.pause()
    app.redraw()  # a line that has grown has its rows only now
    await pilot.pause()


async def until(pilot: Pilot[None], holds: Callable[[], bool], deadline_s: float = 20.0) -> None:
    """Wait for what a worker of the app does."""
    try:
        async with asyncio.timeout(deadline_s):
            while not holds():
                await pilot.pause(0.01)
    except TimeoutError:
        app = pilot.app
        raise AssertionError(screen(app) if isinstance(app, TopApp) else "it did not happen") from None


async def finished(app: TopApp) -> None:
    """What the user asked for has come to its end, within ten seconds."""
    async with asyncio.timeout(10):
        for worker in [one for one in app.workers if one.name != "events"]:
            await worker.wait()


def screen(app: TopApp) -> str:
    """The characters on the screen."""
    width, height = app.size
    if not (width and height):
        return ""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in line) for line in strips)

"""Goal: an answer that makes no sense is told of, whoever asked; nothing waits for it in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from tests.tui_canned import healthy_events, play, until
from tui.acting import act
from tui.app import TopApp
from tui.model import Peer
from tui.objects import Objects


class Senseless:
    """A client of a cluster whose answers nobody can read."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = asyncio.Event()

    async def buckets(self) -> Any:
        self.asked += 1
        await self.answers.wait()
        raise KeyError("buckets")

    async def node(self, name: str) -> Any:
        raise KeyError("node")

    async def lookup(self, bucket: str, key: str | None, **_: Any) -> Any:
        raise KeyError("lookup")

    async def change_node(self, name: str, action: str, **_: Any) -> Any:
        raise KeyError(action)


def said(app: TopApp, words: str) -> bool:
    return any(words in entry.message and entry.level == "error" for entry in app.state.journal)


async def open_peer(app: TopApp) -> None:
    await app.open_peer(first(app).id)


async def look_up(app: TopApp) -> None:
    await app.action_page(3)
    app.page.submit_filter("/bucket/key")


async def drain(app: TopApp) -> None:
    act(app, "drain", first(app))


def first(app: TopApp) -> Peer:
    assert app.state.cluster is not None
    return app.state.cluster.peers[0]


@pytest.mark.parametrize(("do", "what"), [(open_peer, "node"), (look_up, "lookup"), (drain, "drain")])
def test_what_nobody_foresaw_is_told(do: Callable[[TopApp], Any], what: str) -> None:
    """Goal: pages, the page of a peer and dialogs say it in the log, and the app goes on."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await do(app)
        await until(pilot, lambda: said(app, f"KeyError('{what}')"))
        assert app.is_running

    play(healthy_events(), story, client=Senseless())


def test_a_list_asked_for_again_is_awaited() -> None:
    """Goal: who asks twice sees that the answer is still to come, and not an empty list; then why there is none."""
    client = Senseless()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await app.action_page(7)
        page = app.page
        assert isinstance(page, Objects)
        await until(pilot, lambda: client.asked == 1)
        page.action_reload()
        await until(pilot, lambda: client.asked == 2)
        await pilot.pause()
        assert page.place.loading
        client.answers.set()
        await until(pilot, lambda: not page.place.loading)
        assert "buckets" in page.place.error

    play(healthy_events(), story, client=client)

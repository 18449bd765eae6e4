"""Goal: what is on the screen, narrow and wide, healthy and not, with its keys; canned answers, a frozen clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from tests.tui_canned import PEERS, Scene, cluster, degraded, node
from tui.app import TopApp
from tui.help import HelpScreen

Story = Callable[[TopApp, Pilot[None]], Awaitable[None]]


def play(scene: Scene, story: Story, *, size: tuple[int, int] = (80, 24), **options: Any) -> TopApp:
    """Run the app headless through a story; polls happen only when the story asks for them."""
    app = TopApp(scene.feed(), interval_s=3600, clock=lambda: "12:00:00", **options)

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await app.workers.wait_for_complete()
            await pilot.pause()
            await story(app, pilot)

    asyncio.run(run())
    return app


def screen(app: TopApp) -> str:
    """The characters on the screen."""
    width, height = app.size
    return (
        "\n".join(
            "".join(segment.text for segment in line) for line in app.screen._compositor.render_strips()
        )
        if width and height
        else ""
    )


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
def test_everything_is_on_the_screen(size: tuple[int, int]) -> None:
    """Goal: verdict, reason, ring, peers, epoch and keys are there at every usual size."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        text = screen(app)
        for words in (
            "DEGRADED  tolerates no further failure now",
            "peer-2 is dead: 4,096 partitions lack a copy",
            "2 of 3",
            "● alive",
            "✗ dead",
            "rack-3",
            "954 MiB/466 GiB",
            "33.3 %",
            "75 s",
            "0.1.0",
            "epoch 1.3",
            "age 0.0 s",
            "q quit",
            "degraded     4,096",
        ):
            assert words in text, words
        assert any("⠀" < char <= "⣿" for char in text)
        assert max(len(line) for line in text.splitlines()) <= size[0]

    play(Scene(degraded()), story, size=size)


def test_small_terminal_keeps_verdict_and_table() -> None:
    """Goal: where there is no room for a drawing, the table and the verdict stay."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        text = screen(app)
        assert "HEALTHY" in text and "peer-3" in text and "● alive" in text
        assert not any("⠀" < char <= "⣿" for char in text)

    play(Scene(), story, size=(45, 14))


def test_ascii_only() -> None:
    """Goal: without Unicode nothing on the screen needs it, and states still differ."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        assert screen(app).isascii()
        assert "x dead" in screen(app) and "* alive" in screen(app)
        await pilot.press("question_mark")
        await pilot.pause()
        assert screen(app).isascii() and "Keys" in screen(app)

    play(Scene(degraded()), story, unicode=False, panel=[("API", PEERS[0])])


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: NO_COLOR is honoured, and states are still told apart by words and glyphs."""
    monkeypatch.setenv("NO_COLOR", "1")

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        assert app.no_color  # Textual then takes every colour out
        text = screen(app)
        assert "◐ DEGRADED" in text and "✗ dead" in text and "● alive" in text

    play(Scene(degraded()), story)


def test_moves_and_says_so() -> None:
    """Goal: when its peer dies the view goes on with another and says which and why."""
    scene = Scene()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        scene.failures[PEERS[0]] = "connection refused"
        scene.answers[PEERS[1]] = cluster(peer={"name": "peer-2"})
        await app.poll_once()
        await pilot.pause()
        assert f"{PEERS[0]} no longer answers (connection refused): moved to peer-2" in app.notices.lines[-1]
        assert f"view of peer-2 ({PEERS[1]})" in screen(app)

    play(scene, story, size=(120, 40))


def test_no_peer_says_so_and_keeps_trying() -> None:
    """Goal: with every peer gone the old data stays, its age grows, and a return is noticed."""
    scene = Scene()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        scene.failures = dict.fromkeys(PEERS, "connection refused")
        await app.poll_once()
        scene.now += 12
        await app.poll_once()
        await pilot.pause()
        text = screen(app)
        assert "NO PEER ANSWERS for 12 s, still trying; what is below is old" in text
        assert "age 12 s" in text and "peer-3" in text
        scene.failures.clear()
        await app.poll_once()
        await pilot.pause()
        assert "HEALTHY" in screen(app) and "peer-1 answers again" in app.notices.lines[-1]

    play(scene, story)


def test_waiting_for_a_first_answer_is_no_alarm() -> None:
    """Goal: while a cluster starts, the screen waits for it; after ten seconds it is an outage."""
    scene = Scene()
    scene.failures = dict.fromkeys(PEERS, "starting")

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        assert "waiting for a peer to answer" in screen(app)
        scene.now += 11
        await app.poll_once()
        await pilot.pause()
        assert "NO PEER ANSWERS" in screen(app) and "starting" in screen(app)

    play(scene, story)


def test_changes_become_notices() -> None:
    """Goal: a peer that dies, one that joins and the verdict are each noted."""
    scene = Scene()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        scene.answers[PEERS[0]] = degraded() | {"nodes": [*degraded()["nodes"], node(4)]}
        await app.poll_once()
        assert app.notices.lines == [
            "peer-2 is dead, was alive",
            "peer-4 joined",
            "the cluster is DEGRADED, was HEALTHY",
        ]
        scene.answers[PEERS[0]] = cluster()
        await app.poll_once()
        assert "peer-4 is no longer a member" in app.notices.lines

    play(scene, story)


def test_pause_refresh_help_and_quit() -> None:
    """Goal: p stops the asking and says so, r asks once, ? explains, q ends."""
    scene = Scene()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("p")
        scene.asked.clear()
        app._tick()
        await app.workers.wait_for_complete()
        assert scene.asked == [] and "PAUSED" in screen(app)
        await pilot.press("r")
        await app.workers.wait_for_complete()
        assert scene.asked == [(PEERS[0], "cluster")]
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        await app.poll_once()  # what is below the help goes on
        await pilot.press("x")
        assert not isinstance(app.screen, HelpScreen)
        await pilot.press("p", "q")
        await pilot.pause()

    app = play(scene, story)
    assert app._exit


def test_panel_of_dev() -> None:
    """Goal: what `dev` adds is shown below the peers, at 80 columns too."""
    lines = [("API", "  ".join(PEERS)), ("paste this", "/home/me/atoll/.venv/bin/atoll status")]

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        text = screen(app)
        assert "paste this   /home/me/atoll/.venv/bin/atoll status" in text and PEERS[2] in text
        assert "peer-3" in text
        app.show_panel([])
        await pilot.pause()
        assert "paste this" not in screen(app)

    play(Scene(), story, panel=lines)


@pytest.mark.parametrize("size", [(80, 20), (80, 24), (100, 30), (120, 24), (120, 40), (60, 15)])
def test_every_peer_of_dev_is_seen_when_it_matters(size: tuple[int, int]) -> None:
    """Goal: with a dead peer, its reasons, the panel's remedy and a notice on the screen, no peer is below its edge."""
    lines = [
        ("API", "http://127.0.0.1:7401 :7411"),
        ("credentials", "root.json"),
        ("paste this", "one"),
        ("", "two"),
    ]
    lines += [("peer-2", "killed by SIGKILL: atoll dev start peer-2")]
    reasons = [{"message": "peer peer-2 is dead"}, {"message": "8 copies missed an owner"}]

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        app.notice("peer-2 is dead, was alive")
        await pilot.pause()
        text = screen(app)
        for words in ("1 peer-1 <", "2 peer-2", "✗ dead", "3 peer-3", "dev start peer-2", "8 copies"):
            assert words in text, (words, text)
        drawn = sum(any("⠀" < char <= "⣿" for char in line) for line in text.splitlines())
        least = {20: 0, 15: 0, 24: 8 if size[0] < 112 else 5, 30: 11, 40: 19}[size[1]]
        assert drawn >= least and (least or not drawn), text

    play(Scene(degraded() | {"reasons": reasons}), story, size=size, panel=lines)


def test_many_peers_scroll() -> None:
    """Goal: more peers than rows scroll; the keys reach the last one."""
    nodes = [node(number, share=1 / 60) for number in range(1, 61)]

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        assert "peer-60" not in screen(app)
        app.peers.focus()
        await pilot.press("end")
        await pilot.pause()
        app.peers.scroll_end(animate=False, immediate=True)
        await pilot.pause()
        assert "peer-60" in screen(app)

    play(Scene(cluster(nodes=nodes)), story)

"""Goal: an action shows what it would do, is done only after a clear yes, and says what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from textual.pilot import Pilot

from peer.client import Event
from peer.errors import AtollError, Conflict, Unavailable
from tests.tui_canned import cluster, degraded, healthy_events, node, play, screen, tell, until
from tui.acting import NO_CLUSTER, Acting
from tui.actions import ACTIONS, impact, outcome, title
from tui.app import TopApp
from tui.model import Peer, cluster_of

MOVES = {
    "change": "drain peer-2",
    "applied": False,
    "partitions": 4096,
    "copies": 8192,
    "bytes": 12 << 30,
    "nodes": [{"id": f"{1:016x}", "name": "peer-1", "copies": 8192, "bytes": 233 * 10**9}],
    "epoch": {"generation": 1, "number": 3, "kind": "final"},
}
REPAIR = {
    "workers": [
        {"worker": "hints", "node": {"id": f"{2:016x}", "name": "peer-2"}, "state": "paused", "queue": 12},
        {"worker": "scrub", "node": {"id": f"{3:016x}", "name": "peer-3"}, "state": "idle", "queue": 1},
    ]
}


class Obeying:
    """A client that keeps what it was asked; `refusals` by "name" or "name plan"; `held`: changes wait for `go`."""

    def __init__(self, refusals: Mapping[str, AtollError] | None = None, *, held: bool = False) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.refusals = refusals or {}
        self.go = asyncio.Event()
        self.held = held

    async def change_node(self, name: str, action: str, *, plan: bool = False) -> dict[str, Any]:
        self.asked.append((action, name, plan))
        if self.held and not plan:
            await self.go.wait()
        if refusal := self.refusals.get(f"{action} plan" if plan else action):
            raise refusal
        return MOVES | {"applied": not plan}

    async def command_workers(
        self, verb: str, worker: str = "all", *, node: str | None = None
    ) -> dict[str, Any]:
        self.asked.append((verb, worker, node))
        failed = [{"node": "peer-3", "message": "it did not answer"}] if node is None else []
        return {"workers": [], "failed": failed}


TWO = f"{2:016x}"


def peer(number: int = 2, state: str = "alive") -> Peer:
    return cluster_of(cluster(nodes=[node(number, state)])).peers[0]


# --- words


def test_impact_of_a_change_of_the_ring() -> None:
    """Goal: partitions, copies, bytes, who gets how much and how full it is then, and what may fail now and afterwards."""
    nodes = [node(n) for n in (1, 2, 3, 4)]
    lines = impact(ACTIONS["drain"], peer(), cluster_of(cluster(nodes=nodes)), None, MOVES)
    assert lines == [
        "It gives everything it holds to the others and serves it meanwhile; it stays a member.",
        "",
        "4,096 partitions get a new owner: 8,192 copies, about 12 GiB, are made.",
        "  peer-1: 8,192 copies, 217 GiB (then 47 % full)",
        "",
        "Now healthy; it tolerates 1 more failure now.",
        "Afterwards 3 peers keep 3 copies of everything, of which 1 may fail.",
    ]


def test_impact_of_removing_the_dead() -> None:
    """Goal: a drain and a removal of a dead peer mean something else than of a living one; dead ones keep no copies."""
    drained = impact(ACTIONS["drain"], peer(state="dead"), cluster_of(degraded()), None, MOVES)
    assert drained[0].startswith("It is dead and gives nothing"), drained
    lines = impact(ACTIONS["remove"], peer(state="dead"), cluster_of(degraded()), None, MOVES)
    assert lines[0].startswith("It is out at once")
    assert lines[-1] == "Afterwards 2 peers keep 2 copies of everything, of which 0 may fail."


def test_impact_names_a_bounded_number_of_peers() -> None:
    """Goal: with hundreds of peers the largest gains are named, and how many more there are."""
    gains = [{"id": str(n), "name": f"peer-{n}", "copies": 1, "bytes": n} for n in range(300)]
    lines = impact(ACTIONS["drain"], peer(), None, None, MOVES | {"nodes": gains})
    assert len(lines) < 16 and lines[3].startswith("  peer-299") and "  and 292 more peers" in lines


@pytest.mark.parametrize("plan", [{}, {"copies": None, "nodes": 7}, {"copies": 3, "nodes": [None, {}]}])
def test_a_plan_that_makes_no_sense_is_survived(plan: dict[str, Any]) -> None:
    """Goal: an odd answer makes no crash and no promise."""
    assert impact(ACTIONS["remove"], peer(), cluster_of({}), None, plan)
    assert outcome(ACTIONS["remove"], peer(), plan)[1] == "good"
    assert outcome(ACTIONS["pause"], None, {"failed": [None, {}]})[1] == "error"


# --- dialogs


async def opened(app: TopApp, pilot: Pilot[None], *keys: str, shows: str) -> None:
    await pilot.press(*keys)
    await until(pilot, lambda: shows in screen(app))


def test_cancel_has_the_focus() -> None:
    """Goal: the impact is shown before anything is done, and Enter right away does nothing."""
    client = Obeying()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await opened(app, pilot, "2", "down", "D", shows="8,192 copies, about 12 GiB")
        assert "Drain peer-2?" in screen(app)
        await pilot.press("enter")
        assert not isinstance(app.screen, Acting)
        assert client.asked == [("drain", TWO, True)]

    play(healthy_events(), story, client=client)


def test_yes_does_it_and_the_journal_says_so() -> None:
    """Goal: after a yes it is done once, and what came of it is in the log; no second yes while it is under way."""
    client = Obeying(held=True)

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await opened(app, pilot, "2", "down", "D", shows="8,192 copies")
        await pilot.press("right", "enter")
        await until(pilot, lambda: "It was asked for." in screen(app))
        assert app.screen.query_one("#dialog-yes").disabled
        client.go.set()
        await until(pilot, lambda: not isinstance(app.screen, Acting))
        await tell(app, pilot)
        assert client.asked == [("drain", TWO, True), ("drain", TWO, False)]
        assert "Drain peer-2: accepted: about 12 GiB move now" in screen(app)

    play(healthy_events(), story, client=client)


def test_what_is_under_way_can_be_left() -> None:
    """Goal: Escape leaves a request that takes long; it goes on, and its end is told."""
    client = Obeying(held=True)

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await opened(app, pilot, "2", "down", "D", shows="8,192 copies")
        await pilot.press("right", "enter")
        await until(pilot, lambda: len(client.asked) == 2)
        await pilot.press("escape")
        await tell(app, pilot)
        assert "Drain peer-2: asked for" in screen(app)
        client.go.set()
        await until(pilot, lambda: any("accepted" in entry.message for entry in app.state.journal))

    play(healthy_events(), story, client=client)


def test_removal_asks_for_the_name() -> None:
    """Goal: a peer is removed only after its name was typed, to the letter."""
    client = Obeying()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await opened(app, pilot, "2", "down", "X", shows="Type peer-2 to confirm")
        await until(pilot, lambda: "8,192 copies" in screen(app))
        await pilot.press("shift+tab", *"peer-", "enter")
        assert isinstance(app.screen, Acting) and len(client.asked) == 1
        await pilot.press("2", "tab", "tab", "enter")
        await until(pilot, lambda: ("remove", TWO, False) in client.asked)
        await until(pilot, lambda: not isinstance(app.screen, Acting))

    play(healthy_events(), story, client=client)


REFUSAL = "without peer-2 2 peers would be left for 3 replicas; add a peer first"


@pytest.mark.parametrize("when", ["remove plan", "remove"])
def test_refusals_are_shown_as_they_are(when: str) -> None:
    """Goal: the server's own sentence, at the plan or at the deed; nothing is left to do then but to close."""
    client = Obeying({when: Conflict(f"remove {TWO}: {REFUSAL}")})  # as the client says it

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("2", "down", "X")
        if when == "remove":
            await until(pilot, lambda: "8,192 copies" in screen(app))
            await pilot.press("shift+tab", *"peer-2", "enter")
        await until(pilot, lambda: "Refused" in screen(app))
        text = " ".join(screen(app).replace("│", " ").split())
        assert REFUSAL in text and "Close" in text and "Remove" not in text.partition("?")[2]
        await pilot.press("enter")
        assert not isinstance(app.screen, Acting)
        assert f"Remove peer-2: {REFUSAL}" in app.state.journal.newest(1)[0].message

    play(healthy_events(), story, client=client, size=(100, 30))


def test_nobody_answers_the_plan() -> None:
    """Goal: no promise without a plan; what went wrong is said."""
    client = Obeying({"drain plan": Unavailable("no peer answered within 10 s")})

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await opened(app, pilot, "2", "D", shows="no peer answered within 10 s")

    play(healthy_events(), story, client=client)


@pytest.mark.parametrize(("key", "verb"), [("P", "pause"), ("R", "resume")])
def test_repair_of_one_peer(key: str, verb: str) -> None:
    """Goal: repair is paused and resumed on the peer under the cursor, after saying what waits there."""
    client = Obeying()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await opened(app, pilot, "2", "down", key, shows="12 items wait now; 1 of 1 workers are paused.")
        await pilot.press("right", "enter")
        await until(pilot, lambda: not isinstance(app.screen, Acting))
        await tell(app, pilot)
        assert client.asked == [(verb, "all", TWO)]
        assert f"{verb.capitalize()} repair on peer-2: done" in screen(app)

    play([*healthy_events(), Event("repair", REPAIR)], story, client=client)


def test_commands_of_the_palette() -> None:
    """Goal: repair of all peers, and every action on every peer, are found by name; who did not obey is named."""
    client = Obeying()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await opened(app, pilot, "colon", *"pause repair on all", shows="Pause repair on all peers")
        await pilot.press("enter")
        await until(pilot, lambda: "13 items wait now; 1 of 2 workers are paused." in screen(app))
        await pilot.press("right", "enter")
        await until(pilot, lambda: not isinstance(app.screen, Acting))
        await tell(app, pilot)
        assert "Pause repair on all peers: done, but not on peer-3: it did not answer" in screen(app)
        await opened(app, pilot, "colon", *"drain peer-3", shows="Drain peer-3")
        await pilot.press("enter")
        await until(pilot, lambda: ("drain", f"{3:016x}", True) in client.asked)
        await pilot.press("escape", "colon", *"open peer-2")
        await until(pilot, lambda: "Open peer-2" in screen(app))
        await pilot.press("enter")
        await until(pilot, lambda: app.page.TITLE == "Peers")

    play([*healthy_events(), Event("repair", REPAIR)], story, client=client, size=(100, 30))


def test_readonly_hides_them() -> None:
    """Goal: with --readonly no key, no command and no line at the foot changes the cluster."""
    client = Obeying()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("2", "down", *"DUXPR")
        await tell(app, pilot)
        assert not isinstance(app.screen, Acting) and "drain" not in screen(app)
        await pilot.press("question_mark")
        await pilot.pause()
        assert "remove" not in screen(app)
        await pilot.press("x")
        names = {command.title for command in app.get_system_commands(app.screen)}
        assert not names & {title(action, one) for action in ACTIONS.values() for one in (None, peer())}
        await opened(app, pilot, "colon", *"peer-2", shows="Open peer-2")
        assert "Drain" not in screen(app) and "Remove" not in screen(app)
        assert not client.asked

    play(healthy_events(), story, client=client, readonly=True)


def test_a_recording_cannot_be_changed() -> None:
    """Goal: without a cluster behind it an action says so."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("2", "X")
        await tell(app, pilot)
        assert NO_CLUSTER in screen(app)

    play(healthy_events(), story, size=(120, 30))


def test_ascii_dialog() -> None:
    """Goal: the dialog, too, needs no Unicode, and fits a small terminal with its buttons."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await opened(app, pilot, "2", "down", "X", shows="Type peer-2")
        await until(pilot, lambda: "It gives" in screen(app))
        assert screen(app).isascii() and "Cancel" in screen(app) and "Remove" in screen(app)

    play(healthy_events(), story, client=Obeying(), unicode=False, size=(45, 14))

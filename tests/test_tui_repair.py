"""Goal: page 5 tells every worker of every peer as it was told, and does nothing to one without a clear yes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from textual.pilot import Pilot

from peer.client import Event
from peer.errors import AtollError, Unavailable
from tests.test_tui_model import JSON
from tests.tui_canned import cluster, finished, healthy_events, play, screen, tell
from tui.app import TopApp
from tui.dialog import Ask, Confirm
from tui.workercommands import VERBS, outcome, question, rate_problem
from tui.workers import WORKER_COLUMNS, Line, detail_lines, left, lines_of, repair_of, summary, total


def worker(name: str, number: int, **changes: Any) -> dict[str, Any]:
    """One entry of `workers`, on peer-`number`."""
    entry = {
        "worker": name,
        "node": {"id": f"{number:016x}", "name": f"peer-{number}"},
        "state": "idle",
        "queue": 0,
        "oldest_s": None,
        "done": 7,
        "rate": 0.0,
        "bytes": 2048,
        "left_s": None,
        "per_second": None,
        "last_error": "",
        "detail": {"passes": 1},
    }
    return entry | changes


BUSY = {"state": "busy", "queue": 1200, "oldest_s": 75.0, "rate": 12.0, "left_s": 100.0}
FAILING = {"state": "failing", "last_error": "no majority of the owners answered", "per_second": 5.0}


def workers(peers: int = 3, silent: tuple[int, ...] = (), kinds: int = 2) -> dict[str, Any]:
    """`GET /v1/cluster/workers`: hints wait on peer-2, anti-entropy fails on peer-3 and is throttled."""
    told = []
    for number in range(1, peers + 1):
        told.append(worker("hints", number, **(BUSY if number == 2 else {})))
        told.append(worker("anti-entropy", number, **(FAILING if number == 3 else {})))
        told += [worker(f"other-{kind}", number) for kind in range(kinds)]
    return {
        "workers": [one for one in told if int(one["node"]["id"], 16) not in silent],
        "failed": [{"node": f"peer-{number}", "message": "it did not answer"} for number in silent],
    }


class Commands:
    """Stands for the client: notes what is asked, and answers as `answer` or `error` says."""

    def __init__(self, answer: dict[str, Any] | None = None, error: AtollError | None = None) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._answer = answer or {"workers": [worker("hints", 1), worker("hints", 2)], "failed": []}
        self._error = error

    async def command_workers(
        self, verb: str, worker: str, *, node: str | None, per_second: float | None
    ) -> dict[str, Any]:
        self.asked.append((verb, worker, node, per_second))
        if self._error is not None:
            raise self._error
        return self._answer


def cells(line: Line) -> dict[str, str]:
    return {column.title: column.cell(line)[0] for column in WORKER_COLUMNS}


# --- what is told


def test_a_worker_over_all_peers() -> None:
    """Goal: queues and rates add up, the oldest and the slowest count, and the state is the worst."""
    lines = lines_of(repair_of(workers()), (), "", unicode=True)
    assert [line.worker for line in lines] == ["hints", "anti-entropy", "other-0", "other-1"]
    hints, entropy = cells(lines[0]), cells(lines[1])
    assert (hints["state"], hints["queue"], hints["oldest"]) == ("● 1 busy", "1,200", "75 s")
    assert (hints["rate"], hints["left"], hints["moved"], hints["most/s"]) == ("12/s", "100 s", "6.0 KiB", "")
    assert (entropy["state"], entropy["most/s"]) == ("✗ 1 failing", "none-5")
    assert entropy["last error"] == "peer-3: no majority of the owners answered"
    assert cells(lines[2])["state"] == "○ idle"


def test_unfolded_and_filtered() -> None:
    """Goal: unfolding shows the peers; a filter shows what it finds, peers and all."""
    repair = repair_of(workers(silent=(2,)))
    names = [cells(line)["worker"] for line in lines_of(repair, {"hints"}, "", unicode=False)]
    assert names == ["- hints", "  peer-1", "  peer-3", "+ anti-entropy", "+ other-0", "+ other-1", "peer-2"]
    found = lines_of(repair, (), "peer-3 failing", unicode=False)
    assert [cells(line)["worker"] for line in found] == ["- anti-entropy", "  peer-3"]
    assert cells(lines_of(repair, (), "peer-2", unicode=True)[0])["state"] == "◌ no answer"


def test_unknown_is_no_zero() -> None:
    """Goal: S1: a sum with a part that nobody told is not known, nor the time left when one of them stands still."""
    ones = repair_of(
        {"workers": [worker("hints", 1, **BUSY), worker("hints", 2, queue=None, rate=None)]}
    ).ones
    line = Line("hints", ones)
    assert (cells(line)["queue"], cells(line)["rate"]) == ("-", "-")
    assert total([]) is None
    stuck = repair_of({"workers": [worker("hints", 1, **BUSY), worker("hints", 2, queue=5)]}).ones
    assert left(stuck) is None and left(ones[:1]) == 100.0
    idle = summary(repair_of({"workers": [worker("hints", 1)]}))[-1][0]
    assert idle == "; 0 waiting, 0/s"
    assert "time left not known" in summary(repair_of({"workers": [worker("hints", 2, queue=5)]}))[-1][0]


@given(JSON, JSON)
def test_any_json_is_shown(told: Any, entry: Any) -> None:
    """Goal: whatever a newer or broken peer says is shown as unknown, and never an exception."""
    for answer in (
        told,
        {"workers": told, "failed": entry},
        {"workers": [entry, {"worker": "x", "node": told}]},
    ):
        repair = repair_of(answer)
        for line in lines_of(repair, {"x"}, "", unicode=False):
            assert all(isinstance(words, str) for words in cells(line).values())
            detail_lines(line)
        summary(repair)
    for key in worker("hints", 1):
        for line in lines_of(
            repair_of({"workers": [worker("hints", 1) | {key: entry}]}), (), "", unicode=True
        ):
            cells(line), detail_lines(line)


# --- words of commands


def test_questions_say_where_and_what() -> None:
    """Goal: the dialog names all peers it is for, also when a filter shows one, and those that may not hear it."""
    repair = repair_of(workers(silent=(2,)))
    group = lines_of(repair, (), "peer-3 failing", unicode=True)[0]
    title, lines = question(VERBS["pause"], group, repair, None)
    assert title == "Pause anti-entropy on all 3 peers?"
    assert "also after a restart" in lines[0] and "may go on as before: peer-2" in lines[1]
    one = lines_of(repair, {"hints"}, "", unicode=True)[1]
    title, lines = question(VERBS["throttle"], one, repair, 1.0)
    assert title == "Throttle hints on peer-1?" and len(lines) == 1
    assert lines[0] == "It does 1 item a second at most, also after a restart."
    assert "as many items as it can" in question(VERBS["throttle"], one, repair, 0.0)[1][0]


def test_outcomes_name_who_did_not_hear() -> None:
    """Goal: a command is never told to hold where it does not."""
    line = Line("hints", ())
    told = {
        "workers": [worker("hints", 1)],
        "failed": [{"node": "peer-2", "message": "it goes on as before"}],
    }
    words, level = outcome(VERBS["pause"], line, told)
    assert (words, level) == ("hints paused on peer-1; NOT on 1: peer-2: it goes on as before", "error")
    assert outcome(VERBS["resume"], line, workers()) == ("hints resumed on 3 peers", "good")
    assert outcome(VERBS["start"], line, {}) == ("hints: nothing was done", "warning")
    many = {"failed": [{"node": f"peer-{number}", "message": "silent"} for number in range(300)]}
    assert outcome(VERBS["pause"], line, many)[0].endswith("peer-9: silent and 290 more")


@pytest.mark.parametrize("words", ["", "x", "-1", "nan", "inf", "1e10"])
def test_rates_that_are_none(words: str) -> None:
    assert rate_problem(words)


# --- the page


def told(**options: Any) -> list[Event]:
    redundancy = {"whole": False, "message": "About 12 of 60 objects lack a copy; about 4 min left."}
    return [*healthy_events(cluster(redundancy=redundancy)), Event("repair", workers(**options))]


@pytest.mark.parametrize("size", [(80, 24), (45, 14), (200, 60)])
@pytest.mark.parametrize("unicode", [True, False])
def test_page(size: tuple[int, int], unicode: bool) -> None:
    """Goal: what heals, how long it takes and what stands in its way is on the screen at every usual size."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("5", "down")
        await tell(app, pilot)
        text = " ".join(screen(app).split())
        for words in (
            "4 workers on 2 peers: 1 failing",
            "anti-entropy",
            "1 failing",
            "anti-entropy on 2 peers: 14 done",
        ):
            assert words in text, (words, screen(app))
        if size[1] > 14:
            assert (
                "About 12 of 60 objects lack a copy" in text
                and "Not known of 1 peer that did not answer: peer-2" in text
            )
            assert "peer-3: last error: no majority" in text
        assert unicode or screen(app).isascii()
        assert max(len(line) for line in screen(app).splitlines()) <= size[0]

    play(told(silent=(2,)), story, size=size, unicode=unicode)


def test_unfold_and_copy() -> None:
    """Goal: Enter unfolds and space on a peer folds again, the cursor stays with the worker; c copies all columns."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("5", "enter", "down", "down")
        await tell(app, pilot)
        assert "  peer-3" in screen(app) and "hints on peer-2" in screen(app)
        await pilot.press("c")
        assert "  peer-2\t● busy\t1,200\t75 s\t12/s\t\t2.0 KiB\t100 s\t" in app.clipboard
        await pilot.press("space")
        await tell(app, pilot)
        assert "  peer-3" not in screen(app) and "hints on 3 peers" in screen(app)

    play(told(), story)


@pytest.mark.parametrize(
    ("keys", "asked"),
    [
        (["P", "tab", "enter"], ("pause", "hints", None, None)),
        (["R", "tab", "enter"], ("resume", "hints", None, None)),
        (["S", "tab", "enter"], ("start", "hints", None, None)),
        (["enter", "down", "P", "tab", "enter"], ("pause", "hints", f"{1:016x}", None)),
        (["T", "backspace", "5", "enter", "tab", "enter"], ("throttle", "hints", None, 5.0)),
        (["P", "enter"], None),
        (["P", "escape"], None),
        (["T", "escape"], None),
        (["T", "backspace", "enter", "5"], None),
        (["T", "enter", "enter"], None),
    ],
)
def test_commands_need_a_yes(keys: list[str], asked: tuple[Any, ...] | None) -> None:
    """Goal: only after the dialog is a peer told anything, and then exactly what the dialog said."""
    client = Commands()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("5")
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        if asked is not None:
            await finished(app)
            await tell(app, pilot)
            assert f"hints {VERBS[asked[0]].did} on 2 peers" in screen(app)

    play(told(), story, client=client)
    assert client.asked == ([asked] if asked else [])


def test_errors_are_shown_as_they_are() -> None:
    """Goal: what the server refuses is on the screen in its words; the page goes on."""
    client = Commands(error=Unavailable("pause hints: no peer answered within 30 s"))

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("5", "P")
        await pilot.pause()
        assert isinstance(app.screen, Confirm)
        await pilot.press("tab", "enter")
        await finished(app)
        await tell(app, pilot)
        assert "pause hints: no peer answered within 30 s" in screen(app)

    play(told(), story, client=client)


def test_readonly_and_replay() -> None:
    """Goal: with --readonly there is neither key nor command; without a cluster the page says so."""

    async def readonly(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("5", "P", "T")
        await tell(app, pilot)
        assert not isinstance(app.screen, Confirm | Ask) and "throttle" not in screen(app)
        assert not list(app.page.commands()) and "unfold" in screen(app)

    async def replay(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("5", "P")
        await tell(app, pilot)
        assert "there is no cluster to command here" in screen(app) and "throttle" in screen(app)
        assert next(iter(app.page.commands())).title == "Pause worker"

    play(told(), readonly, client=Commands(), readonly=True)
    play(told(), replay)


def test_many_peers() -> None:
    """Goal: 300 peers with ten workers each are one line a worker; unfolded, the last peer is two keys away."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("5", "enter")
        await tell(app, pilot)
        assert "10 workers on 300 peers" in screen(app) and "peer-300" not in screen(app)
        await pilot.press("slash", *"peer-300 hints", "enter", "end")
        await tell(app, pilot)
        assert "  peer-300" in screen(app) and "hints on peer-300" in screen(app)

    play(told(peers=300, kinds=8), story)


def test_a_command_under_way_holds_nothing_up() -> None:
    """Goal: while peers take their time the screen goes on."""
    let_go = asyncio.Event()

    class Slow(Commands):
        async def command_workers(self, *args: Any, **options: Any) -> dict[str, Any]:
            await let_go.wait()
            return await super().command_workers(*args, **options)

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("5", "P")
        await pilot.pause()
        await pilot.press("tab", "enter", "2")
        await tell(app, pilot)
        assert "pause hints on all 3 peers: asked for" in screen(app) and "rack-3" in screen(app)
        let_go.set()
        await finished(app)
        await tell(app, pilot)
        assert "hints paused on 2 peers" in screen(app)

    play(told(), story, client=Slow())

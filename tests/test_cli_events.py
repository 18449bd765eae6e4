"""`atoll events`, and the recordings that the screens are tested on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peer.client import Event
from tests.cluster_world import ClusterWorld
from tests.recordings import BYTES_MOST, DATA, STORIES
from tests.test_api_events import check
from tools.cli.events import as_text
from tools.cli.events import recorded as recorded_line
from tui.source import recorded

MADE_HERE = ("connected", "unreachable")


@pytest.mark.parametrize("name", STORIES)
def test_recordings_are_what_peers_tell(name: str) -> None:
    """Goal: every event of a fixture holds to openapi.json as it is today, in order, and is worth a line; `python -m
    tests.recordings` makes them anew."""
    path = DATA / f"events-{name}.jsonl"
    assert path.stat().st_size <= BYTES_MOST
    before_s = 0.0
    kinds = set()
    for at_s, event in recorded(path):
        assert at_s >= before_s
        before_s = at_s
        kinds.add(event.kind)
        if event.kind not in MADE_HERE:
            check(event.kind, event.data)
        assert len(as_text(at_s, event).split(maxsplit=2)) == 3, event.kind
    assert {"connected", "hello", "cluster", "ring", "views", "repair", "requests", "log"} <= kinds


def test_a_later_version_tells_more() -> None:
    """Goal: an event that this version does not know, or that is another one by now, is told by its kind."""
    assert as_text(1.25, Event("weather", {"rain": True})) == "     1.2  weather"
    assert as_text(1.25, Event("cluster", {"verdict": 3})) == "     1.2  cluster"
    assert as_text(
        0, Event("log", {"time": "t", "node": {"name": "\x1b[2J"}, "level": "info", "message": "m"})
    ).isprintable()
    line = recorded_line(1.23456, Event("log", {"message": "ü\n"}))
    assert line == '{"at":1.235,"event":"log","data":{"message":"ü\\n"}}'


def test_following_and_recording(cluster: ClusterWorld, tmp_path: Path) -> None:
    """Goal: what is recorded can be shown again; -o jsonl writes the same lines to stdout, and `--for` ends it."""
    file = tmp_path / "told.jsonl"
    ran = cluster.atoll("events", "--record", str(file), "--for", "2.5")
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    kinds = [event.kind for _, event in recorded(file)]
    assert kinds[:2] == ["connected", "hello"] and kinds.count("requests") >= 2
    ran = cluster.atoll("-o", "jsonl", "events", "--types", "requests", "--for", "1.5")
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [one["event"] for one in told[:3]] == ["connected", "hello", "requests"]
    ran = cluster.atoll("events", "--types", "requests", "--for", "1.5")
    assert "backlog" in ran.stdout.splitlines()[2]
    ran = cluster.atoll("events", "--types", "weather")
    assert ran.returncode != 0 and "weather" in ran.stderr

"""The life of a process: it comes back as often as it has to, ends in order when asked to, and a signal ends its start."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peer import returning, run, startup
from peer.errors import AtollError, StartupError
from peer.healing import Evicted, Overruled, Removed
from peer.returning import Forgot
from peer.storage.datadir import DataDir

ENDS_S = 30.0


class Fates:
    """Peers and returns that only have a fate: what ends one after the other; the last one waits for a signal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *fates: AtollError) -> None:
        self.fates = list(fates)
        self.story: list[str] = []
        self.started = asyncio.Event()
        self.hold: asyncio.Event | None = None  # a start waits for it
        monkeypatch.setattr(run, "Peer", lambda *_: _Doomed(self))
        monkeypatch.setattr(returning, "come_back", self._come_back)
        monkeypatch.setattr(returning, "look", lambda _: None)
        monkeypatch.setattr(run.startup, "cluster_key", lambda *_: b"")

    async def _come_back(self, config: Any, directory: Any, key: bytes, why: Any, *, keep: bool) -> None:
        self.story.append(f"{type(why).__name__}{' kept' * keep}")


class _Doomed:
    def __init__(self, world: Fates) -> None:
        self.world, self.over = world, asyncio.Event()
        self.fatal: AtollError | None = None

    def waits_for(self) -> list[str]:
        return []

    async def start(self) -> None:
        self.world.story.append("start")
        self.world.started.set()
        if self.world.hold is not None:
            await self.world.hold.wait()
        if self.world.fates:
            self.fatal = self.world.fates.pop(0)
            self.over.set()
        else:
            self.world.story.append("lives")

    async def stop(self) -> None:
        self.world.story.append("stop")


async def lives(world: Fates, tmp_path: Path, stop: asyncio.Event) -> None:
    config: Any = SimpleNamespace(drain_s=0.0, advertised_host="here", api_port=1)
    directory = DataDir.open(tmp_path / "data")
    try:
        async with asyncio.timeout(ENDS_S):
            await run._lives(config, directory, stop)
    finally:
        directory.close()


def test_it_comes_back_as_often_as_it_has_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: one process is evicted twice, forgets, is overruled: each time another peer lives on in it; then the operator
    asks it to leave, and it ends in order."""
    monkeypatch.setattr(run, "RETURNS_EVERY_S", 0.0)

    async def scenario() -> None:
        fates = [Evicted("away"), Evicted("again"), Forgot("gone"), Overruled("newer"), Removed("asked to")]
        world = Fates(monkeypatch, *fates)
        await lives(world, tmp_path, asyncio.Event())
        returns = ["Evicted", "Evicted", "Forgot", "Overruled kept"]
        expected = [word for one in returns for word in ("start", "stop", one)]
        assert world.story == [*expected, "start", "stop"]

    asyncio.run(scenario())


def test_what_is_no_return_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an error with another remedy is told, not tried again."""

    async def scenario() -> None:
        world = Fates(monkeypatch, Evicted("away"), StartupError("a copy runs"))
        with pytest.raises(StartupError, match="a copy runs"):
            await lives(world, tmp_path, asyncio.Event())
        assert world.story == ["start", "stop", "Evicted", "start", "stop"]

    asyncio.run(scenario())


def test_returns_do_not_chase_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a disk that loses everything at every start does not make one change of the ring after the other: the second
    return waits, and a signal ends that."""

    async def scenario() -> None:
        stop = asyncio.Event()
        pauses: list[float] = []

        async def pause(delay_s: float, _: asyncio.Event) -> None:
            pauses.append(delay_s)
            if len(pauses) == 2:
                stop.set()

        monkeypatch.setattr(run, "_pause", pause)
        world = Fates(monkeypatch, Forgot("gone"), Forgot("gone"))
        await lives(world, tmp_path, stop)
        assert world.story.count("start") == 2
        assert pauses[0] <= 0 < pauses[1] <= run.RETURNS_EVERY_S

    asyncio.run(scenario())


def test_a_signal_ends_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a peer whose start waits (for seeds that keep silent) ends at a signal, and lets go of what it has."""

    async def scenario() -> None:
        stop = asyncio.Event()
        world = Fates(monkeypatch)
        world.hold = asyncio.Event()
        task = asyncio.create_task(lives(world, tmp_path, stop))
        await world.started.wait()
        stop.set()
        await task
        assert world.story == ["start", "stop"]

    asyncio.run(scenario())


def test_a_start_that_is_cancelled_waits_for_its_thread() -> None:
    """Goal: what reads the directory in a thread is over before the start is, as all of it is closed then."""

    async def scenario() -> None:
        begun, goes_on, over = threading.Event(), threading.Event(), threading.Event()

        def reads() -> None:
            begun.set()
            goes_on.wait(ENDS_S)
            over.set()

        task = asyncio.create_task(startup.whole(reads))
        await asyncio.to_thread(begun.wait, ENDS_S)
        task.cancel()
        await asyncio.sleep(0)
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert over.is_set()

    asyncio.run(scenario())

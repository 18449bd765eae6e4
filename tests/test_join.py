"""Who asks others at its start waits for no silent one longer than it has to; in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peer import entry
from peer.config import PeerConfig
from peer.entry import JOIN_FOR_S, SEED_CALL_S, LeftOut, check_membership, join
from peer.errors import Refused, StartupError, Unavailable
from peer.replication.messages import OK
from ring.epoch import Epoch
from ring.members import LEAVING
from tests.replication_world import World, grown, member, ring_of, simulate

RING = ring_of(*(member(number) for number in range(1, 25)))
ME = member(1).id


class Others:
    """Peers by their port: an answer, an error, or silence until the deadline."""

    def __init__(self, answers: dict[int, Any]) -> None:
        self.answers = answers
        self.asked: list[int] = []
        self.under_way = 0

    async def call_address(self, host: str, port: int, message: Any, deadline_s: float) -> Any:
        self.asked.append(port)
        self.under_way += 1
        try:
            answer = self.answers.get(port)
            await asyncio.sleep(deadline_s if answer is None else 0.01)
        finally:
            self.under_way -= 1
        if answer is None:
            raise Unavailable("no answer in time")
        if isinstance(answer, Exception):
            raise answer
        return answer


def port(number: int) -> int:
    return member(number).peer_port


def told(epoch: Epoch) -> tuple[Any, ...]:
    return (OK, epoch.encode())


async def took(work: Any) -> tuple[float, Exception | None]:
    """Virtual seconds until it ended, and how."""
    loop = asyncio.get_running_loop()
    begun_s, error = loop.time(), None
    try:
        await work
    except (LeftOut, StartupError, Unavailable) as raised:
        error = raised
    return loop.time() - begun_s, error


def test_dark_members_cost_a_start_one_call_and_not_one_each() -> None:
    """Goal: of twenty-three others twenty keep silent: all are asked at once, and the start goes on after 2 s. Nothing is
    left under way."""

    async def scenario(world: World) -> None:
        few: Any = Others({port(number): told(RING) for number in (5, 15, 24)})
        elapsed_s, error = await took(check_membership(RING, ME, few))
        assert error is None and elapsed_s <= SEED_CALL_S + 0.1
        assert sorted(few.asked) == [port(number) for number in range(2, 25)] and few.under_way == 0

    simulate(scenario, 0, founded=False)


def test_one_that_knows_is_enough() -> None:
    """Goal: the last of many knows a ring without this peer: it is left out. Refused by all who answer, because its
    ring is not theirs, it does not start."""

    async def scenario(world: World) -> None:
        without = replace(ring_of(*RING.members[1:]), number=7)
        elapsed_s, error = await took(check_membership(RING, ME, Others({port(24): told(without)})))  # type: ignore[arg-type]
        assert isinstance(error, LeftOut) and error.epoch == without and elapsed_s <= SEED_CALL_S + 0.1
        other = Refused("another ring", code="WrongRing")
        _, error = await took(check_membership(RING, ME, Others({port(9): other})))  # type: ignore[arg-type]
        assert isinstance(error, StartupError) and "another ring" in str(error)

    simulate(scenario, 0, founded=False)


def test_one_that_was_asked_to_leave_knows_that_it_was() -> None:
    """Goal: it left while it was away: it is not to come back by itself, unless an override left it behind."""

    async def scenario(world: World) -> None:
        me = RING.member(ME)
        assert me is not None
        asked = replace(RING, members=(replace(me, state=LEAVING), *RING.members[1:]))
        without = replace(ring_of(*RING.members[1:]), number=7)
        for generation in (0, 1):
            told_of: Any = Others({port(24): told(replace(without, generation=generation))})
            _, error = await took(check_membership(asked, ME, told_of))
            assert isinstance(error, LeftOut) and error.asked == (generation == 0)

    simulate(scenario, 0, founded=False)


def test_silent_seeds_do_not_stretch_a_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: of many seeds that take the call and keep silent each may use up what is left of the half minute, no more; and
    the one that would answer is not always asked last."""

    async def scenario(world: World) -> None:
        seeds = tuple(("127.0.0.1", port(number)) for number in range(2, 12))
        config = PeerConfig(data=tmp_path, join=seeds)
        silent: Any = Others({})
        elapsed_s, error = await took(join(config, member(1), silent))
        assert isinstance(error, Unavailable) and elapsed_s <= JOIN_FOR_S + 1
        monkeypatch.setattr(entry.CHANCE, "shuffle", lambda some: some.reverse())
        full: Any = Others({at: Unavailable("busy") for _, at in seeds})
        await took(join(config, member(1), full))
        assert full.asked[:20] == [*(at for _, at in seeds), *(at for _, at in reversed(seeds))]
        last: Any = Others({seeds[-1][1]: told(grown(RING, member(30)))})
        monkeypatch.setattr(entry, "JOIN_CALL_S", 1.0)
        assert (await join(config, member(30), last)).member(member(30).id) is not None

    simulate(scenario, 0, founded=False)

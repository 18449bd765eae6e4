"""How a member finds company: seeds, remembered addresses, and the way back when it was cut off."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from gossip.record import Record
from peer.errors import Unavailable
from peer.membership import ADDRESSES_MOST, Membership
from tests.membership_world import (
    CLUSTER,
    FAST,
    KEY,
    Town,
    address_of,
    free_port,
    run,
    state,
    three,
    until,
)


def test_seeds_are_resolved_anew_until_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a lone member keeps asking its seeds, by name, and joins when a seed has moved and answers."""

    async def story(town: Town) -> None:
        loop = asyncio.get_running_loop()
        real = loop.getaddrinfo
        where: list[tuple[str, int]] = [("127.0.0.1", free_port())]
        lookups = 0

        async def resolve(host: str, port: int, **options: Any) -> Any:
            nonlocal lookups
            if host != "seed.example":
                return await real(host, port, **options)
            lookups += 1
            return await real(*where[0], **options)

        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        member = await town.add(1)
        assert await member.join([("seed.example", 7402)]) == 0
        await until(lambda: lookups >= 2)
        seed = await town.add(2)
        where[0] = address_of(seed)
        await until(lambda: state(member, 2) == "alive")

    run(story)


def test_remembered_addresses_come_before_the_seeds() -> None:
    """Goal: a seed is asked only when no remembered address answers."""

    async def story(town: Town) -> None:
        first, second, third = await town.add(1), await town.add(2), await town.add(3)
        assert await third.join([address_of(second)], [address_of(first)]) == 1
        assert address_of(second) not in town.asked
        town.cut.add(address_of(first))
        fourth = await town.add(4)
        assert await fourth.join([address_of(third)], [address_of(first)]) == 1

    run(story)


def test_new_addresses_are_for_when_it_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: who is in company asks nobody because the ring has changed; once alone, it tries where the ring says."""
    monkeypatch.setattr("peer.membership.ALONE_FIRST_S", 0.02)

    async def story(town: Town) -> None:
        first, second, third = await town.add(1), await town.add(2), await town.add(3)
        town.cut.add(address_of(third))
        await second.join([address_of(first)])
        second.remember((), [address_of(third)])
        await until(lambda: second.stats()["probes"] > 3)
        assert address_of(third) not in town.asked
        town.cut.clear()
        await town.crash(first)
        await until(lambda: state(second, 3) == "alive")

    run(story)


def test_members_that_all_start_alone_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: remembered addresses and seeds that answered nobody at first are tried until they do."""
    monkeypatch.setattr("peer.membership.ALONE_FIRST_S", 0.02)
    monkeypatch.setattr("peer.membership.ALONE_LAST_S", 0.1)

    async def story(town: Town) -> None:
        everyone = [await town.add(1), await town.add(2), await town.add(3)]
        addresses = [address_of(member) for member in everyone]
        town.cut.update(addresses)
        for member in everyone[:2]:
            others = [address for address in addresses if address != address_of(member)]
            assert await member.join((), others) == 0
        assert await everyone[2].join([addresses[0]]) == 0
        tried = len(town.asked)
        await until(lambda: len(town.asked) > tried + 12)
        assert all(len(member.members()) == 1 for member in everyone)
        town.cut.clear()
        await until(lambda: all(state(m, n) == "alive" for m in everyone for n in (1, 2, 3)))

    run(story)


def test_of_many_remembered_addresses_each_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the one of 100 remembered addresses where somebody answers is found, a few at a time."""

    async def story(town: Town) -> None:
        first, second = await town.add(1), await town.add(2)
        nobody = [("127.0.0.2", port) for port in range(10_000, 10_099)]
        town.cut.add(address_of(second))
        assert await first.join((), [*nobody, address_of(second)]) == 0
        assert len(town.asked) == ADDRESSES_MOST
        monkeypatch.setattr(
            "peer.membership.ALONE_LAST_S", 0.02
        )  # only now, or it has asked more on a busy machine
        town.cut.clear()
        await until(lambda: state(first, 2) == "alive")

    run(story)


def test_a_cut_off_member_finds_its_way_back() -> None:
    """Goal: after its network returns, a member that believes all others dead meets them again by itself."""

    async def story(town: Town) -> None:
        first, second, third = await three(town)
        cut = address_of(third)
        real_send = third._datagrams.send
        real_receive = third._datagrams._receive
        real_exchange = third._exchange

        async def no_exchange(address: tuple[str, int], payload: bytes, timeout_s: float) -> bytes:
            raise Unavailable("cut off")

        town.cut.add(cut)
        third._datagrams.send = lambda address, body: None  # type: ignore[method-assign]
        third._datagrams._receive = lambda packet, source: None
        third._exchange = no_exchange
        await until(lambda: state(first, 3) == "dead" and state(second, 3) == "dead")
        await until(lambda: state(third, 1) == "dead" and state(third, 2) == "dead")
        town.cut.clear()
        third._datagrams.send = real_send  # type: ignore[method-assign]
        third._datagrams._receive = real_receive
        third._exchange = real_exchange
        await until(lambda: all(state(m, n) == "alive" for m in (first, second, third) for n in (1, 2, 3)))

    run(story)


def test_names_of_members_are_resolved() -> None:
    """Goal: a member that advertises a host name is reached by it."""

    async def story(town: Town) -> None:
        first = await town.add(1)
        port = free_port()
        me = Record(f"{2:016x}", "named", "localhost", port, 0, 0, 1, 0, "0.1.0", 1)
        town.changes[me.id] = []
        named = Membership(
            me,
            host="127.0.0.1",
            port=port,
            keyring=[KEY],
            cluster_id=CLUSTER,
            exchange=town.exchange,
            on_change=lambda view: None,
            rng=random.Random(2),
            config=FAST,
        )
        await named.start()
        town.members["localhost", port] = named
        await named.join([address_of(first)])
        await until(lambda: state(first, 2) == "alive")
        probes = first.stats()["probes"]
        await until(lambda: first.stats()["probes"] > probes + 3)
        assert state(first, 2) == "alive"

    run(story)

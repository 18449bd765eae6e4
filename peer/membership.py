"""Gossip on real sockets: runs `gossip.swim.Swim` with a UDP socket, the loop's timers and TCP exchanges.

The state machine decides everything; what is here moves bytes and calls it. Two orders matter: the socket
is emptied before a timer is looked at, and what the state machine wants sent goes out before `on_change`
is told (architecture.md, section 4). A peer that sees nobody tries the addresses it remembers (where members
were last, and where the epoch says they are), then the seeds, with growing pauses, for as long as it runs. Names
are resolved anew each time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from gossip.config import Config
from gossip.errors import GossipError, Stranger
from gossip.host import Exchange, Send
from gossip.keyring import Keyring
from gossip.members import Member
from gossip.messages import DEAD, SUSPECT, Packet
from gossip.record import Record
from gossip.roster import Rng
from gossip.swim import Swim
from peer.datagrams import Datagrams
from peer.errors import AtollError, ProtocolError, Refused

Address = tuple[str, int]
ExchangeCall = Callable[[Address, bytes, float], Awaitable[bytes]]

log = logging.getLogger(__name__)

# Datagrams taken per turn of the loop, so that others get theirs; and at most before a timer is looked at.
DRAIN_TURN: Final = 256
DRAIN_TIMER: Final = 8_192
# Alone: the pause between attempts doubles from the first to the last of these.
ALONE_FIRST_S: Final = 0.5
ALONE_LAST_S: Final = 15.0
# In company a random seed is asked this often, so that two islands that forgot each other's dead merge.
RESEED_S: Final = 300.0
# One name may stand for many peers (a headless service); addresses tried at one time.
ADDRESSES_MOST: Final = 16
# Addresses kept in mind; of more, some at random.
REMEMBERED_MOST: Final = 1024
# The log may remember so many members more than are known before they are forgotten.
SAID_SPARE: Final = 64
# How long a leaving peer waits until its farewell has been passed on as often as news are.
LEAVE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member as this peer sees it now; a copy that does not change.

    `state` is "alive", "suspect", "dead" or "left"; `epoch` (generation, number) of the newest it knows;
    `last_heard_s` how long ago a datagram or exchange of its own arrived here, in seconds.
    """

    id: str
    name: str
    host: str
    peer_port: int
    s3_port: int
    api_port: int
    state: str
    incarnation: int
    version: str
    format_level: int
    epoch: tuple[int, int]
    flags: frozenset[str]
    last_heard_s: float
    boot: int

    @property
    def label(self) -> str:
        """What to call it in a log: its name, or the first digits of its id."""
        return self.name if self.name and self.name != self.id else self.id[:8]


class Membership:
    """Who is alive, as this peer sees it. All methods belong to the loop's thread.

    `exchange(address, request, timeout_s)` makes one request over an encrypted connection of kind "gossip"
    and returns the reply or raises AtollError, OSError or TimeoutError. `on_change` hears of every other
    member whose state or record changed, the new ones included; `on_superseded` once, when `superseded` turns
    true. `me.boot` must exceed that of every
    earlier run under this id.
    """

    def __init__(
        self,
        me: Record,
        *,
        host: str,
        port: int,
        keyring: list[bytes],
        cluster_id: str,
        exchange: ExchangeCall,
        on_change: Callable[[MemberView], None],
        rng: Rng,
        config: Config | None = None,
        on_superseded: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config or Config()
        self._cluster_id = cluster_id
        self._rng = rng
        self._listen = host, port
        self._exchange = exchange
        self._on_change = on_change
        self._on_superseded = on_superseded
        self._swim = self._new_swim(me)
        self._datagrams = Datagrams(Keyring(keyring, cluster_id, os.urandom), self._received)
        self._seeds: tuple[Address, ...] = ()
        self._addresses: tuple[Address, ...] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._tasks: set[asyncio.Task[None]] = set()
        self._alone = asyncio.Event()
        self._told = asyncio.Event()
        self._running = False
        self._warned = False
        self._said: dict[str, str] = {}  # the state of each that the log has last

    def _new_swim(self, me: Record) -> Swim:
        return Swim(me, self._cluster_id, self._config, self._rng, time.monotonic())

    # Life

    async def start(self) -> None:
        """Bind the port and begin. Raises StartupError if the port is taken."""
        await self._datagrams.open(*self._listen, self._readable)
        # Its clock starts now: what passed since the constructor was no pause.
        self._swim = self._new_swim(self._swim.me)
        self._running = True
        self._spawn(self._keep_company(), "gossip company")
        self._flush()

    async def stop(self, leave: bool) -> None:
        """Fall silent, after telling the others so if `leave`: then nobody has to find out."""
        if not self._running:
            return
        if leave:
            self._swim.leave(time.monotonic())
            self._flush()
            try:
                async with asyncio.timeout(LEAVE_S):
                    await self._told.wait()
            except TimeoutError:
                log.info("left the cluster before every other peer could be told")
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._datagrams.close()

    async def join(self, seeds: Sequence[Address], remembered: Sequence[Address] = ()) -> int:
        """Meet the cluster through remembered addresses, or else through the seeds; keeps both in mind.

        Returns how many other peers answered. Names are resolved anew. Finding nobody is no error: the
        attempts go on in the background.
        """
        self.remember(seeds, remembered)
        return await self._contact(self._some(self._addresses)) or await self._contact(self._seeds)

    def remember(self, seeds: Sequence[Address], remembered: Sequence[Address]) -> None:
        """Keep these in mind, instead of those of an earlier call, for whenever this peer is alone."""
        self._seeds = tuple(self._some(seeds, REMEMBERED_MOST))
        self._addresses = tuple(self._some(remembered, REMEMBERED_MOST))

    def update(self, *, epoch: tuple[int, int] | None = None, flags: frozenset[str] | None = None) -> None:
        """Tell the others something new about this peer."""
        self._swim.update(time.monotonic(), epoch=epoch, flags=flags)
        self._flush()

    def replace_keys(self, keys: Sequence[bytes]) -> None:
        """Rotate: seal with the first of these keys and open with any of them. ValueError if none."""
        self._datagrams.keyring.replace(keys)

    # What is known

    def is_alive(self, member_id: str) -> bool:
        """Alive or suspect: a suspect still has its time to answer. This peer itself is alive."""
        member = self._swim.members.known.get(member_id)
        if member is None:
            return member_id == self._swim.me.id
        return member.belief[2] <= SUSPECT

    def get(self, member_id: str) -> MemberView | None:
        """One member, this peer included; None of an id not known."""
        member = self._swim.members.known.get(member_id)
        if member is not None:
            return self._view(member)
        return self._own_view() if member_id == self._swim.me.id else None

    def members(self) -> list[MemberView]:
        """Everyone known, this peer first."""
        return [self._own_view(), *map(self._view, self._swim.members.known.values())]

    def stats(self) -> dict[str, int]:
        """Counters since the start and the present local health, for metrics."""
        swim = self._swim
        now = {"health": swim.awareness.score, "members": len(swim.members), "known": len(swim.members.known)}
        return {**asdict(swim.stats), **self._datagrams.counters, **now}

    @property
    def superseded(self) -> bool:
        """Another process has run under this id with a later boot: this one is the old one, or that was a copy's."""
        return self._swim.superseded

    def _view(self, member: Member) -> MemberView:
        boot, incarnation, _ = member.belief
        age = max(0.0, self._swim.timers.now - member.heard_at)
        return _view_of(member.record, member.state_name, boot, incarnation, age)

    def _own_view(self) -> MemberView:
        me = self._swim.me
        return _view_of(me, "left" if self._swim.leaving else "alive", me.boot, me.incarnation, 0.0)

    # Events

    def _readable(self) -> None:
        self._datagrams.drain(DRAIN_TURN)
        self._flush()

    def _received(self, packet: Packet, source: Address) -> None:
        self._swim.receive(time.monotonic(), packet, source)

    def _on_timer(self) -> None:
        self._timer = None
        self._datagrams.drain(DRAIN_TIMER)
        self._swim.tick(time.monotonic())
        self._flush()

    async def handle_exchange(self, payload: bytes) -> bytes:
        """Answer another peer's exchange.

        Raises Refused for another cluster and while not running, ProtocolError for nonsense.
        """
        if not self._running:
            raise Refused("this peer's gossip is not running", code="Busy")
        try:
            reply = self._swim.serve(time.monotonic(), payload)
        except Stranger as error:
            self._datagrams.counters["strangers"] += 1
            raise Refused(str(error)) from None
        except GossipError as error:
            self._datagrams.counters["malformed"] += 1
            raise ProtocolError(str(error)) from None
        self._flush()
        return reply

    def _flush(self) -> None:
        """Carry out what the state machine wants after any event."""
        swim = self._swim
        outbox, swim.outbox = swim.outbox, []
        changes, swim.changes = swim.changes, []
        if not self._running:
            return
        for wish in outbox:
            if type(wish) is Send:
                self._datagrams.send(wish.address, wish.body)
            else:
                assert type(wish) is Exchange
                self._spawn(self._carry_out(wish), "gossip exchange")
        self._arm()
        if swim.members.living:
            self._alone.clear()
        else:
            self._alone.set()
        if swim.leaving and (swim.told or self._alone.is_set()):
            self._told.set()
        if swim.superseded and not self._warned:
            self._warned = True
            self._on_superseded()
        for member in changes:
            view = self._view(member)
            if self._said.get(view.id) != view.state:  # a change may be of the record alone
                self._said[view.id] = view.state
                log.info("peer %s (%s:%d) is %s", view.label, view.host, view.peer_port, view.state)
            self._on_change(view)
        if len(self._said) > len(swim.members.known) + SAID_SPARE:
            self._said = {id_: state for id_, state in self._said.items() if id_ in swim.members.known}

    def _arm(self) -> None:
        """Have `_on_timer` called when the state machine's next deadline comes, or a little earlier."""
        due = self._swim.next_clock()
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer_at = due
        delay = max(0.0, due - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _spawn(self, work: Awaitable[None], name: str) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        task.set_name(name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, wish: Exchange) -> None:
        reply = await self._ask(wish.address, wish.payload, wish.timeout_s)
        try:
            self._swim.answered(time.monotonic(), wish.token, reply)
        except GossipError as error:
            self._bad_reply(wish.address, error)
        self._flush()

    async def _ask(self, address: Address, payload: bytes, timeout_s: float) -> bytes | None:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(address, payload, timeout_s)
        except (AtollError, OSError, TimeoutError) as error:
            log.debug("no gossip exchange with %s:%d: %s", *address, error)
            return None

    def _bad_reply(self, address: Address, error: GossipError) -> None:
        self._datagrams.counters["strangers" if isinstance(error, Stranger) else "malformed"] += 1
        log.warning("a peer at %s:%d answered with what is no gossip of this cluster: %s", *address, error)

    # Company

    async def _keep_company(self) -> None:
        """While alone, ask everyone who may be there; in company, now and then one of them."""
        while True:
            try:
                async with asyncio.timeout(RESEED_S * (0.5 + self._rng.random())):
                    await self._alone.wait()
            except TimeoutError:
                await self._contact(self._some((*self._addresses, *self._seeds), 1))
                continue
            pause_s = ALONE_FIRST_S
            while self._alone.is_set():
                await asyncio.sleep(pause_s * (0.5 + self._rng.random()))
                pause_s = min(2 * pause_s, ALONE_LAST_S)
                if self._alone.is_set() and not self._swim.leaving:
                    await self._contact(self._remembered()) or await self._contact(self._seeds)

    def _remembered(self) -> list[Address]:
        """Where dead members were last, and some of the addresses that `join` was given."""
        members = self._swim.members
        dead = [
            member.address
            for roster in (members.recent, members.gone)
            for member in roster.sample(ADDRESSES_MOST // 4, lambda member: member.state == DEAD)
        ]
        return dead + self._some(self._addresses, ADDRESSES_MOST - len(dead))

    def _some(self, addresses: Sequence[Address], most: int = ADDRESSES_MOST) -> list[Address]:
        """So many of them in a row, from anywhere: who is left out has its turn another time."""
        first = int(self._rng.random() * len(addresses)) if len(addresses) > most else 0
        return [*addresses[first:], *addresses[:first]][:most]

    async def _contact(self, addresses: Iterable[Address]) -> int:
        """Exchange memberships with whoever answers; how many others did.

        Once one has answered the rest get only a little longer: a dead seed must not hold up a start.
        """
        targets = await self._resolve_all(addresses)
        waiting = {asyncio.ensure_future(self._meet(target)) for target in targets}
        met = 0
        try:
            while waiting:
                grace_s = self._config.probe_timeout_s if met else None
                done, waiting = await asyncio.wait(
                    waiting, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED
                )
                met += sum(task.result() for task in done)
                if not done:
                    break
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return met

    async def _meet(self, address: Address) -> bool:
        request = self._swim.join_request(time.monotonic())
        reply = await self._ask(address, request, self._config.push_pull_timeout_s)
        if reply is None:
            return False
        try:
            sender = self._swim.joined(time.monotonic(), reply)
        except GossipError as error:
            self._bad_reply(address, error)
            return False
        self._flush()
        return sender != self._swim.me.id

    async def _resolve_all(self, addresses: Iterable[Address]) -> list[Address]:
        found: dict[Address, None] = {}
        loop = asyncio.get_running_loop()
        for host, port in addresses:
            try:
                infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, ValueError) as error:
                self._datagrams.counters["unresolved"] += 1
                log.debug("cannot resolve %s: %s", host, error)
                continue
            for info in infos[:ADDRESSES_MOST]:
                found[str(info[4][0]), int(info[4][1])] = None
        found.pop(self._swim.me.address, None)
        return list(found)[:ADDRESSES_MOST]


def _view_of(record: Record, state: str, boot: int, incarnation: int, last_heard_s: float) -> MemberView:
    return MemberView(
        id=record.id, name=record.name, host=record.host, peer_port=record.peer_port, s3_port=record.s3_port,
        api_port=record.api_port, state=state, incarnation=incarnation, version=record.version,
        format_level=record.format_level, epoch=record.epoch, flags=record.flags, last_heard_s=last_heard_s, boot=boot,
    )  # fmt: skip

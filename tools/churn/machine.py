"""One simulated machine, and the process that runs on it: what `peer.process` does, without objects and sockets."""

from __future__ import annotations

import random
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gossip.config import Config
from gossip.members import Member as Known
from gossip.messages import ALIVE, SUSPECT, Address
from gossip.record import Record
from gossip.swim import Swim
from peer.config import PeerConfig
from peer.entry import FORMAT_LEVEL, LeftOut, admit, check_membership, join
from peer.errors import AtollError, Unavailable
from peer.healing import LEAVE_S
from peer.replication.agreement.identity import Amnesia
from peer.replication.healing.eviction import Eviction
from peer.replication.healing.transition import Transition
from peer.replication.messages import EPOCH_GET, JOIN
from peer.replication.node import Replica
from peer.replication.workers import Workers
from peer.rpc.peers import Peers
from ring.epoch import Epoch
from ring.members import Member
from tools.gossip_air import Node, address_of
from tools.sim.disk import DiskTraits, SimDisk, SimRows
from tools.sim.env import SimEnv

if TYPE_CHECKING:
    from tools.churn.fleet import Fleet

CLUSTER = "5e" * 16
RESTART_S = 5.0  # after which whatever starts peers again does so
ALONE_S = 5.0
MEET_MOST = 16
ZONES = 10
CONFIG = Config()
HASTY = "evict_after_20_s"  # a negative control


class Machine:
    """Its disk, its address and its name outlive the processes on it; its member id only while the ring keeps it."""

    def __init__(self, fleet: Fleet, index: int) -> None:
        self.fleet = fleet
        self.index = index
        self.name = f"p{index}"
        self.zone = f"rack-{index % ZONES}"
        self.rng = random.Random(f"machine {fleet.seed} {index}")
        self.skew_s = (self.rng.random() - 0.5) * 0.2
        self.starts = 0
        self.seeds: tuple[Address, ...] = ()
        self.process: Process | None = None
        self.retired = False  # left the ring on purpose, or is gone for good: nobody starts it again
        self.ids = 0
        self.former = ""  # the member id it had when the ring went on without it
        self._as_new()

    def _as_new(self) -> None:
        """An empty disk, and a member id nobody has seen."""
        self.ids += 1
        member_id = blake2b(b"member %d %d" % (self.index, self.ids), digest_size=8).hexdigest()
        host, port = address_of(self.index)
        self.member = Member(member_id, self.name, host, port, port - 2, port - 1, self.zone, 10**12)
        self.disk = SimDisk()

    @property
    def id(self) -> str:
        return self.member.id

    def start(self, founding: Epoch | None = None) -> None:
        """Start a process, unless one runs."""
        if self.process is None and not self.retired:
            self.starts += 1
            self.process = Process(self, founding)

    def crash(self) -> None:
        """SIGKILL and power loss in one: what was not durable is gone."""
        if self.process is not None:
            process, self.process = self.process, None
            process.kill()

    def ended(self, why: str, again_s: float | None = RESTART_S) -> None:
        """The process ends itself. Whatever supervises it starts it again, unless it left for good."""
        fleet, process = self.fleet, self.process

        def end() -> None:
            if self.process is process:
                fleet.story.event(self.name, f"stops: {why}")
                self.crash()
                if again_s is None:
                    self.retired = True
                else:
                    fleet.loop.call_later(again_s, self.start)

        fleet.loop.call_soon(end)

    def left_out(self, epoch: Epoch) -> None:
        """The ring went on without this member: it begins anew under another id, and joins through those it knew."""
        self.seeds = tuple((member.host, member.peer_port) for member in epoch.members)
        self.former = self.id
        self._as_new()
        self.fleet.known(self)
        self.fleet.story.safeguards["came back under a new id"] += 1
        self.ended("it was removed from the ring while it was away", 0.1)


class Process:
    """One start of one peer."""

    def __init__(self, machine: Machine, founding: Epoch | None) -> None:
        fleet = machine.fleet
        self.machine = machine
        self.fleet = fleet
        self.me = machine.id
        self.serving = False
        self.node: Node | None = None
        env = SimEnv(
            fleet.loop, machine.name, f"{fleet.seed} {machine.name} {machine.starts}", machine.skew_s
        )
        env.on_task_failure = self._task_failed
        self.env = env
        self.rows = SimRows(machine.disk, env, machine.rng, fleet.story, DiskTraits())
        self._link = fleet.network.link(self.me, env)
        self.replica = Replica(env, self, self.rows, self.me)
        self.replica.identity.on_amnesia = lambda error: self._failed(f"is taken for an old copy: {error}")
        self.replica.on_epoch = self._on_epoch
        self.replica.serve(JOIN, self._on_join, votes=False)
        self.workers = Workers(env, self.rows)
        self.transition = Transition(env, self.rows, self.replica, self.is_alive, self.workers.throttle)
        fleet.story.event(machine.name, f"starts as {self.me[:6]}, boot {self.replica.identity.boot}")
        env.spawn(self._live(founding), "life")

    def kill(self) -> None:
        fleet = self.fleet
        self.serving = False
        if self.node is not None:
            fleet.air.end(self.node)
        self.env.kill()
        self.rows.crash()
        fleet.network.died(self.me)

    # --- life, as peer.process.Peer.start

    async def _live(self, founding: Epoch | None) -> None:
        machine, replica, env = self.machine, self.replica, self.env
        peers = cast(Peers, self)
        before = replica.epochs.current
        self.fleet.network.attach(self.me, env, self._handle)
        try:
            if before is not None:
                await check_membership(before, self.me, peers, machine.rng)
            elif founding is not None:
                await replica.epochs.installed(founding)
            else:
                config = PeerConfig(data=Path("unused"), join=machine.seeds, advertise=machine.member.host)
                epoch = await join(config, machine.member, peers, machine.former, machine.rng)
                await replica.epochs.installed(epoch)
            await replica.begin()
        except LeftOut as error:
            return machine.left_out(error.epoch)
        except AtollError as error:
            return machine.ended(str(error))
        self._start_gossip()
        await replica.identity.confirm(lambda: replica.epoch)
        self.serving = True
        self.workers.add(self.transition)
        fleet = self.fleet
        after_s = 20.0 if HASTY in fleet.unsafe else fleet.evict_after_s
        self.workers.add(Eviction(env, replica, self._seen(), after_s, fleet.unsafe))
        self._ring_changed(replica.epoch)
        return None

    def _start_gossip(self) -> None:
        machine, epoch, air = self.machine, self.replica.epoch, self.fleet.air
        host, port = address_of(machine.index)
        me = Record(
            self.me, machine.name, host, port, port - 2, port - 1, self.replica.identity.boot, 0, "0.1.0", FORMAT_LEVEL,
            epoch.order,
        )  # fmt: skip
        rng = random.Random(f"gossip {self.fleet.seed} {machine.name} {machine.starts}")
        self.node = Node(machine.index, Swim(me, CLUSTER, CONFIG, rng, air.now), None)
        air.place(self.node)
        self.env.spawn(self._keep_company(self.node), "gossip company")

    async def _keep_company(self, node: Node) -> None:
        """While alone, ask some of those that the epoch names (peer.membership does it with more patience)."""
        while True:
            if not node.swim.members.living:
                others = [m for m in self.replica.epoch.members if m.id != self.me]
                first = self.machine.rng.randrange(len(others)) if others else 0
                for member in [*others[first:], *others[:first]][:MEET_MOST]:
                    self.fleet.air.contact(node, (member.host, member.peer_port))
            await self.env.sleep(ALONE_S)

    def _on_epoch(self, epoch: Epoch) -> None:
        self.fleet.installed(self.machine, epoch)
        if self.node is not None:
            self.node.swim.update(self.fleet.air.now, epoch=epoch.order)
            self.fleet.air.settle(self.node)
        if self.serving:
            self._ring_changed(epoch)

    def _ring_changed(self, epoch: Epoch) -> None:
        self.transition.wake()
        if epoch.kind == "final" and epoch.member(self.me) is None:
            self.env.spawn(self._leave(), "leave")

    async def _leave(self) -> None:
        await self.replica.proposals.hand_on()
        await self.env.sleep(LEAVE_S)
        epoch = self.replica.epoch
        if epoch.kind == "final" and epoch.member(self.me) is None:
            wanted = self.me in self.fleet.asked_to_leave
            self.machine.ended("it was removed from the ring", None if wanted else RESTART_S)

    # --- gossip

    def heard(self, member: Known) -> None:
        """Gossip has news of another member."""
        tag = member.record.epoch[0] << 40 | member.record.epoch[1]
        if tag > self.replica.tag and not self.env.paused:
            self.fleet.air.stir()
            self.env.spawn(self.replica.epochs.catch_up(tag, member.id), "catch up")

    def is_alive(self, member_id: str) -> bool:
        known = self.node.swim.members.known.get(member_id) if self.node is not None else None
        return known is None or known.belief[2] <= SUSPECT

    def _seen(self) -> Callable[[str], bool]:
        """As `is_alive`, but false of whom gossip never heard of."""
        assert self.node is not None
        known = self.node.swim.members.known

        def seen(member_id: str) -> bool:
            member = known.get(member_id)
            return member is not None and member.belief[2] <= SUSPECT

        return seen

    def sees_alive(self) -> dict[str, tuple[int, tuple[int, int]]]:
        """Whom this process believes alive: member id -> boot, newest epoch."""
        assert self.node is not None
        known = self.node.swim.members.known
        return {k: (m.belief[0], m.record.epoch) for k, m in known.items() if m.belief[2] == ALIVE}

    # --- calls

    def call(
        self, member_id: str, message: tuple[Any, ...], deadline_s: float, done: Callable[[Any], None]
    ) -> None:
        self._link.call(member_id, message, deadline_s, done)

    async def call_address(self, host: str, port: int, message: tuple[Any, ...], deadline_s: float) -> Any:
        """A call to whoever answers there, as a stranger's."""
        future = self.env.future()
        target = self.fleet.at((host, port))
        self._link.call(
            target.id, message, deadline_s, lambda got: None if future.done() else future.set_result(got)
        )
        reply = await future
        if isinstance(reply, AtollError):
            raise reply
        return reply

    async def answers(self, host: str, port: int, member_id: str, timeout_s: float) -> bool | None:
        """As `peer.rpc.peers.Peers.answers`."""
        there = self.fleet.at((host, port))
        if there.process is None or there.id != member_id:
            return False
        try:
            await self.call_address(host, port, (EPOCH_GET, 0), timeout_s)
        except AtollError:
            return None
        return True

    def _handle(self, sender: str, message: list[Any], reply: Callable[[Any], None]) -> None:
        try:
            self.replica.handle(sender, message, reply)
        except Unavailable as error:  # it has no epoch yet
            reply(error)

    def _on_join(self, message: Any, reply: Any) -> None:
        self.env.spawn(admit(self.replica, cast(Peers, self), None, message, reply), "admission")

    def _task_failed(self, name: str, error: BaseException) -> None:
        if isinstance(error, Amnesia) or not isinstance(error, AtollError):
            self._failed(f"its task {name} ended with {error!r}")

    def _failed(self, what: str) -> None:
        self.fleet.failures.append(f"{self.machine.name}: {what}")

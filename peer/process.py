"""One peer, from its open directory to its last breath: assembles the layers, founds or joins, serves, drains.

`peer.run` makes it, ends it, and makes another one when it has to come back under a new id. Order matters: nothing votes
before its identity is confirmed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from functools import partial
from typing import Any

from peer import __version__, entry, logs, returning, startup
from peer.about import about
from peer.api.addresses import TLS
from peer.api.cluster import ClusterView
from peer.api.context import Context
from peer.api.context import Limits as ApiLimits
from peer.api.events import Events
from peer.api.logview import LogView
from peer.api.ringadmin import RingAdmin
from peer.api.sentinel import Sentinel
from peer.api.server import ApiServer
from peer.api.unbuilt import UnbuiltS3
from peer.api.workers import WorkersView
from peer.buffers import BufferPool
from peer.bulkservice import BulkService
from peer.config import PeerConfig
from peer.dispatch import answer
from peer.errors import AtollError, StartupError, Unavailable
from peer.healing import Healing, Removed
from peer.housekeeping import keep_house
from peer.journal import ERROR, Journal
from peer.membership import Membership, MemberView
from peer.metrics.page import Metrics
from peer.objects.heads import attempt_in
from peer.objects.store import Objects
from peer.realenv import DiskThreads, LoopEnv
from peer.replication import meta
from peer.replication.agreement.epochs import writes_of
from peer.replication.agreement.identity import Amnesia
from peer.replication.chunks.chunks import Chunks
from peer.replication.hints import Hints
from peer.replication.messages import ADD_REF, JOIN, STORE_CHUNK
from peer.replication.node import Replica
from peer.reporter import Reporter
from peer.rpc.bulk import BulkClient
from peer.rpc.bulkserver import BulkServer
from peer.rpc.exchange import Exchange
from peer.rpc.hello import WIRE_LEVEL, Hello
from peer.rpc.listener import Listener, Service
from peer.rpc.peers import Peers
from peer.rpc.stats import Stats
from peer.storage.chunkfiles import ChunkFiles
from peer.storage.datadir import DataDir
from peer.storage.operations import ChunkOptions, Limits
from peer.storage.sqlite import SqliteRows
from peer.storage.sqlite_files import SqliteOptions
from peer.tls import options as tls_options
from peer.tls.certificates import Certificates
from peer.vitals import FULL, HAMPERED, Vitals
from ring.epoch import Epoch

log = logging.getLogger("atoll.peer")

SAFE_EVERY_S = 1.0
CLIENT_BUFFERS, REPLICA_BUFFERS, SERVE_BUFFERS = 24, 12, 4


class Peer:
    """Everything one peer is made of."""

    def __init__(self, config: PeerConfig, directory: DataDir, loop: asyncio.AbstractEventLoop) -> None:
        """Raises Corrupt, Forgot or StartupError for what the directory holds; nothing is left open then."""
        self.config = config
        self.fatal: AtollError | None = None
        self.over = asyncio.Event()
        """Set when this peer has to end by itself; `fatal` says why."""
        self._directory = directory
        self._loop = loop
        self.started_s = time.monotonic()
        self._key = startup.cluster_key(config, directory)
        self._closers: list[Any] = []
        self._adopting = False
        self.env = LoopEnv(loop)
        self.stats = Stats()
        self.membership: Membership | None = None
        self.tls: Certificates | None = None
        unsafe = startup.unsafe_switches()
        synchronous = "OFF" if "no_row_sync" in unsafe else "FULL"
        self._ring_changed = asyncio.Event()
        self.damage = ""  # what is wrong with the database's structure
        self.vitals = Vitals(directory.rows_path, directory.segments_path)
        self.rows = SqliteRows(
            directory.rows_path, loop, options=SqliteOptions(synchronous=synchronous), space=directory.ballast,
            damaged=self._forgot, gauge=self.vitals.rows,
        )  # fmt: skip
        try:
            self.me = self._member_id()
            logs.HERE.name, logs.HERE.id = config.name or self.me[:8], self.me
            self._assemble(config, directory, unsafe)
        except BaseException:
            self.rows.close()
            raise

    def _assemble(self, config: PeerConfig, directory: DataDir, unsafe: frozenset[str]) -> None:
        options = ChunkOptions(
            limits=Limits(floor=directory.floor_bytes, capacity=config.capacity_bytes),
            sync_data="no_data_sync" not in unsafe,
            sync_directory="no_directory_sync" not in unsafe,
        )
        self.files = ChunkFiles(directory.segments_path, options=options, gauge=self.vitals.segments)
        self.disk = DiskThreads(self.files, self._loop)
        self.replica = Replica(self.env, self, self.rows, self.me)
        handle = partial(answer, self.replica)
        self.peers = Peers(self._hello, self._key, handle, self._address_of, stats=self.stats)
        self.replica.identity.on_amnesia = self._die
        self.replica.on_epoch = self._on_epoch
        self.replica.serve(JOIN, self._on_join, votes=False)
        self._pools()
        self.chunks = Chunks(
            self.env, self.replica, self.rows, self.disk, self.bulk, self.client_pool, self.replica_pool, self.me,
            Hints(self.env, self.rows, config.capacity_bytes or directory.total_bytes),
        )  # fmt: skip
        self.replica.serve(ADD_REF, self.chunks.holder.on_add_ref)
        self.replica.serve(STORE_CHUNK, self.chunks.holder.on_store)
        self._heal(config)
        self.healing.on_removed = self._die
        service = BulkService(self._loop, self.replica, self.chunks.holder, self.files, self.serve_pool)
        self.bulk_server = BulkServer(service.handle, self.replica_pool, stats=self.stats)
        self.exchange = Exchange(self._hello, self._key, self._on_exchange, stats=self.stats)
        services: dict[str, Service] = {
            "calls": self.peers,
            "bulk": self.bulk_server,
            "gossip": self.exchange,
        }
        self.listener = Listener(self._hello, self._key, services, stats=self.stats)
        self._surfaces()

    def _surfaces(self) -> None:
        """What clients meet."""
        self.objects = Objects(self.replica, self.chunks, self.client_pool, garbage=self.healing.garbage)
        view = ClusterView(self.replica, self.objects, lambda: self.membership, self._info, __version__)
        self.waits_for = view.waits_for
        workers = WorkersView(self.replica, self.healing.workers, view)
        self.context = Context(self.replica, self.objects, view, workers, ApiLimits(**self.config.limits))
        self.context.ring = RingAdmin(self.replica, view)
        journal = self.context.journal = Journal(self.env.wall_us, self.replica.identity.boot)
        self.reporter = Reporter(journal)
        self.sentinel = Sentinel(self.replica, view, journal)
        self.context.log = LogView(self.replica, journal, view.lives)
        self.events = self.context.events = Events(view, workers, self.context.log)
        self.context.metrics = Metrics(self, self.context.cluster, self._directory)
        self.context.metrics_public = self.config.metrics_public
        self.api = ApiServer(self.context)
        self.s3 = UnbuiltS3()

    def _on_join(self, message: Any, reply: Any) -> None:
        self.env.spawn(entry.admit(self.replica, self.peers, self.membership, message, reply), "admission")

    def _pools(self) -> None:
        epoch = self.replica.epochs.current
        size = epoch.chunk_bytes if epoch is not None else self.config.chunk_bytes
        self.client_pool = BufferPool(CLIENT_BUFFERS, name="client", chunk_bytes=size)
        self.replica_pool = BufferPool(REPLICA_BUFFERS, name="replica", chunk_bytes=size)
        self.serve_pool = BufferPool(SERVE_BUFFERS, name="serve", chunk_bytes=size)
        self.bulk = BulkClient(self._hello, self._key, self._address_of, chunk_bytes=size, stats=self.stats)

    def _heal(self, config: PeerConfig) -> None:
        self.healing = Healing(
            self.env, self.rows, self.replica, self.chunks, self.disk, self.client_pool, self.is_alive, attempt_in,
            config.garbage_after_s,
        )  # fmt: skip
        self.healing.evict(lambda: self.membership, config.evict_after_s)
        self.healing.scrub.pass_every_s = config.scrub_every_s
        self.healing.scrub.bytes_per_s = config.scrub_bytes_per_s

    def _member_id(self) -> str:
        """Who lives here, or a new id."""
        meta.check(self.rows)
        me = (meta.load(self.rows, returning.MEMBER_KEY) or b"").decode()
        returning.check_owner(self._directory, me)
        return me or secrets.token_hex(8)

    # --- life

    async def start(self) -> None:
        """From an open directory to a serving peer. Raises StartupError, Refused, Unavailable, Amnesia."""
        config = self.config
        self._closers.append(self.files.close)
        self._adopting = await startup.open_segments(
            self.env, self.files, self._directory.segments_path, self.rows, self.chunks.holder
        )
        await self.listener.start(config.host, config.peer_port)
        before = self.replica.epochs.current
        if before is not None:
            await self._check_membership(before)
        await self._enter_ring()
        await self.replica.begin()
        if before is not None:
            await entry.check_seeds(self.config, before.cluster_id, self.peers)
        startup.write_files(self._directory, config, self.me, self.replica.epoch)
        self._secure()
        await self._start_gossip()
        await self.api.start(config.host, config.api_port, self.tls)
        await self.s3.start(config.host, config.s3_port, self.tls)
        self.env.spawn(self._confirm(), "identity")
        pools = (self.client_pool, self.replica_pool, self.serve_pool)
        self.env.spawn(
            keep_house(self._directory, self.rows, self.files, pools, self._tell_full), "housekeeping"
        )
        self.vitals.tell, self.vitals.on_writable = self._tell_flags, self.healing.writable
        self.vitals.lag.on_standstill = lambda _: self.replica.preference.pardon()
        self.env.spawn(self.vitals.watch(), "vitals")
        ring = returning.keep_ring(self._directory, self.me, lambda: self.replica.epoch, self._ring_changed)
        self.env.spawn(ring, "ring notes")
        self.env.spawn(self.reporter.watch(self._info), "journal")
        self.env.spawn(self.sentinel.watch(), "sentinel")
        self.reporter.process("started", f"{self._name} has started, version {__version__}")
        log.info(
            "peer %s (id %s) of cluster %s answers on %s:%d",
            self._name, self.me, self.replica.epoch.cluster_id, config.advertised_host, config.api_port,
        )  # fmt: skip

    async def _check_membership(self, before: Epoch) -> None:
        """Raises LeftOut, and Removed if this peer had been asked to leave: it is not to come back then by itself."""
        try:
            await entry.check_membership(before, self.me, self.peers)
        except entry.LeftOut as error:
            if not error.asked:
                raise
            await self._keep(writes_of(error.epoch))  # a further start is an operator's wish to join again
            raise Removed(str(error)) from error

    async def _enter_ring(self) -> None:
        """Found, join, or go on with the epoch the directory holds."""
        if self.replica.epochs.current is not None:
            return
        if not (self.config.found or self.config.join):
            raise StartupError(
                f"{self.config.data} has not joined a cluster yet; start it with --join HOST:PEERPORT"
            )
        await self._keep([meta.write(returning.MEMBER_KEY, self.me.encode())])
        member = entry.member_of(self.config, self.me, self._directory.total_bytes)
        await entry.enter(self.config, member, self.replica, self.peers)

    async def _keep(self, writes: list[Any]) -> None:
        future = self.env.future()
        self.rows.commit(writes, future.set_result)
        error = await future
        if error is not None:
            raise error

    def _secure(self) -> None:
        """Show certificates to clients, if the options say so, and tell the others of it."""
        cluster_id = self.replica.epoch.cluster_id
        self.tls = tls_options.certificates(self.config, self._key, cluster_id, self._directory.path)
        if self.tls is not None:
            self.context.authority = self.tls.authority
            self.vitals.flag([(TLS, True)])
            self.env.spawn(self.tls.watch(), "certificates")

    async def _start_gossip(self) -> None:
        config = self.config
        epoch, boot = self.replica.epoch, self.replica.identity.boot
        record = entry.record_of(config, self.me, self._name, boot, epoch.order, self.vitals.flags)
        self.membership = Membership(
            record, host=config.host, port=config.peer_port, keyring=[self._key], cluster_id=epoch.cluster_id,
            exchange=self.exchange, on_change=self._on_change, rng=self.env.rng, on_superseded=self._superseded,
        )  # fmt: skip
        await self.membership.start()
        self.env.spawn(self.membership.join(self.config.join, self._others(epoch)), "gossip join")

    def _others(self, epoch: Epoch) -> list[tuple[str, int]]:
        """Where to look for somebody, besides the seeds."""
        return [(member.host, member.peer_port) for member in epoch.members if member.id != self.me]

    async def _confirm(self) -> None:
        try:
            await self.replica.confirm()
            log.info("identity confirmed: start %d", self.replica.identity.boot)
            self.healing.begin(self._adopting)
        except Amnesia as error:
            self._die(error)

    def _superseded(self) -> None:
        """Gossip knows of a later start of this member. It may be that of an old copy, which the others refused: so ask
        them. If they accepted it, that is amnesia, and `_die` ends this process, the older one."""
        log.warning(
            "somebody started as this peer (member id %s) later than this process; asking the others", self.me
        )
        self.env.spawn(self.replica.identity.tell([m.id for m in self.replica.epoch.members]), "superseded")

    @property
    def _name(self) -> str:
        """What others call this peer: the name it was given, else the one it entered the ring with."""
        known = self.replica.epoch.member(self.me)
        return self.config.name or (known.name if known is not None else self.me[:8])

    def _tell_full(self, full: bool) -> None:
        self.vitals.flag([(FULL, full)])

    def _tell_flags(self, flags: frozenset[str]) -> None:
        if self.membership is not None:
            self.membership.update(flags=flags)
            self.events.member(self.membership.members()[0])
            self.reporter.flags(flags, self._info())
        self._note_hampered(self.me, flags)

    def _note_hampered(self, member: str, flags: frozenset[str]) -> None:
        others = self.replica.preference.hampered - {member}
        self.replica.preference.hampered = others | {member} if flags & HAMPERED else others

    def _die(self, error: AtollError) -> None:
        if isinstance(error, Amnesia) and self.membership is not None and self.membership.superseded:
            error = StartupError(
                f"another process runs as this peer (member id {self.me}) and was started later, so this one stops: one of"
                f" them has a copy of {self._directory.path}. Find out which, keep the one that runs, and never start"
                f" copies ({error})"
            )
        log.error("%s", error)
        self.reporter.process("fatal", str(error), ERROR)
        self.fatal = error
        self.over.set()

    def _forgot(self, reason: str) -> None:
        """The database is damaged: what this peer promised and accepted is not known any more. From any thread."""
        self._loop.call_soon_threadsafe(self._forget, reason)

    def _forget(self, reason: str) -> None:
        if self.rows.dead:
            self._die(returning.Forgot(reason))
        elif not self.damage:
            self.damage = reason
            self.env.spawn(self._leave_when_safe(reason), "damaged database")

    async def _leave_when_safe(self, reason: str) -> None:
        """What a damaged database still gives is served until the others can do without."""
        log.error("%s; this peer comes back under a new id as soon as the others can do without it", reason)
        while True:
            if self.context.cluster.safe_without(self.me):
                return self._die(returning.Forgot(reason))
            await asyncio.sleep(SAFE_EVERY_S)

    async def stop(self) -> None:
        """Stop answering, then let go of everything. Nothing acknowledged is lost by skipping any of it."""
        self.reporter.process("stopping", "the process stops")
        await self.s3.stop()
        self.events.close()  # who listens is not waited for
        await self.api.stop()
        if self.membership is not None:
            await self.membership.stop(leave=not self.membership.superseded)
        await self.listener.close()
        await self.env.close()
        for part in (self.peers, self.exchange, self.bulk, self.bulk_server):
            await part.close()
        await asyncio.to_thread(self.disk.close)
        for close in self._closers:
            await asyncio.to_thread(close)
        self.rows.close()

    # --- glue (replication.env.Network, and callbacks)

    def call(self, member_id: str, message: tuple[Any, ...], deadline_s: float, done: Any) -> None:
        self.peers.call(member_id, message, deadline_s, done)

    def is_alive(self, member_id: str) -> bool:
        members = self.membership
        return members is None or members.is_alive(member_id) or members.get(member_id) is None

    def _hello(self) -> Hello:
        epoch = self.replica.epochs.current
        if epoch is None:
            return Hello("", "", 0, WIRE_LEVEL, 0)
        boot, power = self.replica.identity.boot, epoch.partition_power
        return Hello(epoch.cluster_id, self.me, boot, WIRE_LEVEL, power, self.replica.epochs.mark)

    def _address_of(self, member_id: str) -> tuple[str, int] | None:
        view = self.membership.get(member_id) if self.membership is not None else None
        if view is not None:
            return view.host, view.peer_port
        epoch = self.replica.epochs.current
        everybody = epoch.everybody if epoch is not None else ()
        return next(((member.host, member.peer_port) for member in everybody if member.id == member_id), None)

    async def _on_exchange(self, payload: bytes) -> bytes:
        if self.membership is None:
            raise Unavailable("this peer is starting")
        return await self.membership.handle_exchange(payload)

    def _on_change(self, view: MemberView) -> None:
        self._note_hampered(view.id, view.flags)
        self.events.member(view)
        self.reporter.member(view)
        if view.state == "alive":
            self.peers.heard_of(view.id)
        self.healing.heard(view.id, view.state, view.boot)
        tag = view.epoch[0] << 40 | view.epoch[1]
        if tag > self.replica.tag:
            self.env.spawn(self.replica.epochs.catch_up(tag, view.id), "catch up")

    def _on_epoch(self, epoch: Epoch) -> None:
        self._ring_changed.set()
        self.healing.ring_changed(epoch)
        self.events.epoch(epoch)
        self.reporter.epoch(epoch)
        if self.membership is not None:
            self.membership.update(epoch=epoch.order)
            self.membership.remember(self.config.join, self._others(epoch))

    def _info(self) -> dict[str, Any]:
        return about(self)

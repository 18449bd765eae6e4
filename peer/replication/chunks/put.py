"""One chunk on its way to its owners, or to fallback peers in the place of those out of reach (architecture §7).

Each owner is a **slot**. A slot is filled by the owner, or by a fallback that keeps the bytes for it with a durable hint
(C6). A majority of filled slots acknowledges; what a slot without any copy missed becomes a hint that this peer keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peer.buffers import Buffer
from peer.errors import AtollError, Corrupt, Full, NotFound, ReadOnly, Refused, Unavailable
from peer.replication.env import Cancellable
from peer.replication.messages import ADD_REF, BUSY, FAILED, IS_FULL, MISSING, OK, READ_ONLY, STORE_CHUNK
from peer.replication.patience import PATIENCE_S, Watch
from peer.storage.records import Extent

from .holder import SMALL_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .chunks import Chunks

SEND_S = 60.0
"""So long nothing of a chunk may move to an owner, whose disk may be slow. Without a majority it is given up sooner
(`patience`)."""
CALL_S = 5.0
STRAGGLE_S, SILENT_STRAGGLE_S = 1.0, 0.05
"""How long a transfer may go on when a majority has the chunk: to an owner that may be slow, and to one of which nothing has
been heard for a while (`Chunks.stragglers`). Each keeps a buffer: waiting for all of a silent owner's took every buffer
there is, and with them a gateway's puts, until gossip declared it dead."""
INSTEAD_S = 1.5
"""An owner that has not answered so long after the put began gets a fallback beside it, unless a majority is reached."""
SOONER_S = 0.3
"""The same for an owner that said of itself that it is slow."""


class Put:
    """One chunk on its way. `release` is called once, when nobody uses the buffer any more.

    Without a buffer only a reference is: a majority of the owners must have the bytes, and nobody stands in for the others.
    """

    def __init__(
        self, chunks: Chunks, name: bytes, buffer: Buffer | None, length: int, attempt: bytes, back: bytes,
        release: Callable[[], None],
    ) -> None:  # fmt: skip
        self.c = chunks
        self.name = name
        self.buffer = buffer
        self.length = length
        self.attempt = attempt
        self.back = back
        self.release = release
        self.owners = chunks.owners_of(name)
        self.spares = list(chunks.fallbacks_of(name)) if buffer is not None else []
        self.need = len(self.owners) // 2 + 1
        self.filled: set[str] = set()  # slots
        self.failed: set[str] = set()  # slots whose owner did not take it
        self.pending: dict[str, str] = {}  # member that has not answered yet -> slot
        self.using = 0  # transfers that read the buffer
        self.released = False
        self.failures: list[tuple[str, AtollError]] = []
        self.future = chunks._env.future()
        self.running: list[Cancellable] = []
        self.asking: set[str] = set()  # members that have not said yet whether they need the bytes
        self.cut = False
        self.copy = b""
        self.held_back = False  # this peer's own copy waits until the others cannot do without it
        self.silent: set[str] = set()  # owners of which nothing was heard lately
        self.began_s = chunks._env.now()

    async def run(self) -> None:
        c = self.c
        self.silent = {o for o in self.owners if o != c._me and c.stragglers.avoided(o)}
        ask_first = self.buffer is None or c._me not in self.owners or self._here()
        can_pass = bool(self.spares) or self.buffer is None
        self.using += 1  # held while owners are started
        for owner in self.owners:
            self.pending[owner] = owner
        for owner in self.owners:
            if can_pass and (owner in self.silent or not c._ring.is_alive(owner)):
                self._finished(owner, Unavailable("it is silent, or believed dead"))
            elif owner == c._me and self._can_be_spared(owner):
                self.held_back = True
                self.using += 1
            elif ask_first:
                self._add_ref(owner)
            else:
                self._bytes_to(owner)
        self._done_with_buffer()
        timers = []
        if self.spares:
            timers.append(c._env.call_later(INSTEAD_S, self._instead_of_late))
            if not c._ring.hampered.isdisjoint(self.owners):
                timers.append(c._env.call_later(SOONER_S, self._instead_of_hampered))
        if self.held_back:
            timers.append(c._env.call_later(INSTEAD_S, lambda: self._own_copy(wanted=True)))
        watch = Watch(c.heard, lambda: self.pending, lambda: self.need - len(self.filled), self._give_up)
        try:
            if await self.future:
                return
        finally:
            watch.end()
            for timer in timers:
                timer.cancel()
            self._own_copy(wanted=False)
            if self.pending:
                known = self.silent.issuperset(self.pending)
                c._env.call_later(SILENT_STRAGGLE_S if known else STRAGGLE_S, self._cut_stragglers)
        if any(isinstance(error, Full) for _, error in self.failures):
            raise Full("too many owners of this chunk have a full disk; free space or add a peer")
        story = "; ".join(f"{member}: {error}" for member, error in self.failures[:5])
        raise Unavailable(f"no majority of the owners stored the bytes ({story}); try again")

    def _here(self) -> bool:
        """Whether this peer has the bytes; also if that cannot be read: asked for a reference it says so."""
        try:
            return self.c.holder.find(self.name) is not None
        except Corrupt:
            return True

    def _give_up(self) -> None:
        if not self.future.done():
            self.failures += silent_ones(self.pending)
            self.future.set_result(False)

    def _add_ref(self, member: str) -> None:
        self.using += 1  # the bytes may have to follow
        self.asking.add(member)

        def replied(reply: Any) -> None:
            if member not in self.asking:  # cut off meanwhile: the buffer is not ours any more
                return self._finished(member, error_of(reply))
            self.asking.discard(member)
            if not isinstance(reply, AtollError) and reply[0] == MISSING:
                self._bytes_to(member)
            else:
                self._finished(member, error_of(reply))
            return self._done_with_buffer()

        message = (ADD_REF, self.c._ring.tag, self.name, self.attempt, self.back, *self._place(member))
        self.c._ring.send(member, message, CALL_S, replied)

    def _place(self, member: str) -> tuple[str, ...]:
        """The owner in whose place this member is asked."""
        slot = self.pending[member]
        return () if slot == member else (slot,)

    def _bytes_to(self, member: str) -> None:
        buffer = self.buffer
        if buffer is None:
            self._finished(member, NotFound("it does not hold the chunk"))
        elif member == self.c._me:
            self._store(member, buffer)
        elif self.length <= SMALL_BYTES:
            self._call(member, buffer)
        else:
            self._transfer(member, buffer)

    def _store(self, me: str, buffer: Buffer) -> None:
        """This peer's own copy."""
        self.using += 1
        c = self.c
        place = "".join(self._place(me))

        def appended(result: Extent | AtollError) -> None:
            if isinstance(result, AtollError):
                self._finished(me, result)
            else:
                c.holder.name(
                    self.name, result, self.attempt, self.back, lambda error: self._finished(me, error), place
                )
            self._done_with_buffer()

        c._disk.append(buffer, self.length, self.name, appended)

    def _transfer(self, member: str, buffer: Buffer) -> None:
        self.using += 1
        header = ("put", self.c._ring.tag, self.name, self.attempt, self.back, *self._place(member))

        def sent(result: Any) -> None:
            self._finished(member, error_of(result if isinstance(result, AtollError) else result[0]))
            self._done_with_buffer()

        payload = buffer.payload(self.length)
        self.running.append(self.c._bulk.call(member, header, payload, None, SEND_S, sent))

    def _call(self, member: str, buffer: Buffer) -> None:
        """A small chunk: its bytes, copied, in one message."""
        if not self.copy:
            self.copy = bytes(buffer.payload(self.length))
        head = (STORE_CHUNK, self.c._ring.tag, self.name, self.attempt, self.back, self.copy)
        self.c._ring.send(
            member, head + self._place(member), CALL_S, lambda reply: self._finished(member, error_of(reply))
        )  # fmt: skip

    def _finished(self, member: str, error: AtollError | None) -> None:
        slot = self.pending.pop(member)
        if error is None:
            self.c.heard.note(member)
            self.c.stragglers.prompt(member)
            self.filled.add(slot)
            if len(self.filled) == self.need and not self.future.done():
                self.future.set_result(True)
                self._hint(*sorted(self.failed - set(self.pending.values())))
                self._own_copy(wanted=False)
            return
        self.failures.append((member, error))
        if member == slot:
            self.failed.add(slot)
            self.c.counts["missed"] += 1
        given_up = self.future.done() and len(self.filled) < self.need
        if given_up or slot in self.filled or slot in self.pending.values() or self._instead(slot):
            return
        if len(self.filled) >= self.need:
            self._hint(slot)
            return
        if self.held_back and len((self.filled | set(self.pending.values())) - {self.c._me}) < self.need:
            self._own_copy(wanted=True)
        if len(self.filled | set(self.pending.values())) < self.need and not self.future.done():
            self.future.set_result(False)

    def _can_be_spared(self, me: str) -> bool:
        """Whether this peer's disk is slow, and enough prompt owners are there: its own copy would keep a buffer for as
        long as the disk takes, and a peer out of buffers serves nobody."""
        ring = self.c._ring
        prompt = [o for o in self.owners if o != me and ring.is_alive(o) and o not in ring.hampered]
        return me in ring.hampered and len(prompt) >= self.need

    def _own_copy(self, *, wanted: bool) -> None:
        """If this peer's copy was held back: make it now, or leave it to a fallback or a hint."""
        if self.held_back:
            self.held_back = False
            me = self.c._me
            if wanted:
                self._add_ref(me)
            else:
                self._finished(me, Unavailable("its disk is slow"))
            self._done_with_buffer()

    def _hint(self, *slots: str) -> None:
        """Nobody holds these owners' copies: remember for them which chunk it is."""
        for slot in slots:
            if slot not in self.filled:
                self.c.hint(slot, self.name, self.attempt, self.back)

    def _instead(self, slot: str) -> bool:
        """Ask the next fallback to keep this owner's copy, as long as the bytes are at hand."""
        able = self.spares
        if self.released:  # only a copy is left, to be sent
            able = [member for member in self.spares if self.copy and member != self.c._me]
        if not able or self.cut:
            return False
        ring = self.c._ring
        member = min(able, key=lambda one: (not ring.is_alive(one), one in ring.hampered))
        self.spares.remove(member)
        self.pending[member] = slot
        self.c.counts["fallbacks"] += 1
        self._add_ref(member)
        return True

    def _instead_of_late(self) -> None:
        """Owners that are silent may be as good as dead."""
        if not self.future.done():
            for slot in sorted(set(self.pending.values()) - self.filled):
                self._instead(slot)

    def _instead_of_hampered(self) -> None:
        """Owners that are known to be slow need not be waited for, if somebody prompt can stand in."""
        hampered = self.c._ring.hampered
        if self.future.done() or hampered.issuperset(self.spares):
            return
        for member, slot in list(self.pending.items()):
            if member == slot and member in hampered and slot not in self.filled:
                self._instead(slot)

    def _done_with_buffer(self) -> None:
        self.using -= 1
        if self.using == 0 and not self.released:
            self.released = True
            self.release()

    def _cut_stragglers(self) -> None:
        self.cut = True
        for member in sorted(self.pending):
            if self.c.heard.quiet_s(member, self.began_s) >= STRAGGLE_S / 2:
                self.c.stragglers.late(member)
        if self.pending:
            for one in self.running:
                one.cancel()
            asking, self.asking = self.asking, set()
            for _ in asking:
                self._done_with_buffer()


def silent_ones(members: Iterable[str]) -> list[tuple[str, AtollError]]:
    return [(member, Unavailable(f"silent for {PATIENCE_S:g} s")) for member in sorted(members)]


def error_of(reply: Any) -> AtollError | None:
    """The error in a reply, or None for OK."""
    if isinstance(reply, AtollError):
        return reply
    if reply[0] == OK:
        return None
    if reply[0] == IS_FULL:
        return Full("its disk is full")
    if reply[0] == BUSY:
        return Unavailable("too many writes wait for its disk")
    if reply[0] == READ_ONLY:
        return ReadOnly("its disk is read-only")
    if reply[0] == MISSING:
        return NotFound("it does not hold the chunk")
    if reply[0] == FAILED:
        return Refused(str(reply[2]), code=str(reply[1]))
    return Refused(f"it refused with status {reply[0]}")

"""Who is there: the handshake and the exchange of hellos, as a state machine without I/O.

    dialler                                             listener
    u16 length | Noise message 1          ->
                                          <-            u16 length | Noise message 2   (length 0: wrong key)
    u16 length | sealed hello             ->
                                          <-            u16 length | sealed welcome or refusal

`dial` and `answer` are generators: they yield bytes to be written, or the exact number of bytes they
need next, and return a Session. Exact reads matter: what follows the hello belongs to whoever takes
the socket over (a transport, or a blocking thread), so nothing may be read ahead. The listener acts on
nothing before the sealed hello, because message 1 can be replayed by anyone who recorded it.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from peer.errors import AtollError, ProtocolError, Refused
from peer.rpc import frames
from peer.rpc.noise import FIRST_MESSAGE_BYTES, TAG_BYTES, Cipher, Handshake, SealError

PROLOGUE: Final = b"atoll peer port 1"  # both must speak this version; another one fails like a wrong key
VERSION: Final = 2
MAX_HELLO_BYTES: Final = 2048
KINDS: Final = ("calls", "bulk", "gossip")
MEMBER_ID_DIGITS: Final = 16
RING_NUMBER_BYTES: Final = 8
RING_BYTES: Final = 12
WIRE_LEVEL: Final = 2
"""What of the peer port's language this version reads: 1 since the beginning; from REQUEST_IDS on requests may carry an id.
Every level can talk with every other: who is told a lower one keeps to it."""
REQUEST_IDS: Final = 2

Steps = Generator[bytes | int, bytes, "Session"]
_HEX: Final = frozenset(string.hexdigits.lower())


@dataclass(frozen=True, slots=True)
class Hello:
    """What a process says of itself when a connection opens."""

    cluster_id: str  # 32 hex digits; "" when it does not know yet
    member_id: str  # 16 hex digits; "" for a stranger that is joining
    boot: int
    wire_level: int
    partition_power: int  # 0 = not known yet
    ring: bytes = b""
    """Number and checksum of the ring it is in, 8 bytes and 4; b"" when it is in none yet."""

    def packed(self) -> tuple[object, ...]:
        return self.cluster_id, self.member_id, self.boot, self.wire_level, self.partition_power, self.ring


@dataclass(frozen=True, slots=True)
class Session:
    """An established, authenticated connection before anything has been sent over it."""

    kind: str
    mine: Hello
    theirs: Hello
    dialled: bool  # by this side
    send: Cipher
    receive: Cipher
    where: str  # the other side's address, for messages

    @property
    def takes_request_ids(self) -> bool:
        """Whether the other side reads requests that carry the id of a client's request."""
        return self.theirs.wire_level >= REQUEST_IDS


class WrongKeyError(SealError):
    """The first message was not made with our cluster key."""


def dial(key: bytes, mine: Hello, kind: str, wanted: str, where: str) -> Steps:
    """The dialling side. `wanted` is the member id expected there, "" for whoever answers.

    Raises Refused (with the listener's code: WrongKey, WrongCluster, ...) or ProtocolError.
    """
    assert kind in KINDS
    handshake = Handshake(initiator=True, key=key, prologue=PROLOGUE)
    yield _framed(handshake.write_first())
    answer = yield from _read(_length((yield 2), where, FIRST_MESSAGE_BYTES))
    if not answer:
        raise Refused(
            f"the peer at {where} rejected our cluster key: give this peer the cluster.key of that cluster",
            code="WrongKey",
        )
    try:
        handshake.read_second(answer)
    except SealError:
        raise Refused(f"what answers at {where} does not hold our cluster key", code="WrongKey") from None
    send, receive = handshake.split()
    yield _framed(send.seal(_pack((VERSION, *mine.packed(), kind, wanted))))
    sealed = yield from _read(_length((yield 2), where, MAX_HELLO_BYTES))
    told = frames.unpack(receive.open(sealed))
    if type(told) is list and len(told) == 2 and told[0] is False:
        refusal = frames.restore(told[1])
        raise type(refusal)(f"the peer at {where} refused: {refusal}", code=refusal.code)
    if type(told) is not list or len(told) != 7 or told[0] is not True:
        raise ProtocolError(f"the peer at {where} answered our hello with something else")
    theirs = _parse(told[1:])
    if refused := judge(mine, theirs, wanted):
        raise Refused(f"we refuse the peer at {where}: {refused}", code=refused.code)
    return Session(kind, mine, theirs, True, send, receive, where)


def answer(
    key: bytes,
    hello: Callable[[], Hello],
    refuse: Callable[[str, Hello], AtollError | None],
    where: str,
) -> Steps:
    """The listening side. `refuse(kind, their hello)` adds reasons to the ones of `judge`.

    Raises WrongKeyError, ProtocolError, or Refused; in the last case the reason has been yielded for writing.
    """
    handshake = Handshake(initiator=False, key=key, prologue=PROLOGUE)
    first = yield from _read(_length((yield 2), where, FIRST_MESSAGE_BYTES))
    try:
        handshake.read_first(first)
    except SealError:
        yield _framed(b"")
        raise WrongKeyError(f"{where} does not hold our cluster key") from None
    yield _framed(handshake.write_second())
    send, receive = handshake.split()
    sealed = yield from _read(_length((yield 2), where, MAX_HELLO_BYTES))
    told = frames.unpack(receive.open(sealed))
    if type(told) is not list or len(told) != 9 or told[0] != VERSION:
        raise ProtocolError(f"{where} sent a malformed hello")
    theirs, kind, wanted = _parse(told[1:7]), told[7], told[8]
    if kind not in KINDS or type(wanted) is not str:
        raise ProtocolError(f"{where} asked for a connection of an unknown kind")
    mine = hello()
    refused = judge(theirs, mine, wanted) or refuse(kind, theirs)
    if refused:
        yield _framed(send.seal(_pack((False, frames.describe(refused)))))
        raise refused
    yield _framed(send.seal(_pack((True, *mine.packed()))))
    return Session(kind, mine, theirs, False, send, receive, where)


def judge(dialler: Hello, listener: Hello, wanted: str) -> Refused | None:
    """Why these two must not talk, in the listener's words; None if they may."""
    if dialler.cluster_id and listener.cluster_id and dialler.cluster_id != listener.cluster_id:
        return Refused(
            f"this peer belongs to cluster {listener.cluster_id}, not {dialler.cluster_id}",
            code="WrongCluster",
        )
    if (
        dialler.partition_power
        and listener.partition_power
        and dialler.partition_power != listener.partition_power
    ):
        return Refused(
            f"this cluster has partition power {listener.partition_power}, not {dialler.partition_power}",
            code="WrongPartitionPower",
        )
    if (
        dialler.ring[:RING_NUMBER_BYTES] == listener.ring[:RING_NUMBER_BYTES]
        and dialler.ring != listener.ring
    ):
        return Refused(
            f"this peer knows another ring under the number {int.from_bytes(listener.ring[:RING_NUMBER_BYTES], 'big')}: at"
            " least one of the two was not decided by this cluster (was `atoll recover epoch` run twice?)",
            code="WrongRing",
        )
    if listener.member_id and listener.member_id == dialler.member_id:
        if listener.boot == dialler.boot:
            return Refused("that address is the dialling peer itself", code="Self")
        return Refused(
            f"another live process uses member id {listener.member_id}; a data directory must not be copied",
            code="SameMember",
        )
    if wanted and wanted != listener.member_id:
        return Refused(f"this is peer {listener.member_id or '(new)'}, not {wanted}", code="WrongMember")
    return None


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)  # not `frames.pack`: bulk connections are dialled in threads
    return packed


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def _read(n: int) -> Generator[int, bytes, bytes]:
    return (yield n) if n else b""


def _length(prefix: bytes, where: str, limit: int) -> int:
    n = int.from_bytes(prefix, "big")
    if n and not TAG_BYTES <= n <= limit:
        raise ProtocolError(f"{where} does not speak Atoll's peer protocol; is it the peer port?")
    return n


def _parse(told: list[Any]) -> Hello:
    cluster_id, member_id, boot, wire_level, partition_power, ring = told
    if (
        type(cluster_id) is not str
        or len(cluster_id) > 64
        or type(member_id) is not str
        or not (member_id == "" or (len(member_id) == MEMBER_ID_DIGITS and _HEX.issuperset(member_id)))
        or not all(type(n) is int and 0 <= n < 1 << 32 for n in (boot, wire_level, partition_power))
        or type(ring) is not bytes
        or len(ring) not in (0, RING_BYTES)
    ):
        raise ProtocolError("a hello carries impossible values")
    return Hello(cluster_id, member_id, boot, wire_level, partition_power, ring)

"""Goal: handshake and hellos without sockets: who is let in, who is refused, and what garbage does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.errors import AtollError, ProtocolError, Refused
from peer.rpc.hello import PROLOGUE, Hello, Session, Steps, WrongKeyError, answer, dial, judge
from peer.rpc.noise import Handshake

KEY = bytes(range(32))
RING = (3).to_bytes(8, "big") + b"ring"
A = Hello("c" * 32, "a" * 16, 1, 1, 12, RING)
B = Hello("c" * 32, "b" * 16, 7, 1, 12, RING)


def nobody(kind: str, hello: Hello) -> AtollError | None:
    return None


class End:
    """One side of an in-memory connection."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.inbox = b""
        self.outbox = b""
        self.session: Session | None = None
        self.error: AtollError | None = None
        self.wants: int | None = None
        self._go(None)

    def _go(self, data: bytes | None) -> None:
        try:
            step = next(self.steps) if data is None else self.steps.send(data)
            while isinstance(step, bytes):
                self.outbox += step
                step = next(self.steps)
            self.wants = step
        except StopIteration as end:
            self.session, self.wants = end.value, None
        except AtollError as e:
            self.error, self.wants = e, None

    def deliver(self, data: bytes) -> None:
        self.inbox += data
        while self.wants is not None and len(self.inbox) >= self.wants:
            data, self.inbox = self.inbox[: self.wants], self.inbox[self.wants :]
            self._go(data)


def converse(dialler: End, listener: End) -> None:
    while dialler.outbox or listener.outbox:
        data, dialler.outbox = dialler.outbox, b""
        listener.deliver(data)
        data, listener.outbox = listener.outbox, b""
        dialler.deliver(data)


def meet(
    a: Hello = A,
    b: Hello = B,
    *,
    kind: str = "calls",
    wanted: str = "",
    key: bytes = KEY,
    refuse: Any = nobody,
) -> tuple[End, End]:
    ends = End(dial(KEY, a, kind, wanted, "b:1")), End(answer(key, lambda: b, refuse, "a:2"))
    converse(*ends)
    return ends


@pytest.mark.parametrize("kind", ["calls", "bulk", "gossip"])
def test_two_members_meet(kind: str) -> None:
    """Goal: both ends agree on kind, hellos and keys, and not a byte too many was read."""
    dialler, listener = meet(kind=kind, wanted=B.member_id)
    assert dialler.session and listener.session
    assert (dialler.session.kind, listener.session.kind) == (kind, kind)
    assert (dialler.session.theirs, listener.session.theirs) == (B, A)
    assert dialler.session.dialled and not listener.session.dialled
    assert listener.session.receive.open(dialler.session.send.seal(b"x")) == b"x"
    assert dialler.session.receive.open(listener.session.send.seal(b"y")) == b"y"
    assert not dialler.inbox and not listener.inbox


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (replace(A, cluster_id="", member_id="", boot=0, partition_power=0), B),
        (A, replace(B, cluster_id="", partition_power=0)),
        (replace(A, member_id=""), replace(B, member_id="")),
        (replace(A, wire_level=2), B),
        (replace(A, ring=b""), B),
        (replace(A, ring=(4).to_bytes(8, "big") + b"next"), B),
    ],
)
def test_the_unknown_is_no_reason_to_refuse(a: Hello, b: Hello) -> None:
    """Goal: a joining stranger holds the key but knows neither cluster nor power yet."""
    dialler, listener = meet(a, b)
    assert dialler.session and listener.session


@pytest.mark.parametrize(
    ("a", "wanted", "code"),
    [
        (replace(A, cluster_id="d" * 32), "", "WrongCluster"),
        (replace(A, partition_power=10), "", "WrongPartitionPower"),
        (replace(A, ring=RING[:8] + b"else"), "", "WrongRing"),
        (B, "", "Self"),
        (replace(B, boot=6), "", "SameMember"),
        (A, "e" * 16, "WrongMember"),
    ],
)
def test_refusals_reach_the_dialler(a: Hello, wanted: str, code: str) -> None:
    """Goal: both ends know the reason; the dialler's text names the address."""
    dialler, listener = meet(a, wanted=wanted)
    assert type(dialler.error) is Refused and dialler.error.code == code
    assert str(dialler.error).startswith("the peer at b:1 refused: ")
    assert type(listener.error) is Refused and listener.error.code == code


def test_the_listener_may_know_further_reasons() -> None:
    """Goal: the owner's own refusal travels like the built-in ones, with its class."""
    dialler, _ = meet(refuse=lambda kind, hello: Refused(f"no {kind} for {hello.member_id}", code="Removed"))
    assert dialler.error and dialler.error.code == "Removed"
    assert f"no calls for {A.member_id}" in str(dialler.error)


def test_a_wrong_key_is_refused_on_both_sides() -> None:
    """Goal: the dialler is told that its key was rejected; the listener says nothing else."""
    dialler, listener = meet(key=KEY[::-1])
    assert isinstance(dialler.error, Refused) and dialler.error.code == "WrongKey"
    assert "rejected our cluster key" in str(dialler.error)
    assert isinstance(listener.error, WrongKeyError)


def test_the_dialler_judges_too() -> None:
    """Goal: a listener that lets everything in (another version, say) does not make clusters merge."""
    handshake = Handshake(initiator=False, key=KEY, prologue=PROLOGUE)
    dialler = End(dial(KEY, A, "calls", "", "b:1"))
    handshake.read_first(dialler.outbox[2:])
    second = handshake.write_second()
    dialler.deliver(len(second).to_bytes(2, "big") + second)
    send, _ = handshake.split()
    welcome = send.seal(msgpack.packb((True, "d" * 32, "b" * 16, 1, 1, 12, b"")))
    dialler.deliver(len(welcome).to_bytes(2, "big") + welcome)
    assert isinstance(dialler.error, Refused) and dialler.error.code == "WrongCluster"


def test_judge_is_about_both() -> None:
    """Goal: an empty field never refuses, equal ones never do."""
    assert judge(A, B, "") is None
    assert judge(A, B, B.member_id) is None


@given(st.binary(max_size=400))
@settings(deadline=None, max_examples=200)
def test_garbage_on_the_port(garbage: bytes) -> None:
    """Goal: strangers' bytes end in ProtocolError or a wait for more; so do a false listener's."""
    for end in (End(answer(KEY, lambda: B, nobody, "a:2")), End(dial(KEY, A, "calls", "", "b:1"))):
        end.deliver(garbage)
        assert end.session is None
        assert end.error is None or isinstance(end.error, (ProtocolError, Refused))


@given(st.one_of(st.binary(max_size=100), st.lists(st.integers() | st.text() | st.none(), max_size=9).map(
    lambda v: msgpack.packb(v, default=str) if all(not isinstance(x, int) or -(2**63) <= x < 2**64 for x in v)
    else b""
)))  # fmt: skip
@settings(deadline=None, max_examples=150)
def test_a_malformed_hello_inside_a_good_handshake(hello: bytes) -> None:
    """Goal: whoever holds the key can still be wrong: ProtocolError, on either side."""
    handshake = Handshake(initiator=True, key=KEY, prologue=PROLOGUE)
    listener = End(answer(KEY, lambda: B, nobody, "a:2"))
    first = handshake.write_first()
    listener.deliver(len(first).to_bytes(2, "big") + first)
    handshake.read_second(listener.outbox[2:])
    send, _ = handshake.split()
    sealed = send.seal(hello)
    listener.deliver(len(sealed).to_bytes(2, "big") + sealed)
    assert isinstance(listener.error, ProtocolError)

    dialler = End(dial(KEY, A, "calls", "", "b:1"))
    handshake = Handshake(initiator=False, key=KEY, prologue=PROLOGUE)
    handshake.read_first(dialler.outbox[2:])
    second = handshake.write_second()
    dialler.deliver(len(second).to_bytes(2, "big") + second)
    send, _ = handshake.split()
    sealed = send.seal(hello)
    dialler.deliver(len(sealed).to_bytes(2, "big") + sealed)
    assert isinstance(dialler.error, ProtocolError)

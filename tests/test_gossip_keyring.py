"""Sealed datagrams: only members of this cluster read or write them."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.codec import DATAGRAM_BYTES
from gossip.errors import Stranger
from gossip.keyring import KEY_BYTES, SEAL_BYTES, Keyring

ONE, TWO = bytes(range(32)), bytes(range(32, 64))
CLUSTER = "ab" * 16


def ring(*keys: bytes, cluster: str = CLUSTER, seed: int = 1) -> Keyring:
    return Keyring(keys, cluster, random.Random(seed).randbytes)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=DATAGRAM_BYTES - SEAL_BYTES))
def test_sealed_opens_to_the_same(body: bytes) -> None:
    """Goal: sealing adds a constant number of bytes and loses none; no two datagrams are alike."""
    sender, receiver = ring(ONE), ring(ONE, seed=2)
    sealed = sender.seal(body)
    assert len(sealed) == len(body) + SEAL_BYTES
    assert receiver.open(sealed) == body
    assert receiver.open(sealed) == body
    assert sender.seal(body) != sealed


def test_every_byte_is_protected() -> None:
    """Goal: a datagram with any byte changed, cut or appended is a stranger's."""
    sender, receiver = ring(ONE), ring(ONE, seed=2)
    sealed = sender.seal(b"alive")
    for known in (False, True):
        for place in range(len(sealed)):
            changed = bytearray(sealed)
            changed[place] ^= 1
            with pytest.raises(Stranger):
                receiver.open(bytes(changed))
        for damaged in (b"", sealed[:-1], sealed + b"x", sealed[:SEAL_BYTES]):
            with pytest.raises(Stranger):
                receiver.open(damaged)
        if not known:
            assert receiver.open(sealed) == b"alive"


def test_other_keys_and_other_clusters_stay_out() -> None:
    """Goal: neither another key nor, under the same key, another cluster is heard."""
    sealed = ring(ONE).seal(b"alive")
    for other in (ring(TWO), ring(ONE, cluster="cd" * 16)):
        with pytest.raises(Stranger):
            other.open(sealed)


def test_rotation_has_no_gap() -> None:
    """Goal: through [old], [old, new], [new, old], [new] everyone hears everyone one step apart."""
    steps = [(ONE,), (ONE, TWO), (TWO, ONE), (TWO,)]
    rings = [ring(*keys, seed=number) for number, keys in enumerate(steps)]
    for one, other in itertools.pairwise(rings):
        assert other.open(one.seal(b"x")) == b"x"
        assert one.open(other.seal(b"x")) == b"x"
    with pytest.raises(Stranger):
        rings[3].open(rings[0].seal(b"x"))


def test_a_removed_key_opens_nothing_more() -> None:
    """Goal: what is remembered of a key goes with it."""
    sender, receiver = ring(ONE), ring(ONE, TWO, seed=2)
    assert receiver.open(sender.seal(b"x")) == b"x"
    receiver.replace([TWO])
    with pytest.raises(Stranger):
        receiver.open(sender.seal(b"x"))


def test_strangers_use_no_memory_and_members_little() -> None:
    """Goal: derived keys are remembered for members only, and for a bounded number of them."""
    receiver = ring(ONE)
    for seed in range(50):
        with pytest.raises(Stranger):
            receiver.open(ring(TWO, seed=seed).seal(b"x"))
    assert len(receiver._opened) == 0
    for seed in range(4200):
        receiver.open(ring(ONE, seed=seed).seal(b"x"))
    assert len(receiver._opened) == 4096


def test_bad_keys_are_refused() -> None:
    """Goal: a keyring without keys or with one of the wrong length cannot be made."""
    for keys in ([], [b"short"], [ONE, bytes(KEY_BYTES + 1)]):
        with pytest.raises(ValueError):
            ring(*keys)

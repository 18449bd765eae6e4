"""Goal: frames survive any slicing, and malformed ones end in ProtocolError, never in anything else."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer import errors
from peer.errors import AtollError, ProtocolError
from peer.rpc import frames
from peer.rpc.noise import TAG_BYTES, Cipher

KEY = bytes(32)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=50)
    | st.text(max_size=20)
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


@given(
    st.lists(st.lists(VALUES, max_size=5), max_size=6), st.lists(st.integers(1, 200), min_size=1, max_size=50)
)
@settings(deadline=None, max_examples=100)
def test_messages_survive_any_slicing(messages: list[Any], cuts: list[int]) -> None:
    """Goal: whatever pieces TCP delivers, the same messages come out in order."""
    sender = Cipher(KEY)
    wire = b"".join(frames.seal(sender, frames.join([frames.pack(m)] * 2)) for m in messages)
    reader = frames.Reader(Cipher(KEY))
    found: list[Any] = []
    at = turn = 0
    while at < len(wire):
        n = cuts[turn % len(cuts)]
        for plain in reader.feed(wire[at : at + n]):
            found += frames.split(plain)
        at, turn = at + n, turn + 1
    assert found == [m for m in messages for _ in range(2)]


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=300)
def test_garbage_is_a_protocol_error(garbage: bytes) -> None:
    """Goal: bytes that were not sealed for us never open; unpacking any bytes raises ProtocolError or works."""
    try:
        assert frames.Reader(Cipher(KEY)).feed(garbage) == []
    except ProtocolError:
        pass
    try:
        frames.split(garbage)
    except ProtocolError:
        pass
    try:
        frames.restore(frames.unpack(garbage))
    except ProtocolError:
        pass


@given(VALUES)
@settings(deadline=None, max_examples=100)
def test_values_come_back(value: Any) -> None:
    """Goal: what msgpack can carry arrives equal, with lists for tuples."""
    assert frames.unpack(frames.pack(value)) == value


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\xdd\xff\xff\xff\xff",  # an array that claims 2^32 - 1 elements
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\x00\x10\x00\x00" * 2000,  # nested, a million elements each
        b"\x91" * 5000,  # nested too deeply
        b"\xc6\xff\xff\xff\xff",
        b"\xa1\xff",  # not UTF-8
        b"\xc1",
        b"\x01\x02",  # two values
        b"\x81\x90\x01",  # an unhashable key
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        msgpack.packb(msgpack.ExtType(5, b"xx")),
    ],
)
def test_hostile_messages(hostile: bytes) -> None:
    """Goal: claims larger than the bytes that make them are refused without allocating for them."""
    with pytest.raises(ProtocolError):
        frames.split(hostile)


def test_a_frame_that_claims_too_much_is_refused_at_its_length() -> None:
    """Goal: no more is buffered than one allowed frame."""
    for n in (0, TAG_BYTES - 1, frames.MAX_FRAME_BYTES + 1, 2**32 - 1):
        with pytest.raises(ProtocolError, match="claims"):
            frames.Reader(Cipher(KEY)).feed(n.to_bytes(4, "big"))
        reader = frames.Reader(Cipher(KEY))
        assert reader.feed(n.to_bytes(4, "big")[:2]) == []
        with pytest.raises(ProtocolError, match="claims"):
            reader.feed(n.to_bytes(4, "big")[2:] + b"x")


@given(st.lists(st.integers(1, 400_000), max_size=20))
@settings(deadline=None, max_examples=50)
def test_batches_keep_order_and_bounds(sizes: list[int]) -> None:
    """Goal: a large turn is cut into frames within the limit that the reader enforces."""
    messages = [bytes(n) for n in sizes]
    cut = list(frames.batches(messages))
    assert [m for batch in cut for m in batch] == messages
    for batch in cut:
        assert sum(map(len, batch)) <= frames.FRAME_TARGET_BYTES or len(batch) == 1


def test_many_small_messages_in_one_frame() -> None:
    """Goal: each of msgpack's array headers is written as its reader expects it."""
    for n in (1, 15, 16, 300, frames.MAX_ITEMS - 1):
        assert frames.split(frames.join([b"\x07"] * n)) == [7] * n
    assert [len(b) for b in frames.batches([b"\x07"] * (frames.MAX_ITEMS + 5))] == [frames.MAX_ITEMS - 1, 6]


def test_every_error_survives_the_wire() -> None:
    """Goal: class, code and text arrive; an unknown class is Unavailable; the text is cut."""
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, AtollError)]
    for kind in classes:
        told = frames.unpack(frames.pack(frames.describe(kind("why", code="Code"))))
        back = frames.restore(told)
        assert (str(back), back.code) == ("why", "Code")
        assert type(back) is (errors.Unavailable if kind is errors.StartupError else kind)
    assert type(frames.restore(["NoSuchClass", "C", "t"])) is errors.Unavailable
    assert len(str(frames.restore(["Refused", "C", "t" * 10_000]))) == frames.MAX_ERROR_TEXT
    for nonsense in (None, [], ["a", "b"], ["a", "b", 3], "abc"):
        with pytest.raises(ProtocolError):
            frames.restore(nonsense)

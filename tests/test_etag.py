"""Goal: the ETag rule is fixed to the byte, and computing it piecewise equals computing it whole."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.etag import EtagHasher, chunks_in, etag_of, etag_of_digests


def by_the_rule(data: bytes, chunk_bytes: int) -> str:
    """The rule, written down once more in the plainest way."""
    chunks = [data[i : i + chunk_bytes] for i in range(0, len(data), chunk_bytes)]
    names = b"".join(blake3(chunk).digest() for chunk in chunks)
    return blake3(names).hexdigest()[:32] + f"-{len(chunks)}"


def test_known_values_never_change() -> None:
    """Goal: ETags users have noted down stay valid."""
    assert etag_of(b"") == "af1349b9f5f9a1a6a0404dea36dcc949-0"  # BLAKE3 of nothing, its published vector
    assert etag_of(b"atoll", 2) == by_the_rule(b"atoll", 2) == etag_of(memoryview(b"atoll"), 2)
    assert etag_of(b"atoll", 2).endswith("-3")
    assert etag_of(b"at", 2).endswith("-1")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 17))
def test_pieces_equal_the_whole(pieces: list[bytes], chunk_bytes: int) -> None:
    """Goal: no way of cutting a body into pieces changes its ETag, and asking early does no harm."""
    hasher = EtagHasher(chunk_bytes)
    for piece in pieces:
        hasher.update(piece)
        hasher.etag()
    body = b"".join(pieces)
    assert hasher.etag() == by_the_rule(body, chunk_bytes)
    assert hasher.size == len(body)
    assert chunks_in(hasher.etag()) == -(-len(body) // chunk_bytes)


def test_foreign_forms_are_told_apart() -> None:
    """Goal: an MD5, a quoted or an upper-case ETag is not taken for one of ours; bad digests are refused."""
    assert chunks_in("d41d8cd98f00b204e9800998ecf8427e") is None
    assert chunks_in('"af1349b9f5f9a1a6a0404dea36dcc949-0"') is None
    assert chunks_in("AF1349B9F5F9A1A6A0404DEA36DCC949-0") is None
    with pytest.raises(ValueError, match="32 bytes"):
        etag_of_digests([b"short"])
    with pytest.raises(ValueError, match="positive"):
        EtagHasher(0)

"""Names of buckets and keys, against S3's rules."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.errors import Invalid
from peer.objects.names import check_bucket_name, check_key

NAMES = st.text("abz019.-_A é", max_size=66) | st.from_regex(
    r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", fullmatch=True
)


def allowed(name: str) -> bool:
    """S3's rules, written another way."""
    labels = name.split(".")
    return (
        3 <= len(name) <= 63
        and all(re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", label, re.ASCII) for label in labels)
        and not (len(labels) == 4 and all(label.isdigit() for label in labels))
        and not name.startswith(("xn--", "sthree-", "amzn-s3-demo-"))
        and not name.endswith(("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"))
    )


@settings(max_examples=400, deadline=None)
@given(NAMES)
def test_bucket_names(name: str) -> None:
    """Goal: exactly the names of S3's rules pass, unchanged; others raise Invalid."""
    if allowed(name):
        assert check_bucket_name(name) == name
    else:
        with pytest.raises(Invalid) as refused:
            check_bucket_name(name)
        assert refused.value.code == "InvalidBucketName"


@pytest.mark.parametrize(
    "name", ["abc\n", "\nabc", "abc\0", "a" * 10_000, "\u0661\u0662\u0663", "ABC", "a\u0301bc"]
)
def test_tricky_bucket_names(name: str) -> None:
    """Goal: what a lax pattern lets through is refused, in a message of bounded length."""
    with pytest.raises(Invalid) as refused:
        check_bucket_name(name)
    assert len(str(refused.value)) < 400


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=20) | st.text(max_size=20).map(lambda s: s.encode("utf-8", "surrogatepass")))
def test_keys(raw: bytes) -> None:
    """Goal: 1 to 1,024 bytes of UTF-8 are a key, unchanged; nothing else is."""
    try:
        good = bool(raw) and raw.decode() is not None
    except UnicodeDecodeError:
        good = False
    if good:
        assert check_key(raw) is raw
    else:
        with pytest.raises(Invalid):
            check_key(raw)


def test_longest_key() -> None:
    """Goal: the bound is 1,024 bytes, not characters."""
    assert check_key(b"x" * 1024)
    assert check_key("é".encode() * 512)
    for raw in (b"x" * 1025, "é".encode() * 513):
        with pytest.raises(Invalid) as refused:
            check_key(raw)
        assert refused.value.code == "KeyTooLongError"
        assert str(len(raw)) in str(refused.value) and "1024" in str(refused.value)

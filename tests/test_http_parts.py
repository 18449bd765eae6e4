"""The small pure parts of the HTTP API: percent-encoding, queries, ranges, ETags, conditions, times."""

from __future__ import annotations

import email.utils
import json
from datetime import datetime
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from peer.api.http import (
    RangeNotSatisfiable,
    content_type_of,
    decode_segment,
    error_body,
    header_of,
    http_time,
    iso_time,
    metadata_of,
    parse_etags,
    parse_int,
    parse_query,
    parse_range,
    read_status,
    write_conditions,
)
from peer.api.objects_api import disposition_of
from peer.errors import Invalid, Unavailable
from peer.objects.conditions import Conditions
from peer.objects.heads import Head

TAGS = st.text("abc019-", min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.sampled_from(["", "/", "/!$&'()*+,;=:@"]))
def test_segments(key: bytes, safe: str) -> None:
    """Goal: whatever a client chooses to encode, the key's bytes come out, decoded once."""
    assert decode_segment(quote(key, safe=safe)) == key
    assert decode_segment(quote(quote(key, safe=safe), safe=safe)) == quote(key, safe=safe).encode()


@pytest.mark.parametrize("raw", ["%", "%4", "a%zz", "%%41", "%4g", "%\u00e9"])
def test_bad_percent_encodings(raw: str) -> None:
    """Goal: a stray % is refused, with the remedy."""
    with pytest.raises(Invalid, match="%25") as refused:
        decode_segment(raw)
    assert refused.value.code == "InvalidURI"


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=8), max_size=4))
def test_queries(fields: dict[str, str]) -> None:
    """Goal: parse undoes what clients build."""
    assert parse_query(urlencode(fields)) == fields


def test_odd_queries() -> None:
    """Goal: empty parts mean nothing; a name given twice is refused, as nobody could say which one counts."""
    assert parse_query("") == parse_query("&&") == {}
    assert parse_query("a&b=&c=1=2&") == {"a": "", "b": "", "c": "1=2"}
    for bad in ("a=1&a=2", "a=%ff", "%zz=1"):
        with pytest.raises(Invalid):
            parse_query(bad)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 60), st.integers(0, 70), st.none() | st.integers(0, 70), st.booleans())
def test_ranges_are_slices(size: int, first: int, last: int | None, suffix: bool) -> None:
    """Goal: a range selects what the same slice selects, or is unsatisfiable, or ends before it begins."""
    body = bytes(range(size))
    if suffix:
        header, wanted = f"bytes=-{first}", body[max(0, size - first) :] if first else b""
    else:
        header = f"bytes={first}-{'' if last is None else last}"
        wanted = body[first:] if last is None else body[first : last + 1]
    try:
        span = parse_range(header, size)
    except RangeNotSatisfiable as error:
        assert wanted == b"" and error.size == size
    except Invalid:
        assert last is not None and last < first
    else:
        assert span.partial and 0 <= span.start < span.stop <= size
        assert body[span.start : span.stop] == wanted


def test_ranges_that_are_ignored() -> None:
    """Goal: without a range, and for units nobody knows, all of the body is sent."""
    for header in (None, "items=1-2", "seconds=3"):
        span = parse_range(header, 10)
        assert (span.start, span.stop, span.partial) == (0, 10, False)


@settings(max_examples=100, deadline=None)
@given(st.text("bytes=0123456789-, *a", max_size=14))
def test_any_range_header(header: str) -> None:
    """Goal: no header makes anything but a span within the body, or one of our errors."""
    try:
        span = parse_range(header, 50)
    except Invalid as error:
        assert error.status in (400, 416)
    else:
        assert 0 <= span.start < span.stop <= 50


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(TAGS, st.booleans()), min_size=1, max_size=4), st.sampled_from([",", ", ", " ,  "]))
def test_etag_lists(tags: list[tuple[str, bool]], separator: str) -> None:
    """Goal: lists of ETags are read as sets; weak ones count where comparison is weak."""
    header = separator.join(('W/"%s"' if weak else '"%s"') % tag for tag, weak in tags)
    assert parse_etags(header, "If-None-Match", weak=True) == {tag for tag, _ in tags}
    strong = parse_etags(header, "If-Match")
    assert {tag for tag in strong if not tag.startswith("W/")} == {tag for tag, weak in tags if not weak}
    assert strong


def test_odd_etags() -> None:
    """Goal: * stands alone; tags without quotes are taken, as careless clients send them; the rest is refused."""
    assert parse_etags(None, "If-Match") == frozenset()
    assert parse_etags(" * ", "If-Match") == {"*"}
    assert parse_etags("abc-1", "If-Match") == {"abc-1"}
    for bad in ("", " ", '"', '"a" "b"', '*, "a"', '"a",*', "W/", "a b"):
        with pytest.raises(Invalid, match="If-Match"):
            parse_etags(bad, "If-Match")


@settings(max_examples=100, deadline=None)
@given(st.text('"W/*, ab', max_size=10))
def test_any_etag_header(header: str) -> None:
    """Goal: a condition is read or refused, and never read as none."""
    try:
        assert parse_etags(header, "If-Match")
    except Invalid:
        pass


def test_several_lines_are_one_list() -> None:
    """Goal: a condition spread over header lines is not cut to its first."""
    headers = CIMultiDict([("If-None-Match", '"a"'), ("if-none-match", '"b"')])
    assert header_of(headers, "If-None-Match") == '"a", "b"'
    conditions = write_conditions(headers)
    assert conditions is not None and conditions.if_none_match == {"a", "b"}
    with pytest.raises(Invalid):
        write_conditions(CIMultiDict([("If-None-Match", '"a"'), ("If-None-Match", "*")]))
    assert write_conditions(CIMultiDict()) is None


HEAD = Head(1, "abc-1", 0, "", None, b"", 0, b"")


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "current", "status"),
    [
        ((), (), None, None), ((), (), HEAD, None),
        (("*",), (), None, 404), (("abc-1",), (), None, 404), (("*",), (), HEAD, None), (("abc-1",), (), HEAD, None),
        (("x", "abc-1"), (), HEAD, None), (("x",), (), HEAD, 412), (("W/abc-1",), (), HEAD, 412),
        ((), ("*",), None, None), ((), ("abc-1",), None, None), ((), ("*",), HEAD, 412), ((), ("abc-1",), HEAD, 412),
        ((), ("x",), HEAD, None), (("abc-1",), ("abc-1",), HEAD, 412), (("abc-1",), ("x",), HEAD, None),
    ],
)  # fmt: skip
def test_write_conditions(
    if_match: tuple[str, ...], if_none_match: tuple[str, ...], current: Head | None, status: int | None
) -> None:
    """Goal: the table of refusals of a conditional write."""
    refusal = Conditions(frozenset(if_match), frozenset(if_none_match)).refusal(current)
    assert (None if refusal is None else refusal.status) == status


@settings(max_examples=200, deadline=None)
@given(
    st.none() | st.sampled_from(['"abc-1"', '"x"', "*"]), st.none() | st.sampled_from(['"abc-1"', '"x"', "*"]),
    st.none() | st.integers(-5, 5), st.none() | st.integers(-5, 5),
)  # fmt: skip
def test_read_precedence(
    match: str | None, none_match: str | None, modified: int | None, unmodified: int | None
) -> None:
    """Goal: RFC 9110, section 13.2.2, step by step."""
    at = 1_700_000_000
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in (("If-Match", match), ("If-None-Match", none_match)):
        if value is not None:
            headers[name] = value
    for name, offset in (("If-Modified-Since", modified), ("If-Unmodified-Since", unmodified)):
        if offset is not None:
            headers[name] = email.utils.formatdate(at + offset, usegmt=True)
    refused = match == '"x"' if match is not None else unmodified is not None and unmodified < 0
    same = none_match != '"x"' if none_match is not None else modified is not None and modified >= 0
    assert read_status(headers, "abc-1", at * 1_000_000 + 999_999) == (
        412 if refused else 304 if same else 200
    )


def test_unreadable_dates_are_ignored() -> None:
    """Goal: as RFC 9110 wants it, and without an exception whatever the date."""
    for date in (
        "",
        "yesterday",
        "Mon, 99 Foo 2020 99:99:99 GMT",
        "9" * 500,
        "Sat, 01 Jan 99999 00:00:00 GMT",
    ):
        assert read_status(CIMultiDict({"If-Modified-Since": date}), "abc-1", 0) == 200
        assert read_status(CIMultiDict({"If-Unmodified-Since": date}), "abc-1", 0) == 200


def test_numbers() -> None:
    """Goal: digits within bounds are numbers; nothing else Python's int takes is."""
    assert parse_int("007", "limit", 0, 10) == 7
    for bad in ("", "-1", "+1", "1_0", " 1", "\u0661", "11", "9" * 5000):
        with pytest.raises(Invalid, match="0 to 10"):
            parse_int(bad, "limit", 0, 10)


def test_metadata() -> None:
    """Goal: metadata keeps to text and to 2 KiB, names and values together; several lines are one value."""
    headers = CIMultiDict([("X-Atoll-Meta-A", "1"), ("x-atoll-meta-a", "2"), ("x-other", "3")])
    assert metadata_of(headers) == {"a": "1, 2"}
    assert metadata_of(CIMultiDict({"x-other": "3"})) is None
    assert metadata_of(CIMultiDict({"x-atoll-meta-abc": "x" * 2045}))
    for bad in ({"x-atoll-meta-abc": "x" * 2046}, {"x-atoll-meta-": "x"}, {"x-atoll-meta-a": "\udcff"}):
        with pytest.raises(Invalid):
            metadata_of(CIMultiDict(bad))
    assert (
        content_type_of(CIMultiDict(), "a/b")
        == content_type_of(CIMultiDict({"Content-Type": ""}), "a/b")
        == "a/b"
    )
    with pytest.raises(Invalid):
        content_type_of(CIMultiDict({"Content-Type": "\udcff"}), "a/b")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 4_102_444_800_000_000))
def test_times(us: int) -> None:
    """Goal: times are UTC, to the microsecond in JSON, to the second in headers."""
    assert int(datetime.fromisoformat(iso_time(us)).timestamp()) == us // 1_000_000
    assert iso_time(us)[-8:] == f".{us % 1_000_000:06d}Z"[-8:]
    assert int(email.utils.parsedate_to_datetime(http_time(us)).timestamp()) == us // 1_000_000


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=20).filter(lambda s: not any("\ud800" <= c <= "\udfff" for c in s)))
def test_dispositions(key: str) -> None:
    """Goal: no key can break out of the header, or name a directory in it."""
    header = disposition_of(key.encode())
    assert not any(ord(c) < 32 or ord(c) == 127 for c in header)
    quoted = (
        header.partition('filename="')[2].partition('"; filename*')[0].replace("\\\\", "").replace('\\"', "")
    )
    assert '"' not in quoted and "/" not in quoted


def test_errors_as_json() -> None:
    """Goal: an error's four fields, also with a message that is hard to print."""
    shown = json.loads(error_body(Unavailable("a \udcff \0 b"), "ab-1"))
    assert shown == {
        "error": {
            "code": "ServiceUnavailable", "message": "a \udcff \0 b", "retry": True, "request_id": "ab-1",
        }
    }  # fmt: skip


def test_errors_call_peers_by_name() -> None:
    """Goal: a person reads peer-2 where the code has its member id, and the id once only."""
    error = Unavailable(
        f"nobody answered ({'ab' * 8}: peer {'ab' * 8} did not answer in time; {'cd' * 8}: its disk is full)"
    )
    told = json.loads(error_body(error, "ab-1", {"ab" * 8: "peer-1", "cd" * 8: "peer-2"}))["error"]["message"]
    assert told == "nobody answered (peer-1 did not answer in time; peer-2: its disk is full)"

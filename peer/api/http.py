"""Small pure parts of HTTP: paths, conditions, ranges, errors as JSON."""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

from peer.errors import AtollError, Invalid
from peer.objects.conditions import Conditions

MAX_METADATA_BYTES = 2048
METADATA_PREFIX = "x-atoll-meta-"
MAX_TYPE_BYTES = 256
OPERATION = "X-Atoll-Operation"
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
_ETAG = re.compile(r'\s*(?:(W/)?"([^"]*)"|([^",/*\s]+))\s*(?:,|$)')
_OPERATION = re.compile(r"[0-9a-fA-F]{16}")
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class RangeNotSatisfiable(Invalid):
    code = "InvalidRange"
    status = 416

    def __init__(self, header: str, size: int) -> None:
        super().__init__(f"the object has {size} bytes; none of them lies in {header[:80]}")
        self.size = size


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [start, stop) of a body; `partial` when the client asked for a part."""

    start: int
    stop: int
    partial: bool


def decode_segment(raw: str) -> bytes:
    """A path segment or key, percent-decoded once. Raises Invalid for a % without two hex digits."""
    encoded = raw.encode("utf-8", "surrogateescape")
    if b"%" not in encoded:
        return encoded
    bad = _BAD_PERCENT.search(encoded)
    if bad is not None:
        shown = encoded[bad.start() : bad.start() + 3].decode("ascii", "replace")
        raise Invalid(f"{shown!r} is no percent-encoding; write a plain % as %25", code="InvalidURI")
    return unquote_to_bytes(encoded)


def decode_name(raw: str) -> str:
    """The same for the name of a bucket or a peer; what is no UTF-8 becomes a name that nothing has."""
    return decode_segment(raw).decode("utf-8", "replace")


def parse_query(raw: str) -> dict[str, str]:
    """The query's parameters. Raises Invalid for one given twice, badly encoded or not UTF-8."""
    found: dict[str, str] = {}
    for part in filter(None, raw.split("&")):
        name, _, value = part.partition("=")
        try:
            name, value = (decode_segment(text.replace("+", " ")).decode() for text in (name, value))
        except UnicodeDecodeError:
            raise Invalid("the query is not UTF-8; encode it as UTF-8", code="InvalidArgument") from None
        if name in found:
            raise Invalid(f"the query names {name[:80]!r} twice", code="InvalidArgument")
        found[name] = value
    return found


def parse_int(text: str, what: str, least: int, most: int) -> int:
    """Raises Invalid unless `text` is decimal digits within the bounds."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18) or not least <= int(text) <= most:
        raise Invalid(
            f"{what} must be a number from {least} to {most}, not {text[:80]!r}", code="InvalidArgument"
        )
    return int(text)


def header_of(headers: Any, name: str) -> str | None:
    """A header that may be a list: all its lines as one. None when there is none."""
    if name not in headers:
        return None
    return ", ".join(headers.getall(name))


def parse_etags(header: str | None, name: str, *, weak: bool = False) -> frozenset[str]:
    """ETags without quotes, or {"*"}; empty without a header. Raises Invalid.

    With `weak`, W/"x" is the same as "x" (If-None-Match); else it matches nothing (If-Match), as RFC 9110 has it.
    """
    if header is None:
        return frozenset()
    if header.strip() == "*":
        return frozenset("*")
    found = set()
    at = 0
    while at < len(header):
        match = _ETAG.match(header, at)
        if match is None:
            raise Invalid(
                f'{name}: {header[:80]!r} is not * or a list of quoted ETags, as in "abc-1"',
                code="InvalidArgument",
            )
        tag = match.group(3) if match.group(2) is None else match.group(2)
        found.add(f"W/{tag}" if match.group(1) and not weak else tag)
        at = match.end()
    if not found:
        raise Invalid(f'{name} is empty; give * or quoted ETags, as in "abc-1"', code="InvalidArgument")
    return frozenset(found)


def write_conditions(headers: Any) -> Conditions | None:
    """If-Match and If-None-Match of a write; None when there are none.

    Raises Invalid for conditions that only reads understand: a condition is never ignored.
    """
    for name in ("If-Unmodified-Since", "If-Modified-Since"):
        if name in headers:
            raise Invalid(
                f"{name} is not supported on writes; use If-Match with the ETag",
                code="NotImplemented",
                status=501,
            )
    if "If-Match" not in headers and "If-None-Match" not in headers:
        return None
    return Conditions(
        parse_etags(header_of(headers, "If-Match"), "If-Match"),
        parse_etags(header_of(headers, "If-None-Match"), "If-None-Match", weak=True),
    )


def operation_of(headers: Any) -> bytes:
    """The id under which a client repeats a write elsewhere, b"" if there is none. Raises Invalid."""
    given = headers.get(OPERATION)
    if given is None:
        return b""
    if not _OPERATION.fullmatch(given):
        raise Invalid(
            f"{OPERATION}: give 16 hex digits, drawn at random for each write", code="InvalidArgument"
        )
    return bytes.fromhex(given)


def read_status(headers: Any, etag: str, modified_us: int) -> int:
    """200, 304 or 412 for a GET or HEAD under its conditions, in the order of RFC 9110 section 13.2.2."""
    match = header_of(headers, "If-Match")
    if match is not None:
        wanted = parse_etags(match, "If-Match")
        if "*" not in wanted and etag not in wanted:
            return 412
    else:
        since = _date(headers.get("If-Unmodified-Since"))
        if since is not None and modified_us // 1_000_000 > since:
            return 412
    none_match = header_of(headers, "If-None-Match")
    if none_match is not None:
        unwanted = parse_etags(none_match, "If-None-Match", weak=True)
        return 304 if "*" in unwanted or etag in unwanted else 200
    since = _date(headers.get("If-Modified-Since"))
    return 304 if since is not None and modified_us // 1_000_000 <= since else 200


def _date(header: str | None) -> int | None:
    """Seconds since 1970, or None for no or an unreadable date (which RFC 9110 says to ignore)."""
    if header is None:
        return None
    try:
        return int(email.utils.parsedate_to_datetime(header).timestamp())
    except (ValueError, TypeError, OverflowError):
        return None


def parse_range(header: str | None, size: int) -> Span:
    """What to send of `size` bytes. Raises Invalid (malformed, several ranges) or RangeNotSatisfiable.

    A unit other than bytes is ignored, as RFC 9110 section 14.2 wants it.
    """
    if header is None:
        return Span(0, size, False)
    unit, equals, _ = header.partition("=")
    if equals and unit.strip().isalpha() and unit.strip().lower() != "bytes":
        return Span(0, size, False)
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        raise Invalid(
            f"Range: {header[:80]!r} is not one range as in bytes=0-99, bytes=100- or bytes=-50",
            code="InvalidArgument",
        )
    first, last = match.groups()
    if not first:
        wanted = int(last)
        if wanted == 0 or size == 0:
            raise RangeNotSatisfiable(header, size)
        return Span(max(0, size - wanted), size, True)
    start = int(first)
    if last and int(last) < start:
        raise Invalid(f"Range: {header[:80]!r} ends before it begins", code="InvalidArgument")
    if start >= size:
        raise RangeNotSatisfiable(header, size)
    return Span(start, min(size, int(last) + 1) if last else size, True)


def content_type_of(headers: Any, default: str) -> str:
    """The Content-Type to keep. Raises Invalid for one that is too long or not UTF-8."""
    value: str = headers.get("Content-Type", "") or default
    if len(_header_bytes("Content-Type", value)) > MAX_TYPE_BYTES:
        raise Invalid(f"Content-Type may have {MAX_TYPE_BYTES} bytes; shorten it", code="InvalidArgument")
    return value


def metadata_of(headers: Any) -> dict[str, str] | None:
    """The x-atoll-meta-* headers, names in lower case, lines of one name joined. Raises Invalid beyond 2 KiB."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower.startswith(METADATA_PREFIX):
            key = lower[len(METADATA_PREFIX) :]
            found[key] = f"{found[key]}, {value}" if key in found else value
    total = sum(len(key) + len(_header_bytes(METADATA_PREFIX + key, value)) for key, value in found.items())
    if total > MAX_METADATA_BYTES:
        raise Invalid(
            f"user metadata takes {total} bytes; at most {MAX_METADATA_BYTES} are kept, put the rest into the object",
            code="MetadataTooLarge",
        )
    if "" in found:
        raise Invalid(f"a header named {METADATA_PREFIX} lacks the name behind it", code="InvalidArgument")
    return found or None


def _header_bytes(name: str, value: str) -> bytes:
    """Header values are kept as text, so they must be."""
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise Invalid(
            f"the header {name[:80]} is not UTF-8; encode it as UTF-8", code="InvalidArgument"
        ) from None


def iso_time(us: int) -> str:
    """2026-11-21T01:02:03.456789Z"""
    return f"{_iso_second(us // 1_000_000)}.{us % 1_000_000:06d}Z"


@lru_cache(4096)
def _iso_second(second: int) -> str:
    """Kept, because the objects of a page were often stored in the same few seconds."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(4096)
def http_time(us: int) -> str:
    """As RFC 9110 has it."""
    return email.utils.formatdate(us // 1_000_000, usegmt=True)


def error_body(error: AtollError, request_id: str, names: Mapping[str, str] | None = None) -> bytes:
    """The error as JSON; ids of members in its sentence are replaced by their `names`."""
    message = str(error)
    for member, name in (names or {}).items():
        if member in message:
            message = message.replace(f"{member}: peer {member} ", f"{name} ").replace(member, name)
    shown = {"code": error.code, "message": message, "retry": error.retry, "request_id": request_id}
    return json.dumps({"error": shown}).encode()

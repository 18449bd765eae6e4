"""Small pure parts of HTTP: paths, conditions, ranges, errors as JSON."""

from __future__ import annotations

import email.utils
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

from peer.errors import AtollError, Invalid
from peer.objects.store import Conditions

MAX_METADATA_BYTES = 2048
METADATA_PREFIX = "x-atoll-meta-"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_ETAG = re.compile(r'\s*(?:(W/)?"([^"]*)"|(\*)|([^",\s]+))\s*(?:,|$)')


class RangeNotSatisfiable(Invalid):
    code = "InvalidRange"
    status = 416


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [start, stop) of a body; `partial` when the client asked for a part."""

    start: int
    stop: int
    partial: bool


def decode_segment(raw: str) -> bytes:
    """A path segment or key, percent-decoded once."""
    encoded = raw.encode("utf-8", "surrogateescape")
    return unquote_to_bytes(encoded) if b"%" in encoded else encoded


def parse_query(raw: str) -> dict[str, str]:
    """The query's parameters. Raises Invalid for one given twice or not UTF-8."""
    found: dict[str, str] = {}
    if not raw:
        return found
    for part in raw.split("&"):
        name, _, value = part.partition("=")
        try:
            name, value = (unquote_to_bytes(text.replace("+", " ")).decode() for text in (name, value))
        except UnicodeDecodeError:
            raise Invalid("the query is not UTF-8", code="InvalidArgument") from None
        if name in found:
            raise Invalid(f"the query names {name!r} twice", code="InvalidArgument")
        found[name] = value
    return found


def parse_int(text: str, what: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        raise Invalid(f"{what} must be a number from {least} to {most}, not {text!r}", code="InvalidArgument")
    return int(text)


def parse_etags(header: str | None, name: str) -> frozenset[str]:
    """ETags without quotes, or {"*"}. Weak ones match nothing that is stored, so they are refused."""
    if header is None:
        return frozenset()
    found = set()
    at = 0
    while at < len(header):
        match = _ETAG.match(header, at)
        if match is None or match.group(1):
            raise Invalid(
                f'{name}: {header!r} is not * or a list of quoted ETags, as in "abc-1"',
                code="InvalidArgument",
            )
        found.add(match.group(3) or (match.group(2) if match.group(2) is not None else match.group(4)))
        at = match.end()
    if not found:
        raise Invalid(f"{name} is empty", code="InvalidArgument")
    return frozenset(found)


def write_conditions(headers: Any) -> Conditions | None:
    """If-Match and If-None-Match of a write; None when there are none."""
    if "If-Match" not in headers and "If-None-Match" not in headers:
        return None
    return Conditions(
        parse_etags(headers.get("If-Match"), "If-Match"),
        parse_etags(headers.get("If-None-Match"), "If-None-Match"),
    )


def read_status(headers: Any, etag: str, modified_us: int) -> int:
    """200, 304 or 412 for a GET or HEAD under its conditions, in the order of RFC 9110 section 13.2.2."""
    match = headers.get("If-Match")
    if match is not None:
        wanted = parse_etags(match, "If-Match")
        if "*" not in wanted and etag not in wanted:
            return 412
    else:
        since = _date(headers.get("If-Unmodified-Since"))
        if since is not None and modified_us // 1_000_000 > since:
            return 412
    none_match = headers.get("If-None-Match")
    if none_match is not None:
        unwanted = parse_etags(none_match, "If-None-Match")
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
    """What to send of `size` bytes. Raises Invalid (malformed, several ranges) or RangeNotSatisfiable."""
    if header is None:
        return Span(0, size, False)
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        raise Invalid(
            f"Range: {header!r} is not one range as in bytes=0-99, bytes=100- or bytes=-50",
            code="InvalidArgument",
        )
    first, last = match.groups()
    if not first:
        wanted = int(last)
        if wanted == 0 or size == 0:
            raise RangeNotSatisfiable(f"the object has {size} bytes; none of them lies in {header}")
        return Span(max(0, size - wanted), size, True)
    start = int(first)
    if last and int(last) < start:
        raise Invalid(f"Range: {header!r} ends before it begins", code="InvalidArgument")
    if start >= size:
        raise RangeNotSatisfiable(f"the object has {size} bytes; none of them lies in {header}")
    return Span(start, min(size, int(last) + 1) if last else size, True)


def metadata_of(headers: Any) -> dict[str, str] | None:
    """The x-atoll-meta-* headers, names in lower case. Raises Invalid beyond 2 KiB."""
    found: dict[str, str] = {}
    total = 0
    for name, value in headers.items():
        lower = name.lower()
        if lower.startswith(METADATA_PREFIX):
            key = lower[len(METADATA_PREFIX) :]
            total += len(key) + len(value.encode("utf-8", "surrogateescape"))
            found[key] = value
    if total > MAX_METADATA_BYTES:
        raise Invalid(
            f"user metadata takes {total} bytes; at most {MAX_METADATA_BYTES}", code="MetadataTooLarge"
        )
    return found or None


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


def error_body(error: AtollError, request_id: str) -> bytes:
    shown = {"code": error.code, "message": str(error), "retry": error.retry, "request_id": request_id}
    return json.dumps({"error": shown}).encode()

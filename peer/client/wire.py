"""Requests and answers of the HTTP API as data: what to send, and what an answer means. No I/O here.

Both clients, blocking and asynchronous, send what is built here and hand back what came; so the two
cannot differ in how they quote a key or read an error.
"""

from __future__ import annotations

import enum
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from peer.client.model import META_PREFIX
from peer.errors import (
    AtollError,
    Conflict,
    Corrupt,
    Denied,
    Full,
    Invalid,
    NotFound,
    Refused,
    Unavailable,
    UnknownOutcome,
)

MAX_KEY_BYTES = 1024
MAX_ERROR_BYTES = 64 * 1024
"""An error's body is read up to here; what is longer is not an error of ours."""

_BUCKET = re.compile(r"(?=.{3,63}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_IPV4 = re.compile(r"\d+\.\d+\.\d+\.\d+")
_META_NAME = re.compile(r"[a-z0-9!#$&'*+.^_`|~-]+")
_META_VALUE = re.compile(r"[\x20-\x7e]*")


WRONG_PORT = "does the endpoint name the API port (port + 1)?"


OPERATION = "X-Atoll-Operation"

STREAM_SILENCE_S = 30.0
"""How long a peer may move no byte of an object: one that is busy lets uploads wait so long for their turn. And for the
work on a bucket, which is a round for each of its shards."""
UPLOAD_SILENCE_S = 120.0
"""The same for the answer to an upload that may be sent twice: the peer may have taken all of it at once, and needs this for
its links to the owners: three chunks to two of them over 0.2 MB/s. That it lives is seen by its pulse meanwhile."""
SILENCE_S = 7.0
"""How long any other answer may take to begin: a peer promises one within 5 s."""
SIDE_SILENCE_S = 2.0
"""The same for requests that only make others faster."""
RING_SILENCE_S = 90.0
"""The same for a change of the ring: a removal waits half a minute until gossip knows whether a suspect lives."""


class Repeat(enum.Enum):
    """What may be done when the answer to a request was lost."""

    FREELY = "a read: ask again, anywhere"
    SAME_RESULT = "a write that may be applied twice: send it again"
    NEVER = "a condition, judged twice, may be answered wrongly: the outcome is unknown"


@dataclass(frozen=True, slots=True)
class Request:
    """One API call, free of any peer's address. `path` is quoted and carries the query."""

    method: str
    path: str
    what: str
    """For messages: "get photos/a.jpg"."""
    repeat: Repeat
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """For small requests; a put's body travels beside the request."""
    patience_s: float | None = None
    """How long this request waits for trouble to pass, None for the client's own."""
    silence_s: float = SILENCE_S
    """How long a peer may let us wait for the head of its answer, or to take the next bytes, until it is given up."""


def check_bucket(bucket: str) -> str:
    """`bucket`, or Invalid: S3's rules for names (3 to 63 of a-z, 0-9, "-" and "."; not an IP address)."""
    if not _BUCKET.fullmatch(bucket) or _IPV4.fullmatch(bucket):
        raise Invalid(
            f"{bucket!r} is not a bucket name: use 3 to 63 lower-case letters, digits, '-' and '.', "
            "beginning and ending with a letter or digit, and not an IP address",
            code="InvalidBucketName",
        )
    return bucket


def quote_key(key: str) -> str:
    """`key` as a path: byte for byte what it is after one decoding, whatever proxies normalise.

    Raises Invalid for a key that is empty, longer than 1,024 bytes or not UTF-8.
    """
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise Invalid(f"{key!r} is not valid UTF-8, so it cannot be a key", code="InvalidKey") from None
    if not key:
        raise Invalid("a key has at least one character", code="InvalidKey")
    if size > MAX_KEY_BYTES:
        raise Invalid(f"the key has {size} bytes of UTF-8; at most 1,024 are allowed", code="KeyTooLongError")
    if any(part in ("", ".", "..") for part in key.split("/")):
        return quote(key, safe="").replace(".", "%2E")
    return quote(key, safe="/")


def object_path(bucket: str, key: str) -> str:
    return f"/v1/buckets/{check_bucket(bucket)}/objects/{quote_key(key)}"


def bucket_path(bucket: str) -> str:
    return f"/v1/buckets/{check_bucket(bucket)}"


def list_path(bucket: str, prefix: str, delimiter: str | None, after: str | None, limit: int | None) -> str:
    """A page of a listing; Invalid if a name is not UTF-8."""
    query = {"prefix": prefix or None, "delimiter": delimiter or None, "after": after or None, "limit": limit}
    try:
        encoded = urlencode({name: value for name, value in query.items() if value is not None})
    except UnicodeEncodeError:
        raise Invalid(f"{prefix!r} is not valid UTF-8, so no key begins with it", code="InvalidKey") from None
    return f"{bucket_path(bucket)}/objects" + (f"?{encoded}" if encoded else "")


def lookup_path(bucket: str, key: str | None) -> str:
    """Which peers own a key (without one: a bucket's own record)."""
    query = {"bucket": check_bucket(bucket)}
    if key is not None:
        quote_key(key)
        query["key"] = key
    return "/v1/cluster/ring/lookup?" + urlencode(query)


def conditions(if_match: str | None, if_none_match: str | None) -> dict[str, str]:
    """The conditional headers; `*` stays bare, ETags may be given with or without quotes."""
    headers = {}
    for name, etag in (("If-Match", if_match), ("If-None-Match", if_none_match)):
        if etag is not None:
            bare = etag.strip().strip('"')
            if '"' in bare or not bare.isascii() or not bare.isprintable():
                raise Invalid(f"{etag!r} is not an ETag", code="InvalidArgument")
            headers[name] = "*" if bare == "*" else f'"{bare}"'
    return headers


def operation_header() -> dict[str, str]:
    """A new id for one write. Where it is sent twice, the peers do it once: an attempt that was given up, and comes to life
    when others have written since, does not undo what they wrote."""
    return {OPERATION: secrets.token_hex(8)}


def metadata_headers(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """User metadata as headers; Invalid names what cannot travel in one."""
    headers = {}
    for name, value in (metadata or {}).items():
        lower = name.lower()
        if not _META_NAME.fullmatch(lower):
            raise Invalid(f"{name!r} cannot be a metadata name: letters, digits and -_. only")
        if not _META_VALUE.fullmatch(value) or value != value.strip():
            raise Invalid(f"metadata {name!r}: a value is printable ASCII without spaces at its ends")
        headers[META_PREFIX + lower] = value
    return headers


def range_header(span: tuple[int, int | None] | None) -> dict[str, str]:
    """(start, stop), half open as in Python; stop None is the end; a negative start counts from the end."""
    if span is None:
        return {}
    start, stop = span
    if start < 0:
        if stop is not None:
            raise Invalid("a range that counts from the end has no stop", code="InvalidRange", status=416)
        return {"Range": f"bytes={start}"}
    if stop is None:
        return {"Range": f"bytes={start}-"}
    if stop <= start:
        raise Invalid(f"the range {start}:{stop} is empty", code="InvalidRange", status=416)
    return {"Range": f"bytes={start}-{stop - 1}"}


_CLASSES: dict[int, type[AtollError]] = {
    304: Conflict,
    401: Denied,
    403: Denied,
    404: NotFound,
    409: Conflict,
    412: Conflict,
    429: Unavailable,
    500: AtollError,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
    507: Full,
}
_CODES: dict[str, type[AtollError]] = {
    "OutcomeUnknown": UnknownOutcome,
    "Corrupt": Corrupt,
    "Refused": Refused,
}
_WORDS = {
    304: ("NotModified", "not modified"),
    401: ("AccessDenied", "no or wrong credentials"),
    403: ("AccessDenied", "access denied"),
    404: ("NotFound", "there is no such object (or no such bucket)"),
    412: ("PreconditionFailed", "the condition does not hold"),
    503: ("Unavailable", "the cluster cannot answer now; `atoll status` says why"),
    416: ("InvalidRange", "the range lies outside the object"),
}


def error_of(status: int, headers: Mapping[str, str], body: bytes, what: str) -> AtollError:
    """The exception an answer stands for. `headers` in lower case; a HEAD's body is empty."""
    code, words = _WORDS.get(status, ("", ""))
    message, request_id = "", headers.get("x-request-id", "")
    retry: bool | None = None
    try:
        told = json.loads(body)["error"]
        code, message = str(told["code"]), str(told["message"])
        retry = bool(told["retry"]) if "retry" in told else None
        request_id = str(told.get("request_id") or request_id)
    except (ValueError, KeyError, TypeError):
        message = words or f"the answer was HTTP {status}"
        if body:  # a HEAD has none; everybody else of ours says more
            message = f"the answer was HTTP {status} and no error of an Atoll API; {WRONG_PORT}"
    kind = _CODES.get(code) or _CLASSES.get(status) or (Invalid if 400 <= status < 500 else AtollError)
    tail = f" (request {request_id})" if status >= 500 and request_id else ""
    error = kind(f"{what}: {message}{tail}", code=code or kind.code, status=status)
    if retry is not None and status >= 500:
        error.retry = retry
    return error


def retry_after_s(headers: Mapping[str, str]) -> float:
    """The pause an answer asks for, at most 5 s; 0 if it asks for none."""
    value = headers.get("retry-after", "")
    return min(float(value), 5.0) if value.isascii() and value.isdigit() else 0.0


def parse_json(body: bytes, what: str) -> dict[str, Any]:
    """A JSON object, or Unavailable: whatever sent something else is no peer of ours."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise Unavailable(f"{what}: the answer is not JSON; {WRONG_PORT}")
    return answer

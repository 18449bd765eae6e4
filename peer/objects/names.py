"""What buckets and keys may be called: S3's bucket rules, keys of 1 to 1,024 bytes of UTF-8."""

from __future__ import annotations

import re

from peer.errors import Invalid

MAX_KEY_BYTES = 1024
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ADDRESS = re.compile(r"[0-9]+(\.[0-9]+){3}")
_RESERVED_PREFIXES = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_SUFFIXES = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")


def check_bucket_name(name: str) -> str:
    """The name, or Invalid saying which of S3's rules it breaks."""
    problem = _bucket_problem(name)
    if problem:
        raise Invalid(f"{name[:80]!r} cannot name a bucket: {problem}", code="InvalidBucketName")
    return name


def _bucket_problem(name: str) -> str:
    if not 3 <= len(name) <= 63:
        return "it must have 3 to 63 characters"
    if not _BUCKET.fullmatch(name):
        return "only lower-case letters, digits, dots and hyphens, and a letter or digit at both ends"
    if ".." in name or ".-" in name or "-." in name:
        return "dots must stand between letters or digits"
    if name.startswith(_RESERVED_PREFIXES) or name.endswith(_RESERVED_SUFFIXES):
        return "S3 reserves this prefix or suffix"
    return "it must not look like an IP address" if _ADDRESS.fullmatch(name) else ""


def check_key(raw: bytes) -> bytes:
    """The key's bytes, or Invalid."""
    if not raw:
        raise Invalid("an object key must not be empty", code="InvalidArgument")
    if len(raw) > MAX_KEY_BYTES:
        raise Invalid(
            f"the key is {len(raw)} bytes long; at most {MAX_KEY_BYTES} are allowed, shorten it",
            code="KeyTooLongError",
        )
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Invalid(
            f"the key is not UTF-8 (byte {error.start}); encode it as UTF-8", code="InvalidArgument"
        ) from None
    return raw

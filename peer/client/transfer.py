"""Checking what was moved: the ETag of a put, and a download that survives its peer. No I/O here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from peer.client.model import ObjectInfo
from peer.client.wire import Repeat, Request, conditions, object_path, range_header
from peer.errors import Conflict, Corrupt, Unavailable
from peer.etag import EtagHasher, chunks_in

_MD5 = re.compile(r"[0-9a-f]{32}")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def check_put(hasher: EtagHasher, etag: str, size: int | None, what: str) -> None:
    """Corrupt if a peer stored other bytes than were sent. An ETag of another form proves nothing."""
    if size is not None and size != hasher.size:
        raise Corrupt(f"{what}: {hasher.size} bytes were sent, but the peer stored {size}; put it again")
    if _comparable(etag, hasher.etag()) and etag != hasher.etag():
        raise Corrupt(f"{what}: the peer stored other bytes than were sent ({etag}); put it again")


def _comparable(theirs: str, ours: str) -> bool:
    """Two ETags can be compared if they cut the body into as many chunks."""
    count = chunks_in(theirs)
    return count is not None and count == chunks_in(ours)


class Incoming:
    """One download, over as many answers as it takes: where it is, what to ask for next, what to expect.

    The first answer fixes the ETag; every further one asks for the rest under If-Match, so that the
    bytes of two versions are never joined.
    """

    def __init__(
        self,
        bucket: str,
        key: str,
        *,
        span: tuple[int, int | None] | None,
        if_match: str | None,
        if_none_match: str | None,
        chunk_bytes: int,
    ) -> None:
        self.bucket = bucket
        self.key = key
        self.info: ObjectInfo | None = None
        self.length = 0
        """Bytes this download delivers in all; known after the first answer."""
        self.received = 0
        self._first = range_header(span) | conditions(if_match, if_none_match)
        self._whole = span is None
        self._offset = 0  # of the first byte wanted, within the object
        self._chunk_bytes = chunk_bytes
        self._hasher: EtagHasher | None = None
        self._md5 = hashlib.md5(usedforsecurity=False) if self._whole else None

    @property
    def what(self) -> str:
        return f"get {self.bucket}/{self.key}"

    def request(self) -> Request:
        """What to ask for now: everything, or the rest of what an earlier answer began."""
        headers = self._first
        if self.info is not None:
            start = self._offset + self.received
            headers = range_header((start, self._offset + self.length)) if self.length else {}
            headers |= conditions(self.info.etag or None, None)
        return Request("GET", object_path(self.bucket, self.key), self.what, Repeat.FREELY, headers)

    def accept(self, status: int, headers: Mapping[str, str]) -> None:
        """Take the head of an answer (200 or 206); Conflict or Unavailable if it does not continue ours."""
        length = int(headers.get("content-length", "0"))
        start, total = 0, length
        if status == 206:
            match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
            if not match:
                raise Unavailable(f"{self.what}: a partial answer does not say which part it is")
            start, total = int(match[1]), int(match[3])
        info = ObjectInfo.from_headers(self.bucket, self.key, headers, total)
        if self.info is None:
            self.info, self.length, self._offset = info, length, start
            self._prepare_check()
            return
        if info.etag != self.info.etag:
            raise changed_meanwhile(self.what)
        if start != self._offset + self.received or length != self.length - self.received:
            raise Unavailable(f"{self.what}: a peer answered with another part than was asked for")

    def _prepare_check(self) -> None:
        assert self.info is not None
        etag = self.info.etag
        if self._whole and chunks_in(etag) == -(-self.info.size // self._chunk_bytes):
            self._hasher = EtagHasher(self._chunk_bytes)
        if not (self._whole and _MD5.fullmatch(etag)):
            self._md5 = None

    def take(self, block: bytes | memoryview) -> None:
        """Count and hash the next bytes."""
        self.received += len(block)
        if self._hasher is not None:
            self._hasher.update(block)
        elif self._md5 is not None:
            self._md5.update(block)

    @property
    def complete(self) -> bool:
        return self.info is not None and self.received >= self.length

    @property
    def verified(self) -> bool:
        """Whether `finish` compares the bytes with the ETag (ranges and foreign ETags cannot be)."""
        return self._hasher is not None or self._md5 is not None

    def finish(self) -> None:
        """After the last byte: Corrupt unless the bytes are those the ETag names."""
        assert self.info is not None and self.complete
        ours = None
        if self._hasher is not None:
            ours = self._hasher.etag()
        elif self._md5 is not None:
            ours = self._md5.hexdigest()
        if ours is not None and ours != self.info.etag:
            raise Corrupt(
                f"{self.what}: the bytes received are not those of ETag {self.info.etag}; get it again"
            )


def changed_meanwhile(what: str) -> Conflict:
    """A download that had to go on at another peer found a newer object there."""
    return Conflict(f"{what}: the object was replaced while it was being read; get it again")

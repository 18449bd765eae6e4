"""What clients ask: put, get, head, delete, list. Requests are built from prebuilt bytes.

Each class is a `load.Source` for one client. Keys need no escaping: letters, digits, dash, slash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from urllib.parse import quote

from tools.bench.bodies import Bodies
from tools.bench.wire import Endpoint, Part

NEXT = re.compile(rb'"next"\s*:\s*("(?:[^"\\]|\\.)*"|null)\s*\}\s*$')


@dataclass(frozen=True, slots=True)
class Heads:
    """Builds request heads for one bucket with one set of credentials."""

    bucket: str
    access_key: str
    secret_key: str

    @property
    def base(self) -> str:
        return f"/v1/buckets/{self.bucket}"

    def before_key(self, method: str) -> bytes:
        return f"{method} {self.base}/objects/".encode()

    def after_key(self, endpoint: Endpoint, length: int | None = None) -> bytes:
        """The rest of a head after the key; with a Content-Length if a body follows."""
        body = "" if length is None else f"Content-Length: {length}\r\n"
        return (
            f" HTTP/1.1\r\nHost: {endpoint.header}\r\n"
            f"Authorization: Bearer {self.access_key}:{self.secret_key}\r\n{body}\r\n"
        ).encode()

    def whole(self, method: str, path: str, endpoint: Endpoint, body: bytes = b"") -> list[Part]:
        """A request outside the hot path: any path, a short body."""
        length = len(body) if method in ("PUT", "POST") else None
        head = f"{method} {path}".encode() + self.after_key(endpoint, length)
        return [head + body]


class _Source:
    """Common to all: counts nothing, keeps nothing, wants 200."""

    keep = False
    head_only = False
    want: tuple[int, ...] = (200,)

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self._ends: dict[tuple[Endpoint, int | None], bytes] = {}

    def end(self, endpoint: Endpoint, length: int | None = None) -> bytes:
        """`after_key`, built once."""
        found = self._ends.get((endpoint, length))
        if found is None:
            found = self._ends[endpoint, length] = self.heads.after_key(endpoint, length)
        return found

    def judge(self, status: int, length: int, body: bytes) -> str:
        return "" if status in self.want else f"status {status}"

    def weigh(self, length: int) -> tuple[int, int]:
        return length, 0


class Put(_Source):
    """Stores bodies of one size under the names given, until they run out."""

    def __init__(self, heads: Heads, bodies: Bodies, names: Iterable[str], size: int) -> None:
        super().__init__(heads)
        self._bodies = bodies
        self._names = iter(names)
        self._size = size
        self._before = heads.before_key("PUT")

    def next(self, endpoint: Endpoint) -> Sequence[Part] | None:
        name = next(self._names, None)
        if name is None:
            return None
        head = self._before + name.encode() + self.end(endpoint, self._size)
        if self._size <= self._bodies.piece:
            return [head + self._bodies.small(name, self._size)]
        parts: list[Part] = [head]
        for stamp, rest in self._bodies.pieces(name, self._size):
            parts += (stamp, rest)
        return parts

    def weigh(self, length: int) -> tuple[int, int]:
        return self._size, 0


class Get(_Source):
    """Reads the objects named, round and round; with `verify` compares every byte."""

    def __init__(
        self, heads: Heads, bodies: Bodies, names: Sequence[str], size: int, *, verify: bool
    ) -> None:
        super().__init__(heads)
        self.keep = verify
        self._bodies = bodies
        self._names = cycle(names)
        self._size = size
        self._asked = ""
        self._before = heads.before_key("GET")

    def next(self, endpoint: Endpoint) -> Sequence[Part] | None:
        self._asked = next(self._names)
        return [self._before + self._asked.encode() + self.end(endpoint)]

    def judge(self, status: int, length: int, body: bytes) -> str:
        if status != 200:
            return f"status {status}"
        if length != self._size:
            return "wrong length"
        if self.keep and not self._bodies.matches(self._asked, self._size, body):
            return "wrong bytes"
        return ""


class Head(Get):
    """Asks for the heads of the objects named; the length in the answer must be right."""

    head_only = True

    def __init__(self, heads: Heads, bodies: Bodies, names: Sequence[str], size: int) -> None:
        super().__init__(heads, bodies, names, size, verify=False)
        self._before = heads.before_key("HEAD")

    def weigh(self, length: int) -> tuple[int, int]:
        return 0, 0


class Delete(_Source):
    """Deletes the keys given (escaped here, as they come from a listing); one that is gone is fine."""

    want = (200, 204, 404)

    def __init__(self, heads: Heads, keys: Iterator[str]) -> None:
        super().__init__(heads)
        self._keys = keys
        self._before = heads.before_key("DELETE")

    def next(self, endpoint: Endpoint) -> Sequence[Part] | None:
        key = next(self._keys, None)
        if key is None:
            return None
        return [self._before + quote(key, safe="/").encode() + self.end(endpoint)]

    def weigh(self, length: int) -> tuple[int, int]:
        return 0, 1


class List(_Source):
    """Walks a listing page by page, from the beginning again at its end; units are keys.

    Only the end of a page is looked at, unless `verify`: then every page is parsed, its keys must ascend,
    and a whole walk must have found `total` of them.
    """

    keep = True

    def __init__(self, heads: Heads, prefix: str, limit: int, total: int, *, verify: bool) -> None:
        super().__init__(heads)
        self._path = f"GET {heads.base}/objects?prefix={quote(prefix, safe='')}&limit={limit}"
        self._limit = limit
        self._total = total
        self._verify = verify
        self._after: str | None = None
        self._walked = 0
        self._last = ""
        self._keys = 0

    def next(self, endpoint: Endpoint) -> Sequence[Part] | None:
        after = "" if self._after is None else f"&after={quote(self._after, safe='')}"
        return [(self._path + after).encode() + self.end(endpoint)]

    def judge(self, status: int, length: int, body: bytes) -> str:
        if status != 200:
            return f"status {status}"
        match = NEXT.search(body, max(len(body) - 8192, 0))
        if match is None or self._verify or match[1] == b"null":
            return self._whole(body)
        self._after = json.loads(match[1])
        self._keys = self._limit
        self._walked += self._keys
        return ""

    def _whole(self, body: bytes) -> str:
        """Parse the page: the last one of a walk, or any if asked to verify."""
        try:
            page = json.loads(body)
            keys = [entry["key"] for entry in page["objects"]]
            self._after = page["next"]
        except (ValueError, KeyError, TypeError):
            return "not a listing"
        self._keys = len(keys)
        self._walked += self._keys
        if self._verify and not all(a < b for a, b in zip([self._last, *keys], keys, strict=False)):
            return "keys out of order"
        self._last = keys[-1] if keys else self._last
        if self._after is None:
            walked, self._walked, self._last = self._walked, 0, ""
            if walked != self._total:
                return "wrong number of keys"
        return ""

    def weigh(self, length: int) -> tuple[int, int]:
        return length, self._keys

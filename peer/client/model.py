"""What the client hands out: frozen records, made from the API's JSON and headers.

A field this version does not know is kept in `raw` (cluster views), one it misses gets a harmless
default, so that a client and peers of different versions understand each other.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

META_PREFIX = "x-atoll-meta-"

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as its head describes it; `etag` without quotes, `size` in bytes, `modified` in UTC."""

    bucket: str
    key: str
    size: int
    etag: str
    modified: datetime
    content_type: str = "application/octet-stream"
    metadata: Mapping[str, str] = field(default_factory=dict)
    """User metadata; filled by stat and get, not by listings."""

    @classmethod
    def from_json(cls, bucket: str, entry: Mapping[str, Any]) -> ObjectInfo:
        """From an entry of a listing."""
        return cls(
            bucket=bucket,
            key=str(entry["key"]),
            size=int(entry["size"]),
            etag=unquoted(str(entry.get("etag", ""))),
            modified=parse_time(entry.get("modified")),
            content_type=str(entry.get("content_type") or "application/octet-stream"),
        )

    @classmethod
    def from_headers(cls, bucket: str, key: str, headers: Mapping[str, str], size: int) -> ObjectInfo:
        """From the answer to a HEAD or GET, names in lower case; `size` is that of the whole object."""
        cut = len(META_PREFIX)
        return cls(
            bucket=bucket,
            key=key,
            size=size,
            etag=unquoted(headers.get("etag", "")),
            modified=parse_http_date(headers.get("last-modified", "")),
            content_type=headers.get("content-type", "application/octet-stream"),
            metadata={name[cut:]: value for name, value in headers.items() if name.startswith(META_PREFIX)},
        )

    def to_json(self) -> dict[str, Any]:
        """The same form the API uses, for `-o json` and logs."""
        entry: dict[str, Any] = {
            "key": self.key,
            "size": self.size,
            "etag": self.etag,
            "modified": format_time(self.modified),
            "content_type": self.content_type,
        }
        if self.metadata:
            entry["metadata"] = dict(self.metadata)
        return entry


@dataclass(frozen=True, slots=True)
class Stored:
    """What a put stored: size in bytes and ETag (without quotes), both checked against what was sent."""

    bucket: str
    key: str
    size: int
    etag: str

    def to_json(self) -> dict[str, Any]:
        return {"bucket": self.bucket, "key": self.key, "size": self.size, "etag": self.etag}


@dataclass(frozen=True, slots=True)
class Prefix:
    """A common prefix in a listing with a delimiter: "there are keys below this"."""

    bucket: str
    prefix: str

    def to_json(self) -> dict[str, Any]:
        return {"prefix": self.prefix}


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing; `next` is what to give as `after` for the following page, None at the end."""

    objects: tuple[ObjectInfo, ...]
    prefixes: tuple[Prefix, ...]
    next: str | None

    @classmethod
    def from_json(cls, bucket: str, answer: Mapping[str, Any]) -> Page:
        return cls(
            objects=tuple(ObjectInfo.from_json(bucket, entry) for entry in answer.get("objects", ())),
            prefixes=tuple(Prefix(bucket, str(prefix)) for prefix in answer.get("prefixes", ())),
            next=answer.get("next"),
        )

    def entries(self) -> list[ObjectInfo | Prefix]:
        """Objects and prefixes together, in the order of their names."""
        if not self.prefixes:
            return list(self.objects)
        both: list[ObjectInfo | Prefix] = [*self.objects, *self.prefixes]
        return sorted(both, key=name_of)


def name_of(entry: ObjectInfo | Prefix) -> str:
    """The key or the prefix: what a listing is ordered by."""
    return entry.key if isinstance(entry, ObjectInfo) else entry.prefix


@dataclass(frozen=True, slots=True)
class BucketInfo:
    """One bucket; `created` in UTC, `shards` fixed at its creation."""

    name: str
    created: datetime
    shards: int

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> BucketInfo:
        return cls(str(entry["name"]), parse_time(entry.get("created")), int(entry.get("shards") or 0))

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "created": format_time(self.created), "shards": self.shards}


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One peer, as the peer that was asked sees it. `raw` holds the whole entry."""

    id: str
    name: str
    state: str
    """alive, suspect, dead, left or unknown."""
    api_url: str
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> NodeInfo:
        return cls(
            id=str(entry.get("id", "")),
            name=str(entry.get("name", "")),
            state=str(entry.get("state", "unknown")),
            api_url=str(entry.get("api_url") or ""),
            raw=entry,
        )

    @property
    def usable(self) -> bool:
        """Whether a request sent there has a chance."""
        return self.state in ("alive", "unknown")


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """GET /v1/cluster: the state of the cluster from one peer's view. `raw` holds the whole answer."""

    cluster_id: str
    verdict: str
    """healthy, degraded or unavailable."""
    tolerates: int
    """How many more peers may fail now without a partition losing its majority."""
    replicas: int
    chunk_bytes: int
    nodes: tuple[NodeInfo, ...]
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, answer: Mapping[str, Any]) -> ClusterInfo:
        return cls(
            cluster_id=str(answer.get("cluster_id", "")),
            verdict=str(answer.get("verdict", "unavailable")),
            tolerates=int(answer.get("tolerates") or 0),
            replicas=int(answer.get("replicas") or 0),
            chunk_bytes=int(answer.get("chunk_bytes") or 0),
            nodes=tuple(NodeInfo.from_json(entry) for entry in answer.get("nodes", ())),
            raw=answer,
        )


def unquoted(etag: str) -> str:
    """An ETag without the quotes (and the weakness mark) of its header form."""
    return etag.removeprefix("W/").strip('"')


def parse_time(text: object) -> datetime:
    """An ISO 8601 time of the API; what cannot be read becomes 1970, as a listing must not fail over it."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return _EPOCH
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_http_date(text: str) -> datetime:
    """A Last-Modified header; what cannot be read becomes 1970."""
    try:
        return email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return _EPOCH


def format_time(moment: datetime) -> str:
    """The API's form: microseconds, UTC, with a Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""The records behind names: object heads and buckets, as versioned msgpack arrays.

Head, version 1:   [1, size, etag, modified us, content type, metadata map or nil, attempt id, kind, names]
Bucket, version 1: [1, id, name, created us, shards, generation, state, deleting since us]

`kind` says where the bytes are: in the side value beside the head (INLINE), in the chunks that `names` lists
(32 bytes each), or in chunks listed by manifest chunks that `names` lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack

from peer.errors import Corrupt
from peer.replication.keys import OBJECT, SYSTEM, Space

INLINE, CHUNKS, MANIFEST = 0, 1, 2
NAME_BYTES = 32
CHUNKS_IN_HEAD = 64
ACTIVE, DELETING = 1, 2
_VERSION = 1
_BUCKETS_ID = b"\0" * 7 + b"\1"
_BUCKET_SHARDS = 16

_pack = msgpack.Packer().pack


class Head(NamedTuple):
    """One object as its register holds it. `etag` without quotes; times in microseconds since 1970."""

    size: int
    etag: str
    modified_us: int
    content_type: str
    metadata: dict[str, str] | None
    attempt: bytes
    kind: int
    names: bytes

    def encode(self) -> bytes:
        return bytes(_pack((_VERSION, *self)))

    @staticmethod
    def decode(payload: bytes) -> Head:
        """Raises Corrupt for anything but a head of a known version."""
        return Head(*_fields(payload, 9, "an object's head"))


def attempt_in(payload: bytes) -> bytes:
    """The attempt that an object's head names. Raises Corrupt."""
    return Head.decode(payload).attempt


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket as its name's register holds it. A name created anew has a new id."""

    id: bytes
    name: str
    created_us: int
    shards: int
    generation: int
    state: int = ACTIVE
    deleting_us: int = 0

    def encode(self) -> bytes:
        fields = (
            self.id,
            self.name,
            self.created_us,
            self.shards,
            self.generation,
            self.state,
            self.deleting_us,
        )
        return bytes(_pack((_VERSION, *fields)))

    @staticmethod
    def decode(payload: bytes) -> Bucket:
        """Raises Corrupt for anything but a bucket of a known version."""
        return Bucket(*_fields(payload, 8, "a bucket's record"))

    def objects(self, partition_power: int) -> Space:
        """The key space of its objects."""
        return Space(OBJECT, self.id, self.shards, partition_power)


def _fields(payload: bytes, count: int, what: str) -> list[Any]:
    """The fields behind the version of a record that has `count` in all."""
    try:
        fields = msgpack.unpackb(payload)
    except ValueError as error:  # what msgpack raises, or a base of it
        raise Corrupt(f"{what} cannot be decoded ({error})") from error
    if not isinstance(fields, list) or len(fields) != count or fields[0] != _VERSION:
        raise Corrupt(f"{what} has a format this version does not know; upgrade this peer")
    return fields[1:]


def bucket_names(partition_power: int) -> Space:
    """The key space of bucket names."""
    return Space(SYSTEM, _BUCKETS_ID, _BUCKET_SHARDS, partition_power)

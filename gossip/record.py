"""What a member says about itself. Only the member itself ever makes a new one.

A record is spread as the bytes its owner encoded: members of another software version pass on fields they
do not know. The pair (boot, incarnation) orders the records of one member. `boot` counts its starts,
durably, and comes first: a restarted member has lost its incarnation, yet overrules at once whatever is
believed of its earlier life, its death included.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import msgpack

from gossip.errors import Malformed

ID_BYTES = 8
NAME_BYTES = 64
HOST_BYTES = 253  # the longest DNS name
VERSION_BYTES = 32
FLAGS_MAX = 8
FLAG_BYTES = 24
BOOT_MAX = 2**32 - 1
INCARNATION_MAX = 2**48 - 1
NUMBER_MAX = 2**63 - 1
# The longest encoding of today is under 700 bytes; the rest is room for fields of later versions, and
# what still fits a datagram beside a ping.
RECORD_BYTES = 1024
_FIELDS = 13


@dataclass(frozen=True, slots=True)
class Record:
    """One member's addresses and facts, as of one incarnation of one of its lives.

    `id` is 16 hex digits. `epoch` is (generation, number) of the newest epoch the member knows. Raises
    ValueError for a field out of its bounds.
    """

    id: str
    name: str
    host: str
    peer_port: int
    s3_port: int
    api_port: int
    boot: int
    incarnation: int
    version: str
    format_level: int
    epoch: tuple[int, int] = (0, 0)
    flags: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if len(self.id) != 2 * ID_BYTES or bytes.fromhex(self.id).hex() != self.id:
            raise ValueError(f"member id {self.id!r} is not {2 * ID_BYTES} lowercase hex digits")
        _text("name", self.name, NAME_BYTES)
        _text("host", self.host, HOST_BYTES)
        _text("version", self.version, VERSION_BYTES)
        _number("peer port", self.peer_port, 2**16 - 1, least=1)
        _number("S3 port", self.s3_port, 2**16 - 1)
        _number("API port", self.api_port, 2**16 - 1)
        _number("boot", self.boot, BOOT_MAX)
        _number("incarnation", self.incarnation, INCARNATION_MAX)
        _number("format level", self.format_level, 2**16 - 1)
        if len(self.epoch) != 2:
            raise ValueError("an epoch is (generation, number)")
        for part in self.epoch:
            _number("epoch", part, NUMBER_MAX)
        if len(self.flags) > FLAGS_MAX:
            raise ValueError(f"{len(self.flags)} flags, at most {FLAGS_MAX}")
        for flag in self.flags:
            _text("flag", flag, FLAG_BYTES)

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.peer_port

    @property
    def life(self) -> tuple[int, int]:
        return self.boot, self.incarnation


def encode_record(record: Record) -> bytes:
    """The bytes that travel, under 700 of them."""
    fields = (
        bytes.fromhex(record.id),
        record.name,
        record.host,
        record.peer_port,
        record.s3_port,
        record.api_port,
        record.boot,
        record.incarnation,
        record.version,
        record.format_level,
        record.epoch[0],
        record.epoch[1],
        sorted(record.flags),
    )
    return bytes(msgpack.packb(fields))


# Each record arrives a dozen times over while it spreads; the cache makes all but the first nearly free.
# A pure function of its argument, so the cache cannot be observed.
@lru_cache(maxsize=8192)
def decode_record(raw: bytes) -> Record:
    """Read a record; fields after those of this version are left alone. Raises Malformed."""
    if len(raw) > RECORD_BYTES:
        raise Malformed(f"a record of {len(raw)} bytes, at most {RECORD_BYTES}")
    try:
        fields = msgpack.unpackb(raw, use_list=False)
        if type(fields) is not tuple or len(fields) < _FIELDS:
            raise Malformed("a record is an array of at least 13 fields")
        member, name, host, peer, s3, api, boot, incarnation, version, level, *rest = fields[:_FIELDS]
        generation, number, flags = rest
        if type(member) is not bytes or type(flags) is not tuple or len(flags) > FLAGS_MAX:
            raise Malformed("a record with fields of the wrong type")
        epoch = generation, number
        facts = (boot, incarnation, version, level, epoch, frozenset(flags))
        return Record(member.hex(), name, host, peer, s3, api, *facts)
    except (ValueError, TypeError, OverflowError) as error:
        raise Malformed(f"a record that does not decode: {error}") from None


def read_id(value: object) -> str:
    """A member id as it travels, in hex digits. Raises Malformed."""
    if type(value) is not bytes or len(value) != ID_BYTES:
        raise Malformed(f"a member id is {ID_BYTES} bytes")
    return value.hex()


def read_number(value: object, most: int) -> int:
    """A whole number from 0 to `most`. Raises Malformed."""
    if type(value) is not int or not 0 <= value <= most:
        raise Malformed(f"not a whole number from 0 to {most}")
    return value


def _text(what: str, value: str, limit: int) -> None:
    if type(value) is not str or not 0 < len(value.encode()) <= limit:
        raise ValueError(f"{what} {value!r} is not 1 to {limit} bytes of UTF-8")


def _number(what: str, value: int, most: int, least: int = 0) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{what} {value!r} is not a whole number from {least} to {most}")

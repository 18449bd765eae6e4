"""Random records, messages and claims for the property tests of gossip."""

from __future__ import annotations

from hypothesis import strategies as st

from gossip.codec import SEQUENCE_MAX
from gossip.messages import DEAD, LEFT, SUSPECT, Ack, Alive, Claim, Message, Nack, Ping, PingRequest
from gossip.record import (
    BOOT_MAX,
    FLAG_BYTES,
    FLAGS_MAX,
    HOST_BYTES,
    INCARNATION_MAX,
    NAME_BYTES,
    NUMBER_MAX,
    VERSION_BYTES,
    Record,
    encode_record,
)


def text(limit: int) -> st.SearchStrategy[str]:
    """1 to `limit` bytes of UTF-8."""
    short = st.text(st.characters(codec="utf-8"), min_size=1, max_size=limit)
    return short.filter(lambda value: len(value.encode()) <= limit)


ids = st.binary(min_size=8, max_size=8).map(bytes.hex)
ports = st.integers(0, 2**16 - 1)
sequences = st.integers(0, SEQUENCE_MAX)
boots = st.integers(0, BOOT_MAX)
incarnations = st.integers(0, INCARNATION_MAX)

records = st.builds(
    Record,
    id=ids,
    name=text(NAME_BYTES),
    host=text(HOST_BYTES),
    peer_port=st.integers(1, 2**16 - 1),
    s3_port=ports,
    api_port=ports,
    boot=boots,
    incarnation=incarnations,
    version=text(VERSION_BYTES),
    format_level=st.integers(0, 2**16 - 1),
    epoch=st.tuples(st.integers(0, NUMBER_MAX), st.integers(0, NUMBER_MAX)),
    flags=st.frozensets(text(FLAG_BYTES), max_size=FLAGS_MAX),
)
claims = st.builds(
    Claim,
    state=st.sampled_from([SUSPECT, DEAD, LEFT]),
    member=ids,
    boot=boots,
    incarnation=incarnations,
    accuser=ids,
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ping, sequences, ids),
    st.builds(PingRequest, sequences, ids, text(HOST_BYTES), ports),
    st.builds(Ack, sequences, ids),
    st.builds(Nack, sequences),
    records.map(lambda record: Alive(record, encode_record(record))),
    claims,
)
# Anything msgpack can carry, to be fed to decoders.
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=12)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


def record(number: int, **changes: object) -> Record:
    """A plain record of member `number`."""
    facts: dict[str, object] = {
        "id": f"{number:016x}",
        "name": f"peer-{number}",
        "host": f"10.0.{number >> 8}.{number & 255}",
        "peer_port": 7402,
        "s3_port": 7400,
        "api_port": 7401,
        "boot": 1,
        "incarnation": 0,
        "version": "0.1.0",
        "format_level": 1,
    }
    return Record(**{**facts, **changes})  # type: ignore[arg-type]


def largest_record(number: int, **changes: object) -> Record:
    """A record with every field at its bound."""
    facts: dict[str, object] = {
        "name": "n" * NAME_BYTES,
        "host": "h" * HOST_BYTES,
        "peer_port": 65535,
        "s3_port": 65535,
        "api_port": 65535,
        "boot": BOOT_MAX,
        "version": "v" * VERSION_BYTES,
        "format_level": 65535,
        "epoch": (NUMBER_MAX, NUMBER_MAX),
        "flags": frozenset(f"{n:0{FLAG_BYTES}}" for n in range(FLAGS_MAX)),
    }
    return record(number, **{**facts, **changes})

"""What two members say to each other over TCP: whole memberships, and the fallback probe.

One request, one reply, both msgpack, over a link that is already encrypted and authenticated:

    [1, cluster id, sender id, kind, content]
    STATE, STATE_REPLY   content = [[record, boot, incarnation, state], ...], the sender's own first
    PROBE, PROBE_REPLY   content = the id of the member meant, of the member that answers

Whatever is wrong raises Malformed, or Stranger for another cluster, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgpack

from gossip.errors import Malformed, Stranger
from gossip.messages import LEFT
from gossip.record import BOOT_MAX, INCARNATION_MAX, Record, decode_record, read_id, read_number

# Ten thousand members, the bound of `Config.max_members`, at under 400 bytes each.
EXCHANGE_BYTES: Final = 4 * 1024 * 1024
STATE, STATE_REPLY, PROBE, PROBE_REPLY = range(1, 5)
_FORMAT: Final = 1


class Entry(NamedTuple):
    """One member as the sender sees it."""

    record: Record
    raw: bytes
    boot: int
    incarnation: int
    state: int


class Content(NamedTuple):
    """A request or a reply: `entries` of the two state kinds, `member` of the two probe kinds."""

    sender: str
    kind: int
    entries: list[Entry]
    member: str


def encode_state(
    cluster_id: str, sender: str, kind: int, entries: Iterable[tuple[bytes, int, int, int]]
) -> bytes:
    """A membership; the entries are (raw record, boot, incarnation, state)."""
    return bytes(msgpack.packb((_FORMAT, cluster_id, bytes.fromhex(sender), kind, list(entries))))


def encode_probe(cluster_id: str, sender: str, kind: int, member: str) -> bytes:
    """Are you `member`? or: `member` answers."""
    return bytes(msgpack.packb((_FORMAT, cluster_id, bytes.fromhex(sender), kind, bytes.fromhex(member))))


def decode(cluster_id: str, payload: bytes) -> Content:
    """Read a request or a reply. Raises Malformed or Stranger."""
    if len(payload) > EXCHANGE_BYTES:
        raise Malformed(f"an exchange of {len(payload)} bytes, at most {EXCHANGE_BYTES}")
    try:
        parts = msgpack.unpackb(payload, use_list=False)
    except (ValueError, TypeError, OverflowError) as error:
        raise Malformed(f"not msgpack: {error}") from None
    if type(parts) is not tuple or len(parts) < 5 or parts[0] != _FORMAT:
        raise Malformed("not an exchange of format 1")
    cluster, sender, kind, content = parts[1:5]
    if cluster != cluster_id:
        raise Stranger("a member of another cluster")
    if type(kind) is not int:
        raise Malformed("an exchange without a kind")
    if kind in (STATE, STATE_REPLY):
        if type(content) is not tuple:
            raise Malformed("a membership is an array")
        return Content(read_id(sender), kind, [_entry(fields) for fields in content], "")
    if kind in (PROBE, PROBE_REPLY):
        return Content(read_id(sender), kind, [], read_id(content))
    raise Malformed(f"an exchange of unknown kind {kind}")


def _entry(fields: Any) -> Entry:
    if type(fields) is not tuple or len(fields) < 4 or type(fields[0]) is not bytes:
        raise Malformed("a member is an array of four fields")
    raw, boot, incarnation, state = fields[:4]
    numbers = (
        read_number(boot, BOOT_MAX),
        read_number(incarnation, INCARNATION_MAX),
        read_number(state, LEFT),
    )
    return Entry(decode_record(raw), raw, *numbers)

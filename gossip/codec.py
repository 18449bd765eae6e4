"""A datagram's content as bytes and back: msgpack arrays, checked field by field.

    datagram body  [1, sender id, message, message, ...]
    message        [kind, fields ...]

The version leads, fields are only ever appended, and messages of an unknown kind are skipped and counted,
so that two software versions can share a cluster. Whatever is wrong raises Malformed and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgpack

from gossip.errors import Malformed
from gossip.keyring import SEAL_BYTES
from gossip.messages import (
    DEAD,
    LEFT,
    SUSPECT,
    Ack,
    Alive,
    Claim,
    Message,
    Nack,
    Packet,
    Ping,
    PingRequest,
)
from gossip.record import (
    BOOT_MAX,
    HOST_BYTES,
    ID_BYTES,
    INCARNATION_MAX,
    decode_record,
    read_id,
    read_number,
)

FORMAT: Final = 1
# Datagrams stay under 1,400 bytes, which passes every tunnel in use without fragments.
DATAGRAM_BYTES: Final = 1399
SEQUENCE_MAX: Final = 2**32 - 1
# array16 header, the format, the sender's id.
HEADER_BYTES: Final = 3 + 1 + 2 + ID_BYTES
# Room for messages in one datagram.
ROOM_BYTES: Final = DATAGRAM_BYTES - SEAL_BYTES - HEADER_BYTES

_PING, _PING_REQUEST, _ACK, _NACK, _ALIVE, _CLAIM = range(1, 7)


def pack(sender: str, messages: list[bytes]) -> bytes:
    """One datagram body of encoded messages; HEADER_BYTES longer than they are together."""
    count = 2 + len(messages)
    head = b"\xdc" + count.to_bytes(2, "big") + b"\x01\xc4\x08" + bytes.fromhex(sender)
    return head + b"".join(messages)


def unpack(body: bytes) -> Packet:
    """The inverse of `pack`. Raises Malformed."""
    try:
        parts = msgpack.unpackb(body, use_list=False)
    except (ValueError, TypeError, OverflowError) as error:
        raise Malformed(f"not msgpack: {error}") from None
    if type(parts) is not tuple or len(parts) < 2 or parts[0] != FORMAT:
        raise Malformed("not a datagram of format 1")
    sender = read_id(parts[1])
    messages: list[Message] = []
    unknown = 0
    for index in range(2, len(parts)):
        fields = parts[index]
        if type(fields) is not tuple or not fields or type(fields[0]) is not int:
            raise Malformed("a message is an array that begins with its kind")
        reader = _READERS.get(fields[0])
        if reader is None:
            unknown += 1
        else:
            try:
                messages.append(reader(fields))
            except IndexError:
                raise Malformed(f"a message of kind {fields[0]} with fields missing") from None
    return Packet(sender, messages, unknown)


def encode(message: Message) -> bytes:
    """One message, to be handed to `pack`."""
    return bytes(msgpack.packb(_fields(message)))


def _fields(message: Message) -> tuple[Any, ...]:
    if type(message) is Claim:
        member, accuser = bytes.fromhex(message.member), bytes.fromhex(message.accuser)
        return _CLAIM, message.state, member, message.boot, message.incarnation, accuser
    if type(message) is Alive:
        return _ALIVE, message.raw
    if type(message) is Ping:
        return _PING, message.sequence, bytes.fromhex(message.target)
    if type(message) is Ack:
        return _ACK, message.sequence, bytes.fromhex(message.member)
    if type(message) is PingRequest:
        target = bytes.fromhex(message.target)
        return _PING_REQUEST, message.sequence, target, message.host, message.port
    assert type(message) is Nack
    return _NACK, message.sequence


def _claim(fields: tuple[Any, ...]) -> Claim:
    state, boot, incarnation = fields[1], fields[3], fields[4]
    if type(state) is not int or state not in (SUSPECT, DEAD, LEFT):
        raise Malformed("a claim of an unknown state")
    read_number(boot, BOOT_MAX)
    read_number(incarnation, INCARNATION_MAX)
    return Claim(state, read_id(fields[2]), boot, incarnation, read_id(fields[5]))


def _alive(fields: tuple[Any, ...]) -> Alive:
    raw = fields[1]
    if type(raw) is not bytes:
        raise Malformed("a record is bytes")
    return Alive(decode_record(raw), raw)


def _ping(fields: tuple[Any, ...]) -> Ping:
    return Ping(read_number(fields[1], SEQUENCE_MAX), read_id(fields[2]))


def _ping_request(fields: tuple[Any, ...]) -> PingRequest:
    host = fields[3]
    if type(host) is not str or not 0 < len(host) <= HOST_BYTES:
        raise Malformed("a ping request without a host")
    port = read_number(fields[4], 2**16 - 1)
    return PingRequest(read_number(fields[1], SEQUENCE_MAX), read_id(fields[2]), host, port)


def _ack(fields: tuple[Any, ...]) -> Ack:
    return Ack(read_number(fields[1], SEQUENCE_MAX), read_id(fields[2]))


def _nack(fields: tuple[Any, ...]) -> Nack:
    return Nack(read_number(fields[1], SEQUENCE_MAX))


_READERS: Final[dict[int, Callable[[tuple[Any, ...]], Message]]] = {
    _PING: _ping,
    _PING_REQUEST: _ping_request,
    _ACK: _ack,
    _NACK: _nack,
    _ALIVE: _alive,
    _CLAIM: _claim,
}

"""What the bytes on the peer port look like after the handshake.

    frame    = u32 length (big-endian) | sealed bytes (the length counts these, tag included)
    calls    = one sealed frame holds a msgpack array of messages, everything of one loop turn
    message  = [REQUEST, id, body] or, for a request of a client, [REQUEST, id, body, its id]
             | [REPLY, id, body] | [FAILED, id, [class, code, text]] | [GOODBYE, 0, nil]

Every decoder here takes bytes of an authenticated but possibly buggy or hostile peer and answers with
ProtocolError, never with another exception, and allocates no more than a small multiple of the
frame. No I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import msgpack

from peer import errors
from peer.errors import AtollError, ProtocolError
from peer.rpc.noise import TAG_BYTES, Bytes, Cipher

LENGTH: Final = struct.Struct(">I")
LENGTH_BYTES: Final = LENGTH.size

MAX_MESSAGE_BYTES: Final = 4 << 20  # one request or reply; a listing page of 1,000 long rows is about 2 MiB
FRAME_TARGET_BYTES: Final = 256 << 10  # a turn with more than this goes out as several frames in one write
MAX_FRAME_BYTES: Final = FRAME_TARGET_BYTES + MAX_MESSAGE_BYTES + 64 + TAG_BYTES
MAX_ITEMS: Final = 1 << 16  # elements of one array or map
MAX_ERROR_TEXT: Final = 500

REQUEST: Final = 0
REPLY: Final = 1
FAILED: Final = 2
GOODBYE: Final = 3

_pack = msgpack.Packer(use_bin_type=True).pack


def pack(value: object) -> bytes:
    """One msgpack value, on the loop thread: the packer is shared. ValueError, TypeError, OverflowError."""
    packed: bytes = _pack(value)
    return packed


def unpack(data: Bytes) -> Any:
    """The one msgpack value that `data` is, to its last byte; tuples arrive as lists. Or ProtocolError."""
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
        )
    except (ValueError, TypeError, OverflowError, MemoryError, msgpack.UnpackException) as e:
        # ValueError covers extra data, bad formats, deep nesting and bad UTF-8; TypeError an unhashable key.
        raise ProtocolError(f"a message is not valid msgpack ({type(e).__name__})") from None


def join(messages: list[bytes]) -> bytes:
    """Packed messages as the plain text of one frame: a msgpack array of them."""
    n = len(messages)
    head = bytes((0x90 | n,)) if n < 16 else b"\xdc" + n.to_bytes(2, "big")
    return head + b"".join(messages)


def split(plain: Bytes) -> list[Any]:
    """The messages of one opened frame, each still to be judged by its receiver. Raises ProtocolError."""
    messages = unpack(plain)
    if type(messages) is not list:
        raise ProtocolError("a frame is not a list of messages")
    return messages


def batches(messages: list[bytes]) -> Iterator[list[bytes]]:
    """One turn's messages cut into frames of about FRAME_TARGET_BYTES and at most MAX_ITEMS - 1 messages."""
    size = 0
    batch: list[bytes] = []
    for message in messages:
        if batch and (size + len(message) > FRAME_TARGET_BYTES or len(batch) >= MAX_ITEMS - 1):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += len(message)
    if batch:
        yield batch


def seal(cipher: Cipher, plain: Bytes) -> bytes:
    """One frame, ready for the wire."""
    sealed = cipher.seal(plain)
    return LENGTH.pack(len(sealed)) + sealed


class Reader:
    """Cuts a byte stream into opened frames. After ProtocolError it must not be fed again."""

    __slots__ = ("_cipher", "_rest")

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The plain texts of all frames now complete. Holds at most one frame and what came with it."""
        rest = self._rest
        source: Bytes = data
        if rest:
            rest += data
            if len(rest) < LENGTH_BYTES or len(rest) - LENGTH_BYTES < self._length(rest, 0):
                return []  # the usual case while a large frame trickles in: no copy
            source = rest
        found: list[bytes] = []
        at, end = 0, len(source)
        with memoryview(source) as view:
            while end - at >= LENGTH_BYTES:
                stop = at + LENGTH_BYTES + self._length(source, at)
                if stop > end:
                    break
                found.append(self._cipher.open(view[at + LENGTH_BYTES : stop]))
                at = stop
        if source is rest:
            del rest[:at]
        elif at < end:
            rest += data[at:]
        return found

    def _length(self, source: Bytes, at: int) -> int:
        n: int = LENGTH.unpack_from(source, at)[0]
        if not TAG_BYTES <= n <= MAX_FRAME_BYTES:
            raise ProtocolError(f"a frame claims {n} bytes; the limit is {MAX_FRAME_BYTES}")
        return n


# -- errors on the wire

_CLASSES: Final = {
    c.__name__: c
    for c in vars(errors).values()
    if isinstance(c, type) and issubclass(c, AtollError) and c is not errors.StartupError
}


def describe(error: AtollError) -> tuple[str, str, str]:
    """An error as it travels: class name, code, text (cut)."""
    return type(error).__name__, error.code, str(error)[:MAX_ERROR_TEXT]


def restore(told: object) -> AtollError:
    """The error another peer described. An unknown class is Unavailable; nonsense raises ProtocolError."""
    if type(told) is not list or len(told) != 3 or not all(type(part) is str for part in told):
        raise ProtocolError("a failure report is malformed")
    name, code, text = told
    known = _CLASSES.get(name, errors.Unavailable)
    return known(text[:MAX_ERROR_TEXT], code=code[:64])


def again(error: AtollError) -> AtollError:
    """A fresh copy, for telling one failure to many waiters (a shared exception would gather tracebacks)."""
    return type(error)(str(error), code=error.code)

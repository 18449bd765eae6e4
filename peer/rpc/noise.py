"""Noise_NNpsk0_25519_AESGCM_SHA256: the handshake that opens every connection to the peer port.

    -> psk, e        48 bytes + payload
    <- e, ee         48 bytes + payload

Both sides prove that they hold the cluster key (the pre-shared key) and agree on two fresh AES-256-GCM
keys, one per direction. Ephemeral keys give forward secrecy: a key stolen later opens no recorded
traffic. A stranger without the key cannot make a first message that the responder accepts, and learns
nothing but that. The first message can be replayed, so nothing acts on it until a sealed message
under the split keys has arrived (`hello.py` sees to that).

Source: The Noise Protocol Framework, revision 34, sections 5 (processing rules), 9 (pre-shared keys) and
12 (AESGCM: 32 zero bits, then the counter, big-endian). No I/O here.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from peer.errors import ProtocolError

PROTOCOL: Final = b"Noise_NNpsk0_25519_AESGCM_SHA256"  # exactly one hash long: it is the first h and ck
TAG_BYTES: Final = 16
KEY_BYTES: Final = 32
FIRST_MESSAGE_BYTES: Final = KEY_BYTES + TAG_BYTES
LAST_NONCE: Final = 2**64 - 2  # 2^64 - 1 is reserved by the specification

Bytes = bytes | bytearray | memoryview


class SealError(ProtocolError):
    """What arrived was not sealed under this key at this place in the stream. The connection is over."""


class Cipher:
    """One direction of an established connection: an AES-256-GCM key and the count of messages so far.

    N1: a nonce is never used twice. The counter only grows, it is bumped before the seal is made, and it
    ends the connection long before it could wrap.
    """

    __slots__ = ("_aead", "_decrypt", "_encrypt", "nonce")

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES
        self._aead = AESGCM(key)
        self._encrypt = self._aead.encrypt
        self._decrypt = self._aead.decrypt
        self.nonce = 0

    def _next(self) -> bytes:
        nonce = self.nonce
        if nonce > LAST_NONCE:  # N1
            raise ProtocolError("this connection has used up its nonces and must be opened anew")
        self.nonce = nonce + 1
        return nonce.to_bytes(12, "big")

    def seal(self, plain: Bytes, associated: bytes | None = None) -> bytes:
        """`plain` encrypted and authenticated, TAG_BYTES longer."""
        return self._encrypt(self._next(), plain, associated)

    def open(self, sealed: Bytes, associated: bytes | None = None) -> bytes:
        """The plain bytes of the next message. Raises SealError."""
        try:
            return self._decrypt(self._next(), sealed, associated)
        except InvalidTag:
            raise SealError("a message on the peer port did not authenticate") from None

    def seal_into(self, plain: memoryview, out: memoryview) -> int:
        """Seal into `out` (at least TAG_BYTES longer, not overlapping); returns the sealed length.

        Does not hold the interpreter while it works.
        """
        n = len(plain) + TAG_BYTES
        if _INTO:
            return int(self._aead.encrypt_into(self._next(), plain, None, out[:n]))
        out[:n] = self._encrypt(self._next(), plain, None)
        return n

    def open_in_place(self, sealed: memoryview) -> int:
        """Decrypt where the bytes lie; returns the plain length. On SealError the bytes are garbage.

        AES-GCM turns each block into its plain form in place, so a chunk needs one buffer, not two.
        """
        n = len(sealed) - TAG_BYTES
        if n < 0:
            raise SealError("a sealed message is shorter than its tag")
        try:
            if _INTO:
                return int(self._aead.decrypt_into(self._next(), sealed, None, sealed[:n]))
            sealed[:n] = self._decrypt(self._next(), sealed, None)
        except InvalidTag:
            raise SealError("a payload on the peer port did not authenticate") from None
        return n


_INTO: Final = hasattr(AESGCM, "encrypt_into") and hasattr(AESGCM, "decrypt_into")


class Handshake:
    """One side of the handshake: the initiator writes then reads, the responder reads then writes.

    `ephemeral` (32 private bytes) is for test vectors only. `hash` afterwards names the session.
    """

    def __init__(
        self, *, initiator: bool, key: bytes, prologue: bytes, ephemeral: bytes | None = None
    ) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a cluster key has {KEY_BYTES} bytes, this one {len(key)}")
        self._initiator = initiator
        self._ephemeral = (
            X25519PrivateKey.from_private_bytes(ephemeral) if ephemeral else X25519PrivateKey.generate()
        )
        self._chaining_key = PROTOCOL
        self.hash = PROTOCOL
        self._cipher: Cipher | None = None
        self._mix_hash(prologue)
        self._mix_key_and_hash(key)  # psk0: before the first message's own tokens

    def write_first(self, payload: bytes = b"") -> bytes:
        """Initiator: psk, e."""
        assert self._initiator
        return self._write_ephemeral() + self._seal(payload)

    def read_first(self, message: Bytes) -> bytes:
        """Responder: the payload; SealError if the other side holds another key (or version)."""
        assert not self._initiator
        return self._open(self._read_ephemeral(message))

    def write_second(self, payload: bytes = b"") -> bytes:
        """Responder: e, ee."""
        assert not self._initiator
        public = self._write_ephemeral()
        self._mix_dh()
        return public + self._seal(payload)

    def read_second(self, message: Bytes) -> bytes:
        """Initiator: the payload, or SealError."""
        assert self._initiator
        rest = self._read_ephemeral(message)
        self._mix_dh()
        return self._open(rest)

    def split(self) -> tuple[Cipher, Cipher]:
        """(send, receive) for this side; the handshake object is spent."""
        first, second = _hkdf(self._chaining_key, b"", 2)
        self._chaining_key = b""
        if self._initiator:
            return Cipher(first), Cipher(second)
        return Cipher(second), Cipher(first)

    # -- the symmetric state, section 5.2

    def _mix_hash(self, data: Bytes) -> None:
        self.hash = hashlib.sha256(self.hash + data).digest()

    def _mix_key(self, material: bytes) -> None:
        self._chaining_key, key = _hkdf(self._chaining_key, material, 2)
        self._cipher = Cipher(key)

    def _mix_key_and_hash(self, material: bytes) -> None:
        self._chaining_key, mixed, key = _hkdf(self._chaining_key, material, 3)
        self._mix_hash(mixed)
        self._cipher = Cipher(key)

    def _seal(self, plain: bytes) -> bytes:
        assert self._cipher is not None
        sealed = self._cipher.seal(plain, self.hash)
        self._mix_hash(sealed)
        return sealed

    def _open(self, sealed: Bytes) -> bytes:
        assert self._cipher is not None
        plain = self._cipher.open(sealed, self.hash)
        self._mix_hash(sealed)
        return plain

    # -- tokens; under a psk every e is also mixed into the key, section 9.2

    def _write_ephemeral(self) -> bytes:
        public = self._ephemeral.public_key().public_bytes_raw()
        self._mix_hash(public)
        self._mix_key(public)
        return public

    def _read_ephemeral(self, message: Bytes) -> Bytes:
        if len(message) < FIRST_MESSAGE_BYTES:
            raise ProtocolError("a handshake message is too short")
        public = bytes(message[:KEY_BYTES])
        self._remote = X25519PublicKey.from_public_bytes(public)
        self._mix_hash(public)
        self._mix_key(public)
        return message[KEY_BYTES:]

    def _mix_dh(self) -> None:
        try:
            shared = self._ephemeral.exchange(self._remote)
        except ValueError:  # a low-order point: the shared secret would be known to everyone
            raise ProtocolError("the other side sent a degenerate handshake key") from None
        self._mix_key(shared)


def _hkdf(chaining_key: bytes, material: bytes, outputs: int) -> list[bytes]:
    """HKDF of section 4.3: two or three outputs of 32 bytes."""
    secret = hmac.digest(chaining_key, material, "sha256")
    found: list[bytes] = []
    block = b""
    for counter in range(1, outputs + 1):
        block = hmac.digest(secret, block + bytes((counter,)), "sha256")
        found.append(block)
    return found

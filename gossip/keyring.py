"""Sealing datagrams: AES-256-GCM under the cluster key, with room to change that key.

    sealed  format 1 | salt 16 | nonce 12 | ciphertext, tag 16

Random nonces of 96 bits are safe for 2^32 messages under one key, which a thousand members would use up in
days. So the cluster key seals nothing itself: each process draws a salt when it starts and seals under
BLAKE2b(cluster key, salt), a key of its own; at ten datagrams a second that lasts it thirteen years. The
salt travels with each datagram, and receivers remember the keys derived. The cluster id is associated
data, so datagrams of another cluster do not open even under the same key.

Rotation: give every member [old, new], then [new, old], then [new]: all seal with the first and open with
any.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gossip.errors import Stranger

KEY_BYTES = 32
_SALT, _NONCE, _TAG = 16, 12, 16
SEAL_BYTES = 1 + _SALT + _NONCE + _TAG
_FORMAT = b"\x01"
# Derived keys remembered, one for each process heard of; each is about a kilobyte.
_REMEMBERED = 4096


class Keyring:
    """Seals with the first key, opens with any. `entropy(n)` gives n unpredictable bytes.

    Raises ValueError for keys that are not 32 bytes, or none.
    """

    def __init__(self, keys: Sequence[bytes], cluster_id: str, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._about = _FORMAT + b"atoll gossip" + cluster_id.encode()
        self.replace(keys)

    def replace(self, keys: Sequence[bytes]) -> None:
        """Use these keys from now on; what a key no longer among them sealed is a stranger's."""
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"a keyring holds one or more keys of {KEY_BYTES} bytes")
        self._keys = tuple(keys)
        self._opened: OrderedDict[bytes, AESGCM] = OrderedDict()
        self._salt = self._entropy(_SALT)
        self._sealer = _derive(self._keys[0], self._salt)

    def seal(self, body: bytes) -> bytes:
        """SEAL_BYTES longer than `body`."""
        nonce = self._entropy(_NONCE)
        return _FORMAT + self._salt + nonce + self._sealer.encrypt(nonce, body, self._about)

    def open(self, sealed: bytes) -> bytes:
        """The body of a datagram sealed by a member. Raises Stranger for anything else."""
        if len(sealed) < SEAL_BYTES or sealed[:1] != _FORMAT:
            raise Stranger("not a sealed datagram")
        salt, nonce, rest = sealed[1:17], sealed[17:29], sealed[29:]
        known = self._opened.get(salt)
        if known is not None:
            try:
                return known.decrypt(nonce, rest, self._about)
            except InvalidTag:
                raise Stranger("a datagram changed on its way, or forged") from None
        for key in self._keys:
            derived = _derive(key, salt)
            try:
                body = derived.decrypt(nonce, rest, self._about)
            except InvalidTag:
                continue
            # Remembered only now: strangers cannot fill the memory with salts of their own.
            self._opened[salt] = derived
            if len(self._opened) > _REMEMBERED:
                self._opened.popitem(last=False)
            return body
        raise Stranger("no key of this cluster opens the datagram")


def _derive(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(hashlib.blake2b(key=key, salt=salt, person=b"atoll gossip", digest_size=32).digest())

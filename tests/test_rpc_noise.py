"""Goal: the handshake is Noise_NNpsk0_25519_AESGCM_SHA256 to the byte, and fails closed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from peer.errors import ProtocolError
from peer.rpc import noise
from peer.rpc.noise import LAST_NONCE, TAG_BYTES, Cipher, Handshake, SealError

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "noise_nnpsk0.json").read_text()
)["vectors"]
KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))


def pair(key: bytes = KEY, other: bytes = KEY, prologue: bytes = b"p") -> tuple[Handshake, Handshake]:
    return (
        Handshake(initiator=True, key=key, prologue=b"p"),
        Handshake(initiator=False, key=other, prologue=prologue),
    )


def established() -> tuple[tuple[Cipher, Cipher], tuple[Cipher, Cipher]]:
    initiator, responder = pair()
    responder.read_first(initiator.write_first())
    initiator.read_second(responder.write_second())
    return initiator.split(), responder.split()


@pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
def test_vectors(vector: dict[str, Any]) -> None:
    """Goal: every byte of handshake and transport equals an independent implementation's."""
    key, prologue = bytes.fromhex(vector["psk"]), bytes.fromhex(vector["prologue"])
    i, r = (
        Handshake(
            initiator=role == "initiator",
            key=key,
            prologue=prologue,
            ephemeral=bytes.fromhex(vector[f"{role}_ephemeral"]),
        )
        for role in ("initiator", "responder")
    )
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]
    (first, sealed_first), (second, sealed_second) = messages[:2]
    assert i.write_first(first) == sealed_first
    assert r.read_first(sealed_first) == first
    assert r.write_second(second) == sealed_second
    assert i.read_second(sealed_second) == second
    assert i.hash == r.hash == bytes.fromhex(vector["handshake_hash"])
    (i_send, i_receive), (r_send, r_receive) = i.split(), r.split()
    for n, (payload, sealed) in enumerate(messages[2:]):
        send, receive = ((i_send, r_receive), (r_send, i_receive))[n % 2]
        assert send.seal(payload) == sealed
        assert receive.open(sealed) == payload


def test_a_wrong_key_or_version_is_noticed_in_the_first_message() -> None:
    """Goal: the responder learns at once, and nothing else decrypts."""
    for initiator, responder in (pair(other=OTHER_KEY), pair(prologue=b"q")):
        with pytest.raises(SealError):
            responder.read_first(initiator.write_first())


def test_a_responder_without_the_key_is_noticed() -> None:
    """Goal: the initiator is not fooled by somebody who merely answers."""
    initiator, _ = pair()
    _, stranger = pair(other=OTHER_KEY)
    initiator.write_first()
    with pytest.raises(SealError):
        initiator.read_second(stranger._write_ephemeral() + bytes(TAG_BYTES))
    initiator, _ = pair()
    initiator.write_first()
    with pytest.raises(ProtocolError, match="degenerate"):
        initiator.read_second(bytes(48))


@given(st.integers(0, 47), st.integers(0, 7))
@example(31, 7)  # X25519 ignores this bit of a public key; the transcript hash does not
@settings(deadline=None, max_examples=60)
def test_any_flipped_bit_of_the_handshake_fails(at: int, bit: int) -> None:
    """Goal: no bit of either handshake message can be changed unnoticed."""
    initiator, responder = pair()
    first = bytearray(initiator.write_first())
    first[at] ^= 1 << bit
    with pytest.raises(ProtocolError):
        responder.read_first(bytes(first))
    initiator, responder = pair()
    responder.read_first(initiator.write_first())
    second = bytearray(responder.write_second())
    second[at] ^= 1 << bit
    with pytest.raises(ProtocolError):
        initiator.read_second(bytes(second))


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_garbage_in_the_handshake_is_a_protocol_error(garbage: bytes) -> None:
    """Goal: the handshake decoder raises nothing but ProtocolError."""
    initiator, responder = pair()
    with pytest.raises(ProtocolError):
        responder.read_first(garbage)
    initiator.write_first()
    with pytest.raises(ProtocolError):
        initiator.read_second(garbage)


def test_messages_cannot_be_replayed_reordered_or_reflected() -> None:
    """Goal: a sealed message opens once, in its place, at the other end."""
    (send, back), (_, receive) = established()
    one, two = send.seal(b"one"), send.seal(b"two")
    assert receive.open(one) == b"one"
    with pytest.raises(SealError):
        receive.open(one)
    (send, back), (_, receive) = established()
    one, two = send.seal(b"one"), send.seal(b"two")
    with pytest.raises(SealError):
        receive.open(two)
    with pytest.raises(SealError):
        back.open(one)


def test_nonces_run_out_before_they_repeat() -> None:
    """Goal (N1): the last allowed nonce is used once, then the connection ends."""
    cipher = Cipher(KEY)
    cipher.nonce = LAST_NONCE
    cipher.seal(b"last")
    with pytest.raises(ProtocolError, match="nonces"):
        cipher.seal(b"one too many")


@pytest.mark.parametrize("into", [True, False])
def test_payloads_sealed_into_and_opened_in_place(into: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the buffer forms agree with the plain ones, also where the library lacks them."""
    if into and not noise._INTO:
        pytest.skip("this cryptography library has no encrypt_into")
    monkeypatch.setattr(noise, "_INTO", into)
    for size in (0, 1, 15, 16, 100_000):
        plain = bytes(i & 255 for i in range(size))
        (send, _), (_, receive) = established()
        out = bytearray(size + TAG_BYTES + 5)
        n = send.seal_into(memoryview(plain), memoryview(out))
        assert n == size + TAG_BYTES
        assert receive.open(bytes(out[:n])) == plain
        sealed = bytearray(send.seal(plain))
        assert receive.open_in_place(memoryview(sealed)) == size
        assert sealed[:size] == plain
        with pytest.raises(SealError):
            receive.open_in_place(memoryview(sealed))
    with pytest.raises(SealError):
        receive.open_in_place(memoryview(bytearray(3)))


def test_a_key_has_32_bytes() -> None:
    """Goal: a key of another length is our own mistake, told apart from theirs."""
    with pytest.raises(ValueError, match="32 bytes"):
        Handshake(initiator=True, key=b"short", prologue=b"")

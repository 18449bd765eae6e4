"""Messages between replicas in words, for the lines of a story."""

from __future__ import annotations

from typing import Any

from peer.replication import messages as m
from peer.replication.ballot import BALLOT_BYTES, counter_of
from peer.replication.keys import PREFIX_BYTES
from peer.replication.value import payload_of

REFUSALS = {
    m.CONFLICT: "conflict refused",
    m.STALE: "stale epoch refused",
    m.NOT_OWNER: "non-owner refused",
    m.GATE_REFUSED: "gate refused",
    m.IS_FULL: "full disk refused",
    m.ABSTAIN: "abstained",
    m.FENCED: "fenced",
    m.BUSY: "overload refused",
    m.READ_ONLY: "read-only disk refused",
}
READS = (m.READ, m.BALLOT, m.PREPARE)

_REQUESTS = {
    m.PREPARE: "prepare",
    m.ACCEPT: "accept",
    m.READ: "read",
    m.BALLOT: "ballot",
    m.SCAN: "scan",
    m.EPOCH_PREPARE: "epoch prepare",
    m.EPOCH_ACCEPT: "epoch accept",
    m.EPOCH_RELEASE: "epoch release",
    m.EPOCH_DECIDED: "epoch decided",
    m.EPOCH_GET: "epoch get",
    m.BOOTS: "boots",
}


def request(message: list[Any]) -> str:
    """What is asked, of which key, under which ballot."""
    op = message[0]
    text = _REQUESTS.get(op, f"operation {op}")
    if op in (*READS, m.ACCEPT):
        key = message[2][PREFIX_BYTES:]
        text += f" {key.decode(errors='replace')}" if key else f" gate {message[2].hex()}"
    if op in (m.PREPARE, m.ACCEPT):
        text += f" at {ballot(message[3])}"
    if op == m.ACCEPT:
        text += f" := {_value(message[4])}"
    return text


def reply(answer: Any) -> str:
    """What was answered: the status, then ballots and values."""
    if isinstance(answer, Exception):
        return str(answer)
    words = [REFUSALS.get(answer[0], "ok" if answer[0] == m.OK else f"status {answer[0]}")]
    for part in answer[1:3]:
        if isinstance(part, bytes):
            words.append(ballot(part) if len(part) in (0, BALLOT_BYTES) else _value(part))
        elif isinstance(part, str):
            words.append(f"({part})")
    return " ".join(words)


def ballot(data: bytes) -> str:
    """Counter and the first digits of the proposer's id."""
    return (
        f"{counter_of(data) % 10**10}/{data[8:10].hex()}.{int.from_bytes(data[16:], 'big')}" if data else "-"
    )


def _value(value: bytes) -> str:
    payload = payload_of(value)
    return "nothing" if payload is None else payload.decode(errors="replace")

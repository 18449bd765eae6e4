"""Messages of other peers on their way to the replica: what makes no sense is answered, and harms nobody."""

from __future__ import annotations

import logging
from typing import Any

from peer.logs import HERE
from peer.replication.env import Reply
from peer.replication.messages import FAILED, JOIN, NAMES
from peer.replication.node import Replica

log = logging.getLogger("atoll.peer")


def answer(replica: Replica, sender: str, message: list[Any], reply: Reply) -> None:
    """Have the replica answer. `sender` is "" of one that is no member: it may only ask to join."""
    if not message or not isinstance(message[0], int):
        reply((FAILED, "ProtocolError", "a message is an array that begins with an operation"))
        return
    if not sender and message[0] != JOIN:
        reply((FAILED, "AccessDenied", "a peer that is not a member may only ask to join"))
        return
    if HERE.debugs:
        log.debug("%s from %s", NAMES.get(message[0], message[0]), sender or "a stranger")
    try:
        replica.handle(sender, message, reply)
    except (TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
        log.warning("a malformed message from %s: %r", sender or "a stranger", error)
        reply((FAILED, "ProtocolError", f"the message is malformed: {error}"))

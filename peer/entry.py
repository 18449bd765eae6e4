"""How a peer gets into a ring: it founds one, or a member admits it.

A founder is its own first epoch. A joiner asks any seed; the seed proposes an epoch with the new member and answers
with what was decided. Where the ring holds data that is a joint epoch: the joiner is a member then, and merges its share.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import socket
from typing import Any

from gossip.record import Record
from peer import __version__
from peer.config import PeerConfig
from peer.errors import AtollError, Conflict, Full, Invalid, NotFound, Refused, StartupError, Unavailable
from peer.membership import Membership
from peer.replication.agreement.removal import take_place
from peer.replication.env import Reply
from peer.replication.messages import EPOCH_GET, FAILED, JOIN, OK
from peer.replication.node import Replica
from peer.rpc.peers import Peers
from ring.changes import joined
from ring.epoch import Epoch
from ring.members import LEAVING, Member
from ring.placement import place

log = logging.getLogger(__name__)

FORMAT_LEVEL = 1
JOIN_FOR_S = 30.0
JOIN_PAUSE_S = 0.3
JOIN_CALL_S = 15.0
SEED_CALL_S = 2.0
ASKED_MOST = 64
CHANCE = random.Random()
_LATER = ("ServiceUnavailable", "OutcomeUnknown", "ChangeUnderWay")
"""Answers to a joiner after which it asks again; another seed may know by then that it was admitted."""

NAMED_MOST = 20
_OTHER_RING = ("WrongRing", "WrongPartitionPower")


def member_of(config: PeerConfig, me: str, capacity_bytes: int) -> Member:
    """This peer as a member of the ring; `capacity_bytes` unless the options say otherwise."""
    s3, api, peer = config.ports
    return Member(
        id=me, name=config.name or f"peer-{me[:6]}", host=config.advertised_host, peer_port=peer, s3_port=s3,
        api_port=api, zone=config.zone or socket.gethostname(), weight=config.capacity_bytes or capacity_bytes,
    )  # fmt: skip


def record_of(
    config: PeerConfig, me: str, name: str, boot: int, epoch: tuple[int, int], flags: frozenset[str]
) -> Record:
    """This peer as gossip tells of it at the beginning of a life."""
    s3, api, peer = config.ports
    return Record(
        id=me, name=name, host=config.advertised_host, peer_port=peer, s3_port=s3, api_port=api, boot=boot,
        incarnation=0, version=__version__, format_level=FORMAT_LEVEL, epoch=epoch, flags=flags,
    )  # fmt: skip


def founding_epoch(config: PeerConfig, member: Member) -> Epoch:
    """The first epoch of a new cluster, with its founder alone and the root access key."""
    return Epoch(
        generation=0, number=1, kind="final", cluster_id=secrets.token_hex(16), members=(member,),
        replicas=config.replicas, partition_power=config.partition_power, format_level=FORMAT_LEVEL,
        chunk_bytes=config.chunk_bytes, table=place(None, [member], config.replicas, config.partition_power),
        previous=None, root_access_key=config.root_access_key or "AK" + secrets.token_hex(9).upper(),
        root_secret_key=config.root_secret_key or secrets.token_urlsafe(30),
    )  # fmt: skip


async def enter(config: PeerConfig, member: Member, replica: Replica, peers: Peers) -> None:
    """Found, or be admitted, and keep the epoch. The member id must be durable already.

    Raises StartupError (refused; no room for the epoch), Invalid, Unavailable.
    """
    epoch = founding_epoch(config, member) if config.found else await join(config, member, peers)
    try:
        await replica.epochs.installed(epoch)
    except Full as error:
        so = (
            "no cluster was founded"
            if config.found
            else "the cluster counts this peer as a member already, and waits for it"
        )
        raise StartupError(
            f"{error}: there is no room for the ring, and {so}; free space there, then start it with the same options"
        ) from error


async def join(
    config: PeerConfig, member: Member, peers: Peers, former: str = "", chance: random.Random = CHANCE
) -> Epoch:
    """Ask the seeds, one after the other and anew, until one admits us or half a minute has passed; in the place of the
    member `former`, if that is what this peer was before, or of the dead one that the options name.

    Raises Invalid (no seed but ourselves), StartupError (refused), Unavailable (nobody answered).
    """
    own = {(config.advertised_host, config.peer_port), (config.host, config.peer_port)}
    seeds = [seed for seed in config.join if seed not in own]
    if not seeds:
        raise Invalid(
            "--join names only this peer itself; name a running one, or found a cluster with --found"
        )
    loop = asyncio.get_running_loop()
    until_s = loop.time() + JOIN_FOR_S
    said: dict[str, str] = {}
    instead = (former or config.replace, bool(former))
    while True:
        for host, port in seeds:
            left_s = until_s - loop.time()
            if left_s <= 0:
                break
            epoch = await _ask(peers, host, port, member, instead, min(left_s, JOIN_CALL_S), said)
            if epoch is not None:
                return epoch
        chance.shuffle(seeds)  # so that none is asked last, after those that keep silent, every time
        if loop.time() >= until_s:
            story = "; ".join(f"{seed}: {why}" for seed, why in said.items())
            raise Unavailable(
                f"no seed admitted this peer within {JOIN_FOR_S:g} s ({story}); is one running there?"
            )
        await asyncio.sleep(JOIN_PAUSE_S)


async def _ask(
    peers: Peers, host: str, port: int, member: Member, instead: tuple[str, bool], within_s: float, said: dict[str, str]
) -> Epoch | None:  # fmt: skip
    """One seed's answer: the epoch that admits us, or None and a word in `said`. `instead`: of whom, "" for nobody, and
    whether we were that one. Raises StartupError when refused."""
    seed = f"{host}:{port}"
    try:
        message = (JOIN, 0, FORMAT_LEVEL, _pack_member(member), *instead)
        reply = await peers.call_address(host, port, message, within_s)
    except Refused as error:
        raise StartupError(f"{seed} refused this peer: {error}") from error
    except (AtollError, OSError) as error:
        if said.get(seed) != str(error):  # once: it is tried for half a minute
            log.warning("cannot join through %s: %s", seed, error)
        said[seed] = str(error)
        return None
    if reply[0] == OK:
        return Epoch.decode(reply[1])
    if reply[0] == FAILED and reply[1] not in _LATER:
        raise StartupError(f"{seed} refused this peer: {reply[2]}")
    said[seed] = str(reply[2]) if reply[0] == FAILED else f"status {reply[0]}"
    log.warning("not admitted by %s yet: %s", seed, said[seed])
    return None


async def check_seeds(config: PeerConfig, cluster_id: str, peers: Peers) -> None:
    """A restarted peer that is told seeds as well: they must be of its own cluster.

    Raises StartupError if one refuses us and none is of ours. Seeds that do not answer are no reason to stay down.
    """
    refused = ""
    for host, port in config.join:
        try:
            await peers.call_address(host, port, (EPOCH_GET, 0), SEED_CALL_S)
            return
        except Refused as error:
            if error.code == "Self":
                continue
            refused = f"{host}:{port} refused this peer: {error}"
        except (AtollError, OSError):
            continue
    if refused:
        raise StartupError(
            f"{config.data} belongs to cluster {cluster_id}, and {refused}; start it without --join to go on in its"
            " own cluster, or give an empty directory to join the other one"
        )


class LeftOut(AtollError):
    """The ring was changed to one without this peer while it was away: `epoch`; `overrules` if that is of a higher
    generation, `asked` if an operator had asked it to leave before it went away."""

    code = "Removed"

    def __init__(self, epoch: Epoch, overrules: bool, asked: bool = False) -> None:
        told = " by an operator's override, which made a new ring without it" if overrules else ""
        told = told or (", after it had been asked to leave" if asked else "")
        super().__init__(f"this peer was removed from the ring while it was away{told}")
        self.epoch = epoch
        self.overrules = overrules
        self.asked = asked and not overrules


async def check_membership(epoch: Epoch, me: str, peers: Peers, chance: random.Random = CHANCE) -> None:
    """A peer that starts again asks the members it remembers whether it still is one: all at once, which takes
    no longer than one that keeps silent: 2 s. None is given up half way: a link that was cancelled while it opened
    may not close for a while.

    Raises LeftOut, and StartupError if all who answer refuse this peer because its ring is not theirs. Silence is no reason
    to stay down: should it be out, it will hear of that.
    """
    others = [member for member in epoch.everybody if member.id != me]
    others = chance.sample(others, min(len(others), ASKED_MOST))
    newest, answered, refused = epoch, 0, ""
    calls = [peers.call_address(one.host, one.peer_port, (EPOCH_GET, 0), SEED_CALL_S) for one in others]
    for reply in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(reply, Refused) and reply.code in _OTHER_RING:
            refused = str(reply)
        if isinstance(reply, BaseException):
            continue
        answered += 1
        with contextlib.suppress(ValueError):
            if reply[0] == OK:
                newest = max(newest, Epoch.decode(reply[1]), key=lambda one: one.order)
    if refused and not answered:
        raise StartupError(
            f"{refused}; find out which peers are in the right ring, and start this one on an empty directory with --join"
        )
    if newest.kind == "final" and newest.member(me) is None:
        own = epoch.member(me)
        asked = own is not None and own.state == LEAVING
        raise LeftOut(newest, newest.generation > epoch.generation, asked)


async def admit(
    replica: Replica, peers: Peers, gossip: Membership | None, message: Any, reply: Reply
) -> None:
    """A stranger that knows the cluster key asks to become a member, in the place of `replaces` if that is not "".

    `again`: it was that member itself, and has lost its memory.
    """
    try:
        _, _, level, fields, replaces, again = message
        member = Member(*fields)
        if level != FORMAT_LEVEL:
            raise Invalid(
                f"this cluster's format level is {FORMAT_LEVEL}, the peer's is {level}; use one version"
            )
        ring = replica.epoch
        if not replaces or (ring.member(member.id) is not None and not again):
            epoch = await replica.change_ring(lambda base: joined(base, member))
        else:
            if not again:
                replaces = _find(ring, replaces).id
            await _refuse_living(replaces, again, replica, peers, gossip)
            epoch = await take_place(replica.change_ring, ring, replaces, member, same=again)
        reply((OK, epoch.encode()))
    except (AtollError, TypeError, ValueError) as error:
        code = error.code if isinstance(error, AtollError) else "InvalidRequest"
        reply((FAILED, code, str(error)))


def _find(ring: Epoch, name: str) -> Member:
    """A member by id or name. Raises NotFound."""
    found = next((one for one in ring.members if name in (one.id, one.name)), None)
    if found is None:
        names = ", ".join(sorted(one.name for one in ring.members)[:NAMED_MOST])
        raise NotFound(
            f"there is no peer {name[:80]!r} in the ring to replace, only {names}; to be one more, join without --replace",
            code="NoSuchNode",
        )
    return found


async def _refuse_living(
    old_id: str, again: bool, replica: Replica, peers: Peers, gossip: Membership | None
) -> None:
    """Who is to be replaced must be dead: ask for it wherever it may be. A directory that was copied (`again`) must not make
    two of one member.

    Raises Conflict if it answers; Unavailable if something keeps silent there and gossip does not hold it for dead yet.
    """
    ring = replica.epoch
    known = next((one for one in ring.everybody if one.id == old_id), None)
    places = {(known.host, known.peer_port)} if known is not None else set()
    seen = gossip.get(old_id) if gossip is not None else None
    if seen is not None:
        places.add((seen.host, seen.peer_port))
    who = f"member {old_id}, which it was before," if again or known is None else known.name
    so = (
        "so its directory is a copy of that one's. To add a peer start it on an empty directory"
        if again
        else "and only a dead peer can be replaced; to be one more, join without --replace"
    )
    for host, port in sorted(places):
        there = old_id == replica.me or await peers.answers(host, port, old_id, SEED_CALL_S)
        if there:
            raise Conflict(f"{who} is alive at {host}:{port}, {so}", code="StillAlive")
        if there is None and gossip is not None and seen is not None and gossip.is_alive(old_id):
            raise Unavailable(f"{who} may still live at {host}:{port}: that address is silent")


def _pack_member(member: Member) -> list[Any]:
    return [
        member.id, member.name, member.host, member.peer_port, member.s3_port, member.api_port, member.zone, member.weight,
    ]  # fmt: skip

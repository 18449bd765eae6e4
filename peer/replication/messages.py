"""The messages between replicas: one array each, operation first, then the sender's epoch tag.

Request                                                            Reply after OK
(PREPARE, tag, row key, ballot, gate, want side)                   accepted ballot, value, side | None, full, purge floor
(ACCEPT, tag, row key, ballot, value, side | None, gate)           -
(READ, tag, row key, gate, want side)                              accepted ballot, value, side | None
(BALLOT, tag, row key, gate)                                       accepted ballot
(SCAN, tag, [shard prefix], after, end, limit, gate, mode)         [one answer a shard, see scan.py]
(EPOCH_PREPARE, tag, ballot, fence)                                accepted ballot, epoch bytes, holds rows
(EPOCH_ACCEPT, tag, ballot, epoch bytes)                           -
(EPOCH_RELEASE, tag, ballot)                                       -
(EPOCH_DECIDED, 0, epoch bytes)                                    -
(EPOCH_GET, 0)                                                     epoch bytes
(JOIN, 0, level, member fields, replaced member | "")              epoch bytes
(MERGED, tag, [member that is gone])                               partitions that are still to be merged
(BOOTS, 0, [[member, boot, sequence, nonce]], before, lineage)     the table as known before the request
(ADD_REF, tag, chunk name, attempt, back pointer[, for])           -
(STORE_CHUNK, tag, chunk name, attempt, back pointer, bytes[, for])  -  (small ones; larger go by bulk transfer)
(COPY_DIGESTS, tag, side, [partition])                             [digest of a partition]
(COPY_LEAVES, tag, side, partition)                                the digest's 16 leaves
(COPY_LIST, tag, side, partition, [leaf], after key)               [[key, version | None]], next key | None
(COPY_FETCH, tag, side, [key])                                     [[key, ...]], a first part of them
(HINTS, tag, target, after item, limit)                            [[item, value]], how many are kept
(HINTED, tag, target, [[item, value]])                             -
(HINT_KEEP, tag, target, [[item, value]])                          -
(REPAIR, tag, chunk name, source)                                  -
(NAMED, tag, [[head's row key, attempt]])                          [whether the head held here names it]
(ATTEMPTS, tag, [attempt])                                         [OPEN | OVER | UNKNOWN], see attempts.py
(DROP, tag, [reference's key])                                     -  (references of dead attempts)
(REFERENCES, tag, [chunk's key])                                   [[[attempt, back pointer]] of a chunk]
(HELD, tag, [[chunk's key, [attempt]]])                            [whether no other copy is needed here]
(PURGE_PROMISE, tag, [partition], ballot)                          [purge floor of a partition]
(PURGE, tag, [[partition, floor]])                                 -
(FLOORS, tag, [partition])                                         [[ballot promised, purge floor] of a partition]
(INFO, 0)                                                          a map about the peer
(WORKERS, 0, verb, [worker], value)                                [a map about a worker]
(HOLDS, 0, [chunk name])                                           [whether its bytes are here]
(LOG, 0, start, number, limit)                                     [entry of the journal], the newest after that one

A reply is an array that begins with a status. Every status but OK means: this message changed nothing here.
`full`: a commit of the replier found no room a moment ago.
`for`: the owner out of reach in whose place the bytes are kept, with a hint (hints.py).
The gate is the bucket configuration's generation the sender acts under, -1 for rows without a gate.
"""

from __future__ import annotations

from peer.errors import AtollError, Full, ReadOnly

PREPARE, ACCEPT, READ, BALLOT, SCAN = 1, 2, 3, 4, 5
EPOCH_PREPARE, EPOCH_ACCEPT, EPOCH_RELEASE, EPOCH_DECIDED, EPOCH_GET, JOIN = 10, 11, 12, 13, 14, 15
MERGED = 16
BOOTS = 20
ADD_REF, STORE_CHUNK = 30, 31
INFO, WORKERS, LOG, HOLDS = 40, 41, 42, 43
COPY_DIGESTS, COPY_LEAVES, COPY_LIST, COPY_FETCH = 50, 51, 52, 53
HINTS, HINTED, HINT_KEEP, REPAIR = 60, 61, 62, 63
PURGE_PROMISE, PURGE, FLOORS = 75, 76, 77
NAMED, ATTEMPTS, DROP, REFERENCES, HELD = 70, 71, 72, 73, 74

NAMES = {number: name for name, number in list(globals().items()) if name.isupper()}
"""Operation -> its name, for logs."""

OK = 0
CONFLICT = 1  # ballot: the promise, or the accepted ballot, that stands against the request
STALE = 2  # tag: the replier's newer epoch
NOT_OWNER = 3
GATE_REFUSED = 4  # gate state ("absent" | "closed" | "newer" | "open"), generation
IS_FULL = 5  # to ACCEPT: whether a restart remembers that this ballot is shut out (A5)
ABSTAIN = 6  # reason: the replier may not vote on this (row damaged, identity not confirmed)
FENCED = 7  # the replier promised a new epoch and takes no more rows of this one
MISSING = 8
FAILED = 9  # error code, message
BUSY = 10  # too many writes wait for the replier's disk; to ACCEPT: as IS_FULL
READ_ONLY = 11  # the replier's disk takes no writes now; to ACCEPT: as IS_FULL

NO_GATE = -1

NO_ROOM = (IS_FULL, BUSY, READ_ONLY)
"""Refusals of a replier that cannot write, and so did not."""

WORDS = {
    CONFLICT: "a higher ballot stands",
    STALE: "it is in a newer epoch",
    NOT_OWNER: "it does not own the key",
    GATE_REFUSED: "the bucket's gate refused",
    IS_FULL: "its disk is full",
    ABSTAIN: "it abstains",
    FENCED: "it waits for a new epoch",
    BUSY: "too many writes wait for its disk",
    READ_ONLY: "its disk is read-only",
}


def status_of(error: AtollError) -> int:
    """The status that tells of a commit which failed."""
    if isinstance(error, ReadOnly):
        return READ_ONLY
    return IS_FULL if isinstance(error, Full) else BUSY

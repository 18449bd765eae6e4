"""Registers, chunks, epochs and identity: the protocols that keep N copies one truth.

May import `ring`, `peer.errors`, `peer.buffers` and `peer.storage.records` (where a chunk lies); clock, randomness,
network and disk come in through `env`, so the same code runs under the simulator. Read in this order:

    ballot, value, keys, messages       what is stored and said
    acceptor, promises, gates           one owner of registers
    quorum, turns, register, scan       the coordinator of changes, reads and listings
    epochs, identity                    who owns what, and who may vote
    holder, chunks                      bytes: one owner, and the coordinator
    node                                a peer's replication, put together
"""

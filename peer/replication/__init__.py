"""Registers, chunks, epochs and identity: the protocols that keep N copies one truth.

May import `ring`, `peer.errors`, `peer.buffers` and `peer.storage.records` (where a chunk lies); clock, randomness,
network and disk come in through `env`, so the same code runs under the simulator. From the bottom up, each room
imports only those above it in this list:

    env, messages, ballot, keys, value    what is given, said and stored
    meta, owners, quorum, patience        a peer's own memory; one round of messages to owners, and how long
    lateness, preference                  who was late; whom to ask first
    throttle                              how background work gives way
    workers, hints                        background work in small steps; what an owner missed
    agreement/                            epochs and identity: who owns what, who may vote
    registers/                            all metadata: one owner, the coordinator of changes, listings
    chunks/                               bytes: one owner, and the coordinator
    copying/                              finding and fetching the differences between two owners
    garbage/                              what nothing names any more, tombstones included
    node                                  one peer's registers put together; messages find their owner
    healing/                              the workers that bring every copy back

Start at `registers.register`. `peer.process` and `peer.healing` put all of it together.
"""

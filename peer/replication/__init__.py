"""Registers, chunks, epochs and identity: the protocols that keep N copies one truth.

May import `ring` and `peer.errors`, `peer.etag`, `peer.storage.rows` (the interface); clock, randomness,
network and disk come in through `env.py`, so the same code runs under the simulator. Read in this order:
`ballot`, `acceptor` (one owner), `register` (the coordinator), `scan`, `epochs`, `identity`, `chunks`, `node`.
"""

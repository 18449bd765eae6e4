"""One peer of an Atoll cluster: its disk, its connections, its replication and its HTTP surfaces.

Layers, upper ones import lower ones only (tests/test_layers.py keeps it so):

    founding                     a cluster founded once, by a job that may run again
    run                          one process: a peer, and its return should it lose its memory
    process  entry  returning    assembles one peer; how it gets into a ring, and back into it
    api                          HTTP: parse, authorise, render
    healing  housekeeping        the workers of one peer, put together
    objects                      buckets, objects, listings
    replication                  registers, chunks, epochs, identity, copying, healing: a room each
    storage  rpc  membership     one machine's disk | one connection | gossip on real sockets
    buffers  errors  etag        the bottom

`peer.client` is the public client; it talks HTTP and imports nothing above the bottom.
Start reading at `peer.replication.registers.register`, the one primitive that holds all metadata.
"""

__version__ = "0.2.0"
"""Atoll's version; pyproject.toml takes it from here."""

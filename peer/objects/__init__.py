"""Buckets, objects and listings, made of registers and chunks.

May import `peer.replication`, `peer.buffers`, `peer.errors`, `peer.etag`. The head of an object is a register:
it is the commit point, everything else an object has (bytes, manifests, references) is durable before it.
Read `heads` for the records, then `store`; `upload` is how a body becomes chunks.
"""

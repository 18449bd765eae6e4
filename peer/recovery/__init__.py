"""Getting data back when the cluster itself cannot: what stopped peers' disks hold, and the operator's override.

May import `peer.storage`, `peer.replication`, `peer.objects` (records only), `ring` and `peer.errors`; `atoll recover`
uses it.
Start reading at `disks` (one stopped peer), then `export` and `override`.
"""

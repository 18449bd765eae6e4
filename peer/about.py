"""What a peer tells about itself, to the others and through the API: figures of this moment."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from peer.api.processinfo import process_info
from peer.healing import full_disk
from peer.replication.agreement.epochs import tag_of

if TYPE_CHECKING:
    from peer.process import Peer


def about(peer: Peer) -> dict[str, Any]:
    """A map that travels (`messages.INFO`). The keys of its parts are read by `peer.api`."""
    files, replica = peer.files.stats, peer.replica
    pools = (peer.client_pool, peer.replica_pool, peer.serve_pool)
    return {
        "process": process_info(peer.started_s),
        "storage": {**files, **peer.rows.stats, "sequence": peer.rows.sequence},
        "requests": peer.context.counts | peer.context.requests.summary(),
        "buffers": {pool.name: asdict(pool.stats) for pool in pools},
        "replication": {
            **replica.registers.counts,
            **replica.scans.counts,
            **peer.chunks.counts,
            **peer.chunks.holder.counts,
            "damaged_rows": replica.acceptor.damaged,
            "epoch_tag": tag_of(replica.epoch),
        },
        "healing": peer.healing.info(),
        "condition": peer.vitals.info(),
        "damage": peer.damage,
        "used_bytes": files.get("live_bytes", 0),
        "full": full_disk(peer.files.full, peer.rows.roomy),
    }

"""What a peer tells about itself, to the others and through the API: figures of this moment."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from peer.api.processinfo import process_info
from peer.api.ringview import bitmap
from peer.healing import full_disk
from peer.replication.agreement.epochs import tag_of

if TYPE_CHECKING:
    from peer.membership import MemberView
    from peer.process import Peer


def about(peer: Peer) -> dict[str, Any]:
    """A map that travels (`messages.INFO`). The keys of its parts are read by `peer.api`, which goes without those that an
    older version does not tell: `traffic`, `pending` (partitions that still move here, a bitmap), `believes` and `heard_s`
    (of members not held for alive), `journal` (the mark of its last entry) and `wall_us`."""
    files, replica = peer.files.stats, peer.replica
    pending, doubts = peer.healing.pending, doubted(peer)
    pools = (peer.client_pool, peer.replica_pool, peer.serve_pool)
    return {
        "process": process_info(peer.started_s),
        "storage": {**files, **peer.rows.stats, "sequence": peer.rows.sequence},
        "requests": peer.context.counts | peer.context.requests.summary(),
        "traffic": peer.context.requests.traffic(),
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
        "pending": bytes(bitmap(pending, replica.epoch.partition_power)) if pending else b"",
        "believes": {member: "unknown" if view is None else view.state for member, view in doubts.items()},
        "heard_s": {
            member: round(view.last_heard_s, 1) for member, view in doubts.items() if view is not None
        },
        "journal": list(peer.context.journal.newest),
        "wall_us": peer.env.wall_us(),
        "condition": peer.vitals.info(),
        "tls": peer.tls.info() if peer.tls is not None else None,
        "damage": peer.damage,
        "used_bytes": files.get("live_bytes", 0),
        "full": full_disk(peer.files.full, peer.rows.roomy),
    }


def doubted(peer: Peer) -> dict[str, MemberView | None]:
    """The members that this peer does not hold for alive, and what it knows of them: nothing of one never heard of."""
    if peer.membership is None:
        return {}
    views = {view.id: view for view in peer.membership.members()}
    found = {member.id: views.get(member.id) for member in peer.replica.epoch.everybody}
    return {
        member: view
        for member, view in found.items()
        if member != peer.me and (view is None or view.state != "alive")
    }

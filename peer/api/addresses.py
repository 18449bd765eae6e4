"""Where the members of a cluster are met, and whether over TLS: every peer decides that for itself, and says so in a flag of
its gossip, which also peers pass on that know nothing of it."""

from __future__ import annotations

from peer.membership import MemberView
from ring.members import Member

TLS = "tls"
"""The flag of a peer whose S3 and API ports speak TLS."""


def addresses_of(member: Member, view: MemberView | None, own: MemberView | None) -> dict[str, str]:
    """{"host", "s3_url", "api_url", "peer_address"} of a member. `view` is what gossip knows of it; for one it has not
    heard of, the ring's addresses count, and that peers of a cluster are alike: `own` is this peer itself."""
    at = view or member
    host = f"[{at.host}]" if ":" in at.host else at.host
    says = view or own
    scheme = "https" if says is not None and TLS in says.flags else "http"
    return {
        "host": at.host,
        "s3_url": f"{scheme}://{host}:{at.s3_port}",
        "api_url": f"{scheme}://{host}:{at.api_port}",
        "peer_address": f"{host}:{at.peer_port}",
    }


def flags_of(view: MemberView) -> list[str]:
    """What ails a member by its own word, for people and programs: TLS shows in its addresses."""
    return sorted(view.flags - {TLS})

"""Messages between peers, gossip's datagrams, and whether the event loop turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .families import Families, counter, counters, each, gauge, gauges, histogram

if TYPE_CHECKING:
    from peer.looplag import LoopLag
    from peer.process import Peer
    from peer.rpc.stats import Stats

DATAGRAM_DROPS = ("receive_errors", "strangers", "malformed", "send_drops", "unresolved")


def families(peer: Peer) -> Families:
    yield from of_peer_port(peer.stats)
    yield gauge(
        "atoll_rpc_calls_in_flight", "Calls to other peers without an answer now.", peer.peers.in_flight()
    )
    if peer.membership is not None:
        yield from _datagrams(peer.membership.stats())
    yield from of_loop(peer.vitals.lag)


def of_peer_port(stats: Stats) -> Families:
    """What the peer port counts, by kind of connection: `calls` carry messages, `bulk` chunks, `gossip` memberships."""
    kind = ["kind"]
    for name, text, numbers in (
        ("calls", "Calls to other peers.", (stats.calls, stats.bulk_calls, stats.exchanges)),
        ("requests", "Calls of other peers.", (stats.requests, stats.bulk_served, stats.exchanges_served)),
    ):
        yield counters(
            f"atoll_rpc_{name}",
            text,
            kind,
            each(dict(zip(("calls", "bulk", "gossip"), numbers, strict=True))),
        )
    yield counters(
        "atoll_rpc_received_bytes", "Bytes received from peers, sealed.", kind,
        each({"calls": stats.bytes_in, "bulk": stats.bulk_bytes_in + stats.bulk_served_in}),
    )  # fmt: skip
    yield counters(
        "atoll_rpc_sent_bytes", "Bytes sent to peers, sealed.", kind,
        each({"calls": stats.bytes_out, "bulk": stats.bulk_bytes_out + stats.bulk_served_out}),
    )  # fmt: skip
    yield counters(
        "atoll_rpc_failed_calls",
        "Calls to other peers that failed: no answer in time, too many waiting, connection lost. `bulk` counts those late"
        " among `failed`.",
        ["kind", "reason"],
        [
            (("calls", "timed_out"), stats.calls_timed_out),
            (("calls", "overloaded"), stats.calls_overloaded),
            (("calls", "lost"), stats.calls_lost),
            (("bulk", "timed_out"), stats.bulk_timed_out),
            (("bulk", "failed"), stats.bulk_failed),
        ],
    )
    yield counters(
        "atoll_rpc_dials", "Connections to peers begun, those of `gossip` for one exchange each.", kind,
        each({"calls": stats.dials, "bulk": stats.bulk_dials, "gossip": stats.exchanges}),
    )  # fmt: skip
    yield counters(
        "atoll_rpc_failed_dials", "Connections to peers that could not be made.", kind,
        each({"calls": stats.dial_failures, "bulk": stats.bulk_dial_failures}),
    )  # fmt: skip
    yield counter("atoll_rpc_accepted", "Connections of peers accepted.", stats.accepted)
    yield gauges(
        "atoll_rpc_connections", "Connections with peers that are open now; of `bulk` those they made.", kind,
        each({"calls": stats.links, "bulk": stats.bulk_connections}),
    )  # fmt: skip
    refused = {
        "wrong_key": stats.wrong_key,
        "too_late": stats.strangers_timed_out,
        "too_many": stats.strangers_dropped,
    }
    yield counters(
        "atoll_rpc_refused", "Connections to the peer port that were refused or ended, by reason.", ["reason"],
        each({**refused, "malformed": stats.malformed, **stats.refused}),
    )  # fmt: skip


def _datagrams(told: dict[str, int]) -> Families:
    for unit in ("packets", "bytes"):
        yield counters(
            f"atoll_gossip_datagram_{unit}", f"Gossip over UDP, {unit}.", ["direction"],
            [((way,), told.get(f"{unit}_{way}", 0)) for way in ("in", "out")],
        )  # fmt: skip
    yield counters(
        "atoll_gossip_datagram_drops", "Datagrams of gossip that were dropped, by reason.", ["reason"],
        each({reason: told.get(reason, 0) for reason in DATAGRAM_DROPS}),
    )  # fmt: skip


def of_loop(lag: LoopLag) -> Families:
    """Everything a peer says and answers waits for its event loop."""
    yield histogram(
        "atoll_event_loop_lag_seconds", "How late the event loop came to a beat that is due four times a second.", [],
        [((), lag.late)],
    )  # fmt: skip
    yield counters(
        "atoll_event_loop_standstills",
        "Times the loop did not turn for a second: something blocked it, or the whole process was stopped.",
        ["cause"],
        each({"blocked": lag.count - lag.stops, "stopped": lag.stops}),
    )
    yield gauge(
        "atoll_event_loop_longest_standstill_seconds", "The longest of them since the start.", lag.longest_s
    )

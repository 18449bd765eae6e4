"""Requests of clients, by API, operation and status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peer.api.accounting import STREAMS, Requests

from .families import Families, counters, gauge, gauges, histogram

if TYPE_CHECKING:
    from peer.process import Peer


def families(peer: Peer) -> Families:
    yield from of_requests([peer.context.requests])
    yield gauge("atoll_http_event_streams", "Clients that follow GET /v1/events now.", peer.events.listening)
    gone, stalled = (peer.context.counts.get(name, 0) for name in ("clients_gone", "idle_bodies"))
    yield counters(
        "atoll_http_cut_connections",
        "Connections that ended within a request: the client went away, or was cut because it moved no byte.",
        ["reason"],
        [(("gone",), gone), (("stalled",), stalled)],
    )


def of_requests(apis: list[Requests]) -> Families:
    """What `accounting` counted on each port."""
    yield counters(
        "atoll_http_requests",
        "Requests that have ended, by operation and status code; 499: the client went away before its answer.",
        ["api", "operation", "code"],
        (
            ((api.api, name, str(code)), count)
            for api in apis
            for name, one in api.operations.items()
            for code, count in sorted(one.codes.items())
        ),
    )
    yield histogram(
        "atoll_http_request_duration_seconds",
        "Seconds from a request's head to its answer: whole, if it is streamed, else ready to be sent.",
        ["api", "operation"],
        (
            ((api.api, name), one.took)
            for api in apis
            for name, one in api.operations.items()
            if name != STREAMS
        ),
    )
    yield counters(
        "atoll_http_request_body_bytes",
        "Bytes of request bodies read, as they come.",
        ["api"],
        (((api.api,), api.body_bytes_in) for api in apis),
    )
    yield counters(
        "atoll_http_response_body_bytes",
        "Bytes of response bodies sent, as they go.",
        ["api"],
        (((api.api,), api.body_bytes_out) for api in apis),
    )
    yield gauges(
        "atoll_http_requests_in_flight",
        "Requests being answered now, streams of events included.",
        ["api"],
        (((api.api,), api.in_flight) for api in apis),
    )

"""What clients asked of this peer and how that went, for /metrics, `status` and the events. Plain integers, on the loop.

A request has an operation out of OPERATIONS, whatever its path and method say, and a status code that this server gives: so
the number of counters has a bound that no client can raise.
"""

from __future__ import annotations

from bisect import bisect_left

from peer.durations import REQUEST_S, Durations

OPERATIONS: dict[str, str] = {
    "put_object": "PUT",
    "get_object": "GET",
    "head_object": "HEAD",
    "delete_object": "DELETE",
    "list_objects": "list",
    "upload_form": "upload",
    "list_buckets": "views",
    "put_bucket": "bucket",
    "get_bucket": "bucket",
    "delete_bucket": "bucket",
    "view_cluster": "views",
    "change_cluster": "admin",
    "openapi": "views",
    "events": "",
    "metrics": "",
    "health": "",
    "other": "",
}
"""Operation -> what `status` and the events count it as; "" for what is no work for a client. `other`: nothing that there
is, such as an unknown path, and what is no HTTP request at all. Streams of events are counted when they end, without a
duration."""
OTHER = "other"
STREAMS = "events"
GONE = 499
"""The code of a request whose client went away before its answer, as nginx has it; nobody is sent it."""
ERRORS = 400


class Operation:
    """One operation's requests: how many ended with which status, and how long they took."""

    __slots__ = ("codes", "took")

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}
        self.took = Durations(REQUEST_S)


class Requests:
    """The requests that came in on one port. `body_bytes_in` and `body_bytes_out` are of bodies, as they move; of the latter
    `stream_bytes_out` are events."""

    def __init__(self, api: str) -> None:
        self.api = api
        self.operations = {name: Operation() for name in OPERATIONS}
        self.begun = 0
        self.body_bytes_in = 0
        self.body_bytes_out = 0
        self.stream_bytes_out = 0

    @property
    def in_flight(self) -> int:
        return self.begun - sum(one.took.count for one in self.operations.values())

    def end(self, operation: str, code: int, took_s: float) -> None:
        """A request that was counted in `begun` is over: it was answered, or its client is gone."""
        one = self.operations[operation]
        codes, took = one.codes, one.took
        codes[code] = codes[code] + 1 if code in codes else 1
        # As `observe`, without a call: this runs for each request.
        took.counts[bisect_left(REQUEST_S, took_s)] += 1
        took.total_s += took_s

    def summary(self) -> dict[str, int]:
        """How many requests of each kind have ended, and how many answers had which status of an error ("status 404")."""
        found: dict[str, int] = {}
        for name, one in self.operations.items():
            if kind := OPERATIONS[name]:
                found[kind] = found.get(kind, 0) + sum(one.codes.values())
            for code, count in one.codes.items():
                if code >= ERRORS and code != GONE:
                    found[f"status {code}"] = found.get(f"status {code}", 0) + count
        return {kind: count for kind, count in found.items() if count}

    def traffic(self) -> dict[str, int]:
        """Bytes of bodies that clients sent and fetched. Who only watches the cluster is no client: events do not count."""
        return {"bytes_in": self.body_bytes_in, "bytes_out": self.body_bytes_out - self.stream_bytes_out}

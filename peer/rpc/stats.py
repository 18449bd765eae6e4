"""What the peer port counts, for /metrics and `status`. One object per process, plain integers.

Counted on the loop thread, but for what the threads of bulk transfers count under a lock.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass(slots=True)
class Stats:
    dials: int = 0
    dial_failures: int = 0
    accepted: int = 0  # inbound connections that passed handshake and hello
    strangers: int = 0  # now between accept and hello
    strangers_timed_out: int = 0
    strangers_dropped: int = 0  # closed at once: too many
    wrong_key: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # inbound hellos refused, by code
    malformed: int = 0  # connections ended because the other side broke the protocol
    links: int = 0  # call links open now
    calls: int = 0
    calls_timed_out: int = 0
    calls_overloaded: int = 0  # failed at once: too many in flight or the write buffer full
    calls_lost: int = 0  # failed because their connection was lost
    requests: int = 0  # inbound
    bytes_in: int = 0  # call links
    bytes_out: int = 0
    writes: int = 0  # one per link and loop turn
    bulk_calls: int = 0
    bulk_dials: int = 0
    bulk_dial_failures: int = 0
    bulk_in_flight: int = 0
    bulk_timed_out: int = 0
    bulk_failed: int = 0
    bulk_bytes_in: int = 0  # by our calls; failed ones not counted
    bulk_bytes_out: int = 0
    bulk_connections: int = 0  # inbound, each with its thread
    bulk_served: int = 0
    bulk_served_in: int = 0
    bulk_served_out: int = 0
    exchanges: int = 0
    exchanges_served: int = 0

    def refuse(self, code: str) -> None:
        self.refused[code] = self.refused.get(code, 0) + 1

    def snapshot(self) -> dict[str, int | dict[str, int]]:
        """A copy for a metrics page."""
        return asdict(self)

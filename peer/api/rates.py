"""Requests a second: what each peer answered to clients since it was asked last, by its own clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

NO_REQUESTS = ("status ", "clients_gone", "idle_bodies", "events")
"""Beginnings of the names of counters that count something else than requests of clients."""
REPAIR = ("hints", "anti-entropy", "recovery", "transition", "adoption", "scrub")
"""Workers that bring copies back; the others clear away."""
BYTES = ("bytes_in", "bytes_out")


def requests_in(counts: Mapping[str, int]) -> dict[str, int]:
    """Of a peer's counters those of requests, by kind."""
    return {kind: count for kind, count in counts.items() if not kind.startswith(NO_REQUESTS)}


def errors_in(counts: Mapping[str, int]) -> int:
    """Of a peer's counters those of requests it failed to answer: 5xx."""
    return sum(count for kind, count in counts.items() if kind.startswith("status 5"))


class Rates:
    """Keeps what every peer had counted when it was asked last; until it is asked again all its rates are 0."""

    def __init__(self) -> None:
        self._counted: dict[str, tuple[float, dict[str, int]]] = {}  # member -> its uptime, its counters

    def clear(self) -> None:
        self._counted.clear()

    def told(
        self, nodes: Iterable[Mapping[str, Any]], infos: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The event `requests`, but for its time. `nodes` as in the overview; `infos` of those that answered just now: the
        rates of the others are null, and so are the bytes of a peer whose version does not count them."""
        shown = [self._of(node, infos.get(node["id"])) for node in nodes]
        for gone in self._counted.keys() - {node["id"] for node in shown}:
            del self._counted[gone]
        sums = {key: _sum(node[key] for node in shown) for key in ("all", "errors", *BYTES)}
        return {"nodes": shown, **sums, "backlog": sum(map(_backlog, infos.values()))}

    def _of(self, node: Mapping[str, Any], info: Mapping[str, Any] | None) -> dict[str, Any]:
        one = {key: node[key] for key in ("id", "name", "used_bytes", "last_heard_s")}
        if info is None:
            self._counted.pop(node["id"], None)
            return one | {"per_second": {}} | dict.fromkeys(("all", "errors", *BYTES))
        uptime_s = info["process"]["uptime_s"]
        requests = requests_in(info["requests"])
        counts = requests | {"errors": errors_in(info["requests"])} | dict(info.get("traffic", {}))
        before_s, before = self._counted.get(node["id"], (uptime_s, counts))
        if uptime_s < before_s:  # it was started anew
            before_s, before = 0.0, {}
        self._counted[node["id"]] = uptime_s, counts
        passed_s = max(uptime_s - before_s, 0.001)
        rates = {k: round((count - before.get(k, 0)) / passed_s, 1) for k, count in counts.items()}
        kinds = {kind: rates[kind] for kind in requests if rates[kind] > 0}
        told = {"per_second": kinds, "all": _sum(kinds.values()), "errors": rates["errors"]}
        return one | told | {key: rates.get(key) for key in BYTES}


def _backlog(info: Mapping[str, Any]) -> int:
    workers = info.get("healing", {}).get("workers", ())
    return sum(int(worker["queue"]) for worker in workers if worker["name"] in REPAIR)


def _sum(rates: Iterable[float | None]) -> float:
    return round(sum(rate for rate in rates if rate is not None), 1)

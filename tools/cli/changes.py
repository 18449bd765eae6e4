"""What changed in a cluster, a sentence for each change: a fold over events (GET /v1/events). No I/O, no clock of its own.

W1  A change is told when it is heard of. What merely progresses (numbers in a sentence, queues) is told at most every
    `pace_s`, and ever more seldom, down to every `SELDOM_S`, while it goes on: a day of copying does not fill a log.
W2  What a peer told stands until another peer has told it anew: while nobody answers that is said, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from peer.client.following import CONNECTED, UNREACHABLE, Event
from tools.cli import told
from tools.cli.output import seconds_text
from tools.cli.told import Json

SELDOM_S = 60.0
TURN_S = 10.0
"""That something begins or ends is told after so long at the latest, however seldom its progress is."""
STALE_S = 10.0
"""A peer that answers and has told nothing for so long is said to."""
FAILURES_TOLD = 8


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to tell. `data`: the same for programs."""

    kind: str
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Progress:
    """Something that may change all the time: what was told of it last, when, and how long to wait from then (W1)."""

    text: str
    told_s: float
    wait_s: float

    def may(self, now: float, turn: bool = False) -> bool:
        return now - self.told_s >= (min(self.wait_s, TURN_S) if turn else self.wait_s)

    def tell(self, text: str, now: float, pace_s: float) -> None:
        """It is told now; the next time later than the last time, unless it was quiet for long."""
        quiet = now - self.told_s > 2 * max(SELDOM_S, self.wait_s)
        self.wait_s = pace_s if quiet else min(2 * self.wait_s, max(SELDOM_S, pace_s))
        self.text, self.told_s = text, now


class Changes:
    """All that is known, and what of it is news. Times in seconds of any clock; `wall` for those that are told."""

    def __init__(self, pace_s: float = 1.0, wall: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._pace_s = pace_s
        self._wall = wall
        self.cluster: Json | None = None
        self.workers: list[Json] | None = None
        self._url = ""
        self._heard: tuple[float, datetime] | None = None
        self._outage: Progress | None = None
        self._out_since_s = 0.0
        self._stale = False
        self._said: dict[tuple[str, ...], Progress] = {}

    # --- what comes in

    def apply(self, event: Event, now: float) -> list[Change]:
        """What an event changes. Kinds that are not known are ignored: a newer peer may tell more."""
        data = event.data
        if event.kind == CONNECTED:
            return [self._connected(data, now)]
        if event.kind == UNREACHABLE:
            return list(self._unreachable(data, now))
        if event.kind not in ("cluster", "repair", "requests"):
            return []
        self._heard, self._stale = (now, self._wall()), False
        found: list[Change] = []  # of the other states: what was held back, if it is its time now
        if event.kind == "cluster" or self.cluster is not None:
            found += self._cluster(data if event.kind == "cluster" else self.cluster or {}, now)
        if event.kind == "repair" or self.workers is not None:
            found += self._repair(data if event.kind == "repair" else {"workers": self.workers}, now)
        return found

    def tick(self, now: float) -> list[Change]:
        """Time has passed. Call it about once a second."""
        if self._heard is None or self._outage is not None or self._stale or now - self._heard[0] < STALE_S:
            return []
        self._stale = True
        since = stamp(self._heard[1])
        message = f"{self._who(self._url)} answers, but has told nothing new since {since}"
        return [Change("stale", message, {"url": self._url, "since": since})]

    # --- who answers

    def _connected(self, data: Json, now: float) -> Change:
        url, before, why = str(data.get("url") or ""), data.get("before"), data.get("why")
        new, old = self._who(url), self._who(str(before or ""))
        if self._outage is not None:
            lasted = seconds_text(now - self._out_since_s)
            message = f"{new} answers, after {lasted} in which no peer did"
        elif before is None:
            message = f"following {new}"
        elif before != url:
            message = f"{old} does not answer any more ({why}): moved to {new}"
        else:
            message = f"{new}: {why}; connected again"
        self._url, self._outage = url, None
        self._heard = self._heard and (now, self._heard[1])
        return Change("connected", message, {"url": url, "before": before, "why": why})

    def _unreachable(self, data: Json, now: float) -> Iterator[Change]:
        failures = [(str(url), str(why)) for url, why in data.get("failures") or ()]
        first = self._outage is None
        if self._outage is None:
            self._out_since_s = self._heard[0] if self._heard is not None else now
            self._outage = Progress("", now, 2 * self._pace_s)
        elif not self._outage.may(now):
            return
        else:
            self._outage.tell("", now, self._pace_s)
        since = stamp(self._heard[1]) if self._heard is not None else None
        heard = f"nothing was heard since {since}" if since else "none was heard yet"
        tried = "; ".join(f"{self._who(url)}: {why}" for url, why in failures[:FAILURES_TOLD])
        more = len(failures) - FAILURES_TOLD
        tried += f"; and {more} others" if more > 0 else ""
        lasts = "" if first else f" for {seconds_text(now - self._out_since_s)}"
        message = f"no peer answers{lasts}, {heard}; still trying ({tried})"
        yield Change("unreachable", message, {"since": since, "failures": [list(one) for one in failures]})

    def _who(self, url: str) -> str:
        """A peer by name and address, or by address while its name is not known."""
        nodes = (self.cluster or {}).get("nodes") or ()
        named = next((str(one.get("name")) for one in nodes if url and one.get("api_url") == url), None)
        return f"{named} at {url}" if named else url

    # --- what it tells

    def _cluster(self, new: Json, now: float) -> Iterator[Change]:
        old, self.cluster = self.cluster, new
        if old is None:
            yield Change("state", "\n".join(told.everything(new)), {"cluster": new})
            self._note(new, now)
            return
        if (old.get("verdict"), old.get("tolerates")) != (new.get("verdict"), new.get("tolerates")):
            data = {key: new.get(key) for key in ("verdict", "tolerates")}
            yield Change("verdict", f"{told.verdict(new)} (before: {told.verdict(old)})", data)
        yield from self._listed("reason", told.reasons(new), now)
        yield from self._listed("warning", told.warnings(new), now)
        yield from self._nodes(old, new)
        if (was := told.epoch(old.get("epoch"))) != (now_is := told.epoch(new.get("epoch"))):
            yield Change("epoch", f"epoch {now_is} is in force (before: {was})", {"epoch": new.get("epoch")})
        flipped = _whole(old) != _whole(new)
        yield from self._progress("redundancy", told.redundancy(new), now, flipped, new.get("redundancy"))
        yield from self._progress("partitions", told.partitions(new), now, False, new.get("partitions"))

    def _note(self, cluster: Json, now: float) -> None:
        """Remember as told what a first state consists of."""
        for kind, ones in (("reason", told.reasons(cluster)), ("warning", told.warnings(cluster))):
            for key, one in _keyed(kind, ones).items():
                self._said[key] = Progress(str(one.get("message")), now, self._pace_s)
        for what in ("redundancy", "partitions"):
            self._said[what,] = Progress(getattr(told, what)(cluster), now, self._pace_s)

    def _listed(self, kind: str, ones: list[Json], now: float) -> Iterator[Change]:
        """Reasons or warnings that came, went, or say something else."""
        new = _keyed(kind, ones)
        for key in [key for key in self._said if key[0] == kind and key not in new]:
            message = f"{kind} is over: {self._said.pop(key).text} ({key[1]})"
            yield Change(f"{kind}_over", message, {"code": key[1]})
        for key, one in new.items():
            message = str(one.get("message"))
            known = self._said.get(key)
            if known is None:
                self._said[key] = Progress(message, now, self._pace_s)
            elif known.text == message or not known.may(now):
                continue
            else:
                known.tell(message, now, self._pace_s)
            yield Change(kind, f"{kind}: {told.coded(one)}", one)

    def _nodes(self, old: Json, new: Json) -> Iterator[Change]:
        before = {one.get("id"): one for one in old.get("nodes") or ()}
        after = {one.get("id"): one for one in new.get("nodes") or ()}
        for gone in before.keys() - after.keys():
            named = before[gone].get("name")
            self._forget(str(gone))
            yield Change("peer", f"{named} is no member any more", {"node": named, "member": False})
        for key, one in after.items():
            named, was = one.get("name"), before.get(key)
            if was is None:
                yield Change(
                    "peer", f"{named} is a member now. {told.node(one)}", {"node": named, "member": True}
                )
                continue
            for what, message in _differences(was, one):
                yield Change("peer", f"{named}{message}", {"node": named, what: one.get(what)})

    def _forget(self, gone: str) -> None:
        """Keep nothing of a former member: a watch may go on for months."""
        self._said = {key: said for key, said in self._said.items() if key[:2] != ("worker", gone)}
        if self.workers is not None:
            self.workers = [one for one in self.workers if (one.get("node") or {}).get("id") != gone]

    def _repair(self, data: Json, now: float) -> Iterator[Change]:
        new = [one for one in data.get("workers") or () if isinstance(one, Mapping)]
        first, self.workers = self.workers is None, new
        if first:
            yield Change("workers", "\n".join(told.workers(new)), {"workers": new})
        for one in new:
            node = one.get("node") or {}
            key = ("worker", str(node.get("id")), str(one.get("worker")))
            text = told.worker(one)
            known = self._said.setdefault(key, Progress("", now - self._pace_s, self._pace_s))
            if first:
                known.text, known.told_s = text, now
            elif known.text != text and known.may(now, turn=not (known.text and text)):
                known.tell(text, now, self._pace_s)
                shown = ("worker", "node", "state", "queue", "left_s", "last_error")
                message = f"repair: {told.name(one)}: {text or 'nothing waits any more'}"
                yield Change("worker", message, {name: one.get(name) for name in shown})

    def _progress(self, what: str, text: str, now: float, at_once: bool, data: Any) -> Iterator[Change]:
        known = self._said.setdefault((what,), Progress("", now - self._pace_s, self._pace_s))
        if known.text != text and (at_once or known.may(now)):
            known.tell(text, now, self._pace_s)
            if text:
                yield Change(what, text, {what: data})


def stamp(moment: datetime) -> str:
    """A moment as every line begins with it: UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_SENTENCES = {
    "state": "is {}",
    "ring": "is {} in the ring",
    "zone": "is in zone {}",
    "version": "runs version {}",
}


def _differences(was: Json, one: Json) -> Iterator[tuple[str, str]]:
    """What of a peer is another than before: which field, and the rest of a sentence that begins with its name."""
    for what, said in _SENTENCES.items():
        if was.get(what) != one.get(what) and None not in (was.get(what), one.get(what)):
            yield what, f" {said.format(told.state(one[what]))} (before: {told.state(was[what])})"
    if was.get("boot") not in (0, None) and one.get("boot") not in (was.get("boot"), 0, None):
        yield "boot", f" was started anew (start {one['boot']})"
    if was.get("whole") is not None and was.get("whole") != one.get("whole"):
        yield "whole", " counts as a copy again" if one.get("whole") else " counts as no copy now"
    before, after = set(was.get("flags") or ()), set(one.get("flags") or ())
    for flag in sorted(after - before):
        yield "flags", f": flag {flag} is up"
    for flag in sorted(before - after):
        yield "flags", f": flag {flag} is down"


def _whole(cluster: Json) -> object:
    return (cluster.get("redundancy") or {}).get("whole")


def _keyed(kind: str, ones: list[Json]) -> dict[tuple[str, ...], Json]:
    """Reasons or warnings by what makes two of them the same one: the code, and the peer it is about. Where no peer is
    named its name is the first word, unless that is a number."""
    found: dict[tuple[str, ...], Json] = {}
    for one in ones:
        first = str(one.get("message") or " ").split(" ")[0].rstrip(":")
        about = str(one.get("node") or ("" if first[:1].isdigit() else first))
        key: tuple[str, ...] = (kind, str(one.get("code")), about)
        while key in found:
            key = (*key, "again")
        found[key] = one
    return found

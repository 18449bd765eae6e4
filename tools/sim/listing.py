"""Is a listing page honest? (promise P4)

A page says of every key in its range "present, with this value" or "absent". Each such sentence is a read of
the key that lasted as long as the page, so it is judged by the linearizability checker together with
everything else that happened to the key. Two verdicts are told apart:

- P4: the page misses a key that was present throughout, or shows one that was absent throughout, whatever
  order the other operations really had. One page alone contradicts the history.
- order: every page could be right by itself, but not all of them and the reads together: listings go back
  in time. Atoll's pages come from chosen states (L1 in peer/replication/registers/scan.py), so this is a fault too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tools.sim.linear import ABSENT, GET, OK, SEEN, Op, Verdict, check_key


@dataclass(frozen=True, slots=True)
class PageSeen:
    """A page as its client saw it: valid for `first` <= key <= `bound` (None: to the end of the range,
    which `end`, exclusive, bounds unless None). A None value: only presence was shown."""

    client: str
    start: float
    finish: float
    first: str
    end: str | None
    bound: str | None
    entries: tuple[tuple[str, str | None], ...]

    def covers(self, key: str) -> bool:
        return (
            key >= self.first
            and (self.bound is None or key <= self.bound)
            and (self.end is None or key < self.end)
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """A broken promise: `kind` is "P3", "P4", "order" or "page", `text` says what contradicts what."""

    kind: str
    key: str
    text: str


def shape_faults(page: PageSeen, keys: frozenset[str]) -> list[Fault]:
    """What is wrong with a page by itself: order, repetition, range, keys nobody ever wrote."""
    listed = [key for key, _ in page.entries]
    faults = []
    if listed != sorted(set(listed)):
        faults.append(Fault("page", "", f"keys out of order or repeated: {listed} in {page}"))
    for key in listed:
        if key not in keys:
            faults.append(Fault("page", key, f"a key that nobody ever wrote, in {page}"))
        elif not page.covers(key):
            faults.append(Fault("page", key, f"a key outside the page's range, in {page}"))
    return faults


def sentences(page: PageSeen, keys: Iterable[str]) -> list[Op]:
    """What the page says of each key in its range, as reads."""
    shown = dict(page.entries)
    who = f"{page.client} (listing)"
    ops = []
    for key in keys:
        if not page.covers(key):
            continue
        if key not in shown:
            ops.append(Op(who, SEEN, key, page.start, page.finish, ABSENT))
        elif shown[key] is None:
            ops.append(Op(who, SEEN, key, page.start, page.finish, OK))
        else:
            ops.append(Op(who, GET, key, page.start, page.finish, OK, output=shown[key]))
    return ops


def judge(history: Iterable[Op], pages: Sequence[PageSeen], keys: Iterable[str]) -> list[Fault]:
    """Every fault of a run. `keys` are all keys that operations may have touched, all absent at first."""
    universe = sorted(set(keys))
    by_key: dict[str, list[Op]] = defaultdict(list)
    for op in history:
        by_key[op.key].append(op)
    told: dict[str, list[Op]] = defaultdict(list)
    faults: list[Fault] = []
    known = frozenset(universe)
    for page in pages:
        faults += shape_faults(page, known)
        for op in sentences(page, universe):
            told[op.key].append(op)
    for key in universe:
        verdict = check_key([*by_key[key], *told[key]])
        if not verdict.ok:
            faults.append(_classify(key, by_key[key], told[key], verdict))
    return faults


def _classify(key: str, ops: list[Op], told: list[Op], together: Verdict) -> Fault:
    alone = check_key(ops)
    if not alone.ok:
        return Fault("P3", key, alone.explain())
    for op in told:
        with_one = check_key([*ops, op])
        if not with_one.ok:
            return Fault("P4", key, f"{op} contradicts the history:\n{with_one.explain()}")
    return Fault("order", key, together.explain())

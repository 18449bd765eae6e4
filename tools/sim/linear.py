"""Is the history of one key linearizable? (Wing and Gong 1993, with Lowe's memoisation, 2017.)

A history is a set of operations with invocation and response times. It is linearizable if every
operation can be given one instant between the two so that, executed in that order on a plain register,
each one answers what it really answered; refusals (404, 412) are answers like any other.

The search keeps a configuration (operations already placed, value of the register) and extends it by
any operation that no unplaced one precedes. Five observations keep it small; each preserves the verdict:

L1  A read or refusal that may come next and is legal may be placed at once, without trying
    alternatives: it never changes anything, so every continuation stays legal without it. (Not so a
    delete that finds nothing now: placed later it may remove something.)
L2  A configuration that failed once fails always, so it is remembered and not entered again.
L3  An operation of unknown outcome never has to be placed. It is placed only where the very next
    operation is impossible without it: otherwise it can move behind that operation, or be dropped.
L4  Having used fewer unknown operations is never worse. So a configuration fails if one with the same
    placed operations and value, and a subset of its used unknowns, has failed.
L5  A value that no unplaced operation can write again must not be overwritten while an unplaced
    operation still has to find it. (Values are mostly written once, so this ends most dead ends.)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

GET, SEEN, PUT, DELETE = "get", "seen", "put", "delete"
PUT_IF_ABSENT, PUT_IF_MATCH, DELETE_IF_MATCH = "put-if-absent", "put-if-match", "delete-if-match"
KINDS = (GET, SEEN, PUT, DELETE, PUT_IF_ABSENT, PUT_IF_MATCH, DELETE_IF_MATCH)

OK = "ok"  # done; a get's answer is `output`
ABSENT = "absent"  # 404: there was nothing (for a get an answer, for a condition a refusal)
MISMATCH = "mismatch"  # 412: there was something else (for put-if-absent: anything)
FAILED = "failed"  # the caller was told that nothing changed and nothing will
UNKNOWN = "unknown"  # may take effect at any time after `start`, once, or never

MAX_STEPS = 2_000_000


State = str | None  # a register's value


class Undecided(Exception):
    """The search ended at its bound. Never to be read as a verdict."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operation on one key. A value stands for itself and for its etag; None is absence.

    `end` is the time of the answer in the unit of `start`; it is ignored for an unknown outcome.
    """

    client: str
    kind: str
    key: str
    start: float
    end: float
    outcome: str = OK
    value: str | None = None  # what a put writes
    expect: str | None = None  # what a condition demands
    output: str | None = None  # what a get answered

    def __str__(self) -> str:
        text = f"{self.kind} {self.key}"
        if self.expect is not None:
            text += f" (if {self.expect})"
        if self.value is not None:
            text += f" := {self.value}"
        answer = repr(self.output) if self.kind == GET and self.outcome == OK else self.outcome
        end = "..." if self.outcome == UNKNOWN else f"{self.end:.6f}"
        return f"[{self.start:.6f} {end}] {self.client}: {text} -> {answer}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`order` is a witness when `ok`; otherwise the longest order found, and `stuck` could not follow."""

    ok: bool
    order: tuple[Op, ...]
    state: State
    stuck: tuple[Op, ...]
    steps: int

    def explain(self, last: int = 8) -> str:
        """Readable reason for a bad verdict: the end of the best order, its value, who cannot follow."""
        if self.ok:
            return "linearizable"
        lines = [f"not linearizable: after {len(self.order)} operations, ending"]
        lines += [f"    {op}" for op in self.order[-last:]]
        lines.append(f"  the value is {self.state!r} and none of these can come next:")
        lines += [f"    {op}" for op in self.stuck]
        return "\n".join(lines)


Move = tuple[int, int, State, tuple[Op, ...]]  # placed, used, value, the operations that led there
ILLEGAL = object()


def _next_state(op: Op, state: State) -> object:
    """State after `op` answered as it did in `state`, or ILLEGAL. Outcome UNKNOWN means: took effect."""
    kind, done = op.kind, op.outcome in (OK, UNKNOWN)
    if kind == GET:
        return state if state == (op.output if op.outcome == OK else None) else ILLEGAL
    if kind == SEEN:
        return state if (state is not None) == (op.outcome == OK) else ILLEGAL
    if kind == PUT:
        return op.value
    if kind == DELETE:
        return None
    if kind == PUT_IF_ABSENT:
        if state is None:
            return op.value if done else ILLEGAL
        return ILLEGAL if done else state
    if state is None:
        return state if op.outcome == ABSENT else ILLEGAL
    if state == op.expect:
        return (op.value if kind == PUT_IF_MATCH else None) if done else ILLEGAL
    return state if op.outcome == MISMATCH else ILLEGAL


def _validate(op: Op) -> None:
    allowed = {
        GET: (OK, ABSENT),
        SEEN: (OK, ABSENT),
        PUT: (OK,),
        DELETE: (OK,),
        PUT_IF_ABSENT: (OK, MISMATCH),
        PUT_IF_MATCH: (OK, ABSENT, MISMATCH),
        DELETE_IF_MATCH: (OK, ABSENT, MISMATCH),
    }
    if op.kind not in allowed or op.outcome not in (*allowed[op.kind], FAILED, UNKNOWN):
        raise ValueError(f"no such operation or outcome: {op}")
    if op.outcome != UNKNOWN and op.end < op.start:
        raise ValueError(f"answered before it was asked: {op}")


def _writes(op: Op) -> State:
    return op.value if op.outcome in (OK, UNKNOWN) else None


def _finds(op: Op) -> State:
    """The value that must be there when a known operation is placed, if it is one value."""
    return (op.output if op.kind == GET else op.expect) if op.outcome == OK else None


def _masks(ops: Sequence[Op], value_of: Callable[[Op], State]) -> dict[str, int]:
    masks: dict[str, int] = {}
    for index, op in enumerate(ops):
        value = value_of(op)
        if value is not None:
            masks[value] = masks.get(value, 0) | 1 << index
    return masks


class _Search:
    """Depth-first search over configurations; `placed` and `used` are bit sets over the two lists."""

    def __init__(self, ops: Sequence[Op], max_steps: int) -> None:
        known = [op for op in ops if op.outcome not in (UNKNOWN, FAILED)]
        self.known = sorted(known, key=lambda op: (op.start, op.end))
        self.pure = [op.kind in (GET, SEEN) or op.outcome != OK for op in self.known]
        writes = (op for op in ops if op.outcome == UNKNOWN and op.kind not in (GET, SEEN))
        self.unknown = sorted(writes, key=lambda op: op.start)
        self.writers, self.late_writers = _masks(self.known, _writes), _masks(self.unknown, _writes)
        self.finders = _masks(self.known, _finds)
        self.all_placed = (1 << len(self.known)) - 1
        self.failed: dict[tuple[int, State], list[int]] = {}
        self.max_steps = max_steps
        self.steps = 0
        self.path: list[Op] = []
        self.best_length = -1
        self.best: tuple[tuple[Op, ...], State, tuple[Op, ...]] = ((), None, ())

    def candidates(self, placed: int) -> tuple[list[int], float]:
        """Unplaced known operations that no unplaced one precedes, and the time that bounds them."""
        index = (~placed & (placed + 1)).bit_length() - 1  # first zero bit
        known, found, bound = self.known, [], math.inf
        while index < len(known):
            op = known[index]
            if op.start > bound:
                break
            if not placed >> index & 1:
                found.append(index)
                bound = min(bound, op.end)
            index += 1
        return [i for i in found if known[i].start <= bound], bound

    def settle(self, placed: int, state: State) -> tuple[int, list[int], float]:
        """L1: place legal reads and refusals until there are none."""
        while True:
            ready, bound = self.candidates(placed)
            before = placed
            for i in ready:
                if self.pure[i] and _next_state(self.known[i], state) == state:
                    placed |= 1 << i
                    self.path.append(self.known[i])
            if placed == before:
                return placed, ready, bound

    def seen_failing(self, placed: int, used: int, state: State) -> bool:
        """L2 and L4, and marks this configuration: it either ends the search or is proved failing."""
        masks = self.failed.setdefault((placed, state), [])
        if any(mask & used == mask for mask in masks):
            return True
        masks[:] = [mask for mask in masks if mask & used != used]
        masks.append(used)
        return False

    def lost(self, value: State, placed: int, used: int) -> bool:
        """L5: whether `value`, gone now, is still needed and will never come back."""
        return bool(
            value is not None
            and self.finders.get(value, 0) & ~placed
            and not self.writers.get(value, 0) & ~placed
            and not self.late_writers.get(value, 0) & ~used
        )

    def moves(self, ready: list[int], bound: float, placed: int, used: int, state: State) -> Iterator[Move]:
        """Every next configuration: one known operation, after the unknown ones it needs (L3)."""
        for i in ready:
            after, now = _next_state(self.known[i], state), placed | 1 << i
            if after is not ILLEGAL and not (after != state and self.lost(state, now, used)):
                yield now, used, after, (self.known[i],)  # type: ignore[misc]
        for before, after, used_now, chain in self.chains(ILLEGAL, state, bound, placed, used, ()):
            for i in ready:
                op = self.known[i]
                if _next_state(op, before) is ILLEGAL:
                    last, now = _next_state(op, after), placed | 1 << i
                    if last is not ILLEGAL and not (last != after and self.lost(after, now, used_now)):
                        yield now, used_now, last, (*chain, op)  # type: ignore[misc]

    def chains(
        self, before: object, state: State, bound: float, placed: int, used: int, chain: tuple[Op, ...]
    ) -> Iterator[tuple[State, State, int, tuple[Op, ...]]]:
        """Sequences of unknown operations, each impossible without the one before it (L3)."""
        tried = set()
        for j, op in enumerate(self.unknown):
            if op.start > bound:
                break
            effect = (op.kind, op.value, op.expect)
            if used >> j & 1 or effect in tried:
                continue  # among equal ones the earliest will do
            tried.add(effect)
            after = _next_state(op, state)
            if after is ILLEGAL or after == state:
                continue
            if before is not ILLEGAL and _next_state(op, before) is not ILLEGAL:  # type: ignore[arg-type]
                continue
            now = used | 1 << j
            if self.lost(state, placed, now):
                continue
            yield state, after, now, (*chain, op)  # type: ignore[misc]
            yield from self.chains(state, after, bound, placed, now, (*chain, op))  # type: ignore[arg-type]

    def enter(self, placed: int, used: int, state: State) -> Iterator[Move] | None:
        """The moves out of a configuration; none if it is known to fail; None if all is placed."""
        self.steps += 1
        if self.steps > self.max_steps:
            raise Undecided(f"no verdict on {len(self.known)} operations within {self.max_steps} steps")
        placed, ready, bound = self.settle(placed, state)
        if len(self.path) > self.best_length:
            self.best_length = len(self.path)
            self.best = (tuple(self.path), state, tuple(self.known[i] for i in ready))
        if placed == self.all_placed:
            return None
        if self.seen_failing(placed, used, state):
            return iter(())
        return self.moves(ready, bound, placed, used, state)

    def run(self, initial: State) -> bool:
        stack: list[tuple[Iterator[Move], int]] = []
        found = self.enter(0, 0, initial)
        while found is not None:
            stack.append((found, len(self.path)))
            while stack:
                moves, length = stack[-1]
                del self.path[length:]
                move = next(moves, None)
                if move is not None:
                    break
                stack.pop()
            else:
                return False
            placed, used, state, ops = move
            self.path.extend(ops)
            found = self.enter(placed, used, state)
        return True


def check_key(history: Iterable[Op], initial: State = None, max_steps: int = MAX_STEPS) -> Verdict:
    """Verdict on the operations of one key, whose register held `initial` before them.

    Raises ValueError for an operation that cannot be, Undecided beyond `max_steps` configurations.
    """
    ops = list(history)
    for op in ops:
        _validate(op)
    search = _Search(ops, max_steps)
    ok = search.run(initial)
    order, state, stuck = search.best
    return Verdict(ok, order, state, () if ok else stuck, search.steps)


def check(history: Iterable[Op], max_steps: int = MAX_STEPS) -> dict[str, Verdict]:
    """Verdict of every key. Linearizability is local: a history is good if each key's is."""
    keys: dict[str, list[Op]] = defaultdict(list)
    for op in history:
        keys[op.key].append(op)
    return {key: check_key(ops, max_steps=max_steps) for key, ops in sorted(keys.items())}

"""The linearizability checker gives the right verdict on histories whose verdict is known."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.sim import linear
from tools.sim.linear import Op, check, check_key


def history(text: str) -> list[Op]:
    """One operation a line: `start end kind [value] [if=E] -> outcome`; end `-` for unknown ones."""
    ops = []
    for number, line in enumerate(filter(None, map(str.strip, text.splitlines()))):
        call, _, outcome = (part.strip() for part in line.partition("->"))
        start, end, kind, *rest = call.split()
        expect = next((word[3:] for word in rest if word.startswith("if=")), None)
        value = next((word for word in rest if not word.startswith("if=")), None)
        output = None
        if kind == "get" and outcome not in ("absent", "unknown", "failed"):
            outcome, output = "ok", outcome
        finish = float(start) if end == "-" else float(end)
        ops.append(Op(f"c{number}", kind, "k", float(start), finish, outcome, value, expect, output))
    return ops


GOOD = {
    "empty": "",
    "sequence": """
        0 1 get -> absent
        2 3 put a -> ok
        4 5 get -> a
        6 7 delete -> ok
        8 9 get -> absent""",
    "reads either side of a concurrent put": """
        0 9 put a -> ok
        1 2 get -> absent
        3 4 get -> a""",
    "touching intervals are concurrent": """
        0 1 put a -> ok
        1 2 get -> absent""",
    "unknown put seen later": """
        0 - put a -> unknown
        5 6 get -> absent
        7 8 get -> a""",
    "unknown put never seen": """
        0 - put a -> unknown
        5 6 get -> absent""",
    "unknown put takes effect between two known ones": """
        0 1 put a -> ok
        0 - put b -> unknown
        2 3 put c -> ok
        4 5 get -> b
        6 7 put-if-match d if=b -> ok""",
    "unknown delete explains a refusal": """
        0 1 put a -> ok
        2 - delete -> unknown
        3 4 put-if-match b if=a -> absent""",
    "a chain of unknown operations": """
        0 - put a -> unknown
        0 - put-if-match b if=a -> unknown
        0 - put-if-match c if=b -> unknown
        5 6 get -> c""",
    "unknown delete then unknown create": """
        0 1 put a -> ok
        2 - delete -> unknown
        2 - put-if-absent b -> unknown
        5 6 get -> b""",
    "failed put is as if it never was": """
        0 1 put a -> failed
        2 3 get -> absent""",
    "two creators, one wins": """
        0 5 put-if-absent a -> ok
        0 5 put-if-absent b -> mismatch
        6 7 get -> a""",
    "create refused by a concurrent put": """
        0 9 put a -> ok
        1 2 put-if-absent b -> mismatch""",
    "replace refused: gone, then other": """
        0 1 put-if-match a if=x -> absent
        2 3 put b -> ok
        4 5 put-if-match c if=x -> mismatch
        6 7 delete-if-match if=b -> ok
        8 9 delete-if-match if=b -> absent""",
    "a listing saw it, then did not": """
        0 1 put a -> ok
        2 3 seen -> ok
        4 9 delete -> ok
        5 6 seen -> absent""",
    "the same value twice": """
        0 1 put a -> ok
        2 3 put b -> ok
        4 5 put a -> ok
        6 7 put-if-match c if=a -> ok""",
    "a delete that finds nothing at first": """
        0 9 delete -> ok
        1 2 put a -> ok
        3 4 get -> absent""",
    "the delayed one of two equal unknown deletes": """
        0 1 put a -> ok
        2 - delete -> unknown
        3 4 get -> absent
        5 6 put b -> ok
        7 - delete -> unknown
        8 9 get -> absent""",
}

BAD = {
    "stale read": """
        0 1 put a -> ok
        2 3 put b -> ok
        4 5 get -> a""",
    "lost write": """
        0 1 put a -> ok
        2 3 get -> absent""",
    "reads go backwards": """
        0 9 put a -> ok
        1 2 get -> a
        3 4 get -> absent""",
    "reads go backwards over an unknown put": """
        0 - put a -> unknown
        1 2 get -> a
        3 4 get -> absent""",
    "value from nowhere": """
        0 1 put a -> ok
        2 3 get -> b""",
    "failed put shows": """
        0 1 put a -> failed
        2 3 get -> a""",
    "seen before it was asked for": """
        0 1 get -> a
        2 - put a -> unknown""",
    "two creators both win": """
        0 5 put-if-absent a -> ok
        0 5 put-if-absent b -> ok""",
    "create refused over nothing": """
        0 1 put-if-absent a -> mismatch
        2 3 put b -> ok""",
    "create refused by a put that came later": """
        0 1 put a -> ok
        2 3 delete -> ok
        4 5 put-if-absent b -> mismatch
        6 - put c -> unknown""",
    "replace twice from the same value": """
        0 1 put a -> ok
        2 6 put-if-match b if=a -> ok
        2 6 put-if-match c if=a -> ok""",
    "replace refused though it matched": """
        0 1 put a -> ok
        2 3 put-if-match b if=a -> mismatch""",
    "404 though there was something": """
        0 1 put a -> ok
        2 3 put-if-match b if=x -> absent""",
    "412 though there was nothing": """
        0 1 put-if-match b if=x -> mismatch""",
    "unknown write used twice": """
        0 - put a -> unknown
        1 2 get -> a
        3 4 put b -> ok
        5 6 get -> a""",
    "unknown write used twice, and one more of the same": """
        0 - put a -> unknown
        1 2 get -> a
        3 4 put b -> ok
        5 6 get -> a
        7 8 put b -> ok
        9 10 get -> a
        10.5 - put a -> unknown""",
    "one unknown delete, two disappearances": """
        0 1 put a -> ok
        2 - delete -> unknown
        3 4 get -> absent
        5 6 put b -> ok
        7 8 get -> absent""",
    "refusal judged a value that never was": """
        0 1 put a -> ok
        2 9 put-if-absent c -> mismatch
        3 4 get -> a
        5 6 delete-if-match if=b -> ok""",
    "a chain with a missing link": """
        0 - put-if-match b if=a -> unknown
        0 - put-if-match c if=b -> unknown
        5 6 get -> c""",
    "a listing missed it": """
        0 1 put a -> ok
        2 3 seen -> absent""",
    "a listing saw a ghost": """
        0 1 put a -> ok
        2 3 delete -> ok
        4 5 seen -> ok""",
    "two readers disagree on the order of two puts": """
        0 9 put a -> ok
        0 9 put b -> ok
        1 2 get -> a
        3 4 get -> b
        5 6 get -> a""",
}


@pytest.mark.parametrize("name", GOOD)
def test_good_histories(name: str) -> None:
    """Goal: a history that some order explains is accepted, and the order given explains it."""
    ops = history(GOOD[name])
    verdict = check_key(ops)
    assert verdict.ok, verdict.explain()
    assert explains(verdict.order, ops)


@pytest.mark.parametrize("name", BAD)
def test_bad_histories(name: str) -> None:
    """Goal: a history that no order explains is refused, with operations to look at."""
    verdict = check_key(history(BAD[name]))
    assert not verdict.ok
    assert verdict.stuck
    assert "none of these can come next" in verdict.explain()


def explains(order: tuple[Op, ...], ops: list[Op]) -> bool:
    """Whether `order` is legal, respects time, and leaves out only what may be left out."""
    state: object = None
    for op in order:
        state = linear._next_state(op, state)  # type: ignore[arg-type]
        if state is linear.ILLEGAL:
            return False
    for i, later in enumerate(order):
        for earlier in order[:i]:
            if later.outcome != "unknown" and later.end < earlier.start:
                return False
    must = [op for op in ops if op.outcome not in ("unknown", "failed")]
    return len(set(order)) == len(order) and set(must) <= set(order) <= set(ops)


def brute_force(ops: list[Op]) -> bool:
    """The definition, tried literally: some order of all known and any unknown operations explains."""
    known = [op for op in ops if op.outcome not in ("unknown", "failed")]
    unknown = [op for op in ops if op.outcome == "unknown"]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            if any(explains(order, ops) for order in itertools.permutations([*known, *chosen])):
                return True
    return False


@st.composite
def tiny_histories(draw: st.DrawFn) -> list[Op]:
    """Up to six operations on few values, so that both verdicts are common."""
    ops = []
    for number in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(linear.KINDS))
        start = draw(st.integers(0, 6))
        end = start + draw(st.integers(0, 6))
        reads, writes = kind in ("get", "seen"), "put" in kind
        outcomes = ["ok", "ok", "unknown", "failed"]
        outcomes += ["absent"] if reads or "match" in kind else []
        outcomes += ["mismatch"] if "-if-" in kind else []
        outcome = draw(st.sampled_from(outcomes))
        value = draw(st.sampled_from("ab"))
        expect = draw(st.sampled_from("ab"))
        ops.append(
            Op(
                client=f"c{number}",
                kind=kind,
                key="k",
                start=start,
                end=end,
                outcome=outcome,
                value=value if writes else None,
                expect=expect if "match" in kind else None,
                output=value if kind == "get" and outcome == "ok" else None,
            )
        )
    return ops


@settings(deadline=None, max_examples=600)
@given(tiny_histories())
def test_agrees_with_the_definition(ops: list[Op]) -> None:
    """Goal: on tiny histories the search and the literal definition never differ."""
    verdict = check_key(ops)
    assert verdict.ok == brute_force(ops)
    if verdict.ok:
        assert explains(verdict.order, ops)


def recorded(rng: random.Random, count: int, clients: int, unknown_share: float) -> list[Op]:
    """A linearizable history: each operation takes effect at one drawn instant of its interval."""
    free = [0.0] * clients
    calls = []
    for number in range(count):
        client = rng.randrange(clients)
        start = free[client] + rng.random() * 0.2
        end = start + rng.expovariate(1)
        free[client] = end
        calls.append((rng.uniform(start, end), start, end, client, number))
    state: str | None = None
    ops = []
    for _, start, end, client, number in sorted(calls):
        kind = rng.choice(linear.KINDS)
        expect = state if rng.random() < 0.6 and state else "v0"
        value = f"v{number}"
        outcome, output, after = "ok", None, state
        if kind in ("get", "seen"):
            outcome, output = ("ok", state) if state is not None else ("absent", None)
        elif kind in ("put", "delete"):
            after = value if kind == "put" else None
        elif kind == "put-if-absent":
            outcome, after = ("ok", value) if state is None else ("mismatch", state)
        elif state is None:
            outcome = "absent"
        elif state == expect:
            after = value if kind == "put-if-match" else None
        else:
            outcome = "mismatch"
        if rng.random() < unknown_share:
            outcome, output = "unknown", None
            after = after if rng.random() < 0.5 else state
        state = after
        ops.append(
            Op(
                f"c{client}",
                kind,
                "k",
                start,
                end,
                outcome,
                value if "put" in kind else None,
                expect if "match" in kind else None,
                output if kind == "get" else None,
            )
        )
    return ops


@pytest.mark.parametrize("seed", range(4))
def test_long_histories_of_many_clients(seed: int) -> None:
    """Goal: 700 operations of ten concurrent clients are judged within a small number of steps."""
    rng = random.Random(seed)
    ops = recorded(rng, count=700, clients=10, unknown_share=0.08)
    verdict = check_key(ops, max_steps=20_000)
    assert verdict.ok, verdict.explain()
    assert explains(verdict.order, ops)


@pytest.mark.parametrize("seed", range(12))
def test_one_wrong_answer_in_a_long_history(seed: int) -> None:
    """Goal: a read of a value overwritten long before is found among 500 operations, and quickly."""
    rng = random.Random(100 + seed)
    ops = recorded(rng, count=500, clients=8, unknown_share=0.05)
    done = sorted((op for op in ops if op.kind == "put" and op.outcome == "ok"), key=lambda op: op.end)
    old = done[rng.randrange(len(done) // 2)]
    later = [op for op in done if op.start > old.end]
    after = later[len(later) // 2].end
    ops.append(Op("late", "get", "k", after + 20, after + 20.5, "ok", output=old.value))
    assert not check_key(ops, max_steps=100_000).ok


def test_a_limit_is_not_a_verdict() -> None:
    """Goal: a search that reaches its bound says so instead of guessing."""
    ops = recorded(random.Random(1), count=100, clients=5, unknown_share=0)
    with pytest.raises(linear.Undecided):
        check_key(ops, max_steps=3)


def test_keys_are_judged_apart() -> None:
    """Goal: a bad key does not taint a good one."""
    good = Op("a", "put", "x", 0, 1, value="1")
    bad = Op("a", "get", "y", 2, 3, output="1")
    verdicts = check([good, bad])
    assert verdicts["x"].ok
    assert not verdicts["y"].ok


@pytest.mark.parametrize(
    "op", [Op("a", "frob", "k", 0, 1), Op("a", "put", "k", 2, 1), Op("a", "get", "k", 0, 1, "mismatch")]
)
def test_nonsense_is_refused(op: Op) -> None:
    """Goal: an operation that cannot be is an error of the caller, not a verdict."""
    with pytest.raises(ValueError, match=r"no such|answered before"):
        check_key([op])

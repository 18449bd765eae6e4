"""The queue of news: bounded, newest first, each piece sent a bounded number of times."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.broadcast import Broadcasts


def test_least_sent_first_then_newest() -> None:
    """Goal: fresh news overtake news that were sent, and newer ones older ones."""
    queue = Broadcasts("me", 100)
    for name in ("a", "b", "c"):
        queue.put(name, name.encode() * 30)
    assert queue.take(60, 4) == [b"c" * 30, b"b" * 30]
    queue.put("d", b"d" * 30)
    assert queue.take(60, 4) == [b"d" * 30, b"a" * 30]


def test_own_news_lead_every_datagram() -> None:
    """Goal: a member's defence of itself never waits behind gossip."""
    queue = Broadcasts("me", 100)
    queue.put("me", b"m" * 30)
    for number in range(20):
        queue.put(f"n{number}", b"n" * 30)
        assert number >= 3 or queue.take(30, 4) == [b"m" * 30]
    assert "me" in queue
    assert queue.take(30, 4) == [b"m" * 30]
    assert "me" not in queue


def test_newer_news_replace_older() -> None:
    """Goal: at most one piece of news about a member, the newest, counted anew."""
    queue = Broadcasts("me", 100)
    queue.put("a", b"1" * 30)
    queue.take(100, 2)
    queue.put("a", b"2" * 30)
    assert len(queue) == 1
    assert [queue.take(100, 2) for _ in range(3)] == [[b"2" * 30], [b"2" * 30], []]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 30), st.integers(24, 80)),
            st.tuples(st.just("take"), st.integers(0, 400), st.integers(1, 6)),
        ),
        max_size=60,
    )
)
def test_bounds_hold(steps: list[tuple[str, int, int]]) -> None:
    """Goal: the queue never exceeds its bound, a take never exceeds its room nor repeats itself,
    and everything is used up in the end."""
    queue = Broadcasts("0", 10)
    for action, number, size in steps:
        if action == "put":
            queue.put(str(number), bytes([number]) * size)
            assert len(queue) <= 10
        else:
            taken = queue.take(number, size)
            assert sum(map(len, taken)) <= number
            assert len({message[0] for message in taken}) == len(taken)
    for _ in range(10 * 6):
        queue.take(1400, 6)
    assert len(queue) == 0 and queue.take(1400, 6) == []


def test_what_was_sent_most_is_dropped_first() -> None:
    """Goal: at the bound the oldest of the most often sent news go, never our own."""
    queue = Broadcasts("me", 3)
    queue.put("me", b"m" * 30)
    queue.put("old", b"o" * 30)
    queue.take(100, 4)
    queue.put("new", b"n" * 30)
    queue.put("newer", b"r" * 30)
    assert queue.dropped == 1
    assert "old" not in queue and "me" in queue

"""The listing checker tells honest pages from dishonest ones."""

from __future__ import annotations

from tools.sim.linear import Op
from tools.sim.listing import PageSeen, judge

KEYS = ("a", "b", "c")


def put(key: str, start: float, end: float, value: str, outcome: str = "ok") -> Op:
    return Op("w", "put", key, start, end, outcome, value)


def delete(key: str, start: float, end: float) -> Op:
    return Op("w", "delete", key, start, end)


def page(start: float, finish: float, *keys: str, first: str = "", bound: str | None = None) -> PageSeen:
    entries = tuple((key, None) for key in keys)
    return PageSeen("l", start, finish, first, None, bound, entries)


def kinds(history: list[Op], *pages: PageSeen) -> list[str]:
    return [fault.kind for fault in judge(history, pages, KEYS)]


def test_honest_pages() -> None:
    """Goal: present keys shown, absent ones not, changing ones either way, and nothing beyond the bound."""
    history = [put("a", 0, 1, "1"), put("b", 2, 8, "2"), delete("a", 9, 10)]
    assert kinds(history, page(3, 4, "a"), page(5, 6, "a", "b"), page(11, 12, "b")) == []
    assert kinds(history, page(3, 4, "a", bound="a")) == []
    assert kinds(history, page(11, 12, "b", first="b")) == []
    assert kinds(history, page(9, 10, "b"), page(9, 10, "a", "b")) == []


def test_a_page_that_misses_a_key() -> None:
    """Goal: P4, a key present throughout the scan must be there."""
    history = [put("a", 0, 1, "1"), put("b", 0, 1, "1")]
    assert kinds(history, page(2, 3, "a")) == ["P4"]
    assert kinds(history, page(2, 3, "a", bound="a")) == []


def test_a_page_that_shows_a_ghost() -> None:
    """Goal: P4, a key absent throughout the scan must not be there; nor one that was never written."""
    history = [put("a", 0, 1, "1"), delete("a", 2, 3)]
    assert kinds(history, page(4, 5, "a")) == ["P4"]
    assert kinds([], page(4, 5, "z")) == ["page"]


def test_a_page_with_an_old_value() -> None:
    """Goal: where values are shown they are judged too."""
    history = [put("a", 0, 1, "1"), put("a", 2, 3, "2")]
    old = PageSeen("l", 4, 5, "", None, None, (("a", "1"),))
    assert kinds(history, old) == ["P4"]


def test_pages_that_go_back_in_time() -> None:
    """Goal: each page could be right alone, not both: told apart from P4."""
    history = [put("a", 0, 9, "1")]
    assert kinds(history, page(1, 2, "a"), page(3, 4)) == ["order"]


def test_a_broken_register_is_not_the_listing_s_fault() -> None:
    """Goal: where the history breaks P3 by itself, that is what is reported."""
    history = [put("a", 0, 1, "1"), Op("r", "get", "a", 2, 3, "absent")]
    assert kinds(history, page(4, 5, "a")) == ["P3"]


def test_the_shape_of_a_page() -> None:
    """Goal: order, repetition and range are checked."""
    history = [put("a", 0, 1, "1"), put("b", 0, 1, "1")]
    assert "page" in kinds(history, page(2, 3, "b", "a"))
    assert "page" in kinds(history, page(2, 3, "a", "a", "b"))
    assert "page" in kinds(history, page(2, 3, "a", "b", first="b"))

"""Goal: rates come of what peers had counted before, and nothing is kept of those that have left."""

from __future__ import annotations

from typing import Any

from peer.api.rates import Rates


def node(name: str) -> dict[str, Any]:
    return {"id": name, "name": name, "used_bytes": 1, "last_heard_s": 0.1}


def info(uptime_s: float, got: int) -> dict[str, Any]:
    return {"process": {"uptime_s": uptime_s}, "requests": {"GET": got}, "healing": {"workers": []}}


def test_rates_are_of_the_time_between() -> None:
    """Goal: the second look tells what came since the first; a peer that was started anew counts from nothing."""
    rates = Rates()
    assert rates.told([node("a")], {"a": info(10.0, 100)})["all"] == 0
    assert rates.told([node("a")], {"a": info(12.0, 140)})["all"] == 20
    assert rates.told([node("a")], {"a": info(2.0, 10)})["all"] == 5


def test_who_has_left_is_forgotten() -> None:
    """Goal: peers that come back under ever new ids leave nothing behind."""
    rates = Rates()
    for number in range(100):
        one = f"id-{number}"
        rates.told([node(one)], {one: info(10.0, 100)})
    assert list(rates._counted) == ["id-99"]

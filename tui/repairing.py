"""What heals in the background, in a few words: from GET /v1/cluster/workers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tui.clean import clean
from tui.model import age_words

Told = Mapping[str, Any]


def workers(told: Told | None) -> list[Told]:
    """Those that make sense of what was told."""
    listed = (told or {}).get("workers")
    return [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []


def paused(told: Told | None) -> bool:
    """Whether some worker stands still because somebody said so."""
    return any(one.get("state") == "paused" for one in workers(told))


def in_short(told: Told | None) -> tuple[str, str]:
    """What repair is doing, in one line with its style; a dash where nobody said."""
    every = workers(told)
    if not every:
        return "-", "bright_black"
    by_state: dict[str, list[Told]] = {}
    for one in every:
        by_state.setdefault(str(one.get("state")), []).append(one)
    words = [
        f"{_names(by_state[state])} {state}" for state in ("failing", "busy", "paused") if state in by_state
    ]
    waiting = [one for one in every if isinstance(one.get("left_s"), int | float)]
    if waiting:
        left = f"{age_words(max(one['left_s'] for one in waiting))} left"
        words.insert(0, left if words else f"{left} for {_names(waiting)}")
    style = "red" if "failing" in by_state else "yellow" if words else ""
    return "; ".join(words) or "idle", style


def _names(told: Iterable[Told]) -> str:
    return ", ".join(sorted({clean(str(one.get("worker"))) for one in told}))

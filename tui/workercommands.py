"""What can be done to a background worker: the question before it, and what came of it. Pure words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from tui.workers import Line, Repair, repair_of

RATE_MOST = 1e9
NAMED_MOST = 10


@dataclass(frozen=True, slots=True)
class Verb:
    """`verb` as the API has it; `key` as on the keyboard."""

    verb: str
    key: str
    label: str
    does: str
    did: str


VERBS: Mapping[str, Verb] = {
    verb.verb: verb
    for verb in (
        Verb(
            "pause", "P", "pause worker",
            "It takes no step until it is resumed, also after a restart. What it should heal stays as it is meanwhile.",
            "paused",
        ),
        Verb("resume", "R", "resume", "It goes on, also after a restart.", "resumed"),
        Verb("throttle", "T", "throttle", "", "throttled"),
        Verb(
            "start", "S", "start now",
            "It begins now what it would begin by itself in a while. Where it is paused it stays so.", "started",
        ),
    )
}  # fmt: skip


def where(line: Line, repair: Repair) -> str:
    """On which peers the command is to hold: on all, whatever a filter shows of them, or on that of the row."""
    if line.peer is not None:
        return f"on {line.peer}"
    count = len(repair.of(line.worker)) + len(repair.silent)
    return "on the only peer" if count == 1 else f"on all {count:,} peers"


def question(verb: Verb, line: Line, repair: Repair, per_second: float | None) -> tuple[str, list[str]]:
    """The title and the lines of the dialog."""
    title = f"{verb.verb.capitalize()} {line.worker} {where(line, repair)}?"
    lines = [verb.does if per_second is None else throttled(per_second) + ", also after a restart."]
    if line.peer is None and repair.silent:
        names = ", ".join(peer for peer, _ in repair.silent[:NAMED_MOST])
        lines.append(f"Did not answer just now and may go on as before: {names}{_more(len(repair.silent))}.")
    return title, lines


def throttled(per_second: float) -> str:
    if not per_second:
        return "It does as many items as it can"
    return f"It does {per_second:,g} item{'' if per_second == 1 else 's'} a second at most"


def rate_problem(words: str) -> str:
    """What is wrong with a rate that was typed."""
    try:
        rate = float(words)
    except ValueError:
        return "That is no number of items a second."
    good = isfinite(rate) and 0 <= rate <= RATE_MOST
    return "" if good else f"It must be a number from 0 to {RATE_MOST:,.0f}."


def outcome(verb: Verb, line: Line, told: Mapping[str, Any]) -> tuple[str, str]:
    """What the peers answered, as a sentence and its level."""
    answer = repair_of(told)
    did = (
        f"{line.worker} {verb.did} on {_peers(answer)}" if answer.ones else f"{line.worker}: nothing was done"
    )
    if not answer.silent:
        return did, "good" if answer.ones else "warning"
    failed = "; ".join(f"{peer}: {why}" for peer, why in answer.silent[:NAMED_MOST])
    return f"{did}; NOT on {len(answer.silent):,}: {failed}{_more(len(answer.silent))}", "error"


def _peers(answer: Repair) -> str:
    return answer.ones[0].peer if answer.peers == 1 else f"{answer.peers:,} peers"


def _more(count: int) -> str:
    return f" and {count - NAMED_MOST:,} more" if count > NAMED_MOST else ""

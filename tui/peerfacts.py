"""All that is known of one peer, as lines: GET /v1/cluster/nodes/{id}, its workers, its part of the journal. Pure.

What this version does not know is shown, too, under its own name: a newer peer tells more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.text import Text

from tui.clean import clean
from tui.journal import Entry
from tui.model import DASH, Json, age_words, epoch_words, share_words, size_words

CELL = 38
"""Columns of a fact; as many stand side by side as there is room for."""
LABEL = 16
COUNT_LABEL = 26
ENTRIES = 12
NESTED_MOST = 200
"""Counters of one group."""
Fact = tuple[str, str]

FACTS: Mapping[str, str] = {
    "state": "state",
    "ring": "on the ring",
    "whole": "a whole copy",
    "flags": "says of itself",
    "last_heard_s": "heard",
    "clock_skew_s": "clock ahead by",
    "incarnation": "incarnation",
    "boot": "starts",
    "version": "version",
    "epoch": "epoch",
    "zone": "zone",
    "used_bytes": "used",
    "capacity_bytes": "capacity",
    "share": "share",
    "owned_fair": "fair share",
    "partitions": "partitions",
    "peer_address": "peers",
    "api_url": "API",
    "s3_url": "S3",
    "id": "id",
}
"""What is told of every peer, by its name in the API, in this order."""
TITLES: Mapping[str, str] = {"name": "", "self": "", "host": ""}
"""Told elsewhere on the page."""


def page_of(
    told: Json, workers: Iterable[Json], entries: Sequence[Entry], load: Json, width: int
) -> list[Text]:
    """The whole page. `load` is the peer's part of the event `requests`."""
    facts = [(label, _words(name, told[name])) for name, label in FACTS.items() if name in told]
    lines = _columns(facts, width, LABEL)
    lines += _section("Clients, a second", _load(load), width)
    lines += _workers(workers)
    if entries:
        lines += [Text(), Text("Journal", style="bold")]
        lines += [_entry(entry) for entry in entries[-ENTRIES:]]
    for name, value in told.items():
        if name in FACTS or name in TITLES:
            continue
        lines += _section(_title(name), list(flattened(value))[:NESTED_MOST], width)
    return lines


def flattened(value: object, prefix: str = "") -> Iterator[Fact]:
    """A tree of counters as facts; what is no mapping is one fact."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if isinstance(inner, Mapping):
                yield from flattened(inner, f"{prefix}{_title(str(name)).lower()} ")
            elif name != "name":
                yield prefix + _label(str(name)), _words(str(name), inner)
    else:
        yield prefix.strip(), _words(prefix, value)


def _words(name: str, value: object) -> str:
    """A value in the unit that its name ends with."""
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        if name == "epoch" and len(value) == 2 and all(isinstance(one, int) for one in value):
            return epoch_words((value[0], value[1]))
        return clean(", ".join(str(one) for one in value)) or DASH
    if isinstance(value, int | float):
        if name.endswith("_bytes") or name.startswith("bytes_"):
            return size_words(int(value))
        if name.endswith("_s"):
            return f"-{age_words(-value)}" if value <= -0.05 else age_words(value)
        if name in ("share", "owned_fair"):
            return share_words(float(value))
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    return clean(" ".join(str(value).split()))


def _label(name: str) -> str:
    for unit in ("_bytes", "_s"):
        if name.endswith(unit):
            name = name.removesuffix(unit)
    return clean(name.replace("_", " "))


def _title(name: str) -> str:
    return clean(name.replace("_", " ").capitalize())


def _load(load: Json) -> list[Fact]:
    named = {"all": "requests", "errors": "errors", "bytes_in": "bytes in", "bytes_out": "bytes out"}
    facts = [(label, _words(name, load[name])) for name, label in named.items() if name in load]
    kinds = load.get("per_second")
    if isinstance(kinds, Mapping):
        facts += [(str(kind), _words("", count)) for kind, count in sorted(kinds.items()) if count]
    return facts


def _section(title: str, facts: Sequence[Fact], width: int) -> list[Text]:
    if not facts:
        return []
    return [Text(), Text(title, style="bold"), *_columns(facts, width, COUNT_LABEL)]


def _columns(facts: Sequence[Fact], width: int, label: int) -> list[Text]:
    """Facts in columns, to be read downwards. One that is too long for its place has a line to itself, at the end."""
    long = [fact for fact in facts if label + len(fact[1]) >= CELL or len(fact[0]) >= label]
    short = [fact for fact in facts if fact not in long]
    across = max(1, width // CELL)
    rows = -(-len(short) // across)
    lines = []
    for row in range(rows):
        line = Text()
        for name, value in short[row::rows]:
            line.append(" " * (-len(line) % CELL))
            line.append(name.ljust(label), style="bright_black")
            line.append(value)
        lines.append(line)
    for name, value in long:
        line = Text(f"{name.ljust(label)} ", style="bright_black")
        lines.append(Text().append_text(line).append(value))
    return lines


def _workers(workers: Iterable[Json]) -> list[Text]:
    """A line for each worker of this peer."""
    listed = list(workers)
    if not listed:
        return []
    lines = [
        Text(),
        Text(f"{'Workers':<16}{'state':<9}{'queue':>9}{'oldest':>9}{'rate/s':>9}{'left':>9}", style="bold"),
    ]
    for one in listed:
        state = str(one.get("state") or DASH)
        line = Text(clean(f"{one.get('worker')!s:<16}"[:40]))
        line.append(
            f"{state:<9}", style={"failing": "red", "paused": "yellow", "busy": "green"}.get(state, "")
        )
        for name in ("queue", "oldest_s", "rate", "left_s"):
            line.append(f"{_words(name, one.get(name)):>9}")
        if why := one.get("last_error"):
            line.append(f"  {clean(str(why))}", style="red")
        lines.append(line)
    return lines


def _entry(entry: Entry) -> Text:
    text = Text(f"{entry.clock} ", style="bright_black")
    return Text().append_text(text).append(entry.message, style=entry.colour)

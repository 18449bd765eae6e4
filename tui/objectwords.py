"""Everything known about one object, as lines. Pure: from its head and from GET /v1/cluster/ring/lookup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tui.clean import clean, clean_name
from tui.listing import local_words
from tui.model import DASH, LOOKS, size_words

if TYPE_CHECKING:
    from peer.client import ObjectInfo

Line = tuple[str, str]
LABEL = 9


def object_lines(info: ObjectInfo, *, unicode: bool) -> list[Line]:
    """Its head, in (words, style); the key whole, whatever it is."""
    exact = f" ({info.size:,} bytes)" if info.size >= 1000 else ""
    told = [
        ("size", f"{size_words(info.size)}{exact}"),
        ("modified", f"{local_words(info.modified)} {info.modified.astimezone().strftime('%Z')}".rstrip()),
        ("etag", info.etag or DASH),
        ("type", info.content_type),
        *((f"meta {name}", value) for name, value in sorted(info.metadata.items())),
    ]
    lines = [(f"{info.bucket}/{clean_name(info.key, unicode=unicode)}", "bold")]
    return lines + [(f"{label:<{LABEL}} {clean(words, unicode=unicode)}", "") for label, words in told]


def owner_lines(lookup: Mapping[str, Any], *, unicode: bool) -> list[Line]:
    """Its partition and who keeps it, with what each says of its copy."""
    partition = lookup.get("partition")
    lines = [(f"{'partition':<{LABEL}} {partition if isinstance(partition, int) else DASH}", "")]
    owners = lookup.get("owners")
    for owner in owners if isinstance(owners, list) else ():
        if not isinstance(owner, Mapping):
            continue
        look = LOOKS.get(str(owner.get("state")), LOOKS["unknown"])
        name = clean(str(owner.get("name") or owner.get("id") or DASH), unicode=unicode)
        held = owner.get("holds")
        holds = ", holds it" if held is True else ", does not hold it" if held is False else ""
        glyph = look.glyph if unicode else look.plain
        lines.append((f"{'owner':<{LABEL}} {glyph} {look.word} {name}{holds}", look.colour))
    return lines

"""Who believes whom to be alive: the view of every peer beside that of every other one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ring.members import Member

from .standing import Standing


def in_order(members: Iterable[Member]) -> list[Member]:
    """As people count them: peer-2 before peer-10."""
    return sorted(members, key=lambda member: (len(member.name), member.name, member.id))


def views(standing: Standing) -> dict[str, Any]:
    """{"members": [...], "views": [...]}. What a peer believes is null if it did not answer just now, or does not say
    (an older version): nobody knows it then. A member that is not named it holds for alive."""
    members = in_order(standing.epoch.members)
    answering = {member.id for member in standing.answering}
    told = []
    for member in members:
        info = standing.info(member.id) if member.id in answering else {}
        told.append(
            {
                "id": member.id,
                "name": member.name,
                "answers": member.id in answering,
                "believes": info.get("believes"),
                "heard_s": info.get("heard_s"),
            }
        )
    return {"members": [{"id": member.id, "name": member.name} for member in members], "views": told}

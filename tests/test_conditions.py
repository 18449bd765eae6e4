"""What the verdict says of peers that answer and are ill."""

from __future__ import annotations

from peer.api import conditions


def test_a_damaged_database_is_a_reason() -> None:
    """Goal: a peer whose database is damaged, and that the others cannot do without, appears in the verdict by name, with
    what it says; one that says nothing of the kind does not."""
    told = [
        ("peer-1", {"damage": ""}, ()),
        ("peer-2", {"damage": "page 7 of it is damaged"}, ()),
        ("peer-3", {}, ()),
    ]
    (found,) = conditions.reasons(told)
    assert (found["code"], found["node"]) == ("database_damaged", "peer-2")
    assert "page 7 of it is damaged" in found["message"] and "under a new id" in found["message"]

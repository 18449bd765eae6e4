"""GET /v1/cluster/ring: in a change of the ring, what was before, and which partitions have still to move."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

from peer.api.ringview import RingView, bitmap
from peer.api.standing import Standing
from peer.replication.agreement.epochs import tag_of
from ring.changes import completed, drained, joint_of
from ring.epoch import Epoch
from ring.placement import place
from tests.ring_samples import POWER, members
from tests.test_ring_epoch import epoch

PEERS = tuple(members(5))
FINAL = epoch(members=PEERS, table=place(None, PEERS, 3, POWER))
JOINT = joint_of(FINAL, drained(FINAL, PEERS[0].id))
ME = PEERS[1].id


def standing(ring: Epoch, infos: dict[str, Any], dead: str = "", silent: str = "") -> Standing:
    class View:
        flags = frozenset[str]()

        def __init__(self, member: str) -> None:
            self.state = "dead" if member == dead else "alive"

    views: Any = {member.id: View(member.id) for member in PEERS}
    return Standing(ring, ME, views, infos, frozenset({silent}), {})


def infos(ring: Epoch, **pending: bytes) -> dict[str, Any]:
    told = {"replication": {"epoch_tag": tag_of(ring)}, "healing": {}, "pending": b""}
    return {member.id: told | {"pending": pending.get(member.name, b"")} for member in PEERS}


def pending_in(told: dict[str, Any]) -> set[int]:
    """The partitions of the bitmap."""
    bits, partitions = b64decode(told["pending"]), 1 << told["partition_power"]
    assert len(bits) == partitions // 8
    return {partition for partition in range(partitions) if bits[partition >> 3] >> (partition & 7) & 1}


def gained(member: str) -> set[int]:
    assert JOINT.previous is not None
    now, before = JOINT.table, JOINT.previous
    return {p for p in range(now.partitions) if member in now.owners(p) and member not in before.owners(p)}


def test_at_rest() -> None:
    """Goal: nothing is said of a change that is none; the owners are those of the table."""
    told = RingView().to_map(standing(FINAL, infos(FINAL)))
    assert "before" not in told and "pending" not in told
    ids = [member["id"] for member in told["members"]]
    assert [tuple(ids[o] for o in owners) for owners in told["owners"]] == list(FINAL.table.all_owners)


def test_a_change() -> None:
    """Goal: in a joint epoch both tables are told, and what has still to move is what some new owner says; what nobody says
    any more has moved."""
    view = RingView()
    third, fourth = PEERS[2], PEERS[3]
    told = view.to_map(
        standing(
            JOINT,
            infos(
                JOINT, **{third.name: bytes(bitmap({1, 9}, POWER)), fourth.name: bytes(bitmap({255}, POWER))}
            ),
        )
    )
    assert pending_in(told) == {1, 9, 255}
    ids = [member["id"] for member in told["members"]]
    assert JOINT.previous is not None
    for key, table in (("owners", JOINT.table), ("before", JOINT.previous)):
        assert [tuple(ids[o] for o in owners) for owners in told[key]] == list(table.all_owners)
    assert pending_in(view.to_map(standing(JOINT, infos(JOINT)))) == set()


def test_who_does_not_say_has_all_of_it_before_it() -> None:
    """Goal: of a new owner that is dead, silent, of an older version, or has not heard of the change yet, nothing is taken
    for moved."""
    third = PEERS[2]
    assert gained(third.id)
    view, known = RingView(), infos(JOINT)
    for told in (
        view.to_map(standing(JOINT, known, dead=third.id)),
        view.to_map(standing(JOINT, known, silent=third.id)),
        view.to_map(standing(JOINT, known | {third.id: infos(FINAL)[third.id]})),
    ):
        assert pending_in(told) == gained(third.id)
    older = {"replication": {"epoch_tag": tag_of(JOINT)}, "healing": {"merging": 3}}
    assert pending_in(view.to_map(standing(JOINT, known | {third.id: older}))) == gained(third.id)
    older = older | {"healing": {"merging": 0}}
    assert pending_in(view.to_map(standing(JOINT, known | {third.id: older}))) == set()


def test_chunks_on_their_way_after_the_change() -> None:
    """Goal: in the final epoch, too, while chunks move."""
    ring = completed(JOINT)
    told = RingView().to_map(standing(ring, infos(ring, **{PEERS[2].name: bytes(bitmap({7}, POWER))})))
    assert pending_in(told) == {7} and "before" not in told

"""The sentence that says whether every object has all its copies: never better than what is known."""

from __future__ import annotations

from typing import Any

import pytest

from peer.api.redundancy import Redundancy
from ring.changes import completed, drained, joint_of, removed
from ring.epoch import Epoch
from tests.replication_world import member, ring_of

THREE = ring_of(*(member(index) for index in range(1, 4)))
FIVE = ring_of(*(member(index) for index in range(1, 6)))
OBJECTS = 20_480  # 80 in each of the 256 partitions


def ids(epoch: Epoch, *numbers: int) -> list[str]:
    return [member(number).id for number in numbers]


def infos(epoch: Epoch, *dead: int, per_partition: int = 80, **more: Any) -> dict[str, dict[str, Any]]:
    """What the living tell; `more` of member 1's healing."""
    told: dict[str, dict[str, Any]] = {}
    for one in epoch.everybody:
        if one.id not in ids(epoch, *dead):
            counted = epoch.table.partitions_of(one.id)
            told[one.id] = {
                "healing": {"objects": counted * per_partition, "counted": counted, "workers": []}
            }
    told[member(1).id]["healing"] |= more
    return told


def judged(
    epoch: Epoch, told: dict[str, dict[str, Any]], dead: tuple[int, ...] = (), behind: tuple[int, ...] = (),
    unhealed: bool = False,
) -> dict[str, Any]:  # fmt: skip
    return Redundancy(epoch, ids(epoch, *dead), ids(epoch, *behind), told, unhealed).to_map()


def worker(name: str, **facts: Any) -> dict[str, Any]:
    return {"name": name, "state": "busy", "rate": 0.0, "left_s": None} | facts


def test_all_is_well() -> None:
    """Goal: the one sentence of health, with the number of objects; also in an empty cluster."""
    assert judged(THREE, infos(THREE)) == {
        "whole": True,
        "lacking": 0,
        "objects": OBJECTS,
        "left_s": None,
        "message": "Every object has its 3 copies.",
    }
    assert judged(THREE, infos(THREE, per_partition=0))["message"] == "Every object has its 3 copies."


@pytest.mark.parametrize(("epoch", "share"), [(THREE, 1.0), (FIVE, 0.6)])
def test_a_dead_peer(epoch: Epoch, share: float) -> None:
    """Goal: what it owned lacks a copy, no more; nobody can say for how long."""
    told = judged(epoch, infos(epoch, 2), dead=(2,))
    assert told["lacking"] == pytest.approx(share * OBJECTS, rel=0.02)
    assert (told["whole"], told["left_s"], told["objects"]) == (False, None, OBJECTS)
    assert (
        told["message"]
        == f"About {told['lacking']:,} of 20,480 objects lack a copy until p2 is back or removed."
    )


def test_a_dead_peer_that_owns_nothing() -> None:
    """Goal: one that was drained may die; no object lacks a copy for it."""
    final = completed(joint_of(FIVE, drained(FIVE, member(2).id)))
    assert judged(final, infos(final, 2), dead=(2,))["whole"]


def test_before_anybody_has_counted() -> None:
    """Goal: no number is made up."""
    told = infos(THREE, 2)
    for one in told.values():
        one["healing"] |= {"objects": 0, "counted": 0}
    assert (
        judged(THREE, told, dead=(2,))["message"] == "Some objects lack a copy until p2 is back or removed."
    )


def test_the_dead_are_being_replaced() -> None:
    """Goal: in the change that takes a dead member out the number falls with what is merged, and a time is told. It was
    called whole: the dead one is no member of the new ring."""
    joint = joint_of(FIVE, removed(FIVE, member(2).id))
    workers = [worker("transition", left_s=40.2), worker("scrub", left_s=80_000.0)]
    told = judged(joint, infos(joint, 2, merging=16, workers=workers), dead=(2,))
    assert told["message"] == "About 1,280 of 20,480 objects lack a copy; about 40 s left."
    assert (told["whole"], told["left_s"]) == (False, 40.2)
    unbegun = judged(joint, infos(joint, 2), dead=(2,))
    assert unbegun["lacking"] == pytest.approx(0.6 * OBJECTS, rel=0.02), "nobody has begun to merge"


def test_objects_on_their_way() -> None:
    """Goal: while the ring changes, or chunks are to be fetched after it, it is not said that all is done."""
    joint = joint_of(FIVE, drained(FIVE, member(2).id))
    assert not judged(joint, infos(joint))["whole"]
    told = judged(FIVE, infos(FIVE, fetching=32, workers=[worker("anti-entropy", left_s=150.0)]))
    assert told["message"] == (
        "About 2,560 of 20,480 objects are still to be copied to their new owners; about 2 min left."
    )


def test_what_an_owner_missed() -> None:
    """Goal: hints that wait for a living owner are counted, with the time at the rate at which that one fetches; not those
    for a dead one."""
    hints = {member(2).id: 1204, member(3).id: 0}
    told = infos(THREE, hints=hints)
    told[member(2).id]["healing"]["workers"] = [worker("hints", rate=30.0), worker("garbage", left_s=9e9)]
    answer = judged(THREE, told, behind=(2,))
    assert answer["message"] == "About 1,204 of 20,480 objects lack a copy; about 40 s left."
    assert (answer["lacking"], answer["left_s"], answer["whole"]) == (1204, 40.1, False)
    dead = judged(THREE, infos(THREE, 2, hints=hints), dead=(2,))
    assert dead["lacking"] == OBJECTS


def test_who_lacks_something_and_does_not_move() -> None:
    """Goal: paused healing, or a disk that takes no writes or is full, is named instead of a time."""
    told = infos(THREE, hints={member(2).id: 5})
    told[member(2).id]["healing"]["workers"] = [worker("hints", rate=30.0, state="paused")]
    answer = judged(THREE, told)
    assert answer["message"] == "About 5 of 20,480 objects lack a copy; healing is paused on p2."
    assert answer["left_s"] is None
    told[member(2).id] |= {"condition": {"read_only": "Read-only file system"}}
    assert judged(THREE, told)["message"] == (
        "About 5 of 20,480 objects lack a copy; the disk of p2 takes no writes."
    )
    told[member(2).id] |= {"condition": {}, "full": "1 MiB free is below the floor of 64 MiB"}
    assert judged(THREE, told)["message"] == "About 5 of 20,480 objects lack a copy; the disk of p2 is full."


def test_one_that_was_away_or_does_not_answer() -> None:
    """Goal: nothing is known to lack, and yet it is not claimed that all is there."""
    told = judged(THREE, infos(THREE), behind=(3,))
    assert (told["whole"], told["message"]) == (False, "p3 may lack copies and is comparing.")
    told = Redundancy(THREE, (), ids(THREE, 3), infos(THREE), False, ids(THREE, 1, 3)).to_map()
    assert told["message"] == "p3 does not answer, so which copies are there is not known."
    assert (told["whole"], told["left_s"]) == (False, None)


def test_damage() -> None:
    """Goal: chunks that are bad or lost somewhere, and dropped hints, each have their words."""
    assert judged(THREE, infos(THREE, damaged=1), unhealed=True)["message"] == (
        "1 chunk lacks a good copy; it is fetched from the others."
    )
    dropped = judged(THREE, infos(THREE), unhealed=True)
    assert dropped["message"] == "Some objects may lack a copy; all peers compare what they hold."


def test_too_few_peers() -> None:
    """Goal: two peers cannot hold three copies; that is no lack that goes by itself."""
    two = ring_of(member(1), member(2))
    told = judged(two, infos(two))
    assert told["message"] == "Every object has 2 of 3 copies: more peers are needed."
    assert told["lacking"] == OBJECTS and not told["whole"]

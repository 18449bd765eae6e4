"""The machines of simulated clusters, and the ring they are founded with."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

from ring.epoch import Epoch
from ring.members import Member
from ring.placement import place
from ring.table import Table

PARTITION_POWER = 8
REPLICAS = 3


def member(index: int) -> Member:
    """The machine number `index`; the same in every run, so that tables need computing once."""
    member_id = blake2b(b"peer %d" % index, digest_size=8).hexdigest()
    port = 7400 + 10 * index
    return Member(member_id, f"p{index}", "127.0.0.1", port + 2, port, port + 1, f"zone-{index}", 10**12)


@lru_cache(maxsize=64)
def _table(previous: Table | None, members: tuple[Member, ...]) -> Table:
    return place(previous, members, REPLICAS, PARTITION_POWER)


def founding_epoch(first: Member, chunk_bytes: int = 4 << 20) -> Epoch:
    return Epoch(
        generation=0,
        number=1,
        kind="final",
        cluster_id="a7" * 16,
        members=(first,),
        replicas=REPLICAS,
        partition_power=PARTITION_POWER,
        format_level=1,
        chunk_bytes=chunk_bytes,
        table=_table(None, (first,)),
        previous=None,
        root_access_key="",
        root_secret_key="",
    )

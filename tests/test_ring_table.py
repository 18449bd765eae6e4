"""The table: lookups, its encoding against malformed bytes, and what moved between two of them."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring.members import Member
from ring.placement import place
from ring.table import Move, Table, moved, moves
from tests.ring_samples import POWER, clusters, member, members

IDS = ("00112233445566aa", "ffeeddccbbaa9988")

# A table of version 1 as it lies on disks: two members, alternating preference, 256 partitions.
YESTERDAY = bytes.fromhex("0108030002" + "".join(IDS) + "0000000100010000" * 128)


def two() -> Table:
    return Table(IDS, 8, 3, ((0, 1), (1, 0)) * 128)


def test_yesterdays_bytes() -> None:
    """Version 1 is read and written as it was on the first day."""
    assert Table.decode(YESTERDAY) == two()
    assert two().encode() == YESTERDAY


def test_lookups() -> None:
    """Owners come in preference order; counts include every replica; strangers hold nothing."""
    table = two()
    assert table.owners(0) == IDS and table.owners(255) == IDS[::-1]
    assert table.owners(2) is table.owners(0), "equal rows share one tuple"
    assert [table.partitions_of(one) for one in (*IDS, "0" * 16)] == [256, 256, 0]
    assert (table.partitions, table.width, table.replicas) == (256, 2, 3)
    for nowhere in (-1, 256):
        with pytest.raises(IndexError):
            table.owners(nowhere)


def test_a_table_cannot_be_changed() -> None:
    """Tables are values: shared between threads and epochs without a lock."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        two().replicas = 2  # type: ignore[misc]
    assert two() == two() and hash(two()) == hash(two())


def test_about_24_kib() -> None:
    """4,096 partitions of three owners fit 24 KiB and the ids, so that an epoch can carry them whole."""
    table = place(None, members(10), 3, 12)
    assert len(table.encode()) == 24 * 1024 + 10 * 8 + 5


@settings(deadline=None, max_examples=40)
@given(clusters(), st.integers(1, 6))
def test_encoding_round_trip(cluster: list[Member], replicas: int) -> None:
    """What is decoded equals what was encoded, owners included."""
    table = place(None, cluster, replicas, POWER)
    again = Table.decode(table.encode())
    assert again == table and again.encode() == table.encode()
    assert [again.owners(at) for at in range(256)] == [table.owners(at) for at in range(256)]


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=600))
def test_any_bytes_decode_or_raise_value_error(data: bytes) -> None:
    """No input makes the decoder raise anything but ValueError."""
    try:
        assert Table.decode(data).encode() == data
    except ValueError:
        pass


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(YESTERDAY) - 1), st.integers(0, 255), st.integers(-3, 3))
def test_damaged_bytes_decode_or_raise_value_error(at: int, value: int, longer: int) -> None:
    """A flipped byte, a cut or a tail gives either a valid table or a ValueError, never an invalid one."""
    damaged = bytearray(YESTERDAY)
    damaged[at] = value
    data = bytes(damaged[:longer]) if longer < 0 else bytes(damaged) + bytes(longer)
    try:
        table = Table.decode(data)
    except ValueError:
        return
    assert table.encode() == data
    assert all(len(set(table.owners(partition))) == table.width for partition in range(table.partitions))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut short"),
        (b"\x01\x08\x03\x00", "cut short"),
        (b"\x02" + YESTERDAY[1:], "version 2 is not known"),
        (YESTERDAY[:1] + b"\x07" + YESTERDAY[2:], "partition power"),
        (YESTERDAY[:2] + b"\x00" + YESTERDAY[3:], "bytes, not"),
        (YESTERDAY[:2] + b"\x11" + YESTERDAY[3:], "replicas"),
        (YESTERDAY[:3] + b"\x00\x00", "from 1 to 65535 members"),
        (YESTERDAY + b"\x00", "bytes, not"),
        (YESTERDAY[:-1], "bytes, not"),
        (YESTERDAY[:-1] + b"\x01", "partition 255 must have 2 distinct owners"),
        (YESTERDAY[:-1] + b"\x02", "partition 255 must have 2 distinct owners"),
        (YESTERDAY[:5] + YESTERDAY[13:21] + YESTERDAY[5:13] + YESTERDAY[21:], "ascending"),
        (YESTERDAY[:5] + YESTERDAY[5:13] * 2 + YESTERDAY[21:], "ascending"),
    ],
)
def test_malformed_bytes_are_named(data: bytes, message: str) -> None:
    """The error says what is wrong with the bytes."""
    with pytest.raises(ValueError, match=message):
        Table.decode(data)


@pytest.mark.parametrize(
    "rows",
    [
        ((0, 1),) * 255,
        ((0,),) * 256,
        ((0, 1, 0),) * 256,
        ((0, 0),) * 256,
        ((0, 2),) * 256,
        ((-1, 1),) * 256,
    ],
)
def test_contradictory_rows_are_refused(rows: tuple[tuple[int, ...], ...]) -> None:
    """A table that contradicts itself cannot be made."""
    with pytest.raises(ValueError):
        Table(IDS, 8, 3, rows)


def test_moves() -> None:
    """Moves name who gives and who fetches; changed preference is none, a filled place has no source."""
    ids = (*IDS, "ffff000000000000")
    old = Table(ids, 8, 2, ((0, 1),) * 256)
    new = Table(ids, 8, 2, ((0, 2), (1, 0), (2, 1), *((0, 1),) * 253))
    assert list(moves(old, new)) == [Move(0, ids[1], ids[2]), Move(2, ids[0], ids[2])]
    assert moved(old, new) == 2 and moved(old, old) == 0
    more = Table(ids, 8, 3, ((2, 1, 0),) * 256)
    assert moved(old, more) == 0 and all(move.source is None for move in moves(old, more))
    assert list(moves(more, old)) == [], "a dropped replica is no move"
    assert moved(Table(ids[:1], 8, 2, ((0,),) * 256), Table(ids[1:2], 8, 2, ((0,),) * 256)) == 256


def test_moves_between_different_powers() -> None:
    """Tables that cut the key space differently cannot be compared."""
    with pytest.raises(ValueError, match="partition powers"):
        list(moves(place(None, [member(1)], 1, 8), place(None, [member(1)], 1, 9)))

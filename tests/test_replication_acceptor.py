"""One owner of registers: what it promises, accepts, shows and forgets (A1 to A5 of acceptor.py)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from peer.replication.ballot import NONE, after
from peer.replication.messages import ABSTAIN, BUSY, CONFLICT, IS_FULL, OK
from peer.replication.registers.room import FULL_FOR_S
from peer.replication.value import encode_side, payload_of
from tests.replication_owner import Owner
from tests.replication_world import KEY, SPACE, ballot_at

OTHER = SPACE.row_key(b"other")
HIGH = 10_000_000
"""A counter above the bound that the small ones before a crash left behind."""


def payload_in(reply: Any) -> bytes | None:
    return payload_of(reply[2])


def settle(owner: Owner) -> Any:
    """A future of the end of everything queued so far."""
    future = owner.loop.create_future()
    owner.rows.commit([], future.set_result)
    return future


# --- A1: promises are kept, ballots never fall


def test_a1_accepts_at_or_above_the_promise_only() -> None:
    """Goal (A1): below the promise is a CONFLICT that names it; at it and above it are accepted."""
    owner = Owner()

    async def scenario() -> None:
        assert (await owner.prepare(ballot_at(20)))[0] == OK
        assert await owner.accept(ballot_at(19), b"late") == (CONFLICT, ballot_at(20))
        assert owner.stored().ballot == NONE
        assert await owner.accept(ballot_at(20), b"promised") == (OK,)
        assert await owner.accept(ballot_at(30), b"above") == (OK,)
        assert await owner.accept(ballot_at(25), b"between") == (CONFLICT, ballot_at(30))
        assert owner.stored().ballot == ballot_at(30)

    owner.run(scenario())


def test_a1_a_prepare_needs_a_strictly_greater_ballot() -> None:
    """Goal (A1): one ballot is promised once, and never at or below what is accepted."""
    owner = Owner()

    async def scenario() -> None:
        assert (await owner.prepare(ballot_at(20)))[0] == OK
        assert await owner.prepare(ballot_at(20)) == (CONFLICT, ballot_at(20))
        assert await owner.accept(ballot_at(40), b"unprepared") == (OK,)
        assert await owner.prepare(ballot_at(40)) == (CONFLICT, ballot_at(40))
        assert await owner.prepare(ballot_at(41)) == (
            OK,
            ballot_at(40),
            owner.stored().value,
            None,
            False,
            b"",
        )

    owner.run(scenario())


def test_a1_a_lower_accept_is_refused_while_a_higher_one_is_pending() -> None:
    """Goal (A1): what is queued counts already: commits happen in queue order."""
    owner = Owner()

    async def scenario() -> None:
        high = owner.accept(ballot_at(30), b"high")
        low = owner.accept(ballot_at(20), b"low")
        assert low.done()
        assert await low == (CONFLICT, ballot_at(30))
        assert await high == (OK,)
        assert owner.stored().ballot == ballot_at(30)

    owner.run(scenario())


def test_a_repeated_accept_answers_as_the_first_and_writes_once() -> None:
    """Goal: the duplicate of a pending accept waits for it, that of a durable one is OK at once."""
    owner = Owner()

    async def scenario() -> None:
        first = owner.accept(ballot_at(20), b"v", side=b"bytes")
        again = owner.accept(ballot_at(20), b"v", side=b"bytes")
        assert not again.done()
        assert [await first, await again] == [(OK,), (OK,)]
        commits = owner.rows.commits
        later = owner.accept(ballot_at(20), b"v", side=b"bytes")
        assert later.done()
        assert later.result() == (OK,)
        await asyncio.sleep(1)
        assert owner.rows.commits == commits
        assert list(owner.disk.tables["side"].values()) == [encode_side(KEY, b"bytes")]

    owner.run(scenario())


def test_a5_a_repeated_accept_of_one_that_failed_fails() -> None:
    """Goal (A5): the coordinator may have said that nothing changed; room or not, in memory or not, also after a restart,
    the duplicate of what a full disk dropped is not stored."""
    owner = Owner()

    async def scenario() -> None:
        assert (await owner.prepare(ballot_at(19)))[0] == OK
        owner.disk.full = True
        first = owner.accept(ballot_at(20), b"v")
        again = owner.accept(ballot_at(20), b"v")
        assert await first == (IS_FULL, True)
        owner.disk.full = False
        assert (await again)[0] == CONFLICT
        owner.disk.full = True
        forgotten = owner.accept(ballot_at(30), b"v")
        owner.acceptor.promises.forget(KEY, ballot_at(30))
        assert await forgotten == (IS_FULL, True)
        owner.disk.full = False
        assert (await owner.accept(ballot_at(30), b"v"))[0] == CONFLICT
        owner.crash()
        assert (await owner.accept(ballot_at(30), b"v"))[0] == CONFLICT
        assert owner.stored().ballot == NONE

    owner.run(scenario())


# --- A2: only what is durable shows


def test_a2_prepare_read_and_ballot_wait_for_a_pending_commit() -> None:
    """Goal (A2): nobody hears of a value before it is durable; then everybody hears that one."""
    owner = Owner()

    async def scenario() -> None:
        assert (await owner.prepare(ballot_at(5)))[
            0
        ] == OK  # the bound covers what follows: nothing waits for that
        accept = owner.accept(ballot_at(20), b"new")
        asked = [owner.prepare(ballot_at(30)), owner.read(), owner.ballot()]
        assert not any(reply.done() for reply in asked)
        assert await accept == (OK,)
        prepared, read, ballot = await asyncio.gather(*asked)
        assert (prepared[:2], payload_in(prepared)) == ((OK, ballot_at(20)), b"new")
        assert (read[:2], payload_in(read)) == ((OK, ballot_at(20)), b"new")
        assert ballot == (OK, ballot_at(20))

    owner.run(scenario())


def test_a2_what_failed_to_commit_was_never_seen() -> None:
    """Goal (A2): a full disk rolls back: who waited reads the value before, and the disk holds it."""
    owner = Owner()

    async def scenario() -> None:
        assert await owner.accept(ballot_at(10), b"old", side=b"old bytes") == (OK,)
        owner.disk.full = True
        accept = owner.accept(ballot_at(20), b"new", side=b"new bytes")
        read, ballot = owner.read(side=True), owner.ballot()
        assert await accept == (IS_FULL, True)
        assert (await read)[1] == ballot_at(10)
        assert (payload_in(await read), (await read)[3]) == (b"old", b"old bytes")
        assert await ballot == (OK, ballot_at(10))

    owner.run(scenario())


def test_a_full_disk_keeps_the_promise() -> None:
    """Goal: the accept that failed promised its ballot all the same, in memory at least, and says that H does not cover it;
    with room a higher one is stored."""
    owner = Owner()

    async def scenario() -> None:
        owner.disk.full = True
        assert await owner.accept(ballot_at(20), b"v") == (IS_FULL, False)
        assert await owner.accept(ballot_at(19), b"lower") == (CONFLICT, after(ballot_at(20)))
        owner.disk.full = False
        assert await owner.accept(ballot_at(21), b"v") == (OK,)

    owner.run(scenario())


def test_who_promises_tells_that_the_disk_is_full() -> None:
    """Goal: for two seconds after a commit that did not fit every promise says so; promised it is all the same."""
    owner = Owner()

    async def scenario() -> None:
        assert (await owner.prepare(ballot_at(19)))[4] is False
        owner.disk.full = True
        assert (await owner.accept(ballot_at(20), b"v"))[0] == IS_FULL
        assert (await owner.prepare(ballot_at(21)))[0::4] == (OK, True)
        await asyncio.sleep(FULL_FOR_S)
        assert (await owner.prepare(ballot_at(22)))[0::4] == (OK, False)

    owner.run(scenario())


def test_a2_overtaken_accepts_all_settle() -> None:
    """Goal (A2): accepts that follow each other before the first is durable each get an answer; readers the last."""
    owner = Owner()

    async def scenario() -> None:
        first = owner.accept(ballot_at(20), b"1", side=b"s1")
        waiting = owner.read(side=True)
        second = owner.accept(ballot_at(21), b"2", side=b"s2")
        third = owner.accept(ballot_at(22), b"3", side=b"s3")
        assert [await accept for accept in (first, second, third)] == [(OK,)] * 3
        assert ((await waiting)[1], (await waiting)[3]) == (ballot_at(22), b"s3")
        assert list(owner.disk.tables["side"].values()) == [encode_side(KEY, b"s3")]
        assert owner.acceptor.idle

    owner.run(scenario())


def test_a2_a_crash_takes_the_pending_with_it() -> None:
    """Goal (A2): a value that was queued but not committed is gone after a crash, and nobody was told."""
    owner = Owner()

    async def scenario() -> None:
        accept, read = owner.accept(ballot_at(20), b"v"), owner.read()
        owner.crash()
        assert await owner.read() == (OK, NONE, b"", None)
        await asyncio.sleep(1)
        assert not accept.done()
        assert not read.done()

    owner.run(scenario())


# --- side rows


def test_a_replaced_side_row_leaves_with_its_row() -> None:
    """Goal: inline bytes live exactly as long as the row that names them, across restarts."""
    owner = Owner()

    async def scenario() -> None:
        assert await owner.accept(ballot_at(10), b"a", side=b"one") == (OK,)
        assert await owner.accept(ballot_at(10), b"b", OTHER, side=b"two") == (OK,)
        owner.crash()
        assert await owner.accept(ballot_at(HIGH), b"a", side=b"three") == (OK,)
        assert (await owner.read(side=True))[3] == b"three"
        assert (await owner.read(OTHER, side=True))[3] == b"two"
        assert await owner.accept(ballot_at(HIGH + 1), None) == (OK,)
        assert list(owner.disk.tables["side"].values()) == [encode_side(OTHER, b"two")]

    owner.run(scenario())


def test_a_side_row_that_is_missing_abstains_when_it_is_asked_for() -> None:
    """Goal (A4): a head without its inline bytes is damaged: it is not served as if it were empty."""
    owner = Owner()

    async def scenario() -> None:
        assert await owner.accept(ballot_at(10), b"a", side=b"one") == (OK,)
        owner.disk.tables["side"].clear()
        assert (await owner.read(side=True))[0] == ABSTAIN
        assert (await owner.prepare(ballot_at(20), side=True))[0] == ABSTAIN
        assert (await owner.read())[:2] == (OK, ballot_at(10))

    owner.run(scenario())


# --- A4: damaged rows


def test_a4_a_corrupt_row_abstains_until_an_accept_replaces_it() -> None:
    """Goal (A4): neither prepare nor read answers from a row that fails its checksum; a new value heals it."""
    owner = Owner()

    async def scenario() -> None:
        assert await owner.accept(ballot_at(10), b"v") == (OK,)
        owner.crash()
        owner.rot()
        for reply in (owner.prepare(ballot_at(HIGH)), owner.read(), owner.ballot()):
            assert (await reply)[0] == ABSTAIN
        assert await owner.accept(ballot_at(HIGH), b"anew") == (OK,)
        assert payload_in(await owner.read()) == b"anew"
        assert payload_in(await owner.prepare(ballot_at(HIGH + 1))) == b"anew"

    owner.run(scenario())


def test_a4_a_rotten_row_does_not_forget_what_its_accept_promised() -> None:
    """Goal (A1, A4): an accept counts as a promise, also after restart and rot: no lower ballot undercuts it.

    The chosen value lies here at 500. Who only ever accepted never extended H by a prepare, so the row alone
    told of the 500; a delayed accept of 400, prepared elsewhere before, must not take its place.
    """
    owner = Owner()

    async def scenario() -> None:
        assert await owner.accept(ballot_at(500), b"chosen") == (OK,)
        owner.crash()
        owner.rot()
        assert (await owner.accept(ballot_at(400), b"late"))[0] == CONFLICT

    owner.run(scenario())


def test_a4_a_full_disk_while_a_damaged_row_is_replaced() -> None:
    """Goal (A4): when the replacing accept does not fit, the row stays damaged and goes on abstaining."""
    owner = Owner()

    async def scenario() -> None:
        assert await owner.accept(ballot_at(10), b"v") == (OK,)
        owner.crash()
        owner.rot()
        owner.disk.full = True
        assert (await owner.accept(ballot_at(HIGH), b"anew"))[0] == IS_FULL
        for reply in (owner.read(), owner.ballot()):
            assert (await reply)[0] == ABSTAIN
        owner.disk.full = False
        assert (await owner.prepare(ballot_at(HIGH + 1)))[0] == ABSTAIN
        assert (await owner.accept(ballot_at(HIGH), b"anew"))[0] == CONFLICT
        assert await owner.accept(ballot_at(HIGH + 1), b"anew") == (OK,)
        assert payload_in(await owner.read()) == b"anew"

    owner.run(scenario())


# --- all of it at once


@dataclass
class Model:
    """What one acceptor may never contradict, told from its answers alone."""

    promised: bytes = NONE
    durable: tuple[bytes, bytes | None] = (NONE, None)
    possible: set[tuple[bytes, bytes | None]] = field(default_factory=set)

    def prepared(self, ballot: bytes, reply: Any) -> None:
        if reply[0] == OK:
            assert ballot > self.promised, "promised a ballot at or below an older promise"
            assert reply[1] >= self.durable[0], "showed less than it had acknowledged"
            shown = (reply[1], payload_in(reply))
            assert shown == self.durable or shown in self.possible, "showed what nobody wrote"
            self.promised = ballot
            self.durable = shown
        else:
            assert reply[0] in (CONFLICT, IS_FULL)

    def accepted(self, ballot: bytes, payload: bytes, reply: Any) -> None:
        if reply[0] == OK:
            assert ballot >= self.promised, "accepted below its promise"
            self.promised = max(self.promised, ballot)
            self.durable = (ballot, payload)
        else:
            assert reply[0] in (CONFLICT, IS_FULL)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["prepare", "prepare", "accept", "accept", "accept", "crash", "full", "room", "rest"]
        ),
        st.integers(0, 12),
    ),
    max_size=40,
)


@given(STEPS)
@settings(deadline=None, max_examples=150)
def test_no_schedule_breaks_a_promise(steps: list[tuple[str, int]]) -> None:
    """Goal (A1 to A3): whatever is asked, in whatever order, with crashes and full disks between and under way.

    Ballots are taken near the highest counter seen so far (H included), so that all comparisons happen.
    """
    owner, model = Owner(), Model()

    async def scenario() -> None:
        base = 1000
        for number, (step, offset) in enumerate(steps):
            ballot = ballot_at(base + offset)
            payload = b"%d" % number
            if step == "prepare":
                model.prepared(ballot, await owner.prepare(ballot))
            elif step == "accept":
                model.possible.add((ballot, payload))
                accept = owner.accept(ballot, payload)
                if offset % 3:
                    model.accepted(ballot, payload, await accept)
                elif accept.done():
                    model.accepted(ballot, payload, accept.result())
                else:  # its answer is never heard: it may or may not have happened
                    pass
            elif step == "crash":
                owner.crash()
                base = int.from_bytes(owner.disk.kept(b"bound") or b"", "big") or base
            elif step in ("full", "room"):
                owner.disk.full = step == "full"
            else:
                await settle(owner)

    owner.run(scenario())


# --- A6: too many writes queued


def test_a6_an_accept_beyond_the_queue_s_bound_is_refused_for_good() -> None:
    """Goal (A5, A6): nothing is stuck or half changed, and the refused accept is not taken when the network repeats it."""
    owner = Owner()

    async def scenario() -> None:
        assert await owner.accept(ballot_at(10), b"before") == (OK,)
        assert (await owner.prepare(ballot_at(20)))[0] == OK
        owner.rows.traits.queue_hard = 0
        assert await owner.accept(ballot_at(20), b"refused") == (BUSY, True)
        owner.rows.traits.queue_hard = 100
        assert owner.acceptor.idle
        assert payload_in(await owner.read()) == b"before"
        assert (await owner.accept(ballot_at(20), b"refused"))[0] == CONFLICT
        assert await owner.accept(ballot_at(30), b"later") == (OK,)
        assert payload_in(await owner.read()) == b"later"

    owner.run(scenario())


def test_a6_a_damaged_row_s_accept_beyond_the_bound_is_refused_for_good() -> None:
    """Goal (A4, A5): where no entry may be kept the refusal stands as well."""
    owner = Owner()

    async def scenario() -> None:
        assert await owner.accept(ballot_at(10), b"before") == (OK,)
        owner.crash()
        owner.rot()
        owner.rows.traits.queue_hard = 0
        assert (await owner.accept(ballot_at(HIGH), b"refused"))[0] == BUSY
        owner.rows.traits.queue_hard = 100
        assert (await owner.accept(ballot_at(HIGH), b"refused"))[0] == CONFLICT
        assert (await owner.read())[0] == ABSTAIN

    owner.run(scenario())


def test_a6_who_has_many_writes_queued_promises_nothing() -> None:
    """Goal (A6): beyond the soft bound prepares are refused, reads and accepts are not."""
    owner = Owner()

    async def scenario() -> None:
        assert (await owner.prepare(ballot_at(10)))[0] == OK
        owner.rows.traits.queue_soft = 0
        accept = owner.accept(ballot_at(10), b"v")
        assert owner.rows.congested
        assert await owner.prepare(ballot_at(20), OTHER) == (BUSY,)
        assert (await owner.read(OTHER))[0] == OK
        assert await accept == (OK,)
        assert (await owner.prepare(ballot_at(20), OTHER))[0] == OK

    owner.run(scenario())


def test_a_failed_extension_of_the_bound_is_tried_again() -> None:
    """Goal (H1, H4): a bound that no commit took does not count as requested: the next promise extends it."""
    owner = Owner()

    async def scenario() -> None:
        owner.rows.traits.queue_hard = 0
        assert await owner.prepare(ballot_at(HIGH)) == (BUSY,)
        owner.rows.traits.queue_hard = 100
        assert (await owner.prepare(ballot_at(HIGH)))[0] == OK
        owner.crash()
        assert (await owner.prepare(ballot_at(HIGH)))[0] == CONFLICT

    owner.run(scenario())

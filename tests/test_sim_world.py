"""The registers hold their promises under every fault the simulator knows, and runs repeat exactly."""

from __future__ import annotations

import io
import os

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.sim_repeats import digests_elsewhere
from tools.sim import ringschedules
from tools.sim.batch import Totals, run_batch
from tools.sim.controls import CONTROLS, hunt, sound
from tools.sim.result import Result
from tools.sim.schedules import Schedule
from tools.sim.workload import Habits
from tools.sim.world import LEAST_FAULTS, LEAST_OPERATIONS, Options, run_seed
from tools.sim_command import sim, tell

SEEDS = 200
OTHER_SIZES = {1: 6, 2: 8, 5: 12, 7: 6}
FOUND_BUGS = {
    0: "an old copy of a disk voted when it was started twice",
    1: "a queued change that timed out was removed from its queue twice",
    14: "an old copy of a disk voted when it was started twice",
    11073: "the evidence against an old copy was overwritten by its own answers",
    11462: "the evidence against an old copy was overwritten by its own answers",
    502: "a digest that was dropped while it was built ended anti-entropy",
    1166: "a peer that had joined by itself could not take another one's place any more",
    20380: "the evidence against an old copy was overwritten by its own answers",
}


def explain(totals: Totals) -> str:
    return "\n".join(f"seed {bad.seed}: " + "\n".join(bad.problems) for bad in totals.bad[:3])


def test_promises_hold_under_faults() -> None:
    """Goal: P2 to P4 over many seeds, each of 500 operations and five kinds of faults; nothing untested."""
    totals = Totals()
    for result in run_batch(range(SEEDS), Options()):
        totals.add(result)
        assert result.operations >= LEAST_OPERATIONS
        assert len(result.faults) >= LEAST_FAULTS
    assert not totals.bad, explain(totals)
    assert totals.missing() == []


@pytest.mark.parametrize("peers", OTHER_SIZES)
def test_promises_hold_in_clusters_of_other_sizes(peers: int) -> None:
    """Goal: one owner, two owners, and owner sets that differ from shard to shard."""
    totals = Totals()
    for result in run_batch(range(OTHER_SIZES[peers]), Options(peers=peers, habits=Habits(keys=8))):
        totals.add(result)
    assert not totals.bad, explain(totals)


@pytest.mark.full
def test_promises_hold_for_long() -> None:
    """Goal: the same over a few thousand seeds."""
    totals = Totals()
    for result in run_batch(range(10_000, 13_000), Options(), jobs=os.cpu_count() or 1):
        totals.add(result)
    assert not totals.bad, explain(totals)


@pytest.mark.parametrize("seed", FOUND_BUGS)
def test_found_bugs_stay_fixed(seed: int) -> None:
    """Goal: seeds that once found a bug pass."""
    result = run_seed(seed, Options(evict_after_s=0))
    assert result.ok, f"{FOUND_BUGS[seed]}: {result.problems}"


def test_a_seed_repeats_itself() -> None:
    """Goal: the same seed gives the same run, with and without its story; another seed another run."""
    first, again, told = run_seed(7), run_seed(7), run_seed(7, story=True, details=True)
    assert first.digest == again.digest == told.digest
    assert first.virtual_s == told.virtual_s
    assert first.lines == [] and len(told.lines) > 1000
    assert run_seed(8).digest != first.digest


def test_a_seed_repeats_itself_in_another_process() -> None:
    """Goal: no hash, set order or address leaks into a run."""
    assert digests_elsewhere("tools.sim.world", "run_seed", 9) == {run_seed(9).digest}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_missing_safeguard_is_caught(name: str) -> None:
    """Goal: with one safeguard removed the judges notice within a few seeds; the same seed is sound with it."""
    control = CONTROLS[name]
    caught = hunt(control)
    assert caught is not None, f"nobody noticed within {control.seeds} seeds: {control.breaks}"
    healthy = sound(control, caught.seed)
    assert healthy.ok, healthy.problems


def ends_well(schedule: Schedule, seeds: int = 20, evict_after_s: float | None = None) -> list[Result]:
    """What comes of a play: nothing bad."""
    options = Options(schedule=schedule, evict_after_s=evict_after_s)
    results = [run_seed(seed, options) for seed in range(seeds)]
    for result in results:
        assert result.ok, f"seed {result.seed}: {result.problems}"
    return results


def noticed(schedule: Schedule, unsafe: str) -> bool:
    """Whether one of twenty seeds ends badly without a safeguard."""
    options = Options(schedule=schedule, unsafe=frozenset({unsafe}))
    return not all(run_seed(seed, options).ok for seed in range(20))


def test_partitions_go_there_and_back() -> None:
    """Schedule 1: rows of two peers that each hear late of the changes in which one gets them from the other, and back:
    nobody deletes what nobody else has, reads are never wrong, and in the end the owners hold all, and nobody else any.
    (That both push chunks at each other: test_schedules.)"""
    results = ends_well(ringschedules.there_and_back, 5)
    assert sum(result.safeguards["stale epoch refused"] for result in results) > 0
    assert sum(result.safeguards["partitions or rows discarded"] for result in results) > 0
    assert noticed(ringschedules.there_and_back, "keep_former_rows")


def test_a_restart_with_one_peer_down_one_joining_and_one_behind() -> None:
    """Schedule 3: full restart with one peer down, a new one joins, one peer is still in the old epoch: placement is right,
    nothing is lost, also of what the one that was down had missed and when another one dies then. (A merge left out, and
    rows left where they do not belong, are each noticed.)"""
    ends_well(ringschedules.restart_with_one_behind)
    for unsafe in ("final_before_merged", "keep_former_rows"):
        assert noticed(ringschedules.restart_with_one_behind, unsafe), unsafe


def test_a_change_accepted_on_two_owners_of_which_one_is_replaced() -> None:
    """Schedule 4: a change is accepted on two owners, its coordinator, one of them, dies and is replaced: reads never
    disagree afterwards. (That the new owner merges a majority of the old ones is what it takes.)"""
    results = ends_well(ringschedules.accepted_on_two)
    assert sum(result.safeguards["accepted on two"] for result in results) >= 10, "or it was not tested"
    assert noticed(ringschedules.accepted_on_two, "merge_one_source")


def test_a_change_that_waits_for_a_dead_peer_ends_by_itself() -> None:
    """Goal: a machine joins three, and one of the four dies for good over that: the ring comes to rest without it."""
    ends_well(ringschedules.dies_over_a_join, evict_after_s=2.0)


def test_the_command_reports_a_batch() -> None:
    """Goal: `atoll sim` prints what struck, what held and the verdict, and exits 0."""
    result = CliRunner().invoke(sim, ["--seeds", "3", "--jobs", "1"])
    assert result.exit_code == 0, result.output
    assert "every promise held" in result.output
    assert "conflict refused" in result.output and "partition" in result.output


def test_the_command_tells_a_story() -> None:
    """Goal: `--story` prints faults, operations and, on request, messages of one seed."""
    result = CliRunner().invoke(sim, ["--seed", "3", "--story", "--messages"])
    assert result.exit_code == 0, result.output
    for words in ("!! ", "serves", "put-if-absent", "answers p", "digest"):
        assert words in result.output


def test_a_bad_seed_tells_a_readable_story() -> None:
    """Goal: what was broken, the operations that contradict each other, and the faults around them."""
    control = CONTROLS["no_identity_round"]
    caught = hunt(control)
    assert caught is not None
    result = run_seed(caught.seed, control.options(True), story=True)
    output = io.StringIO()
    tell(result, Console(file=output, width=200))
    text = output.getvalue()
    assert "P3 broken at k" in text and "none of these can come next" in text
    assert "!! " in text and " -> " in text
    assert len(text.splitlines()) < 120


def test_the_command_hunts_without_a_safeguard() -> None:
    """Goal: `--unsafe` says which seed caught it; an unknown name is a usage error that lists the names."""
    result = CliRunner().invoke(sim, ["--unsafe", "no_identity_round", "--seeds", "4"])
    assert result.exit_code == 0, result.output
    assert "caught by seed" in result.output
    wrong = CliRunner().invoke(sim, ["--unsafe", "seatbelt"])
    assert wrong.exit_code == 2
    assert "h_not_durable" in wrong.output


def test_few_operations_are_enough_when_few_are_asked_for() -> None:
    """Goal: `--operations 100` makes short runs, not bad ones."""
    result = run_seed(3, Options(operations=100))
    assert result.ok and 100 <= result.operations < 500, result.problems

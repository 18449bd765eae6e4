"""Negative controls: take one safeguard away and see that the judges notice.

A checker that has never failed proves nothing. Each control names a safeguard that the Replica drops on
request (`unsafe`), and the habits and climate under which its absence shows soonest. The same seeds pass
with the safeguard in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tools.sim import linear, ringschedules, schedules
from tools.sim.faults import Climate
from tools.sim.result import Result
from tools.sim.schedules import Schedule
from tools.sim.workload import Habits
from tools.sim.world import Options, run_seed


@dataclass(frozen=True)
class Control:
    """One safeguard removed, and what shows it soonest; caught within `seeds` seeds or not at all."""

    name: str
    breaks: str
    seeds: int
    habits: Habits = field(default_factory=Habits)
    climate: Climate = field(default_factory=Climate)
    schedule: Schedule | None = None
    evict_after_s: float | None = None

    def options(self, unsafe: bool) -> Options:
        return Options(
            unsafe=frozenset({self.name}) if unsafe else frozenset(),
            habits=self.habits,
            climate=self.climate,
            schedule=self.schedule,
            evict_after_s=self.evict_after_s,
        )


LISTERS = {linear.GET: 10, linear.PUT: 15, linear.DELETE: 15, linear.PUT_IF_ABSENT: 10, "list": 30}

CONTROLS = {
    control.name: control
    for control in (
        Control("lying_disk", "fsync: a crash takes back commits that were acknowledged", 20),
        Control(
            "h_not_durable",
            "the durable bound H: a restarted owner forgets what it promised",
            3,
            schedule=schedules.forgotten_promise,
        ),
        Control("no_identity_round", "read repair: a read believes one owner though the owners disagree", 4),
        Control(
            "failed_condition_unchosen",
            "a refusal is answered though the value it judged may never be chosen",
            3,
            schedule=schedules.refused_by_a_ghost,
        ),
        Control(
            "read_uncommitted",
            "a row whose commit is pending, and may not survive, is revealed",
            3,
            schedule=schedules.seen_before_durable,
        ),
        Control(
            "no_amnesia_check",
            "a peer votes on an old copy of its disk",
            3,
            schedule=schedules.copy_of_a_disk,
        ),
        Control("list_one_owner", "a listing believes one owner", 4, Habits(mix=LISTERS)),
        Control(
            "joint_old_only",
            "in a joint epoch a majority of the old owners is enough",
            3,
            schedule=ringschedules.old_owners_alone,
        ),
        Control(
            "final_before_merged",
            "final is proposed before every new owner has merged",
            3,
            schedule=ringschedules.stale_source,
        ),
        Control(
            "merge_one_source",
            "a new owner merges from one of the old ones",
            3,
            schedule=ringschedules.stale_source,
        ),
        Control(
            "merge_unsettled",
            "where old owners differ, a new one takes the higher value as it is",
            3,
            schedule=ringschedules.two_halves,
        ),
        Control(
            "keep_former_rows",
            "who owns a partition again still holds what it accepted in former times",
            3,
            schedule=ringschedules.ballots_of_former_times,
        ),
        Control(
            "evict_unchecked",
            "who was cut off counts on for how long others are dead, and does not call them before they are removed",
            3,
            schedule=ringschedules.back_from_a_cut,
            evict_after_s=3.0,
        ),
    )
}


@dataclass(frozen=True)
class Caught:
    """The first seed whose judges noticed, what they said, and how many seeds it took."""

    seed: int
    problem: str
    tried: int


PROMISES = ("P3", "P4", "P6", "order")


def hunt(
    control: Control, first: int = 0, seeds: int | None = None, tell: Callable[[Result], None] | None = None
) -> Caught | None:
    """Run seeds without the safeguard until a broken promise shows. None: nobody noticed."""
    for seed in range(first, first + (seeds or control.seeds)):
        result = run_seed(seed, control.options(unsafe=True))
        if tell is not None:
            tell(result)
        for problem in result.problems:
            if problem.split(" ", 1)[0] in PROMISES:
                return Caught(seed, problem, seed - first + 1)
    return None


def sound(control: Control, seed: int) -> Result:
    """The same seed with the safeguard in place."""
    return run_seed(seed, control.options(unsafe=False))

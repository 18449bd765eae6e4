"""The failure detector as a whole, in virtual time: detection, false alarms, stalls, partitions."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import pytest
from click.testing import CliRunner

from gossip.config import Config
from gossip.messages import ALIVE, DEAD
from tools.gossip_sim import Report, expected_failure, gossip_sim, measure, stalls
from tools.gossip_world import World

NO_TCP = replace(Config(), tcp_probe=False)


def test_the_formula() -> None:
    """Goal: the numbers the simulation is held against."""
    assert expected_failure(0.0) == 0.0
    assert expected_failure(0.3) == pytest.approx(0.51 * 0.7599**3)
    assert expected_failure(1.0) == 1.0


@pytest.mark.parametrize(("loss", "size", "seconds"), [(0.1, 60, 120.0), (0.2, 40, 60.0), (0.3, 40, 60.0)])
def test_failed_probes_match_the_formula(loss: float, size: int, seconds: float) -> None:
    """Goal: without TCP the share of failed probes is (1-(1-p)^2)(1-(1-p)^4)^3, within 3.5 sigma."""
    world = World(size, loss, 11, NO_TCP)
    world.run(seconds)
    stats = world.stats()
    share = expected_failure(loss)
    sigma = math.sqrt(stats.probes * share * (1 - share))
    assert stats.probes > 1000
    assert abs(stats.probes_failed - stats.probes * share) < 3.5 * sigma + 1


def test_a_crash_is_noticed_by_all() -> None:
    """Goal: suspected within two probe rounds' chance, dead everywhere within the suspicion's bounds."""
    report = measure(50, 0.0, 5.0, 2)
    shortest, longest = Config().suspicion_s(50)
    assert report.first_suspicion_s is not None and report.first_suspicion_s < 10.0
    assert report.first_death_s is not None and report.last_death_s is not None
    assert shortest - 1e-6 <= report.first_death_s - report.first_suspicion_s <= longest
    assert report.last_death_s - report.first_death_s < 2.0
    assert (report.noticed, report.false_deaths) == (49, 0)
    # One ping and one ack per member and second, and hardly anything else.
    assert 1.8 < report.packets_per_s < 2.2


def test_loss_kills_nobody_healthy() -> None:
    """Goal: at 10 and 30 % loss no healthy member is declared dead, and a crashed one still is."""
    for loss in (0.1, 0.3):
        report = measure(40, loss, 40.0, 3)
        assert report.false_deaths == 0
        assert report.noticed == 39


def test_a_seed_repeats_a_run_exactly() -> None:
    """Goal: the same seed gives the same numbers, sealed or not; another seed gives others."""

    def numbers(report: Report) -> tuple[object, ...]:
        return astuple(report)[:-1]

    first, again = measure(12, 0.2, 10.0, 5), measure(12, 0.2, 10.0, 5)
    assert numbers(first) == numbers(again)
    assert numbers(measure(12, 0.2, 10.0, 6)) != numbers(first)
    sealed = measure(12, 0.2, 10.0, 5, encrypted=True)
    assert numbers(sealed) == numbers(measure(12, 0.2, 10.0, 5, encrypted=True))
    assert sealed.noticed == 11


@pytest.mark.parametrize("length_s", [0.2, 0.6, 0.95, 1.5, 4.0, 15.0, 60.0])
def test_stalled_members_do_not_make_healthy_ones_look_dead(length_s: float) -> None:
    """Goal: a third of the members, stopped at their worst moment again and again, accuse none of the rest."""
    report = stalls(24, 8, length_s, 1)
    assert (report.false_deaths, report.false_suspicions) == (0, 0)
    lossy = stalls(24, 8, length_s, 2, loss=0.1, rounds=3)
    assert lossy.false_deaths == 0


def test_without_the_safeguards_stalls_do_harm() -> None:
    """Goal: the stalls above are real: with timers first and no forgiveness the healthy are accused."""
    report = stalls(24, 8, 1.5, 1, replace(Config(), late_s=1e12), drain_first=False)
    assert report.false_suspicions > 0


def test_members_that_all_stop_together_all_live() -> None:
    """Goal: a suspended machine with the whole cluster on it resumes without a death."""
    world = World(9, 0.0, 4)
    for index in range(9):
        world.stall(world.nodes[index], 3.0, 45.0)
    world.run(120.0)
    assert world.stats().deaths == 0
    assert all(m.state == ALIVE for node in world.nodes.values() for m in node.swim.members.known.values())


def test_a_stalled_member_that_was_declared_dead_is_back_at_once() -> None:
    """Goal: after a stall of a minute the others believe the member dead; it refutes within seconds."""
    world = World(10, 0.0, 8)
    world.stall(world.nodes[3], 2.0, 60.0)
    subject = world.nodes[3].swim.me.id
    others = [node.swim for node in world.nodes.values() if node.index != 3]
    world.run(60.0)
    assert all(swim.members.known[subject].state == DEAD for swim in others)
    world.run(70.0)
    assert all(swim.members.known[subject].state == ALIVE for swim in others)


@pytest.mark.parametrize("minutes", [1, 30])
def test_the_halves_of_a_partition_find_each_other(minutes: int) -> None:
    """Goal: both sides declare the other dead and, once the network heals, merge without an operator."""
    world = World(12, 0.0, 9)
    world.islands = [index % 3 == 0 for index in range(12)]
    world.run(60.0 * minutes)
    for node in world.nodes.values():
        for member in node.swim.members.known.values():
            across = (int(member.id, 16) % 3 == 0) != world.islands[node.index]
            assert (member.state == DEAD) == across
    world.islands = None
    world.run(60.0 * minutes + 90.0)
    assert all(m.state == ALIVE for node in world.nodes.values() for m in node.swim.members.known.values())


def test_the_command_prints_a_line_for_each_run() -> None:
    """Goal: the command that the command line mounts runs both experiments."""
    runner = CliRunner()
    result = runner.invoke(gossip_sim, ["--members", "8", "--loss", "0", "--loss", "0.1", "--seconds", "3"])
    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) == 3
    result = runner.invoke(gossip_sim, ["--members", "8", "--stall", "1"])
    assert result.exit_code == 0 and "false_deaths=0" in result.output


@pytest.mark.full
@pytest.mark.parametrize("loss", [0.0, 0.05, 0.1])
def test_a_thousand_members(loss: float) -> None:
    """Goal: at the size of the specification a crash is noticed by all and nobody healthy dies."""
    report = measure(1000, loss, 30.0, 1)
    _, longest = Config().suspicion_s(1000)
    assert report.noticed == 999 and report.false_deaths == 0
    assert report.last_death_s is not None and report.last_death_s < longest + 10.0


@pytest.mark.full
@pytest.mark.parametrize("length_s", [0.2, 2.0, 20.0, 60.0])
def test_stalls_among_two_hundred(length_s: float) -> None:
    """Goal: as above among two hundred, with loss."""
    report = stalls(200, 60, length_s, 1, loss=0.05)
    assert report.false_deaths == 0

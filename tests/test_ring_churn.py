"""Members of a large cluster fail, come and go on virtual time: gossip, ring and removal together (tools/churn)."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from click.testing import CliRunner

from tools.churn.command import ring_churn, summary
from tools.churn.faults import Pace
from tools.churn.machine import HASTY
from tools.churn.run import Options, Result, run_seed

QUICK = Pace().faster(5.0)
"""Removal after three minutes, and a change of the ring every half minute."""


def sound(result: Result) -> None:
    assert result.ok, "\n".join([*result.problems, summary(result)])


def test_two_hundred_members_come_and_go() -> None:
    """Goal: minutes of quick churn among 200: nobody removed who was there, and all agree at the end."""
    result = run_seed(2, Options(seconds=180.0, pace=QUICK))
    sound(result)
    assert result.epochs > 10 and result.answers["acknowledged"] > 300


def test_forty_members_for_an_hour() -> None:
    """Goal: the same for an hour at the pace of life, removal after fifteen minutes; every fault struck."""
    result = run_seed(3, Options(members=40, seconds=3600.0, pace=replace(Pace(), away_long_s=800.0)))
    sound(result)
    assert result.missing() == []
    assert result.safeguards["removed because it was dead"] > 0


def test_a_seed_repeats_a_run_exactly() -> None:
    """Goal: a bad seed can be looked at again: the same run, message for message; another seed is another run."""
    options = Options(members=16, seconds=240.0, pace=QUICK)
    first, again = run_seed(7, options), run_seed(7, options, story=True)
    assert first.digest == again.digest and first.datagrams == again.datagrams
    assert again.lines and run_seed(8, options).digest != first.digest


def test_hasty_removal_is_caught() -> None:
    """Goal: the judge sees it when who restarts within minutes is removed; with the wait the same run is sound."""
    options = Options(members=16, seconds=300.0)
    hasty = run_seed(1, replace(options, unsafe=frozenset({HASTY})))
    assert hasty.false_removals > 0 and not hasty.ok
    sound(run_seed(1, options))


def test_the_command_tells_what_happened() -> None:
    """Goal: a line for each thing that is counted, and the verdict."""
    level = logging.getLogger("peer").level
    result = CliRunner().invoke(ring_churn, ["--members", "12", "--hours", "0.05", "--seed", "3", "--story"])
    assert logging.getLogger("peer").level == level
    assert result.exit_code == 0, result.output
    assert "everything is in order; faults begin" in result.output
    assert "nobody was removed wrongly, and in the end all agreed" in result.output


@pytest.mark.full
def test_two_hundred_members_for_two_hours() -> None:
    """Goal: no false removal, every fault struck, identical rings and beliefs at the end."""
    result = run_seed(1, Options())
    sound(result)
    assert result.missing() == []


@pytest.mark.full
def test_two_hundred_members_for_a_day() -> None:
    """Goal: the same for a virtual day."""
    sound(run_seed(2, Options(seconds=86_400.0)))

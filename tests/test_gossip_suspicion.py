"""How long an accused member may defend itself, and how far a member trusts itself."""

from __future__ import annotations

import pytest

from gossip.awareness import Awareness
from gossip.config import Config
from gossip.suspicion import Suspicion


def test_confirmations_shorten_the_time() -> None:
    """Goal: one accuser: the longest time; all wanted: the shortest; in between it shrinks, never grows."""
    suspicion = Suspicion("a", 100.0, 4.0, 24.0, 2)
    deadlines = [suspicion.deadline]
    for accuser in ("a", "b", "b", "c", "d"):
        before = suspicion.deadline
        news = suspicion.confirm(accuser)
        assert news == (suspicion.deadline < before)
        if news:
            deadlines.append(suspicion.deadline)
    assert deadlines == [124.0, pytest.approx(111.38, abs=0.01), 104.0]
    assert list(suspicion.accusers) == ["a", "b", "c"]


def test_few_members_cannot_confirm() -> None:
    """Goal: where too few others could confirm, the shortest time applies at once."""
    config = Config()
    assert [config.confirmations_wanted(members) for members in (2, 3, 4, 10)] == [0, 0, 2, 2]
    assert Suspicion("a", 0.0, 4.0, 24.0, 0).deadline == 4.0
    assert not Suspicion("a", 0.0, 4.0, 24.0, 0).confirm("b")


def test_the_defaults_are_those_of_the_specification() -> None:
    """Goal: 4 to 24 s at ten members, 12 to 72 at a thousand; retransmits and comparisons scale too."""
    config = Config()
    assert config.suspicion_s(1) == config.suspicion_s(10) == (4.0, 24.0)
    assert config.suspicion_s(1000) == (pytest.approx(12.0), pytest.approx(72.0))
    assert [config.retransmits(n) for n in (1, 9, 10, 99, 1000)] == [4, 4, 8, 8, 16]
    assert [config.push_pull_s(n) for n in (1, 32, 33, 64, 65, 1000)] == [30, 30, 60, 60, 90, 180]


def test_local_health_stays_within_its_bounds() -> None:
    """Goal: from 0 to 7; the probe interval stretches from 1 to 8 times."""
    awareness = Awareness(7)
    awareness.add(-3)
    assert (awareness.score, awareness.stretch(1.0)) == (0, 1.0)
    awareness.add(20)
    assert (awareness.score, awareness.stretch(1.0)) == (7, 8.0)
    awareness.add(-1)
    assert awareness.score == 6

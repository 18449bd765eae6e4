"""`atoll chaos --figures`: what is read out of histories and workers is right, and small runs of both halves end well."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.chaos import mixed, outage, rebuild
from tools.chaos.figures import Line, of_outage, of_rebuild
from tools.chaos.load import Operation
from tools.chaos.rebuild import Rebuild


def test_what_clients_saw_of_an_outage() -> None:
    """Goal: errors count wherever they are; "slow" is split at five seconds after the fault, by what was still under way
    then; what ended before the fault is the throughput it is compared with."""
    told = [
        (95.5, 0.1, ""), (96.0, 0.1, ""), (97.0, 0.5, "Unavailable: no"),  # before
        (99.9, 1.2, ""), (101.0, 2.2, ""), (104.0, 1.5, ""),  # in the first five seconds; the last one reaches beyond
        (106.0, 0.7, ""), (109.0, 0.2, ""),
    ]  # fmt: skip
    operations = [Operation("get", begun_s, took_s, failure) for begun_s, took_s, failure in told]
    found = outage.judge("kill", operations, 100.0, 110.0)
    assert (found.operations, found.errors) == (8, 1) and found.problems == ["Unavailable: no"]
    assert (found.before_s, found.during_s) == (3 / outage.CALM_S, 0.5)
    assert (found.slowest_first_s, found.slowest_later_s) == (2.2, 1.5)
    assert found.quiet_s == pytest.approx(2.5)


def test_figures_against_aims() -> None:
    """Goal: each is held against its bound from the right side, and what never came is missed."""
    found = outage.judge("drop", [Operation("put", 1.0, 3.0, "")], 0.5, 9.0)
    found.healed_s = None
    reached = {line.what.split(":")[1].split(",")[0].strip(): line.reached for line in of_outage(found)}
    assert reached == {
        "errors of clients": True, "slowest request of the first 5 s": True, "slowest request after that": True,
        "whole again": False,
    }  # fmt: skip
    idle = Rebuild(False, 10, 100, heads=5000, chunk_bytes=10**9, heads_s=4.0, whole_s=20.0)
    assert [line.measured for line in of_rebuild(idle)] == [50.0, 1250.0]
    assert [line.reached for line in of_rebuild(idle)] == [False, True]
    loaded = Rebuild(True, 10, 100, whole_s=None, before_s=100.0, during_s=61.0, stalled_s=1.0)
    assert [line.reached for line in of_rebuild(loaded)] == [True, False, False]
    assert Line("", 0.0, 0.0, "").reached and not Line("", 1.0, 2.0, "", higher=True).reached


def test_bodies_of_the_mixed_load_differ() -> None:
    """Goal: no version can be taken for another one, and all sizes occur."""
    bodies = [bytes(mixed.body(f"0/{number:03d}", version)) for number in range(40) for version in range(5)]
    assert len(set(bodies)) == len(bodies)
    assert {len(one) for one in bodies} == set(mixed.SIZES)


@pytest.mark.full
def test_small_runs(large_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a peer is killed under load, and one is lost for good: nothing is wrong, and everything is made good."""
    monkeypatch.setattr(outage, "HOLD_S", 6.0)
    told: list[str] = []
    (large_path / "outage").mkdir()
    (found,) = outage.measure(large_path / "outage", ("kill",), 4, 7790, 200, told.append)
    assert found.problems == [] and found.errors == 0 and found.healed_s is not None, told
    (large_path / "rebuild").mkdir()
    rebuilt = rebuild.measure(large_path / "rebuild", 200, 64 * 1024, 4, 7790, told.append, loaded=False)
    assert rebuilt.problems == [] and rebuilt.whole_s is not None and rebuilt.heads > 50, (rebuilt, told)

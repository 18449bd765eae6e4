"""A peer of this version among peers of an earlier one: what they cannot say is shown as unknown, and harms nobody."""

from __future__ import annotations

from pathlib import Path

from tests.cluster_tools import MIB, content, wait_until
from tests.cluster_world import ClusterWorld
from tests.test_api_events import listening
from tests.test_api_openapi import check
from tests.test_cluster_upgrade import earlier_code, replace_code


def test_one_new_peer_among_old_ones(tmp_path: Path) -> None:
    """Goal: views, journals, copies, rates and clocks of older peers are unknown, not made up; both sides stay healthy."""
    earlier = earlier_code(tmp_path / "earlier")
    with ClusterWorld(tmp_path / "peers", options=["--chunk-size", "1MiB"], code=earlier) as world:
        assert world.call("PUT", "/v1/buckets/photos").status == 200 + 1
        assert world.call("PUT", "/v1/buckets/photos/objects/k", content(1, 2 * MIB)).status == 200
        replace_code(world, 0, None)
        for peer in range(3):
            wait_until(
                lambda peer=peer: world.json_of("/v1/cluster", peer=peer)["verdict"] == "healthy",
                "healthy",
                60.0,
            )  # type: ignore[misc]
        views = world.call("GET", "/v1/cluster/views")
        check(views, "GET", "/v1/cluster/views")
        assert [(one["answers"], one["believes"]) for one in views.json["views"]] == [
            (True, {}),
            (True, None),
            (True, None),
        ]
        log = world.call("GET", "/v1/cluster/log")
        check(log, "GET", "/v1/cluster/log")
        assert {one["node"]["name"] for one in log.json["events"]} == {"peer-1"}
        why = "its version keeps no journal"
        assert log.json["failed"] == [{"node": "peer-2", "message": why}, {"node": "peer-3", "message": why}]
        route = "/v1/cluster/ring/lookup"
        found = world.call("GET", f"{route}?bucket=photos&key=k&chunks=true")
        check(found, "GET", route)
        assert [owner["holds"] for owner in found.json["owners"]] == [True] * 3, (
            "an old question, which they understand"
        )
        copies = {
            (copy["name"], copy["holds"])
            for chunk in found.json["object"]["chunks"]
            for copy in chunk["copies"]
        }
        assert copies == {("peer-1", True), ("peer-2", None), ("peer-3", None)}
        nodes = world.json_of("/v1/cluster/nodes")["nodes"]
        assert [node["whole"] for node in nodes] == [True] * 3
        assert [node["clock_skew_s"] is None for node in nodes] == [False, True, True]
        with listening(world) as stream:
            told = stream.until(lambda kind, data: kind == "requests" and data["nodes"][1]["all"] is not None)
            assert [node["bytes_in"] is None for node in told["nodes"]] == [False, True, True]
            assert told["nodes"][1]["errors"] == 0
        assert world.call("POST", "/v1/cluster/workers/scrub/start").json["failed"] == []
        for peer in range(3):
            assert world.json_of("/v1/cluster", peer=peer)["verdict"] == "healthy"

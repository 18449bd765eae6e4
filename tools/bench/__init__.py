"""`atoll bench`: a load generator that leaves the machine to the peers, and the figures it is judged by.

Start at `workloads.py` (what is measured) and `figures.py` (what it should reach). `wire.py` is one HTTP
connection, `load.py` many clients on it in closed loops, `blocking.py` the same for large bodies on threads;
`floor.py` measures what the machine gives without us in the same run. Talks to peers by the public HTTP API
only; `tools.devcluster` starts a cluster of its own for `--start`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.bench.command import bench as bench


def __getattr__(name: str) -> Any:
    """The click command, imported when it is asked for."""
    if name == "bench":
        from tools.bench.command import bench

        return bench
    raise AttributeError(name)

"""Goal: the terminal UI on a real terminal against real peers tells the truth while they are killed and drained."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster_tools import wait_until
from tests.cluster_world import ClusterWorld
from tests.test_cluster_removal import four
from tests.test_cluster_ring import filled, paused
from tests.tmux_screen import Terminal, needs_tmux

OBJECTS = 40


def top(world: ClusterWorld, directory: Path, **size: int) -> Terminal:
    """`atoll top` of this cluster in a terminal; its profile names only the first peer."""
    config = directory / "home" / ".config" / "atoll"
    config.mkdir(parents=True, exist_ok=True)
    access, secret = world.credentials
    (config / "config.toml").write_text(
        f'default = "t"\n[profiles.t]\nendpoints = ["{world.api_url(0)}"]\n'
        f'access_key = "{access}"\nsecret_key = "{secret}"\n'
    )
    (config / "config.toml").chmod(0o600)
    environment = dict(os.environ) | {
        "HOME": str(directory / "home"),
        "LC_ALL": "C.UTF-8",
        "TERM": "xterm-256color",
    }
    environment.pop("XDG_CONFIG_HOME", None)
    return Terminal(directory, [sys.executable, "-m", "tools.cli", "top"], environment, **size)


def viewed(screen: str) -> str:
    """Whose view it is."""
    found = re.search(r"view of (\S+)", screen)
    return found.group(1) if found else ""


@needs_tmux
def test_peers_die_and_drain_before_the_operators_eyes(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Goal: it moves when its peer dies, shows the death, the return and a drain as they happen, says when nobody answers
    and goes on when somebody does, and gives the terminal back."""
    with filled(tmp_path, 4, OBJECTS) as world, top(world, tmp_path) as terminal:
        four(world)
        screen = terminal.wait_for("HEALTHY", "tolerates 1 more failure", "4 of 4")
        assert viewed(screen) == "peer-1", screen

        world.kill(0)
        began_s = time.monotonic()
        terminal.wait_for("moved to ", "no longer answers")
        wait_until(lambda: viewed(terminal.screen()) in ("peer-2", "peer-3", "peer-4"), "another peer's view")
        record_property("moved after (s)", round(time.monotonic() - began_s, 2))
        terminal.wait_for("DEGRADED", "✗ dead", "peer_down")

        world.start(0)
        world.wait_ready(0)
        terminal.wait_for("HEALTHY", "4 of 4")

        terminal.press("2")
        with paused(world, "transition", "peer-1", "peer-2", "peer-3"):
            assert world.atoll("node", "drain", "peer-4", "--yes").returncode == 0
            terminal.wait_for("DEGRADED", "draining")
        terminal.wait_for("HEALTHY", "drained")

        world.kill_all()
        terminal.wait_for("NO PEER ANSWERS", "still trying", "what is below is old")
        world.start_again()
        terminal.wait_for("HEALTHY")

        terminal.resize(80, 24)
        terminal.press("1")
        assert all(len(line) <= 80 for line in terminal.wait_for("HEALTHY", "1 Overview").splitlines())
        terminal.press("q")
        wait_until(lambda: terminal.exit_code == 0, "top has ended")
        assert not terminal.screen().strip(), "the terminal is as it was"

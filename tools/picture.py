"""`python -m tools.picture`: the picture in the README, taken of a live cluster.

Founds five peers in a temporary directory, stores objects through one, kills another with SIGKILL, stores more
and reads everything back through a third, waits until gossip has noticed the death, and saves what `atoll top`
shows then as an SVG. Nothing in the picture is drawn by hand.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import click

from peer.client import AsyncClient
from tools.devcluster import DevCluster
from tools.devlayout import DevError, Layout, Place, check_ports, peer_command
from tui.app import TopApp
from tui.source import Live

PEERS, VICTIM = 5, 1
SIZE = (116, 32)
OBJECTS, OBJECT_BYTES = 24, 4 << 20
WORK_S = 45.0
"""As long as the sparklines are broad."""
DEADLINE_S = 120.0
LOOK_EVERY_S = 0.3
FONTS = '"Fira Code", "DejaVu Sans Mono", Menlo, Consolas, monospace'


def command(place: Place, layout: Layout) -> list[str]:
    """A peer of its own zone and a round capacity: one machine pretends to be five."""
    return [*peer_command(place, layout), "--zone", f"rack-{place.name[-1]}", "--capacity", "500GB"]


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for a condition. Raises DevError after `DEADLINE_S`."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not await holds():  # noqa: ASYNC110 (what is asked is another process)
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        raise DevError(f"{what} did not happen within {DEADLINE_S:g} s") from None


async def store_and_kill(layout: Layout, cluster: DevCluster) -> None:
    """Half of the objects before the death of a peer, half after it; all of them read back, again and again, until gossip
    has noticed and the rates of a minute have been seen."""
    access, secret = layout.credentials()
    first, third = layout.places[0], layout.places[2]
    began = asyncio.get_running_loop().time()
    async with AsyncClient(first.api_url, access_key=access, secret_key=secret, pin=True) as client:
        await client.create_bucket("photos")
        for number in range(OBJECTS):
            if number == OBJECTS // 2:
                pid = cluster.peers[VICTIM].pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
            await client.put("photos", f"{number:04}.jpg", os.urandom(OBJECT_BYTES))
    async with AsyncClient(third.api_url, access_key=access, secret_key=secret, pin=True) as client:

        async def noticed() -> bool:
            for number in range(OBJECTS):
                async with await client.get("photos", f"{number:04}.jpg") as download:
                    await download.read()
            worked_s = asyncio.get_running_loop().time() - began
            return worked_s > WORK_S and any(node.state == "dead" for node in (await client.cluster()).nodes)

        await until(noticed, "the death notice")


async def screenshot(layout: Layout, cluster: DevCluster) -> str:
    """What `atoll top` shows of the cluster after all that, as SVG; it looks on meanwhile."""
    source = Live([place.api_url for place in layout.places], layout.credentials)
    app = TopApp(source)
    try:
        async with app.run_test(size=SIZE) as pilot:
            await store_and_kill(layout, cluster)

            async def settled() -> bool:
                await pilot.pause()
                seen = app.state.cluster
                return seen is not None and seen.count("dead") == 1 and app.state.ring is not None

            await until(settled, "the view of the dead peer")
            app.redraw()
            await pilot.pause()
            return app.export_screenshot(title="atoll top")
    finally:
        await source.close()


def standalone(svg: str) -> str:
    """Without fonts from elsewhere: where a picture may load nothing, the reader's own must do."""
    svg = re.sub(r"@font-face\s*\{.*?\}\s*", "", svg, flags=re.DOTALL)
    return re.sub(r"font-family: (Fira Code|[a-z0-9-]*matrix\b)[^;]*;", f"font-family: {FONTS};", svg)


async def take(data: Path, port: int) -> str:
    """The whole story; raises DevError. Every peer is stopped when it returns."""
    layout = Layout(data, PEERS, port, 3)
    check_ports(list(layout.places))
    cluster = DevCluster(layout, command=command)
    try:
        await cluster.start(DEADLINE_S)
        return await screenshot(layout, cluster)
    finally:
        await cluster.stop()


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--port", type=click.IntRange(1, 65000), default=7500, show_default=True, help="First port.")
def main(file: Path, port: int) -> None:
    """Found a cluster, kill a peer, and save what `atoll top` shows as FILE, an SVG."""
    with tempfile.TemporaryDirectory(prefix="atoll-picture-") as directory:
        try:
            svg = standalone(asyncio.run(take(Path(directory), port)))
        except DevError as error:
            raise click.ClickException(str(error)) from None
    file.write_text(svg, "utf-8")
    click.echo(f"{file}: {len(svg.encode()) / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()

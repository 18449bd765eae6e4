"""What the simulator gives a peer in place of the machine: time, tasks, network and disks."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from peer.errors import AtollError, Full, Unavailable
from tests.dev_world import until_now
from tools.hours import HoursTold
from tools.sim.blocks import BLOCK_BYTES, SimFiles
from tools.sim.disk import SimDisk, SimRows
from tools.sim.env import SimEnv
from tools.sim.loop import Crashed, Deadlock, Stuck, VirtualLoop
from tools.sim.network import SimLink, SimNetwork, Weather
from tools.sim.story import Story


def test_time_jumps_and_order_is_kept() -> None:
    """Goal: an hour of sleeping costs nothing, and things happen in the order of their times."""
    seen = []

    async def sleeper(delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        seen.append((asyncio.get_running_loop().time(), delay_s))

    async def main() -> str:
        await asyncio.gather(*(sleeper(delay_s) for delay_s in (1800.0, 0.5, 3599.0)))
        return "done"

    assert VirtualLoop().run(main()) == "done"
    assert seen == [(0.5, 0.5), (1800.0, 1800.0), (3599.0, 3599.0)]


def test_a_long_run_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: hours done and left are told while a long run goes on, and nothing of a short one."""
    monkeypatch.setattr("tools.hours.LOG_EVERY_S", 0.001)
    loop = VirtualLoop(limit_s=1e6)
    loop.now = 7200.0
    said = io.StringIO()
    console = Console(file=said)
    with HoursTold(loop, 6 * 3600.0, console) as told:
        assert told.line(600.0).strip() == "2.0 of 6.0 virtual hours, 10 min gone, 20 min left"
        until_now(lambda: "2.0 of 6.0 virtual hours" in said.getvalue())
    short = io.StringIO()
    with HoursTold(loop, 600.0, Console(file=short)):
        pass
    assert not short.getvalue()
    loop.close()


def test_deadlock_is_an_error() -> None:
    """Goal: a run in which nothing can happen any more says so instead of hanging."""

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match="nothing is scheduled"):
        VirtualLoop().run(main())


def test_livelock_is_an_error() -> None:
    """Goal: neither endless virtual time nor endless turns go unnoticed."""

    async def main(delay_s: float) -> None:
        while True:  # noqa: ASYNC110 - an endless loop is the point
            await asyncio.sleep(delay_s)

    with pytest.raises(Stuck, match="s of virtual time"):
        VirtualLoop(limit_s=60).run(main(1.0))
    with pytest.raises(Stuck, match="turns"):
        VirtualLoop(max_turns=1000).run(main(0))


def test_unexpected_errors_end_the_run() -> None:
    """Goal: an exception in a callback that nobody awaits is not lost."""

    def broken() -> None:
        raise KeyError("mine")

    async def main() -> None:
        asyncio.get_running_loop().call_later(1, broken)
        await asyncio.sleep(10)

    with pytest.raises(Crashed, match="mine") as caught:
        VirtualLoop().run(main())
    assert isinstance(caught.value.__cause__, KeyError)


def test_callbacks_from_anywhere_run_once() -> None:
    """Goal: call_soon_threadsafe queues the callback and raises nothing, so that whoever uses it, as buffer pools do,
    does not take it for a closed loop and run the callback elsewhere, too."""
    ran: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(lambda: ran.append(loop.time()))
        await asyncio.sleep(1)

    VirtualLoop().run(main())
    assert ran == [0.0]


def test_threads_are_refused() -> None:
    """Goal: code that reaches for a thread fails in the simulator at once."""

    async def main() -> None:
        await asyncio.to_thread(lambda: None)

    with pytest.raises(RuntimeError, match="a thread in the simulator"):
        VirtualLoop().run(main())


class World:
    """Two or three bare peers that log what they are asked and echo it."""

    def __init__(self, seed: int = 1, names: str = "abc") -> None:
        self.loop = VirtualLoop(limit_s=600)
        self.story = Story(self.loop.time, keep=True)
        self.network = SimNetwork(self.loop, random.Random(seed), self.story)
        self.asked: list[tuple[str, str, Any]] = []
        self.envs: dict[str, SimEnv] = {}
        self.links: dict[str, SimLink] = {}
        for name in names:
            self.start(name)

    def start(self, name: str) -> None:
        env = self.envs[name] = SimEnv(self.loop, name, name)

        def handle(sender: str, message: Any, reply: Callable[[Any], None]) -> None:
            self.asked.append((name, sender, message))
            reply((0, *message))

        self.network.attach(name, env, handle)
        self.links[name] = self.network.link(name, env)

    async def call(self, sender: str, target: str, message: tuple[Any, ...], deadline_s: float = 1.0) -> Any:
        """The reply, or the error as a value."""
        future = self.loop.create_future()
        self.links[sender].call(target, message, deadline_s, future.set_result)
        assert not future.done(), "done ran before call returned"
        return await future

    def run(self, main: Any) -> Any:
        return self.loop.run(main)


def test_messages_travel_as_on_the_wire() -> None:
    """Goal: tuples arrive as lists, bytes as bytes, text as text; and not at the same instant."""
    world = World()

    async def main() -> Any:
        reply = await world.call("a", "b", (1, (b"\x00\xff", "text"), None))
        assert world.loop.time() > 0
        return reply

    assert world.run(main()) == [0, 1, [b"\x00\xff", "text"], None]
    assert world.asked == [("b", "a", [1, [b"\x00\xff", "text"], None])]


def test_a_cut_is_directed_and_ends() -> None:
    """Goal: what a cut swallows ends in Unavailable at the deadline; the other direction works."""
    world = World()

    async def main() -> None:
        world.network.cut.add(("b", "a"))
        assert isinstance(await world.call("a", "b", (1,)), Unavailable)  # the reply is lost
        assert world.loop.time() == pytest.approx(1.0)
        assert len(world.asked) == 1
        world.network.cut = {("a", "b")}
        assert isinstance(await world.call("a", "b", (2,)), Unavailable)  # the request is lost
        assert len(world.asked) == 1
        world.network.heal()
        assert await world.call("a", "b", (3,)) == [0, 3]

    world.run(main())


def test_loss_duplication_and_reordering_happen_and_are_counted() -> None:
    """Goal: every call ends exactly once in any weather, and the story knows what went wrong."""
    world = World()
    world.network.weather = Weather(loss=0.1, duplicate=0.2, straggle=0.2, straggle_s=0.5)

    async def main() -> list[Any]:
        return list(await asyncio.gather(*(world.call("a", "b", (i,), 5.0) for i in range(200))))

    results = world.run(main())
    good = [result for result in results if isinstance(result, list)]
    assert all(result == [0, i] for i, result in enumerate(results) if isinstance(result, list))
    assert 100 < len(good) < 200
    order = [message[0] for _, _, message in world.asked]
    assert order != sorted(order)
    assert len(order) > len(set(order))
    assert all(world.story.faults[name] > 5 for name in ("loss", "duplication", "reordering"))


def test_a_reset_fails_calls_at_once() -> None:
    """Goal: calls in flight between the two end as Unavailable, though the peer may have acted on them."""
    world = World()
    world.network.weather = Weather(delay_s=0.2)

    async def main() -> None:
        calls = [asyncio.ensure_future(world.call("a", "b", (1,), 5.0)) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert world.network.reset("b", "a") == 3
        assert all(isinstance(result, Unavailable) for result in await asyncio.gather(*calls))
        assert world.loop.time() < 0.02
        await asyncio.sleep(1)
        assert len(world.asked) == 3

    world.run(main())


def test_a_paused_peer_answers_late_and_a_dead_one_never() -> None:
    """Goal: pausing delays everything that reaches a peer; killing drops it, its own calls included."""
    world = World()

    async def main() -> None:
        world.envs["b"].pause()
        call = asyncio.ensure_future(world.call("a", "b", (1,), 30.0))
        await asyncio.sleep(10)
        assert not call.done()
        world.envs["b"].resume()
        assert await call == [0, 1]
        lost = asyncio.ensure_future(world.call("b", "c", (2,), 1.0))
        await asyncio.sleep(0)
        world.envs["b"].kill()
        world.network.died("b")
        assert isinstance(await world.call("a", "b", (3,), 1.0), Unavailable)
        await asyncio.sleep(5)
        assert not lost.done()
        lost.cancel()
        world.start("b")
        assert await world.call("a", "b", (4,)) == [0, 4]

    world.run(main())


def test_timers_of_a_paused_peer_run_late_and_can_still_be_cancelled() -> None:
    """Goal: a timer that came due in a pause runs on resume unless it was cancelled meanwhile."""
    loop = VirtualLoop()
    env = SimEnv(loop, "a", "a")
    ran = []

    async def main() -> None:
        env.call_later(1, lambda: ran.append("first"))
        second = env.call_later(1, lambda: ran.append("second"))
        env.call_later(1.5, lambda: ran.append("third"))
        env.pause()
        await asyncio.sleep(5)
        assert ran == []
        second.cancel()
        env.resume()
        assert ran == ["first", "third"]

    loop.run(main())


def test_tasks_end_with_their_peer() -> None:
    """Goal: a killed peer's tasks stop; one that raises in a living peer is reported."""
    loop = VirtualLoop()
    reports: list[Any] = []
    env = SimEnv(loop, "a", "a")
    env.on_task_failure = lambda name, error: reports.append((name, str(error)))
    steps = []

    async def worker() -> None:
        while True:
            await env.sleep(1)
            steps.append(loop.time())

    async def broken() -> None:
        await env.sleep(0.5)
        raise ValueError("oh")

    async def main() -> None:
        env.spawn(worker(), "worker")
        env.spawn(broken(), "broken")
        await asyncio.sleep(2.5)
        env.kill()
        await asyncio.sleep(5)

    loop.run(main())
    assert steps == [1.0, 2.0]
    assert reports == [("a/broken", "oh")]


class Store:
    """One simulated peer's rows that can crash and start again."""

    def __init__(self, seed: int = 1) -> None:
        self.loop = VirtualLoop(limit_s=600)
        self.rng = random.Random(seed)
        self.story = Story(self.loop.time)
        self.disk = SimDisk()
        self.open()

    def open(self) -> None:
        self.env = SimEnv(self.loop, "a", "a")
        self.rows = SimRows(self.disk, self.env, self.rng, self.story)

    def crash(self) -> None:
        self.env.kill()
        self.rows.crash()
        self.open()

    async def commit(self, *writes: Any) -> AtollError | None:
        future: asyncio.Future[AtollError | None] = self.loop.create_future()
        self.rows.commit(writes, future.set_result)
        return await future


def test_rows_are_read_as_written() -> None:
    """Goal: get, scan and last answer in key order, cut values, and only from committed state."""
    store = Store()

    async def main() -> None:
        store.rows.commit([("rows", b"b", b"2"), ("side", 7, b"x" * 100)], lambda error: None)
        assert store.rows.get("rows", b"b") is None
        assert store.rows.last("side") is None
        await store.commit(("rows", b"a", b"1"), ("rows", b"c", b"3"))
        assert store.rows.scan("rows", b"a", b"c", 10) == [(b"a", b"1"), (b"b", b"2")]
        assert store.rows.scan("rows", b"", b"z", 1) == [(b"a", b"1")]
        assert store.rows.heads("side", 0, 100, 10, 2) == [(7, b"xx", 100)]
        assert store.rows.last("side") == 7
        assert store.rows.sequence == 1
        await store.commit(("rows", b"b", None))
        assert store.rows.scan("rows", b"", b"z", 10) == [(b"a", b"1"), (b"c", b"3")]
        assert store.rows.sequence == 2

    store.loop.run(main())


@pytest.mark.parametrize("seed", range(40))
def test_a_crash_keeps_what_was_acknowledged(seed: int) -> None:
    """Goal: after a crash the rows are those of a prefix of the commits, all acknowledged ones included."""
    store = Store(seed)
    rng = random.Random(seed)
    acknowledged = []

    async def main() -> None:
        for number in range(60):
            key = b"k%d" % number
            store.rows.commit([("rows", key, b"v")], lambda error, n=number: acknowledged.append(n))  # type: ignore[misc]
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random() * 0.003)
        before = store.disk.sequence
        store.crash()
        assert store.rows.sequence in (before, before + 1)
        kept = [int(key[1:]) for key, _ in store.rows.scan("rows", b"", b"z", 1000)]  # type: ignore[index]
        assert sorted(kept) == list(range(len(kept)))
        assert set(acknowledged) <= set(kept)
        await asyncio.sleep(1)
        assert len(acknowledged) <= len(kept)

    store.loop.run(main())


def test_the_simulated_queue_is_bounded() -> None:
    """Goal (R8): beyond the bound commits fail, after those before them were told and with those that came meanwhile."""
    store = Store()
    told: list[tuple[int, bool]] = []

    async def main() -> None:
        store.rows.traits.queue_soft, store.rows.traits.queue_hard = 1, 3
        for number in range(5):
            store.rows.commit(
                [("rows", b"%d" % number, b"v")],
                lambda error, n=number: told.append((n, error is None)),  # type: ignore[misc]
            )
        assert store.rows.congested and store.rows.saturated
        assert told == []
        await asyncio.sleep(1)
        assert told == [(0, True), (1, True), (2, True), (3, False), (4, False)]
        assert not store.rows.congested and not store.rows.saturated
        assert len(store.rows.scan("rows", b"", b"z", 9)) == 3
        assert await store.commit(("rows", b"later", b"v")) is None

    store.loop.run(main())


def test_a_lying_disk_loses_acknowledged_commits() -> None:
    """Goal: the negative control does what it is for."""
    lost = 0
    for seed in range(10):
        store = Store(seed)
        store.disk.lying = True

        async def main(store: Store = store) -> int:
            for number in range(20):
                assert await store.commit(("rows", b"%02d" % number, b"v")) is None
            store.crash()
            kept = [key for key, _ in store.rows.scan("rows", b"", b"z", 1000)]
            assert kept == [b"%02d" % number for number in range(len(kept))]
            return 20 - len(kept)

        lost += store.loop.run(main())
    assert lost > 0


def test_a_full_disk_fails_everything_queued() -> None:
    """Goal: Full reaches the failed group and all that was queued behind it, and nothing changes."""
    store = Store()

    async def main() -> None:
        store.disk.full = True
        first = asyncio.ensure_future(store.commit(("rows", b"a", b"1")))
        await asyncio.sleep(0.0002)
        second = asyncio.ensure_future(store.commit(("rows", b"b", b"1")))
        assert isinstance(await first, Full)
        assert isinstance(await second, Full)
        assert store.rows.scan("rows", b"", b"z", 10) == []
        store.disk.full = False
        assert await store.commit(("rows", b"a", b"1")) is None

    store.loop.run(main())


def files(seed: int) -> tuple[VirtualLoop, random.Random, SimFiles]:
    loop = VirtualLoop(limit_s=600)
    rng = random.Random(seed)
    return loop, rng, SimFiles(lambda act: loop.call_later(rng.random() * 0.01, act) and None)


async def done(loop: VirtualLoop, operation: Callable[..., None], *args: Any) -> Any:
    future = loop.create_future()
    operation(*args, future.set_result)
    return await future


def block(letter: str) -> bytes:
    return letter.encode() * BLOCK_BYTES


def test_unsynced_blocks_are_lost_one_by_one() -> None:
    """Goal: any subset of unsynced blocks survives a crash; synced ones always, half-written ones perhaps."""
    outcomes = set()
    for seed in range(60):
        loop, rng, disk = files(seed)

        async def main(loop: VirtualLoop = loop, rng: random.Random = rng, disk: SimFiles = disk) -> bytes:
            await done(loop, disk.create, "f", 4 * BLOCK_BYTES)
            await done(loop, disk.write, "f", 0, block("a"))
            await done(loop, disk.sync, "f")
            await done(loop, disk.sync_directory)
            await done(loop, disk.write, "f", BLOCK_BYTES, block("b") + block("c"))
            disk.write("f", 3 * BLOCK_BYTES, block("d"), lambda error: None)  # in flight
            after = disk.crash(rng, lambda act: None)
            return after.read("f", 0, 4 * BLOCK_BYTES)

        data = loop.run(main())
        assert data[:BLOCK_BYTES] == block("a")
        outcomes.add(bytes(data[i * BLOCK_BYTES] for i in (1, 2, 3)))
    assert outcomes == {bytes((b, c, d)) for b in b"b\0" for c in b"c\0" for d in b"d\0"}


def test_a_sync_covers_only_what_returned_before_it_began() -> None:
    """Goal: a write still in flight when the sync began may be lost, whichever ends first."""
    kept = 0
    for seed in range(60):
        loop, rng, disk = files(seed)

        async def main(loop: VirtualLoop = loop, rng: random.Random = rng, disk: SimFiles = disk) -> bool:
            await done(loop, disk.create, "f", BLOCK_BYTES)
            await done(loop, disk.sync_directory)
            write = asyncio.ensure_future(done(loop, disk.write, "f", 0, block("a")))
            await asyncio.sleep(0)
            await asyncio.gather(write, done(loop, disk.sync, "f"))
            return disk.crash(rng, lambda act: None).read("f", 0, 1) == b"a"

        kept += loop.run(main())
    assert 10 < kept < 50


def test_a_file_needs_its_directory_synced() -> None:
    """Goal: a new file may vanish in a crash until the directory was synced."""
    found = 0
    for seed in range(40):
        loop, rng, disk = files(seed)

        async def main(
            loop: VirtualLoop = loop, rng: random.Random = rng, disk: SimFiles = disk
        ) -> list[str]:
            await done(loop, disk.create, "old", BLOCK_BYTES)
            await done(loop, disk.sync_directory)
            await done(loop, disk.create, "new", BLOCK_BYTES)
            await done(loop, disk.sync, "new")
            return disk.crash(rng, lambda act: None).names()

        names = loop.run(main())
        assert "old" in names
        found += "new" in names
    assert 5 < found < 35

"""One run of the bench, from finding the peers to deleting what it made."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.bench import floor as floor_of_machine
from tools.bench.bodies import Bodies
from tools.bench.report import Report
from tools.bench.stats import summarise
from tools.bench.target import BenchError, Target, find_target
from tools.bench.workloads import BY_NAME, Plan, Progress, Runner

CLEAN_UP_S = 300.0
TMPFS = "tmpfs"


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a cluster. `pinned`: load goes to these endpoints only. `tls`: all are https, and this trusts them."""

    endpoints: Sequence[str]
    access_key: str
    secret_key: str
    pinned: bool = False
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for. `start`: how many peers of a cluster of its own to run on, 0 for one that exists."""

    workloads: Sequence[str]
    plan: Plan
    scratch: Path
    start: int = 0
    floor: bool = False
    figures: bool = False
    keep: bool = False
    tls: bool = False
    """Whether that cluster of its own speaks TLS."""


async def run(wish: Wish, access: Access | None, progress: Progress) -> Report:
    """Measure and clean up. Raises BenchError, or tools.devlayout.DevError if its own cluster cannot start."""
    writes = wish.floor or wish.start
    with _directory(wish.scratch) if writes else nullcontext(wish.scratch) as directory:
        floors = await _floor(wish, directory, progress) if wish.floor else []
        if wish.start:
            async with own_cluster(directory, wish.start, progress, tls=wish.tls) as own:
                report = await _measure(wish, own, progress, leave=True)
        elif access is not None:
            report = await _measure(wish, access, progress, leave=wish.keep)
        else:
            report = Report({}, asdict(wish.plan))
    report.floor = floors
    if writes:
        report.notes += _disk_notes(wish.scratch)
    return report


async def _measure(wish: Wish, access: Access, progress: Progress, *, leave: bool) -> Report:
    """All workloads in a bucket of their own, which is deleted at the end unless it is to be left."""
    bucket = f"bench-{secrets.token_hex(4)}"
    target = await find_target(
        access.endpoints, access.access_key, access.secret_key, bucket, pinned=access.pinned, tls=access.tls
    )
    report = Report(_cluster(target), asdict(wish.plan), figures=wish.figures)
    if await target.cpu_s() is None:
        report.notes.append("a peer does not tell its CPU time: nothing per CPU-second")
    await target.make_bucket()
    try:
        runner = Runner(target, Bodies(bucket, target.chunk_bytes), wish.plan, progress)
        for name in wish.workloads:
            workload = BY_NAME[name]
            try:
                rounds = await runner.run(workload)
            except BenchError as error:
                if len(wish.workloads) == 1:
                    raise
                report.notes.append(str(error))  # the others are worth having
                continue
            report.results.append(summarise(name, runner.clients_of(workload), workload.size, rounds))
    finally:
        if not leave:
            await _clean_up(target, progress)
    return report


async def _clean_up(target: Target, progress: Progress) -> None:
    """Delete the bucket, also after Ctrl-C (a second one gives up); says what is left if it cannot."""
    progress(f"deleting the bucket {target.heads.bucket} and all in it")
    try:
        async with asyncio.timeout(CLEAN_UP_S):
            await target.remove_bucket(64, 30.0)
    except (BenchError, TimeoutError, asyncio.CancelledError) as error:
        progress(
            f"left behind: the bucket {target.heads.bucket} ({error or 'interrupted'}); remove it with `atoll rb`"
        )
        if isinstance(error, asyncio.CancelledError):
            raise


def _cluster(target: Target) -> dict[str, object]:
    return {
        "peers": [peer.name for peer in target.peers],
        "endpoints": [endpoint.header for endpoint in target.under_load],
        "version": target.version,
        "chunk_bytes": target.chunk_bytes,
    }


@asynccontextmanager
async def own_cluster(
    directory: Path, peers: int, progress: Progress, *, tls: bool = False
) -> AsyncIterator[Access]:
    """A cluster of real peers in `directory`, stopped at the end. Raises DevError."""
    from tools.devcluster import DevCluster
    from tools.devlayout import Layout, free_port

    layout = Layout(directory / "cluster", peers, free_port(peers), min(peers, 3), "auto" if tls else "")
    cluster = DevCluster(layout)
    progress(f"founding a cluster of {peers} in {layout.data}")
    try:
        await cluster.start()
        access_key, secret_key = layout.credentials()
        yield Access([place.api_url for place in layout.places], access_key, secret_key, tls=layout.trust())
    finally:
        progress("stopping the cluster")
        await cluster.stop()


@contextmanager
def _directory(scratch: Path) -> Iterator[Path]:
    """A directory of the bench's own below `scratch`, removed at the end with all in it."""
    path = Path(tempfile.mkdtemp(prefix="atoll-bench-", dir=scratch)).absolute()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


async def _floor(wish: Wish, directory: Path, progress: Progress) -> list[floor_of_machine.Floor]:
    progress("floor: the machine without Atoll")
    try:
        return await floor_of_machine.measure(
            directory, wish.plan.clients, wish.plan.seconds, wish.plan.deadline_s
        )
    except OSError as error:
        raise BenchError(f"cannot measure the floor in {directory}: {error}") from None


def _disk_notes(scratch: Path) -> list[str]:
    """A warning if fsync costs nothing where the measurement wrote."""
    best, kind = "", ""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, name, *_ = line.split()
        if scratch.absolute().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, name
    if kind == TMPFS:
        return [f"{scratch} is a tmpfs: syncs cost nothing there, these figures mean little (--scratch DIR)"]
    return []


def progress_to_stderr(words: str) -> None:
    """One line that the next replaces on a terminal; lines in a log."""
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{words}", end="", file=sys.stderr, flush=True)
    else:
        print(words, file=sys.stderr, flush=True)

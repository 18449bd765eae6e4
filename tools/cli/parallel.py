"""Many transfers at once: bounded, in order of their coming, going on when single ones fail."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from peer.errors import AtollError, Unavailable
from tools.cli.exits import OTHER, PARTLY, code_of, remedy, sentence

J = TypeVar("J")
R = TypeVar("R")

HOPELESS = 3
"""So many rounds of jobs in a row that found no peer: the cluster is gone, more of them cannot help."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[J, R]):
    """What became of one job: a result or an error."""

    job: J
    result: R | None
    error: Exception | None


def run_parallel(
    jobs: Iterable[J], work: Callable[[J], R], *, workers: int, stop: Callable[[], None]
) -> Generator[Outcome[J, R], None, None]:
    """Do the jobs in `workers` threads; outcomes as they come. At most 2 jobs a worker are taken ahead.

    Use it under `contextlib.closing`, so that no thread outlives what it works with.

    AtollError and OSError belong to their job; anything else, an interruption included, ends the run:
    `stop` is called to break off what is under way, and the error raised when all threads have ended.
    """
    pending: dict[Future[R], J] = {}
    pool = ThreadPoolExecutor(workers, thread_name_prefix="transfer")
    try:
        source = iter(jobs)
        more = True
        while more or pending:
            while more and len(pending) < 2 * workers:
                try:
                    job = next(source)
                except StopIteration:
                    more = False
                else:
                    pending[pool.submit(work, job)] = job
            done, _ = wait(pending, return_when=FIRST_COMPLETED) if pending else (set(), None)
            for future in done:
                job = pending.pop(future)
                try:
                    outcome: Outcome[J, R] = Outcome(job, future.result(), None)
                except (AtollError, OSError) as problem:
                    outcome = Outcome(job, None, problem)
                yield outcome
    except BaseException:
        for future in pending:
            future.cancel()
        stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Tally:
    """Counts outcomes, tells failures, and knows the exit code."""

    def __init__(self, workers: int, say: Callable[[str], None]) -> None:
        self.done = 0
        self.failed = 0
        self._first: Exception | None = None
        self._say = say
        self._silent = 0  # failures in a row because nobody answers
        self._limit = HOPELESS * workers

    def count(self, name: str, error: Exception | None) -> bool:
        """Take one outcome; False when going on is hopeless, as nobody has answered for long."""
        if error is None:
            self.done += 1
            self._silent = 0
            return True
        self.fail(name, error)
        self._silent = self._silent + 1 if isinstance(error, Unavailable) else 0
        if self._silent < self._limit:
            return True
        self._say(f"atoll: gave up after {self._silent} failures in a row")
        return False

    def fail(self, name: str, error: Exception) -> None:
        """Note something that could not be done."""
        self.failed += 1
        self._say(f"atoll: {name}: {sentence(error)}")
        if self._first is None:
            self._first = error
            advice = remedy(error)
            if advice is not None:
                self._say(f"  {advice}")

    def exit_code(self, *, partly: bool = False) -> int:
        """0, the code of the only kind of failure if nothing was done, or 7."""
        if not self.failed:
            return 0
        if self.done or partly:
            return PARTLY
        return code_of(self._first) if self._first is not None else OTHER


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM interrupts as Ctrl-C does, so that temporary files are removed."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""Many runs of whole peers: what must have struck, and what must have held, or it was not tested."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from tools.sim.batch import EXPECTED_FAULTS as OF_REGISTERS
from tools.sim.batch import Totals, run_seeds
from tools.sim.faults import CHUNK_FAULTS
from tools.sim.object_world import LEFT_OUT, ObjectOptions, run_object_seed
from tools.sim.result import Result

ENOUGH_OBJECT_SEEDS = 300  # from here on, a zero is a failure
EXPECTED_FAULTS = (
    *(name for name in OF_REGISTERS if name not in LEFT_OUT),
    *CHUNK_FAULTS,
    "peer leaves",
    "peer returns",
    "evicted peer returns",
)
EXPECTED_SAFEGUARDS = {
    "conflict refused": "a promise or a newer ballot stood against a request",
    "identities": "a read that met disagreement made its answer chosen first",
    "answer waited for a commit": "a pending row was not revealed",
    "abstained": "a peer without confirmed identity, or with a bad row, did not vote",
    "amnesia detected": "a peer on an old copy of its disk was refused",
    "change refused": "a change of the ring was not begun beside another, or left too few peers",
    "joint": "a request needed a majority of the old and of the new owners",
    "stale epoch refused": "an older epoch's request was refused",
    "full disk refused": "a full disk said so and changed nothing",
    "overload refused": "an owner with too many writes queued took no more",
    "partitions or rows merged": "a new owner took a partition over",
    "partitions or rows discarded": "rows of a partition that is not owned any more were forgotten",
    "removed by itself": "a member that was dead for long was removed by the others",
    "removal held back": "a dead member stayed: too few would be left, or a majority is lost, or another change comes first",
    "came back removed": "a peer that had been removed while it was away found that out and stopped",
    "duplicates": "two puts of one chunk named one extent",
    "chunk corrupt": "bytes that are not the chunk were not served",
    "chunk read_repairs": "an owner whose copy a read found bad was told",
    "chunk hedges": "a slow owner of a chunk was passed over",
    "chunk fallbacks": "a peer that does not own a chunk kept it in an owner's place",
    "hints kept": "what an owner missed was kept for it",
    "hints delivered": "an owner brought what it had missed",
    "compared": "anti-entropy compared a partition",
    "differed": "anti-entropy brought what an owner lacked",
    "settled": "a row that could not simply be copied was accepted anew",
    "named": "a reference that seemed unnamed was kept: the head, settled, names it",
    "open": "a reference was kept: its put may still succeed",
    "undecided": "a reference was kept: its put's coordinator could not be asked",
    "dead": "an attempt that no head names, nor ever will, was found so",
    "dropped": "references of dead attempts were dropped",
    "removed": "a chunk without references was let go",
    "kept": "a chunk that was to go was named meanwhile, and stayed",
    "walked": "references and chunks were looked through",
    "purged": "tombstones went",
    "quarantined": "a damaged chunk stopped counting as a copy",
    "bad_chunks": "scrub found a damaged chunk",
    "bad_rows": "scrub found a damaged register",
    "bad_references": "scrub found a damaged reference",
    "rebuilt": "scrub made a damaged chunk good",
    "strays": "bytes that no row named were let go",
    "adopted": "chunks without rows were taken over",
}


def object_totals() -> Totals:
    return Totals(expected_faults=EXPECTED_FAULTS, expected_safeguards=EXPECTED_SAFEGUARDS)


def run_object_batch(seeds: Iterable[int], options: ObjectOptions, jobs: int = 1) -> Iterator[Result]:
    """Results in the order of the seeds, from `jobs` processes."""
    return run_seeds(seeds, partial(run_object_seed, options=options), jobs)

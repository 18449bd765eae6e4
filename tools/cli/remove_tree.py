"""`atoll rm -r`: everything below a prefix, after asking."""

from __future__ import annotations

from contextlib import closing
from itertools import islice

from peer.client.model import name_of
from peer.client.sync import Client
from tools.cli.exits import NOT_FOUND
from tools.cli.parallel import Tally, run_parallel, terminable
from tools.cli.session import confirm, connect, note, split_target

COUNTED = 1000
"""Keys counted for the question; beyond, it says "more than"."""


def remove_tree(targets: tuple[str, ...], jobs: int, force: bool) -> int:
    """Remove all keys below each BUCKET/KEY/; a bucket alone means all it holds. The exit code.

    With `force` it is no error that nothing lies below a key.
    """
    code = 0
    with terminable(), connect() as client:
        for target in targets:
            code = _remove(client, target, jobs, force) or code
    return code


def _remove(client: Client, target: str, jobs: int, force: bool) -> int:
    bucket, prefix = split_target(target)
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    found = sum(1 for _ in islice(client.list(bucket, prefix), COUNTED + 1))
    if not found:
        note(f"nothing lies below {bucket}/{prefix}")
        return 0 if force or not prefix else NOT_FOUND
    count = f"more than {COUNTED}" if found > COUNTED else str(found)
    confirm(f"Remove {count} object{'s' if found != 1 else ''} below {bucket}/{prefix}?")
    tally = Tally(jobs, note)
    keys = (name_of(entry) for entry in client.list(bucket, prefix))

    def remove(key: str) -> None:
        client.delete(bucket, key)

    with closing(run_parallel(keys, remove, workers=jobs, stop=client.close)) as outcomes:
        for outcome in outcomes:
            if not tally.count(outcome.job, outcome.error):
                break
    note(f"removed {tally.done} objects" + (f", {tally.failed} failed" if tally.failed else ""))
    return tally.exit_code()

"""Founding a cluster once, by a job that may run any number of times: `atoll init`, for containers.

Where peers are started by a machine, all alike, one of them would have to be told to found; should it lose its disk, it
would found a second cluster beside the first. So none is told: a job runs before them, and keeps what it did in a directory
of its own, `secrets`, from which the peers take the cluster key. A cluster is founded only if

F1  `secrets` holds no cluster key, which is put there last, when everything else is durable; and
F2  none of the other peers' directories holds one: where a peer has ever lived there is a cluster that it belongs to. Its
    key is handed over again, and the peer that lost its disk can join.

A directory that is not there is a disk that is not mounted, and nothing is founded. A job that died half way is finished by
the next one, in the same directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from peer.config import PeerConfig, is_initialised
from peer.errors import StartupError
from peer.run import found
from peer.storage.datadir import KEY_FILE, ROOT_FILE, read_cluster_key
from peer.storage.durable import write_file

HANDED_OVER = (ROOT_FILE, "ca.pem", KEY_FILE)
"""Files of a data directory that peers and operators need; the key last (F1)."""


def found_once(config: PeerConfig, secrets: Path, others: Sequence[Path]) -> str:
    """Found a cluster in `config.data` if there is none; a sentence that says what was done. See F1 and F2.

    `others` are the directories of the further peers. Raises StartupError, with nothing founded: a directory is missing, or
    they belong to different clusters; and what founding itself raises.
    """
    for path in (secrets, *others):
        if not path.is_dir():
            raise StartupError(
                f"{path} is not there; mount it, so that no second cluster is founded beside it"
            )
    with _alone(secrets):
        kept = read_cluster_key(secrets / KEY_FILE)
        lived = [path for path in (config.data, *others) if _has_lived(path, path == config.data)]
        keys = {path: read_cluster_key(path / KEY_FILE) for path in lived}
        if kept is not None:
            keys[secrets] = kept
        if gone := [path for path, key in keys.items() if key is None]:
            raise StartupError(f"{gone[0] / KEY_FILE} is missing; copy it from another peer's directory")
        if len(set(keys.values())) > 1:
            names = ", ".join(map(str, keys))
            raise StartupError(
                f"{names} belong to different clusters; nothing was done. Which is the right one?"
            )
        if kept is not None:
            return f"nothing to do: {secrets / KEY_FILE} is there, so the cluster was founded before"
        if lived:
            _hand_over(lived[0], secrets)
            done = f"nothing was founded: a peer has lived in {lived[0]}; its cluster's key is in {secrets} again"
            if (secrets / ROOT_FILE).exists():
                return done
            return f"{done}. {ROOT_FILE}, the root key, is gone with the founder: put your copy of it there"
        with contextlib.redirect_stdout(
            io.StringIO()
        ):  # the root key, which is not for the logs of containers
            found(config)
        _hand_over(config.data, secrets)
        return f"founded a cluster in {config.data}; its keys are in {secrets}"


def _has_lived(path: Path, own: bool) -> bool:
    """Whether a peer of some cluster has lived there. Our own directory may be that of a founding that was cut short: it has
    a key, and no options yet."""
    return is_initialised(path) or (not own and (path / KEY_FILE).exists())


def _hand_over(data: Path, secrets: Path) -> None:
    for name in HANDED_OVER:
        with contextlib.suppress(FileNotFoundError):
            write_file(secrets / name, (data / name).read_bytes())


@contextlib.contextmanager
def _alone(secrets: Path) -> Iterator[None]:
    """Two jobs at once must not found two clusters. Raises StartupError."""
    lock = os.open(secrets, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupError(f"{secrets} is in use by another founding; wait for it") from None
        yield
    finally:
        os.close(lock)

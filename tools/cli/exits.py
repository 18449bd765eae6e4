"""Exit codes, and the one place where an exception becomes one (docs/operate.md, "Exit codes")."""

from __future__ import annotations

from peer.errors import AtollError, Conflict, Denied, Invalid, NotFound, Refused, StartupError, Unavailable

DONE = 0
OTHER = 1
USAGE = 2
NOT_FOUND = 3
DENIED = 4
UNAVAILABLE = 5
REFUSED = 6
PARTLY = 7
DEGRADED = 10
DOWN = 11
INTERRUPTED = 130

_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (NotFound, NOT_FOUND),
    (Denied, DENIED),
    (Conflict, REFUSED),
    (Invalid, USAGE),
    (Unavailable, UNAVAILABLE),
    (Refused, UNAVAILABLE),
    (StartupError, OTHER),
    (AtollError, OTHER),
    (FileNotFoundError, NOT_FOUND),
    (KeyboardInterrupt, INTERRUPTED),
)

USAGE_CODES = frozenset({"NoSuchProfile", "InvalidProfile", "Uninitialised"})
"""Errors that are the caller's to cure on the command line, whatever their class."""


class UnsafeRefusal(Conflict):
    """Not done because nobody confirmed it."""

    code = "NotConfirmed"


def code_of(error: BaseException) -> int:
    """The exit code an error ends the program with."""
    if isinstance(error, AtollError) and error.code in USAGE_CODES:
        return USAGE
    return next((code for kind, code in _CODES if isinstance(error, kind)), OTHER)


def sentence(error: BaseException) -> str:
    """What to tell a person about an error."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    return str(error) or type(error).__name__


def remedy(error: BaseException) -> str | None:
    """What to do about an error, when the command line knows more than the error itself."""
    if not isinstance(error, AtollError):
        return None
    if error.code == "NoSuchProfile":
        return (
            "start a local cluster with `atoll dev`, or tell this command of a running one:\n"
            "  atoll profile add NAME --endpoint http://HOST:7401 --credentials-file DIR/root.json"
        )
    if isinstance(error, Denied) and error.status == 401:
        return (
            "give the keys of this cluster: --profile NAME, or --credentials-file DIR/root.json, or "
            "ATOLL_ACCESS_KEY and ATOLL_SECRET_KEY"
        )
    if isinstance(error, Unavailable) and "no peer answers" in str(error):
        return (
            "`atoll dev` starts a local cluster, `atoll profile list` shows the addresses this command knows"
        )
    if error.code == "NoSuchNode":
        return "`atoll node list` lists the peers there are"
    if error.code == "NoSuchBucket":
        return "`atoll ls` lists the buckets there are, `atoll mb NAME` makes one"
    return None

"""Every error Atoll raises on purpose, in one tree.

    AtollError
    ├── Invalid            the request is wrong: nothing changed, do not retry
    │   ├── NotFound
    │   ├── Denied
    │   └── Conflict       a condition was decided against, or the name is taken
    ├── Unavailable        no quorum, a deadline, an overload: nothing changed, retry may help
    │   ├── UnknownOutcome the write may or may not happen later
    │   └── ReadOnly       the disk takes no writes now: nothing changed
    ├── Full               the disk has no room: nothing changed
    ├── Corrupt            bytes or a row failed their checksum
    ├── Refused            a peer refused on purpose (epoch, ownership, gate, identity)
    ├── ProtocolError      the other side broke the wire protocol
    └── StartupError       this process cannot start; the message says the remedy

Each carries `code` (the API's error code), `state_changed` (False, or None when unknown) and `retry`.
"""

from __future__ import annotations


class AtollError(Exception):
    """Base of all. `str(error)` is a sentence for a person: what happened, to what, what to do."""

    code = "InternalError"
    status = 500
    state_changed: bool | None = False
    retry = False

    def __init__(self, message: str, *, code: str | None = None, status: int | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status


class Invalid(AtollError):
    code = "InvalidRequest"
    status = 400


class NotFound(Invalid):
    code = "NotFound"
    status = 404


class Denied(Invalid):
    code = "AccessDenied"
    status = 403


class Conflict(Invalid):
    code = "PreconditionFailed"
    status = 412


class Unavailable(AtollError):
    code = "ServiceUnavailable"
    status = 503
    retry = True


class UnknownOutcome(Unavailable):
    code = "OutcomeUnknown"
    state_changed = None


class ReadOnly(Unavailable):
    code = "DiskReadOnly"


class Full(AtollError):
    code = "InsufficientStorage"
    status = 507


class Corrupt(AtollError):
    code = "Corrupt"
    retry = True


class Refused(AtollError):
    code = "Refused"
    status = 503
    retry = True


class ProtocolError(AtollError):
    code = "ProtocolError"


class StartupError(AtollError):
    code = "StartupError"

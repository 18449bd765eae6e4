"""What a peer's log looks like: lines for people on a terminal, JSON for programs, each with the request it is about.

A line of JSON is one object: time (UTC, RFC 3339), level, logger, message, peer and peer_id once they are known, request_id
where there is one, exception with its traceback.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from peer.requestid import CURRENT


class Who:
    """Whose log it is, for every line; filled in as soon as a peer knows."""

    def __init__(self) -> None:
        self.name = ""
        self.id = ""
        self.debugs = False  # whether lines of level debug are shown, for those who would have many to say


HERE = Who()
"""The peer of this process, of which there is one at a time."""


class TextLines(logging.Formatter):
    """One line, or more where there is a traceback, for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        line = super().formatMessage(record)
        request_id = CURRENT.get()
        return f"{line} [request {request_id}]" if request_id else line


class JsonLines(logging.Formatter):
    """One object a line, whatever the message holds."""

    def __init__(self, who: Who) -> None:
        super().__init__()
        self._who = who

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._who.name:
            line["peer"] = self._who.name
        if self._who.id:
            line["peer_id"] = self._who.id
        if request_id := CURRENT.get():
            line["request_id"] = request_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up(level: str, form: str, stream: TextIO | None = None, who: Who = HERE) -> None:
    """Log to `stream` (standard error) from now on. `form`: text, json, or auto: text on a terminal, JSON elsewhere."""
    target = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(target)
    plain = form == "text" or (form == "auto" and target.isatty())
    handler.setFormatter(TextLines() if plain else JsonLines(who))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    who.debugs = level == "debug"

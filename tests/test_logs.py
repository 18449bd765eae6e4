"""What a log looks like: JSON for programs, text for people, and whose request a line is about."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest

from peer import logs
from peer.requestid import CURRENT, is_sane, told

LOG = logging.getLogger("atoll.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def logging_to(stream: io.StringIO, form: str, who: logs.Who | None = None) -> Iterator[None]:
    """Root logs there as a peer's process has it set up, and as before afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        logs.set_up("debug", form, stream, who or logs.Who())
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)


@contextmanager
def request(request_id: str) -> Iterator[None]:
    token = CURRENT.set(request_id)
    try:
        yield
    finally:
        CURRENT.reset(token)


def test_a_line_of_json_says_all() -> None:
    """Goal: each line is one object, whatever the message holds, with level, logger, peer, request and traceback."""
    stream, who = io.StringIO(), logs.Who()
    with logging_to(stream, "auto", who):
        LOG.info("first %s", "word")
        who.name, who.id = "peer-1", "a" * 16
        with request("req-7"):
            LOG.warning('odd: "\n\u2028 \ud800 %d', 3)
        try:
            raise ValueError("no\nway")
        except ValueError:
            LOG.exception("it failed")
    text = stream.getvalue()
    assert text.isascii() and text.count("\n") == 3
    first, odd, failed = (json.loads(line) for line in text.splitlines())
    assert set(first) == {"time", "level", "logger", "message"}
    assert (first["level"], first["logger"], first["message"]) == ("info", "atoll.test", "first word")
    assert datetime.fromisoformat(first["time"]).utcoffset() is not None
    assert odd["message"] == 'odd: "\n\u2028 \ud800 3' and odd["request_id"] == "req-7"
    assert (odd["peer"], odd["peer_id"], odd["level"]) == ("peer-1", "a" * 16, "warning")
    assert "request_id" not in failed and "ValueError: no\nway" in failed["exception"]


def test_text_is_for_people() -> None:
    """Goal: on a terminal, or when told so, lines are text; the request stands at the end where there is one."""
    for stream, form in ((Terminal(), "auto"), (io.StringIO(), "text")):
        with logging_to(stream, form), request("r-1"):
            LOG.error("the disk %s", "hangs")
        assert stream.getvalue().endswith(" ERROR atoll.test the disk hangs [request r-1]\n")
    stream = Terminal()
    with logging_to(stream, "json"):
        LOG.error("x")
    assert json.loads(stream.getvalue())["message"] == "x"


@pytest.mark.parametrize("text", ["a", "9f-2", "Root=1-67891233-abcdef012345678912345678", "~" * 64, '"}{'])
def test_sane_ids_are_taken(text: str) -> None:
    """Goal: a client's id of up to 64 printable characters is one."""
    assert is_sane(text) and told(text) == text


@pytest.mark.parametrize("text", ["", "a b", "a\n", "\x7f", "é", "~" * 65, "a\tb", "x\r\ny: z"])
def test_others_are_not(text: str) -> None:
    """Goal: nothing that breaks a line, a header or a bound."""
    assert not is_sane(text)


@pytest.mark.parametrize("value", [None, 7, b"bytes", ["a"], "~" * 65, "a\nb"])
def test_what_peers_tell_is_judged_too(value: object) -> None:
    """Goal: a message's id that is none counts as none."""
    assert told(value) == ""

"""Goal: the client's decisions, judged without a network: whom to ask, when to repeat, what an answer means."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from random import Random
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.client import calls
from peer.client.attempts import PATIENCE_S, AttemptError, Attempts, Fate
from peer.client.bodies import source_of
from peer.client.core import Core
from peer.client.model import ClusterInfo, NodeInfo, ObjectInfo, Page, Prefix, name_of
from peer.client.peers import PeerBook, normal_url
from peer.client.profile import load_profile, load_profiles
from peer.client.transfer import Incoming
from peer.client.wire import (
    STREAM_SILENCE_S,
    Repeat,
    Request,
    error_of,
    quote_key,
    range_header,
    retry_after_s,
)
from peer.errors import (
    AtollError,
    Conflict,
    Corrupt,
    Denied,
    Full,
    Invalid,
    NotFound,
    Unavailable,
    UnknownOutcome,
)
from peer.etag import etag_of

URLS = [f"http://h{i}:7401" for i in range(3)]


class Clock:
    """Virtual time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def node(url: str, state: str = "alive") -> NodeInfo:
    return NodeInfo.from_json({"id": "1", "name": "n", "state": state, "api_url": url})


def attempts_at(
    clock: Clock, repeat: Repeat, urls: list[str] = URLS, patience_s: float = 20.0
) -> tuple[PeerBook, Attempts]:
    book = PeerBook(urls, pinned=False, clock=clock, rng=Random(1))
    request = Request("PUT", "/x", "put b/x", repeat)
    return book, Attempts(book, request, clock=clock, rng=Random(2), patience_s=patience_s)


def run_to_the_end(clock: Clock, attempts: Attempts, failure: AttemptError, cost_s: float) -> AtollError:
    """Fail every attempt the same way until the machine gives up; its verdict."""
    for _ in range(10_000):
        attempts.pick()
        clock.now += cost_s
        try:
            clock.now += attempts.failed(failure)
        except AtollError as verdict:
            return verdict
    raise AssertionError("it never gave up")


@pytest.mark.parametrize("fate", list(Fate))
@pytest.mark.parametrize("cost_s", [0.0, 0.7, 40.0])
def test_trouble_always_ends(fate: Fate, cost_s: float) -> None:
    """Goal: whatever happens for ever, a request ends, after every peer had its chance."""
    clock = Clock()
    book, attempts = attempts_at(clock, Repeat.SAME_RESULT)
    cause = Unavailable("busy") if fate is Fate.TOLD else ConnectionResetError("gone")
    verdict = run_to_the_end(clock, attempts, AttemptError(fate, cause), cost_s)
    assert isinstance(verdict, UnknownOutcome if fate is Fate.LOST else Unavailable)
    assert clock.now <= 3 * 20.0 + 2 * max(cost_s, 2.0)
    if fate is Fate.NOT_SENT and not cost_s:
        assert clock.now <= 3.0 and "no peer answers" in str(verdict)
    assert book.pick() in URLS  # nothing is locked out for ever


def test_every_peer_is_tried_before_any_pause() -> None:
    """Goal: failing over costs no waiting while there is a peer left to ask."""
    _, attempts = attempts_at(Clock(), Repeat.FREELY)
    asked, pauses = set(), []
    for _ in range(3):
        asked.add(attempts.pick())
        pauses.append(attempts.failed(AttemptError(Fate.NOT_SENT, OSError("refused"))))
    assert asked == set(URLS) and pauses[:2] == [0.0, 0.0] and pauses[2] > 0


@pytest.mark.parametrize(
    ("cost_s", "least_s", "most_s"), [(0.05, 4.5, 5.2), (3.3, 3.3, 3.3), (4.8, 4.8, 4.8)]
)
def test_the_time_a_peer_tried_itself_counts(cost_s: float, least_s: float, most_s: float) -> None:
    """Goal: one peer lives and finds no majority: the request ends within about 5 s, whether its 503 comes at once or late.
    It took 10 to 12."""
    clock = Clock()
    _, attempts = attempts_at(clock, Repeat.FREELY, patience_s=PATIENCE_S)
    verdict: AtollError | None = None
    while verdict is None:
        busy = attempts.pick() == URLS[1]
        clock.now += cost_s if busy else 0.0
        told = AttemptError(Fate.TOLD, Unavailable("no majority"))
        try:
            clock.now += attempts.failed(told if busy else AttemptError(Fate.NOT_SENT, OSError("refused")))
        except AtollError as error:
            verdict = error
    assert isinstance(verdict, Unavailable)
    assert least_s <= clock.now <= most_s


def test_peers_that_others_hold_for_dead_are_left_out() -> None:
    """Goal: two of three are frozen and the third finds no majority: it ends with that answer, and does not send the body
    to the two that take it and say nothing, which cost a minute."""
    clock = Clock()
    book, attempts = attempts_at(clock, Repeat.SAME_RESULT, patience_s=PATIENCE_S)
    book.learn([node(URLS[0], "suspect"), node(URLS[1]), node(URLS[2], "dead")])
    assert attempts.pick() == URLS[1]
    clock.now += 4.6
    with pytest.raises(Unavailable, match="no majority"):
        attempts.failed(AttemptError(Fate.TOLD, Unavailable("no majority")))
    book.learn([node(url, "dead") for url in URLS])
    assert book.promising() == set(URLS), "a client never locks itself out"


def test_a_long_body_is_not_patience() -> None:
    """Goal: an upload that was on its way for a minute before its peer found no majority is tried again elsewhere."""
    clock = Clock()
    _, attempts = attempts_at(clock, Repeat.SAME_RESULT, patience_s=20.0)
    first = attempts.pick()
    clock.now += 60.0
    attempts.failed(AttemptError(Fate.TOLD, Unavailable("no majority")))
    assert attempts.pick() != first


def test_who_cost_much_time_is_left_alone_for_longer() -> None:
    """Goal: a peer that was silent for seconds is not the next one to be asked, nor the one after."""
    clock = Clock()
    book, attempts = attempts_at(clock, Repeat.FREELY)
    silent = attempts.pick()
    clock.now += 7.0
    attempts.failed(AttemptError(Fate.LOST, TimeoutError("timed out")))
    attempts.pick()
    attempts.answered()
    clock.now += 20.0
    asked = [book.pick() for _ in range(2)]
    assert silent not in asked
    clock.now += 10.0
    assert book.pick() == silent


def test_a_condition_is_never_judged_twice() -> None:
    """Goal: only a lost answer stops a conditional request; refused connections and 503 do not."""
    _, attempts = attempts_at(Clock(), Repeat.NEVER)
    attempts.pick()
    attempts.failed(AttemptError(Fate.NOT_SENT, OSError("refused")))
    attempts.pick()
    attempts.failed(AttemptError(Fate.TOLD, Unavailable("busy")))
    attempts.pick()
    with pytest.raises(UnknownOutcome, match="not known whether"):
        attempts.failed(AttemptError(Fate.LOST, ConnectionResetError("gone")))
    _, attempts = attempts_at(Clock(), Repeat.NEVER)
    attempts.pick()
    with pytest.raises(UnknownOutcome):
        attempts.failed(AttemptError(Fate.TOLD, UnknownOutcome("it may still happen")))


def test_progress_renews_patience_but_not_for_ever() -> None:
    """Goal: a download of hours outlives many breaks, an upload that breaks at its end each time does not."""
    clock = Clock()
    _, attempts = attempts_at(clock, Repeat.FREELY)
    moved = AttemptError(Fate.LOST, ConnectionResetError("gone"), moved=True)
    for _ in range(8):
        attempts.pick()
        clock.now += 1000.0
        attempts.failed(moved)
    verdict = run_to_the_end(clock, attempts, moved, 1000.0)
    assert isinstance(verdict, Unavailable) and clock.now < 14_000


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([True, False, None])), max_size=40),
    st.integers(0, 99),
)
def test_spreading(history: list[tuple[int, bool | None]], seed: int) -> None:
    """Goal: healthy idle peers take turns; nothing that happened can make a client refuse to pick."""
    clock = Clock()
    book = PeerBook(URLS, pinned=False, clock=clock, rng=Random(seed))
    for _, worked in history:
        book.done(book.pick(), worked=worked)
        clock.now += 0.1
    clock.now += 31.0
    turns = []
    for _ in range(9):
        turns.append(book.pick())
        book.done(turns[-1], worked=True)
    assert sorted(turns) == sorted(URLS * 3)


def test_owners_and_the_least_busy_come_first() -> None:
    """Goal: preference holds among healthy peers only, and load spreads among the preferred."""
    clock = Clock()
    book = PeerBook(URLS, pinned=False, clock=clock, rng=Random(3))
    assert {book.pick(URLS[:2]), book.pick(URLS[:2])} == set(URLS[:2])
    for url in URLS[:2]:
        book.done(url, worked=False)
    assert book.pick(URLS[:2]) == URLS[2]
    book.learn([node(URLS[2], "dead")])
    clock.now += 1.0
    assert book.pick() in URLS[:2]


def test_learning() -> None:
    """Goal: addresses come and go with the cluster, bounded, never from TLS to plain, never when pinned."""
    clock = Clock()
    book = PeerBook(["http://h0:1"], pinned=False, clock=clock, rng=Random(4))
    book.learn([node(f"http://n{i}:1") for i in range(5000)] + [node(""), node("http://h0:1")])
    assert len(book.urls()) == 1000
    book.learn([node("http://n1:1")])
    assert book.urls() == ["http://h0:1", "http://n1:1"]
    book.done("http://n4:1", worked=True)  # forgotten meanwhile
    tls = PeerBook(["https://h0:1"], pinned=False, clock=clock, rng=Random(4))
    tls.learn([node("http://n1:1"), node("https://n2:1")])
    assert tls.urls() == ["https://h0:1", "https://n2:1"]
    pinned = PeerBook(["http://h0:1"], pinned=True, clock=clock, rng=Random(4))
    pinned.learn([node("http://n1:1")])
    assert pinned.urls() == ["http://h0:1"]


def test_when_to_ask_for_the_cluster() -> None:
    """Goal: a short command's only request stays one; transfers and long programs learn, then refresh."""
    clock = Clock()
    core = Core(URLS, None, None, pin=False, clock=clock)
    assert not core.should_learn(transfer=False)
    assert core.should_learn(transfer=False) and core.should_learn(transfer=True)
    core.learned_nothing()
    assert not core.should_learn(transfer=True)
    clock.now += 5.0
    assert core.should_learn(transfer=False)
    core.learn(ClusterInfo.from_json({"chunk_bytes": 65536, "replicas": 3, "nodes": []}))
    assert core.chunk_bytes == 65536 and not core.should_learn(transfer=True)
    clock.now += 31.0
    assert core.should_learn(transfer=False)


def test_endpoints() -> None:
    """Goal: what people type becomes one address; what is none is refused with an example."""
    for text, url in {
        "http://H:7401/": "http://h:7401",
        "127.0.0.1:7401": "http://127.0.0.1:7401",
        "http://[::1]:7401": "http://[::1]:7401",
        "https://h": "https://h:443",
        "h": "http://h:80",
        "node_1.rack-2.example.:7401": "http://node_1.rack-2.example.:7401",
        "http://bücher.example": "http://bücher.example:80",
        "http://[fe80::1%eth0]:7401": "http://[fe80::1%eth0]:7401",
    }.items():
        assert normal_url(text) == url
    for text in (
        "", "ftp://h", "http://h:x", "http://u@h", "http://h/v1", "http://h?x", "http://:1", "hello world", "-5", "h:0",
        "http://a..b", "http://-h", "http://h-:7401", "http://" + "h" * 64, "http://" + "h." * 127, "http://[::g]:1",
        "http://a,b:7401", "http://h;x", "http://$HOST:7401",
    ):  # fmt: skip
        with pytest.raises(Invalid, match="endpoint"):
            normal_url(text)


@settings(deadline=None, max_examples=150)
@given(st.text(min_size=1, max_size=300, alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_quoted_key_is_one_decoding_away(key: str) -> None:
    """Goal: quoting is undone by one decoding, and nothing in it can be normalised away."""
    if len(key.encode()) > 1024:
        with pytest.raises(Invalid):
            quote_key(key)
        return
    quoted = quote_key(key)
    assert unquote_to_bytes(quoted) == key.encode()
    assert quoted.isascii() and not set(quoted) & set("?# ")
    assert not any(part in ("", ".", "..") for part in quoted.split("/"))


def test_errors_are_told_apart() -> None:
    """Goal: every status and code of the contract becomes the right exception, also without a body."""

    def told(status: int, code: str, retry: bool) -> AtollError:
        body = json.dumps(
            {"error": {"code": code, "message": "m", "retry": retry, "request_id": "r"}}
        ).encode()
        return error_of(status, {}, body, "put x")

    for status, code, kind in [
        (400, "InvalidRequest", Invalid),
        (401, "AccessDenied", Denied),
        (403, "AccessDenied", Denied),
        (404, "NoSuchKey", NotFound),
        (409, "BucketNotEmpty", Conflict),
        (412, "PreconditionFailed", Conflict),
        (416, "InvalidRange", Invalid),
        (503, "SlowDown", Unavailable),
        (503, "OutcomeUnknown", UnknownOutcome),
        (507, "InsufficientStorage", Full),
        (500, "Corrupt", Corrupt),
        (500, "InternalError", AtollError),
    ]:
        error = told(status, code, status == 503)
        assert type(error) is kind and error.code == code and error.status == status
        assert str(error).startswith("put x: m")
        assert type(error_of(status, {}, b"<html>", "x")) in (kind, Unavailable, AtollError)
    assert told(503, "X", False).retry is False
    assert error_of(404, {}, b"", "x").code == "NotFound"
    assert "port + 1" in str(error_of(501, {}, b"<Error/>", "x")) and "port + 1" not in str(
        error_of(501, {}, b"", "x")
    )
    assert "atoll status" in str(error_of(503, {}, b"", "x"))
    assert "(request r-9)" in str(error_of(500, {"x-request-id": "r-9"}, b"", "x"))
    assert [retry_after_s({"retry-after": v}) for v in ("2", "999", "soon", "")] == [2.0, 5.0, 0.0, 0.0]


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 400), st.lists(st.integers(0, 120), max_size=6), st.integers(1, 50), st.data())
def test_a_download_in_pieces_equals_the_object(
    size: int, cuts: list[int], chunk: int, data: st.DataObject
) -> None:
    """Goal: wherever answers break off, the pieces join to the bytes asked for, and a wrong byte is found."""
    body = Random(size).randbytes(size)
    span = data.draw(st.none() | st.tuples(st.integers(0, size - 1), st.none() | st.integers(size, size + 9)))
    wanted = body if span is None else body[span[0] : span[1]]
    flip = data.draw(st.booleans()) and span is None
    incoming = Incoming("box", "k", span=span, if_match=None, if_none_match=None, chunk_bytes=chunk)
    got = b""
    for cut in [*cuts, size]:
        if incoming.complete:
            break
        asked = incoming.request().headers.get("Range")
        start, stop = 0, size
        if asked is not None:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1, size) if last else size
        headers = {"etag": f'"{etag_of(body, chunk)}"', "content-length": str(stop - start)}
        headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
        incoming.accept(200 if asked is None else 206, headers)
        piece = body[start:stop][:cut] if cut != size else body[start:stop]
        if flip and piece and not got:
            piece = bytes([piece[0] ^ 1]) + piece[1:]
        incoming.take(piece)
        got += piece
    assert incoming.complete and incoming.length == len(wanted) and incoming.verified == (span is None)
    if flip:
        with pytest.raises(Corrupt):
            incoming.finish()
    else:
        incoming.finish()
        assert got == wanted


def test_foreign_etags_are_not_held_against_an_object() -> None:
    """Goal: an MD5 is verified as one, S3's multipart form is not mistaken for ours."""
    for etag, size, verified in [("d41d8cd98f00b204e9800998ecf8427e", 0, True), ("0" * 32 + "-7", 10, False)]:
        incoming = Incoming("box", "k", span=None, if_match=None, if_none_match=None, chunk_bytes=1000)
        incoming.accept(200, {"etag": f'"{etag}"', "content-length": str(size)})
        incoming.take(b"x" * size)
        incoming.finish()
        assert incoming.verified == verified
    assert range_header((-5, None)) == {"Range": "bytes=-5"}


def test_records_tolerate_other_versions() -> None:
    """Goal: unknown fields are ignored, missing ones get harmless defaults, order is by name."""
    page = Page.from_json("box", {"objects": [{"key": "b", "size": 1, "new": 1}], "prefixes": ["a/"]})
    assert [name_of(entry) for entry in page.entries()] == ["a/", "b"] and page.next is None
    entry = page.objects[0]
    assert isinstance(entry, ObjectInfo) and entry.modified.year == 1970 and entry.etag == ""
    assert isinstance(page.entries()[0], Prefix)
    assert ClusterInfo.from_json({}).verdict == "unavailable"


def test_profiles_are_read(tmp_path: Path) -> None:
    """Goal: a profile is found by name or default; every mistake in the file is named."""
    path = tmp_path / "config.toml"
    with pytest.raises(NotFound, match="there is none yet"):
        load_profile(path=path)
    path.write_text('[profiles.one]\nendpoints = ["http://h:1"]\naccess_key = "a"\nsecret_key = "s"\n')
    only = load_profile(path=path)
    assert only.name == "one" and only.secret_key == "s" and "'s'" not in repr(only)
    with pytest.raises(NotFound, match="there are one"):
        load_profile("two", path=path)
    for text in (
        "[profiles.x]\n",
        'profiles = "x"\n',
        '[profiles.x]\nendpoints = "http://h"\n',
        '[profiles.x]\nendpoints = ["http://h"]\naccess_key = "a"\n',
        '[profiles.x]\nendpoints = ["http://h"]\nsecret = "a"\n',
        "not toml",
    ):
        path.write_text(text)
        with pytest.raises(Invalid, match=r"config\.toml"):
            load_profiles(path)


def test_a_device_has_no_end_to_seek_to(tmp_path: Path) -> None:
    """Goal: of an open file only a regular one has a length; what a device yields is read until it ends."""
    (tmp_path / "f").write_bytes(b"abc")
    with open(tmp_path / "f", "rb") as file, open(os.devnull, "rb") as device:
        file.read(1)
        sources = source_of(file), source_of(device), source_of(io.BytesIO(b"abcd"))
        assert [source.size for source in sources] == [2, None, 4]
        assert [b"".join(source.blocks()) for source in sources] == [b"bc", b"", b"abcd"]
    with open("/dev/zero", "rb", buffering=0) as endless:
        assert len(next(source_of(endless).blocks())) > 0


def test_the_answer_to_an_upload_may_take_long() -> None:
    """Goal: a peer that took 12 MiB at once and has 0.5 MB/s to both other owners is waited for, unless the put has a
    condition, which nobody else could be asked instead."""

    def silence_s(if_none_match: str | None) -> float:
        return calls.put("bucket", "key", None, None, None, if_none_match).request.silence_s

    assert silence_s(None) > 2 * 12 * 2**20 / 500_000
    assert silence_s("*") == STREAM_SILENCE_S

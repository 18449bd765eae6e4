"""The form upload, with curl as people use it and with forms nobody should send."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import StreamReader
from multidict import CIMultiDict

from peer.api.accounting import Requests
from peer.api.context import Call, Limits
from peer.api.objects_api import upload_form
from peer.errors import AtollError, Full, Unavailable, UnknownOutcome
from peer.etag import etag_of
from tests.cluster_world import Answer, ClusterWorld

CHUNK = 64 * 1024  # of the shared cluster
TYPE = {"Content-Type": "multipart/form-data; boundary=BOUND"}


def curl(cluster: ClusterWorld, cwd: Path, *arguments: str) -> str:
    """curl's output; fails the test if curl fails or the answer is an error."""
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30"]
    command += ["-H", f"Authorization: {cluster.authorization}", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "name", ["plain.bin", "with space.txt", "caf\u00e9 \U0001f980.txt", 'quo"te;semi=.txt', "%41.txt"]
)
def test_curl_up_and_down(cluster: ClusterWorld, bucket: str, tmp_path: Path, name: str) -> None:
    """Goal: what curl -F uploads, curl -OJ brings back under the same name."""
    content = os.urandom(3 * CHUNK + 1)
    (tmp_path / "up").mkdir()
    (tmp_path / "down").mkdir()
    (tmp_path / "up" / name).write_bytes(content)
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    base = f"{cluster.api_url(0)}/v1/buckets/{bucket}"
    # --form-escape keeps a quote in a name a quote: without it curl itself sends %22.
    curl(cluster, tmp_path / "up", "--form-escape", "-F", f'file=@"{escaped}"', f"{base}/upload")
    listed = cluster.call("GET", f"/v1/buckets/{bucket}/objects").json["objects"]
    assert [(entry["key"], entry["size"], entry["etag"]) for entry in listed] == [
        (name, len(content), etag_of(content, CHUNK))
    ]
    key = "".join(
        c if c.isascii() and c.isalnum() else "".join(f"%{b:02X}" for b in c.encode()) for c in name
    )
    curl(cluster, tmp_path / "down", "-OJ", f"{cluster.api_url(1)}/v1/buckets/{bucket}/objects/{key}")
    found = {path.name: path.read_bytes() == content for path in (tmp_path / "down").iterdir()}
    if '"' in name or "%" in name:
        assert list(found.values()) == [True]  # curl's own choice of name
    else:
        assert found == {name: True}


def test_curl_puts_a_file(cluster: ClusterWorld, bucket: str, tmp_path: Path) -> None:
    """Goal: curl -T waits for 100 Continue and gets it; a refused put is refused before the body is sent."""
    content = os.urandom(20 * CHUNK)
    (tmp_path / "f").write_bytes(content)
    url = f"{cluster.api_url(0)}/v1/buckets/{bucket}/objects/dir/f"
    timing = ["--expect100-timeout", "20", "-H", "Expect: 100-continue", "-w", "%{size_upload}"]
    assert curl(cluster, tmp_path, "-T", "f", *timing, url).endswith(str(len(content)))
    curl(cluster, tmp_path, "-o", "back", url)
    assert (tmp_path / "back").read_bytes() == content
    missing = subprocess.run(
        ["curl", "-s", "-H", f"Authorization: {cluster.authorization}", "-T", "f", *timing,
         f"{cluster.api_url(0)}/v1/buckets/missing-one/objects/f"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "NoSuchBucket" in missing.stdout and missing.stdout.endswith("}0")


def test_several_files_under_a_prefix(cluster: ClusterWorld, bucket: str, tmp_path: Path) -> None:
    """Goal: every file field becomes an object behind the prefix, with the type the client gave."""
    for name, size in (("empty", 0), ("small", 10), ("large", 2 * CHUNK)):
        (tmp_path / name).write_bytes(os.urandom(size))
    fields = [
        "-F",
        "file=@empty",
        "-F",
        "comment=hello",
        "-F",
        "file=@small;type=text/x-small",
        "-F",
        "file=@large",
    ]
    curl(cluster, tmp_path, *fields, f"{cluster.api_url(2)}/v1/buckets/{bucket}/upload?prefix=in/here%2F")
    listed = cluster.call("GET", f"/v1/buckets/{bucket}/objects").json["objects"]
    assert [(entry["key"], entry["size"]) for entry in listed] == [
        ("in/here/empty", 0), ("in/here/large", 2 * CHUNK), ("in/here/small", 10),
    ]  # fmt: skip
    assert listed[2]["content_type"] == "text/x-small"
    for entry in listed:
        got = cluster.call("GET", f"/v1/buckets/{bucket}/objects/{entry['key']}", peer=1)
        assert got.body == (tmp_path / entry["key"].rpartition("/")[2]).read_bytes()


def form(*parts: bytes, end: bytes = b"--BOUND--\r\n") -> bytes:
    return b"".join(b"--BOUND\r\n" + part + b"\r\n" for part in parts) + end


def field(name: bytes, filename: bytes, content: bytes, *headers: bytes) -> bytes:
    head = b'Content-Disposition: form-data; name="%s"; filename="%s"\r\n' % (name, filename)
    return head + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + content


BAD_FORMS = {
    "empty": b"",
    "no boundary": b"hello",
    "not ended": form(field(b"file", b"k", b"x" * 100), end=b""),
    "cut in a field": form(field(b"file", b"k", b"x" * 100))[:-30],
    "no file": form(field(b"other", b"k", b"x")),
    "no name": form(field(b"file", b"", b"x")),
    "short field": form(field(b"file", b"k", b"x" * 10, b"Content-Length: 1000")),
    "long field": form(field(b"file", b"k", b"x" * 10, b"Content-Length: 5")),
    "bad length": form(field(b"file", b"k", b"x" * 10, b"Content-Length: ten")),
    "encoded": form(field(b"file", b"k", b"eA==", b"Content-Transfer-Encoding: base64")),
    "long key": form(field(b"file", b"k" * 1025, b"x")),
    "bad header": form(b"no colon here\r\n\r\nx"),
    "bad name": form(field(b"file", b"\xff\xfe", b"x")),
}


def upload(cluster: ClusterWorld, bucket: str, body: bytes, **headers: str) -> Answer:
    sent = TYPE | {name.replace("_", "-"): value for name, value in headers.items()}
    return cluster.call("POST", f"/v1/buckets/{bucket}/upload", body, sent)


@pytest.mark.parametrize("what", BAD_FORMS)
def test_bad_forms(cluster: ClusterWorld, bucket: str, what: str) -> None:
    """Goal: a form that is cut off or makes no sense is refused, says so, and stores nothing."""
    answer = upload(cluster, bucket, BAD_FORMS[what])
    assert answer.status == 400, answer
    assert answer.code in ("MalformedForm", "InvalidArgument", "IncompleteBody", "KeyTooLongError")
    assert cluster.call("GET", f"/v1/buckets/{bucket}/objects").json["objects"] == []


def test_half_a_form(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: an error names the fields that were stored before it."""
    answer = upload(cluster, bucket, form(field(b"file", b"first", b"1"), field(b"file", b"k" * 1025, b"2")))
    assert (answer.status, answer.code) == (400, "KeyTooLongError")
    assert "stored before it: 'first'" in answer.message
    assert cluster.call("GET", f"/v1/buckets/{bucket}/objects/first").body == b"1"


def test_not_a_form(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: other content types, unknown buckets and other parameters are refused with the remedy."""
    good = form(field(b"file", b"k", b"x"))
    for kind in ("application/json", "multipart/form-data", ""):
        answer = cluster.call("POST", f"/v1/buckets/{bucket}/upload", good, {"Content-Type": kind})
        assert answer.status == 400, kind
    assert cluster.call("POST", "/v1/buckets/missing-one/upload", good, TYPE).code == "NoSuchBucket"
    assert cluster.call("POST", f"/v1/buckets/{bucket}/upload?key=k", good, TYPE).code == "InvalidArgument"
    assert cluster.call("GET", f"/v1/buckets/{bucket}/objects").json["objects"] == []
    assert upload(cluster, bucket, good).status == 200


@pytest.mark.parametrize("kind", [Unavailable, UnknownOutcome, Full])
def test_every_error_names_what_is_stored_already(kind: type[AtollError]) -> None:
    """Goal: not only what is wrong with the form: also a disk that fills up halfway does not hide the first half."""

    class Objects:
        """Stores one object, then no more."""

        def __init__(self, room: int) -> None:
            self.room = room
            self.buckets = self

        async def find(self, name: str) -> None: ...

        async def put(self, bucket: str, key: bytes, body: Any, **_: Any) -> Any:
            while await body.read():
                pass
            self.room -= 1
            if self.room < 0:
                raise kind("it broke")
            return SimpleNamespace(size=1, etag="e")

    async def answer(room: int) -> AtollError:
        content = StreamReader(Mock(_reading_paused=False), 2**16, loop=asyncio.get_running_loop())
        part = 'Content-Disposition: form-data; name="file"; filename="{}"\r\n\r\nx\r\n'
        content.feed_data(
            "".join(f"--BOUND\r\n{part.format(name)}" for name in "ab").encode() + b"--BOUND--\r\n"
        )
        content.feed_eof()
        request: Any = Mock(headers=CIMultiDict(TYPE), content=content, content_length=None)
        context: Any = SimpleNamespace(
            objects=Objects(room), limits=Limits(), transfers={}, requests=Requests("api")
        )
        with pytest.raises(kind) as caught:
            await upload_form(Call(request, context, "id", "POST", {}), "bucket")
        return caught.value

    first, second = asyncio.run(answer(0)), asyncio.run(answer(1))
    assert str(first) == "it broke" and str(second) == "it broke; stored before it: 'a'"
    assert (second.code, second.status, second.retry) == (kind.code, kind.status, kind.retry)

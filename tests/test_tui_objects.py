"""Goal: page 7 browses what there is through the real client, and writes and deletes only what was agreed to."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot
from textual.widgets import Input

from peer.client import AsyncClient, ObjectInfo
from peer.etag import etag_of
from tests.fake_api import ACCESS_KEY, CHUNK_BYTES, SECRET_KEY, FakeCluster, Stored
from tests.tui_canned import Clock, finished, healthy_events, play, screen, tell, until
from tui.app import TopApp
from tui.dialog import Ask, Confirm
from tui.listing import ITSELF, Listing
from tui.objects import Endless
from tui.objectwords import object_lines, owner_lines
from tui.saving import Transfer, file_name, target_of, target_problem

STRANGE = [
    "..",
    "/etc/passwd",
    "a//b",
    "evil\x1b[2J\x07",
    "\u202etxt.exe",
    "new\nline",
    "x" * 1000,
    "../../up",
    "grün",
    "\\",
]


@pytest.fixture
def store() -> Iterator[FakeCluster]:
    with FakeCluster(3) as cluster:
        cluster.buckets |= {"photos": {}, "empty": {}}
        cluster.shards |= {"photos": 64, "empty": 64}
        yield cluster


def put(store: FakeCluster, key: str, data: bytes = b"hello", **meta: str) -> None:
    headers = {f"x-atoll-meta-{name}": value for name, value in meta.items()}
    moment = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)
    store.buckets["photos"][key] = Stored(data, etag_of(data, CHUNK_BYTES), moment, "text/plain", headers)


Browse = Callable[[TopApp, Pilot[None]], Awaitable[None]]


def browse(store: FakeCluster, story: Browse, **options: Any) -> TopApp:
    """Page 7 with the real client; the story begins with the buckets on the screen."""
    client = AsyncClient(store.urls, access_key=ACCESS_KEY, secret_key=SECRET_KEY)

    async def whole(app: TopApp, pilot: Pilot[None]) -> None:
        try:
            await pilot.press("7")
            await settled(app, pilot)
            await story(app, pilot)
        finally:
            await finished(app)
            await client.close()

    return play(healthy_events(), whole, client=client, **options)


async def settled(app: TopApp, pilot: Pilot[None]) -> None:
    """Nothing is being asked for, and what was answered is on the screen."""
    await finished(app)
    await tell(app, pilot)


async def press(app: TopApp, pilot: Pilot[None], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await settled(app, pilot)


async def into_photos(app: TopApp, pilot: Pilot[None]) -> None:
    await press(app, pilot, "down", "enter")


# --- words


@given(st.text(max_size=60))
def test_a_file_is_one_printable_name(key: str) -> None:
    """Goal: whatever a key is, its file lies in the chosen directory, and can be listed."""
    name = file_name(key)
    assert (
        name.isprintable() and name not in ("", ".", "..") and "/" not in name and len(name.encode()) <= 200
    )


@pytest.mark.parametrize("key", STRANGE)
def test_strange_keys_stay_in_the_directory(key: str, tmp_path: Path) -> None:
    assert target_of(str(tmp_path), key).parent == tmp_path
    assert target_of(f"{tmp_path}/", key).parent == tmp_path
    assert target_problem(str(tmp_path), key) == ""


def test_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a file is that file, `~` is home, and what cannot be is said."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert target_of("~/x", "a/b.jpg") == tmp_path / "x"
    assert target_of("~", "a/b.jpg") == tmp_path / "b.jpg"
    (tmp_path / "taken" / "b.jpg").mkdir(parents=True)
    assert "is a directory" in target_problem(str(tmp_path / "taken"), "a/b.jpg")
    assert "no directory" in target_problem(str(tmp_path / "no" / "x"), "k")
    assert target_problem("  ", "k") and target_problem("~nobody-of-that-name/x", "k")
    assert target_problem("x" * 5000, "k")


def test_progress_in_words() -> None:
    transfer = Transfer("photos/a", Path("/tmp/a"), 100.0, 4096)
    transfer.count(1024)
    assert transfer.words(102.0) == "1.0 KiB of 4.0 KiB (25 %), 512 B/s, 6.0 s left: photos/a"
    assert Transfer("empty", Path("/tmp/a"), 100.0, 0).words(100.0) == "0 B of 0 B (100 %), 0 B/s: empty"


def test_names_are_told_relative_to_the_place() -> None:
    from peer.client import Page, Prefix

    moment = datetime(2026, 11, 20, tzinfo=UTC)
    place = Listing("b", "a/")
    keys = [ObjectInfo("b", key, 1, "e", moment) for key in ("a/", "a/b", "a/\x1b")]
    place.add_page(Page(tuple(keys), (Prefix("b", "a//"),), None), unicode=True)
    assert [item.shown for item in place.items] == [ITSELF, "\\x1b", "/", "b"]


def test_any_lookup_is_shown() -> None:
    """Goal: whatever a newer or broken peer says of owners is a dash or left out."""
    for told in ({}, {"owners": 7, "partition": "x"}, {"owners": [None, {"state": 3, "holds": []}]}):
        assert owner_lines(told, unicode=False)
    told = {"partition": 5, "owners": [{"name": "peer-2", "state": "dead", "holds": False}]}
    assert owner_lines(told, unicode=True)[1][0] == "owner     ✗ dead peer-2, does not hold it"
    info = ObjectInfo("b", "k\n", 1234, "", datetime(2026, 11, 20, tzinfo=UTC), "a\x1b", {"n": "v\u202e"})
    assert all(words.isprintable() for words, _ in object_lines(info, unicode=True))


# --- browsing


@pytest.mark.parametrize("size", [(80, 24), (45, 14), (200, 60)])
@pytest.mark.parametrize("unicode", [True, False])
def test_buckets_prefixes_objects_details(store: FakeCluster, size: tuple[int, int], unicode: bool) -> None:
    """Goal: down to an object with all that is known of it, and back step by step, at every usual size."""
    put(store, "2024/may/a.txt", b"x" * 3000, author="someone")
    put(store, "readme")

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        assert "all buckets" in screen(app) and "photos" in screen(app) and "2, all there is" in screen(app)
        await into_photos(app, pilot)
        assert "photos/" in screen(app) and "2024/" in screen(app) and "readme" in screen(app)
        await press(app, pilot, "enter", "enter", "enter")
        text = screen(app)
        assert "photos/2024/may/a.txt" in text and "2.9 KiB (3,000 bytes)" in text
        if size[1] == 14:
            await press(app, pilot, "pagedown", "pagedown", "pagedown")
        for words in ("partition 5", "alive peer-1", "as of"):
            assert words in screen(app), (words, screen(app))
        assert size[1] == 14 or ("text/plain" in text and "meta author someone" in text)
        assert unicode or text.isascii()
        await press(app, pilot, "escape", "backspace", "backspace")
        assert "readme" in screen(app) and "partition 5" not in screen(app)
        await press(app, pilot, "escape", "escape")
        assert "all buckets" in screen(app) and app.query_one(Endless).current.name == "photos"

    browse(store, story, size=size, unicode=unicode)


def test_strange_keys_are_shown_safely(store: FakeCluster) -> None:
    """Goal: no key speaks to the terminal, and each can be told from the others."""
    for key in STRANGE:
        put(store, key)

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await into_photos(app, pilot)
        text = screen(app)
        assert all(line.isprintable() for line in text.split("\n"))
        for words in (r"evil\x1b[2J\x07", r"\u202etxt.exe", r"new\nline", "../", "xxx…", r"\\", "grün"):
            assert words in text, (words, text)
        for name in (r"evil\x1b[2J\x07", "x" * 60):
            app.query_one(Endless).choose(
                next(i.name for i in app.query_one(Endless).rows if name in i.shown)
            )
            await press(app, pilot, "enter")
            assert name in screen(app) and "photos/" in screen(app) and "5 B" in screen(app)
            await press(app, pilot, "escape")

    browse(store, story)


def test_pages_come_as_they_are_wanted(store: FakeCluster) -> None:
    """Goal: thousands of keys are not loaded to show twenty; the end brings more, and the last one is reached."""
    for number in range(1000):
        put(store, f"key-{number:04}")

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await into_photos(app, pilot)
        assert "200, more below" in screen(app)
        assert sum("list?" in path or "/objects?" in path for _, path in store.seen) <= 1
        await press(app, pilot, "end")
        assert "400, more below" in screen(app)
        await press(app, pilot, "end", "end", "end", "end")
        assert "1,000, all there is" in screen(app) and "key-0999" in screen(app)

    browse(store, story)


def test_filter_is_a_prefix(store: FakeCluster) -> None:
    """Goal: what is typed is asked of the cluster as a prefix, only once; Escape brings all back."""
    for number in range(300):
        put(store, f"key-{number:04}")
    put(store, "zebra")

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await into_photos(app, pilot)
        before = len(store.seen)
        await pilot.press("slash", *"zeb")
        await settled(app, pilot)
        assert "zebra" in screen(app) and "1, all there is" in screen(app) and "photos/zeb*" in screen(app)
        assert len(store.seen) - before <= 3
        await press(app, pilot, "enter", "escape")
        assert "200, more below" in screen(app)
        await press(app, pilot, "escape", "slash", "e", "enter")
        assert "empty" in screen(app) and "▸ photos" not in screen(app)

    browse(store, story)


def test_errors_and_age(store: FakeCluster) -> None:
    """Goal: what the server says is on the screen as it is; a list tells how old it is; r asks again."""
    clock = Clock()
    put(store, "readme")

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await into_photos(app, pilot)
        clock.now += 75
        await tell(app, pilot)
        assert "75 s ago" in screen(app)
        put(store, "second")
        await tell(app, pilot)
        assert "second" not in screen(app)
        await press(app, pilot, "r")
        assert "second" in screen(app) and "0.0 s ago" in screen(app)
        del store.buckets["photos"]
        await press(app, pilot, "r")
        assert "there is no bucket photos" in screen(app)
        await press(app, pilot, "escape")
        assert "75 s ago" in screen(app)

    browse(store, story, clock=clock)


def test_an_object_that_is_gone(store: FakeCluster) -> None:
    """Goal: details of what was deleted meanwhile say so; the partition is told all the same."""
    put(store, "readme")

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await into_photos(app, pilot)
        del store.buckets["photos"]["readme"]
        await press(app, pilot, "enter")
        assert "stat photos/readme" in screen(app) and "partition 5" in screen(app)

    browse(store, story)


def test_a_replay_has_no_objects() -> None:
    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("7", "d", "D", "r")
        await tell(app, pilot)
        assert "there is no cluster to browse here" in screen(app)

    play(healthy_events(), story)


# --- download


async def answered(app: TopApp, pilot: Pilot[None], *keys: str, text: str | None = None) -> None:
    """Fill the line of the dialog in, and press these."""
    if text is not None:
        app.screen.query_one("#dialog-input", Input).value = text
    await pilot.press(*keys)
    await pilot.pause()


async def opens(app: TopApp, pilot: Pilot[None], key: str, dialog: type[Any]) -> None:
    await pilot.press(key)
    await until(pilot, lambda: isinstance(app.screen, dialog) and bool(app.screen.query("#dialog-cancel")))


def test_download(store: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: to the present directory by default; what is there goes only after a yes, and is whole before and after."""
    monkeypatch.chdir(tmp_path)
    put(store, "dir/readme", b"from the cluster")

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await into_photos(app, pilot)
        await press(app, pilot, "enter")
        await opens(app, pilot, "d", Ask)
        assert app.screen.query_one("#dialog-input", Input).value == str(tmp_path / "readme")
        await answered(app, pilot, "enter")
        await settled(app, pilot)
        assert f"downloaded photos/dir/readme to {tmp_path}"[:60] in screen(app)
        assert (tmp_path / "readme").read_bytes() == b"from the cluster"
        (tmp_path / "readme").write_bytes(b"mine")
        for keys, content in ((["enter"], b"mine"), (["tab", "enter"], b"from the cluster")):
            await opens(app, pilot, "d", Ask)
            await answered(app, pilot, "enter", text=str(tmp_path))
            await until(pilot, lambda: isinstance(app.screen, Confirm))
            assert "Overwrite this file?" in screen(app)
            await answered(app, pilot, *keys)
            await settled(app, pilot)
            assert (tmp_path / "readme").read_bytes() == content
        assert os.listdir(tmp_path) == ["readme"]

    browse(store, story, size=(120, 30))


def test_what_appears_meanwhile_is_not_overwritten(store: FakeCluster, tmp_path: Path) -> None:
    """Goal: a file that came while the bytes did stays, and no part is left."""
    put(store, "readme", b"x" * 100_000)
    target = tmp_path / "readme"

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await into_photos(app, pilot)
        for peer in store.peers:
            peer.plan("freeze-body")
        await opens(app, pilot, "d", Ask)
        await answered(app, pilot, "enter", text=str(tmp_path))
        await until(pilot, lambda: any(name.endswith(".part") for name in os.listdir(tmp_path)))
        target.write_bytes(b"mine")
        for peer in store.peers:
            peer.faults.clear()
            peer.thaw()
        await settled(app, pilot)
        assert "nothing was overwritten" in screen(app)
        assert target.read_bytes() == b"mine" and os.listdir(tmp_path) == ["readme"]

    browse(store, story, size=(160, 30))


def test_cancel_leaves_nothing(store: FakeCluster, tmp_path: Path) -> None:
    """Goal: a download shows how far it is, the screen goes on, x ends it and nothing is left."""
    put(store, "readme", b"x" * 100_000)

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await into_photos(app, pilot)
        assert "cancel" not in screen(app)
        for peer in store.peers:
            peer.plan("freeze-body")
        await opens(app, pilot, "d", Ask)
        await answered(app, pilot, "enter", text=f"{tmp_path}/here")
        await until(pilot, lambda: bool(os.listdir(tmp_path)))
        await tell(app, pilot)
        assert "x cancels" in screen(app) and "of 98 KiB" in screen(app) and "cancel download" in screen(app)
        await pilot.press("d")
        await tell(app, pilot)
        assert "one download is under way" in screen(app)
        await pilot.press("x")
        await until(pilot, lambda: not os.listdir(tmp_path))
        await until(pilot, lambda: not app.page._fetching.under_way)  # type: ignore[attr-defined]
        await tell(app, pilot)
        assert "cancelled; nothing was written" in screen(app) and "x cancels" not in screen(app)
        for peer in store.peers:
            peer.faults.clear()
            peer.thaw()

    browse(store, story, size=(120, 30))


def test_damage_is_said(store: FakeCluster, tmp_path: Path) -> None:
    """Goal: bytes that are not those of the ETag never get their name, and the reason is on the screen."""
    put(store, "readme", b"x" * 1000)

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await into_photos(app, pilot)
        for peer in store.peers:
            peer.plan("flip")
        await opens(app, pilot, "d", Ask)
        await answered(app, pilot, "enter", text=str(tmp_path))
        await settled(app, pilot)
        assert "the bytes received are not those of ETag" in screen(app) and not os.listdir(tmp_path)

    browse(store, story, size=(160, 30))


# --- delete


@pytest.mark.parametrize(
    ("keys", "gone"), [(["enter"], False), (["escape"], False), (["tab", "enter"], True)]
)
def test_delete_needs_a_yes(store: FakeCluster, keys: list[str], gone: bool) -> None:
    """Goal: the dialog names the object in full, Cancel has the focus, and the row goes with the object."""
    put(store, "evil\x1b")
    put(store, "other")

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await into_photos(app, pilot)
        await opens(app, pilot, "D", Confirm)
        assert r"photos/evil\x1b" in screen(app)
        await answered(app, pilot, *keys)
        await settled(app, pilot)
        assert ("evil\x1b" not in store.buckets["photos"]) == gone and "other" in store.buckets["photos"]
        assert (r"deleted photos/evil\x1b" in screen(app)) == gone
        assert ("1, all there is" in screen(app)) == gone

    browse(store, story)


def test_only_what_was_shown_is_deleted(store: FakeCluster) -> None:
    """Goal: an object that took its place since stays, and the server's refusal is on the screen."""
    put(store, "readme")

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await into_photos(app, pilot)
        put(store, "readme", b"newer")
        await opens(app, pilot, "D", Confirm)
        await answered(app, pilot, "tab", "enter")
        await settled(app, pilot)
        assert "the object is another one now" in screen(app)
        assert store.buckets["photos"]["readme"].data == b"newer"

    browse(store, story)


def test_readonly(store: FakeCluster) -> None:
    """Goal: with --readonly nothing can be deleted, and what reads stays."""
    put(store, "readme")

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await into_photos(app, pilot)
        await press(app, pilot, "D", "delete")
        assert (
            not isinstance(app.screen, Confirm)
            and "D delete" not in screen(app)
            and "d download" in screen(app)
        )
        assert [command.title for command in app.page.commands()] == ["Download"]

    browse(store, story, readonly=True)

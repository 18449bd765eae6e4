"""Goal: the commands for buckets and objects do what docs/operate.md says, exit codes and streams included."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_runner import Atoll
from tests.fake_api import FakeCluster, fake_cluster


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with fake_cluster() as running:
        yield running


@pytest.fixture
def atoll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster) -> Atoll:
    home = tmp_path / "home"
    home.mkdir()
    atoll = Atoll(home, monkeypatch)
    atoll.use(cluster)
    return atoll


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def make_tree(root: Path) -> dict[str, bytes]:
    rng = random.Random(5)
    for name, size in {"a": 0, "b/c": 10, "b/d.txt": 70_000, "b/e/f": 300_000, "ü x": 5, "b-": 3}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(size))
    return tree(root)


def test_buckets(atoll: Atoll) -> None:
    """Goal: mb, ls and rb, data on stdout, talk on stderr, codes by what went wrong."""
    made = atoll("mb", "photos", "--shards", "8")
    assert (made.code, made.out) == (0, "") and "made" in made.err
    assert "yours already" in atoll("mb", "photos").err
    assert atoll("ls", "-o", "name").out == "photos\n"
    assert atoll("-o", "json", "ls").json[0]["shards"] == 8
    assert "photos" in atoll("ls").out and atoll("stat", "photos").code == 0
    assert atoll("mb", "NO").code == 2
    missing = atoll("rb", "nobody")
    assert missing.code == 3 and "atoll mb" in missing.err
    atoll("put", "-", "photos/k", stdin=b"x")
    assert atoll("rb", "photos").code == 6
    assert atoll("rm", "photos/k").code == 0
    assert atoll("rb", "photos").code == 0


def test_single_objects(atoll: Atoll, tmp_path: Path) -> None:
    """Goal: put, stat, cat, get and rm of one object, from and to files, folders and streams."""
    atoll("mb", "box")
    file = tmp_path / "page.html"
    file.write_bytes(b"<p>" * 50_000)
    stored = atoll("put", str(file), "box", "-o", "jsonl", "--meta", "who=me")
    assert stored.code == 0 and stored.json["key"] == "page.html" and "stored 1 object" in stored.err
    told = atoll("stat", "box/page.html", "-o", "json").json
    assert (told["size"], told["content_type"], told["metadata"]) == (150_000, "text/html", {"who": "me"})
    assert atoll("put", str(file), "box/dir/").code == 0
    assert atoll("put", str(file), "box/other").code == 0
    assert atoll("ls", "box", "-o", "name").lines == ["dir/", "other", "page.html"]
    assert atoll("ls", "box/dir/", "-o", "name").lines == ["dir/page.html"]
    assert atoll("cat", "box/other", "box/other").raw == file.read_bytes() * 2
    assert atoll("get", "box/other", "-").raw == file.read_bytes()
    assert atoll("get", "box/other").code == 0 and (atoll.home / "other").read_bytes() == file.read_bytes()
    assert atoll("get", "box/dir/page.html", f"{tmp_path}/").code == 0
    assert atoll("get", "box/other", str(tmp_path / "named")).code == 0
    assert (tmp_path / "named").stat().st_size == 150_000
    assert oct((tmp_path / "named").stat().st_mode)[-3:] == oct(0o666 & ~current_umask())[-3:]
    for line, code in {"get box/nix": 3, "cat box/nix": 3, "stat box/nix": 3, "rm box/nix": 3}.items():
        assert atoll(*line.split()).code == code
    assert not (atoll.home / "nix").exists() and not list(atoll.home.glob(".atoll-*"))
    assert atoll("rm", "-f", "box/nix").code == 0
    assert atoll("rm", "box/other", "box/nix").code == 7
    assert atoll("put", str(file), "box/page.html", "--if-none-match", "*").code == 6
    assert atoll("put", str(tmp_path / "missing"), "box/k").code == 3


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_tree_there_and_back(atoll: Atoll, cluster: FakeCluster, tmp_path: Path) -> None:
    """Goal: `put -r DIR B/P` stores DIR's contents under P/, `get -r` is the reverse, to the byte."""
    wanted = make_tree(tmp_path / "src")
    atoll("mb", "box")
    stored = atoll("put", "-r", str(tmp_path / "src"), "box/p", "--jobs", "3")
    assert stored.code == 0 and f"stored {len(wanted)} objects" in stored.err
    assert sorted(cluster.buckets["box"]) == sorted(f"p/{name}" for name in wanted)
    assert all(any(m == "PUT" for m, _ in peer.seen) for peer in cluster.peers)
    assert atoll("get", "-r", "box/p", str(tmp_path / "back")).code == 0
    assert tree(tmp_path / "back") == wanted
    assert atoll("put", "-r", str(tmp_path / "src"), "box").code == 0
    assert "b/e/f" in cluster.buckets["box"]
    assert atoll("ls", "-r", "box/p/b", "-o", "name").lines == ["p/b-", "p/b/c", "p/b/d.txt", "p/b/e/f"]
    assert atoll("ls", "-r", "box/p/b", "-o", "json").json[0]["key"] == "p/b-"
    limited = atoll("ls", "-r", "box", "--limit", "2", "--after", "b-", "-o", "jsonl").lines
    assert [json.loads(line)["key"] for line in limited] == ["b/c", "b/d.txt"]


def test_a_tree_while_peers_die(atoll: Atoll, cluster: FakeCluster, tmp_path: Path) -> None:
    """Goal: transfers go on at other peers; when none is left the command says so and ends."""
    wanted = make_tree(tmp_path / "src")
    atoll("mb", "box")
    cluster.peers[0].kill()
    cluster.peers[1].plan("lose-answer", "503", "drop")
    assert atoll("put", "-r", str(tmp_path / "src"), "box/p").code == 0
    cluster.peers[1].kill()
    cluster.peers[2].plan("cut-body", "cut-body", "503")
    assert atoll("get", "-r", "box/p", str(tmp_path / "back")).code == 0
    assert tree(tmp_path / "back") == wanted
    cluster.peers[2].kill()
    for line in ("ls box", "cat box/a", f"put {tmp_path}/src/a box/a", f"get -r box/p {tmp_path}/none"):
        gone = atoll(*line.split())
        assert gone.code == 5 and "no peer answers" in gone.err and "atoll dev" in gone.err
    assert atoll("health").code == 11


def test_part_of_a_tree(atoll: Atoll, cluster: FakeCluster, tmp_path: Path) -> None:
    """Goal: what cannot be stored is named, the rest is stored, and the exit code is 7."""
    source = tmp_path / "src"
    wanted = make_tree(source)
    (source / "loop").symlink_to(source)
    (source / "dangling").symlink_to(source / "nowhere")
    (source / "linked").symlink_to(source / "b/c")
    os.mkfifo(source / "pipe")
    with open(os.fsencode(source) + b"/bad\xff", "wb") as odd:
        odd.write(b"x")
    atoll("mb", "box")
    partly = atoll("put", "-r", str(source), "box/p")
    assert partly.code == 7
    for name in ("loop", "dangling", "pipe", "bad"):
        assert name in partly.err
    assert {key[2:] for key in cluster.buckets["box"]} == {*wanted, "linked"}
    (tmp_path / "more" / "b").mkdir(parents=True)
    (tmp_path / "more" / "b" / "c").write_bytes(b"another")
    before = dict(cluster.buckets["box"])
    clash = atoll("put", "-r", str(source), str(tmp_path / "more"), "box/p")
    assert clash.code == 2 and "would get the same key: b/c" in clash.err
    alike = atoll(
        "put", str(source / "a"), str(tmp_path / "more" / "b" / "c"), str(source / "b" / "c"), "box/"
    )
    assert alike.code == 2 and "would get the same key: c" in alike.err and cluster.buckets["box"] == before
    for refused in ("put src box", "put -r", "put - x box", "put a b/"):
        assert atoll(*refused.split()).code in (2, 3)


def test_a_tree_never_leaves_its_folder(atoll: Atoll, cluster: FakeCluster, tmp_path: Path) -> None:
    """Goal: keys that cannot be files below DIR are listed and skipped (7), and no link leads outside."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "file").symlink_to(outside / "victim")
    (outside / "victim").write_bytes(b"precious")
    (inside / "folder").mkdir()
    bad = [
        "../escape",
        "/lead",
        "a//b",
        "x/./y",
        "x/../../z",
        "link/in",
        "f",
        "f/below",
        "folder",
        "n" * 256,
        "end/",
    ]
    good = ["a", "b/c", "file", "%2e%2e/x", "f-"]
    atoll("mb", "box")
    for key in [*bad, *good]:
        assert atoll("put", "-", f"box/p/{key}", stdin=key.encode()).code == 0 or key.endswith("/")
    bad.remove("f")  # comes first, so it is `f/below` that has no place
    bad.remove("end/")
    fetched = atoll("get", "-r", "box/p", str(inside))
    assert fetched.code == 7
    for key in bad:
        assert f"p/{key}: not written" in fetched.err
    assert tree(outside) == {"victim": b"precious"}
    assert {name: data for name, data in tree(inside).items() if name != "link"} == {
        name: name.encode() for name in [*good, "f"]
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "inside", "outside"]
    assert not list(inside.rglob(".atoll-*"))


def test_a_target_without_a_bucket(atoll: Atoll, cluster: FakeCluster, tmp_path: Path) -> None:
    """Goal: an empty name or a leading `/` is called that, before anything is read or made."""
    (tmp_path / "f").write_bytes(b"x")
    for command in (
        ("ls",), ("stat",), ("cat",), ("rm",), ("rm", "-r"), ("get",), ("put", str(tmp_path / "f")), ("ring", "lookup"),
    ):  # fmt: skip
        for target in ("/box/k", "/", *(("",) if command != ("ls",) else ())):
            refused = atoll(*command, target)
            assert refused.code == 2 and "write BUCKET/KEY" in refused.err, (command, target)
    assert not cluster.seen


def test_what_is_not_there_leaves_nothing_behind(atoll: Atoll, tmp_path: Path) -> None:
    """Goal: a get of nothing exits 3 and makes no folder; what stands in the way is named, not our temporary file."""
    atoll("mb", "box")
    atoll("put", "-", "box/k", stdin=b"x")
    new = tmp_path / "new"
    for line in (f"get box/nix {new}/f", f"get -r box/nix {new}", f"get -r no-bucket {new}", "rm -r box/nix"):
        missing = atoll(*line.split())
        assert missing.code == 3 and not new.exists(), line
    assert "nothing lies below box/nix/" in atoll("get", "-r", "box/nix", str(new)).err
    assert atoll("rm", "-r", "-f", "box/nix").code == 0
    for line in ("stat no-bucket/k", "rm no-bucket/k"):
        assert "atoll mb" in atoll(*line.split()).err
    assert "has no object 'nix'" in atoll("stat", "box/nix").err
    assert atoll("get", "box/k", f"{new}/deep/f").code == 0 and (new / "deep" / "f").read_bytes() == b"x"
    blocked = atoll("get", "-r", "box", str(new / "deep" / "f"))
    assert blocked.code == 2 and "a file stands in its way" in blocked.err
    assert "a file stands in its way" in atoll("get", "box/k", str(new / "deep" / "f" / "x")).err
    nowhere = atoll("get", "box/k", "/proc/nowhere")
    assert nowhere.code == 3 and "/proc/nowhere: " in nowhere.err and ".atoll" not in nowhere.err
    atoll("mb", "empty")
    assert atoll("get", "-r", "empty", str(tmp_path / "none")).code == 0 and (tmp_path / "none").is_dir()


def test_records_of_what_was_stored(atoll: Atoll, tmp_path: Path) -> None:
    """Goal: `put -o json` is one array, whole also when part of the tree could not be stored."""
    make_tree(tmp_path / "src")
    (tmp_path / "src" / "loop").symlink_to(tmp_path)
    atoll("mb", "box")
    partly = atoll("put", "-r", str(tmp_path / "src"), "box", "-o", "json")
    assert partly.code == 7 and {row["key"] for row in partly.json} >= {"a", "b/c"}
    assert len(atoll("put", "-r", str(tmp_path / "src"), "box", "-o", "jsonl").lines) == len(partly.json) == 6
    (tmp_path / "none").mkdir()
    assert atoll("put", "-r", str(tmp_path / "none"), "box", "-o", "json").json == []


def test_removing_a_tree_asks(atoll: Atoll, cluster: FakeCluster, tmp_path: Path) -> None:
    """Goal: rm -r needs a yes; without one it is refused with 6 and nothing changes."""
    make_tree(tmp_path / "src")
    atoll("mb", "box")
    atoll("put", "-r", str(tmp_path / "src"), "box/p")
    refused = atoll("rm", "-r", "box/p")
    assert refused.code == 6 and "Remove 6 objects" in refused.err and len(cluster.buckets["box"]) == 6
    assert atoll("rm", "-r", "box/p", "--no-input").code == 6
    assert atoll("rm", "-r", "box/p/b", "--yes").code == 0
    assert sorted(cluster.buckets["box"]) == ["p/a", "p/b-", "p/ü x"]
    assert atoll("-y", "rm", "-r", "box").code == 0 and not cluster.buckets["box"]


def test_damage_is_found(atoll: Atoll, cluster: FakeCluster, tmp_path: Path) -> None:
    """Goal: a wrong byte on the way makes get fail, and leaves no file behind."""
    atoll("mb", "box")
    atoll("put", "-", "box/k", stdin=b"data" * 1000)
    for peer in cluster.peers:
        peer.plan("flip")
    bad = atoll("get", "box/k", str(tmp_path / "k"))
    assert bad.code == 1 and "not those of ETag" in bad.err and not (tmp_path / "k").exists()
    for peer in cluster.peers:
        peer.faults.clear()
    assert atoll("get", "box/k", str(tmp_path / "k")).code == 0


def test_names_cannot_speak_to_the_terminal(atoll: Atoll) -> None:
    """Goal: control characters in keys are made visible in tables, and left alone for programs."""
    key = "evil\x1b[2J\nname"
    atoll("mb", "box")
    assert atoll("put", "-", f"box/{key}", stdin=b"x").code == 0
    assert "\\x1b[2J\\nname" in atoll("ls", "box").out
    assert "\x1b" not in atoll("stat", f"box/{key}").out
    assert atoll("ls", "box", "-o", "name").out == key + "\n"
    assert json.loads(atoll("ls", "box", "-o", "jsonl").out)["key"] == key

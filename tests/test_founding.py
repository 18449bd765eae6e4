"""`atoll init`: a cluster is founded once, whatever is lost afterwards, and however often and where the job is cut short."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from peer import founding
from peer.config import PeerConfig
from peer.errors import StartupError
from peer.founding import found_once
from tests.cluster_tools import wait_until
from tests.cluster_world import ClusterWorld
from tools.devlayout import Place, peer_environment

KEY, OTHER_KEY = "ab" * 32, "cd" * 32


class Disks:
    """The directories of three peers and of the keys, and a founding that only leaves files behind."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.secrets = root / "secrets"
        self.peers = [root / f"peer-{number}" for number in (1, 2, 3)]
        self.secrets.mkdir()
        for path in self.peers:
            path.mkdir()
        self.founded = 0
        monkeypatch.setattr(founding, "found", self._found)

    def _found(self, config: PeerConfig) -> None:
        assert config.found and not self.key(self.secrets), "the key is handed over last"
        self.founded += 1
        print("the root key is a secret")
        if not self.key(config.data):
            (config.data / "cluster.key").write_text(KEY)
        (config.data / "root.json").write_text("{}")
        (config.data / "peer.json").write_text("{}")

    def join(self, number: int, key: str = KEY) -> None:
        """What a peer that has joined leaves behind."""
        (self.peers[number] / "cluster.key").write_text(key)
        (self.peers[number] / "peer.json").write_text("{}")

    def init(self) -> str:
        config = PeerConfig(data=self.peers[0], found=True)
        return found_once(config, self.secrets, self.peers[1:])

    @staticmethod
    def key(path: Path) -> str:
        file = path / "cluster.key"
        return file.read_text().strip() if file.exists() else ""

    @staticmethod
    def lose(path: Path) -> None:
        shutil.rmtree(path)
        path.mkdir()


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disks:
    return Disks(tmp_path, monkeypatch)


def test_founded_once(disks: Disks, capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: the first job founds and hands the keys over, without printing them; the next ones do nothing."""
    assert disks.init().startswith("founded a cluster in ")
    assert disks.key(disks.secrets) == KEY and (disks.secrets / "root.json").exists()
    assert (disks.secrets / "cluster.key").stat().st_mode & 0o777 == 0o600
    for _ in range(2):
        assert disks.init().startswith("nothing to do")
    assert disks.founded == 1 and "secret" not in capsys.readouterr().out


@pytest.mark.parametrize("lost", [(0,), (0, 1, 2)], ids=["the founder's", "all"])
def test_lost_disks_found_nothing(disks: Disks, lost: tuple[int, ...]) -> None:
    """Goal: the founder's disk lost, or those of all peers: the marker says that there was a cluster, and nobody makes
    a second one."""
    disks.init()
    for number in lost:
        disks.lose(disks.peers[number])
    assert disks.init().startswith("nothing to do") and disks.founded == 1


def test_lost_keys_are_handed_over_again(disks: Disks) -> None:
    """Goal: with the keys' own disk lost they come from any peer's; also when the founder's is lost as well, which is said,
    as the root key went with it."""
    disks.init()
    disks.join(2)
    (disks.peers[0] / "root.json").write_text("{}")
    for lost in ((), (disks.peers[0],)):
        for path in (disks.secrets, *lost):
            disks.lose(path)
        said = disks.init()
        assert said.startswith("nothing was founded: a peer has lived in ")
        assert ("put your copy of it there" in said) == bool(lost)
        assert disks.key(disks.secrets) == KEY
    assert disks.founded == 1


def test_a_peer_that_has_only_tried_to_join_counts(disks: Disks) -> None:
    """Goal: a key in another peer's directory comes from a cluster that there is, be the peer admitted or not."""
    (disks.peers[1] / "cluster.key").write_text(KEY)
    disks.init()
    assert disks.founded == 0 and disks.key(disks.secrets) == KEY


def test_a_job_that_was_cut_short(disks: Disks) -> None:
    """Goal: a founding that had made a key and not more is finished, with that key; one that was done and not handed over is
    handed over."""
    (disks.peers[0] / "cluster.key").write_text(OTHER_KEY)
    disks.init()
    assert disks.founded == 1 and disks.key(disks.secrets) == OTHER_KEY
    (disks.secrets / "cluster.key").unlink()
    disks.init()
    assert disks.founded == 1 and disks.key(disks.secrets) == OTHER_KEY


def test_a_disk_that_is_not_there(disks: Disks) -> None:
    """Goal: what is not mounted may hold a peer: nothing is founded."""
    disks.peers[2].rmdir()
    with pytest.raises(StartupError, match="peer-3 is not there; mount it"):
        disks.init()
    assert disks.founded == 0


def test_disks_of_different_clusters(disks: Disks) -> None:
    """Goal: a mixture is left to the operator."""
    disks.join(1)
    disks.join(2, OTHER_KEY)
    with pytest.raises(StartupError, match="belong to different clusters; nothing was done"):
        disks.init()
    (disks.peers[2] / "cluster.key").unlink()
    with pytest.raises(StartupError, match=r"cluster\.key is missing"):
        disks.init()
    assert disks.founded == 0 and not disks.key(disks.secrets)


def test_two_jobs_at_once(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: one founds, the other one is refused."""

    def meanwhile(config: PeerConfig) -> None:
        with pytest.raises(StartupError, match="in use by another founding"):
            disks.init()
        disks._found(config)

    monkeypatch.setattr(founding, "found", meanwhile)
    disks.init()
    assert disks.founded == 1


def atoll(*words: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.cli", *map(str, words)],
        env=peer_environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


class Alike(ClusterWorld):
    """Peers that are started alike, after the job: none is told to found, each to join any of them."""

    def start_all(self) -> None:
        self.secrets = self.layout.data / "secrets"
        for path in (self.secrets, *(place.directory for place in self.layout.places)):
            path.mkdir(parents=True)
        assert self.init().startswith("founded a cluster in ")
        for index in range(self.layout.peers):
            self.start(index)
        for index in range(self.layout.peers):
            self.wait_ready(index)
        self.wait_all_alive()

    def init(self) -> str:
        first, *others = self.layout.places
        words = [word for place in others for word in ("--other", place.directory)]
        done = atoll("init", "--secrets", self.secrets, *words, *self.options(first))
        assert done.returncode == 0 and "secret" not in done.stdout.replace(str(self.secrets), ""), done
        return done.stdout

    @staticmethod
    def options(place: Place) -> list[str]:
        return ["--data", str(place.directory), "--port", str(place.port), "--name", place.name]

    def command(self, index: int) -> list[str]:
        seeds = [word for place in self.layout.places for word in ("--join", f"127.0.0.1:{place.peer_port}")]
        key = ["--cluster-key-file", str(self.secrets / "cluster.key")]
        return [sys.executable, "-m", "tools.cli", "peer", *self.options(self.place(index)), *seeds, *key]


def test_a_cluster_made_that_way(tmp_path: Path) -> None:
    """Goal: three peers that never found, after the job, are one cluster. The founder's disk is lost: the job does nothing,
    and the peer takes its former place in the same cluster, which has lost nothing. `atoll health --ready` and `--alive` say
    of a peer what a container's health check asks."""
    with Alike(tmp_path) as world:
        assert world.init().startswith("nothing to do")
        cluster_id = world.json_of("/v1/cluster", peer=1)["cluster_id"]
        assert world.call("PUT", "/v1/buckets/kept", peer=1).status == 201
        assert world.call("PUT", "/v1/buckets/kept/objects/one", b"one", peer=1).status == 200
        asked = [("health", f"--{what}", "--endpoint", world.api_url()) for what in ("ready", "alive")]
        assert [atoll(*words).returncode for words in asked] == [0, 0]
        world.kill_all()
        assert [atoll(*words).returncode for words in asked] == [11, 11]
        world.start(0)
        wait_until(lambda: atoll(*asked[1]).returncode == 0, "it answers")
        alone = atoll(*asked[0])
        assert alone.returncode == 11 and "to confirm this peer's identity" in alone.stderr
        world.start_again()
        world.kill(0)
        lost = world.place(0).directory
        shutil.rmtree(lost)
        lost.mkdir()
        assert world.init().startswith("nothing to do") and not list(lost.iterdir())
        world.start(0)
        wait_until(lambda: not world.running(0), "it is refused: the cluster has a peer of that name")
        assert "--replace peer-1" in world.place(0).log.read_text().splitlines()[-1]
        world.start(0, "--replace", "peer-1")
        world.wait_ready(0)
        wait_until(lambda: world.json_of("/v1/cluster")["verdict"] == "healthy", "all is well again")
        told = world.json_of("/v1/cluster")
        assert told["cluster_id"] == cluster_id and len(told["nodes"]) == 3
        assert world.call("GET", "/v1/buckets/kept/objects/one").body == b"one"
    assert atoll("health", "--ready").returncode == 2


def test_asked_without_tls_it_is_alive_all_the_same(tmp_path: Path) -> None:
    """Goal: the image's own check knows neither TLS nor the authority: that a port speaks TLS is a sign of life."""
    with ClusterWorld(tmp_path, peers=1, replicas=1, tls="auto") as world:
        plain = world.api_url().replace("https:", "http:")
        assert atoll("health", "--alive", "--endpoint", plain).returncode == 0
        assert atoll("health", "--ready", "--endpoint", plain).returncode not in (0, 11)

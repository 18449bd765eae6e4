"""Everything a peer can be told when it starts, after flags, environment, file and data directory are merged.

`atoll peer` (tools/cli/peer_command.py) fills a PeerConfig and hands it to `peer.run.run_peer`.
What a restart needs is kept by the running peer in DIR/peer.json (`PeerConfig.to_json`) and read back
by `remembered`, so that a peer "restarted on its directory needs no other option" (docs/operate.md).
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from peer.errors import Invalid, StartupError
from peer.etag import DEFAULT_CHUNK_BYTES

DEFAULT_PORT = 7400
PEER_FILE = "peer.json"
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "text", "json")
MIN_CHUNK_BYTES = 64 * 1024
MAX_CHUNK_BYTES = DEFAULT_CHUNK_BYTES
"""The buffers of the pool hold one chunk of this size (peer/buffers.py)."""
NAME_BYTES = 64
ZONE_BYTES = 255
HOST_BYTES = 253
MAX_CAPACITY_BYTES = 2**63 - 1
"""What gossip's records and the ring's members can carry (gossip/record.py, ring/members.py)."""


LIMITS: dict[str, tuple[str, float, float, str]] = {
    "idle_body_s": ("--idle-body", 1, 3600, "s"),
    "pressed_body_s": ("--idle-body-pressed", 0.1, 3600, "s"),
    "idle_connection_s": ("--idle-connection", 1, 3600, "s"),
    "drain_s": ("--drain", 0, 600, "s"),
    "json_bytes": ("--json-limit", 1024, 16 << 20, " bytes"),
    "form_fields": ("--form-fields", 1, 100_000, ""),
}
"""The limits of the API that are options: field -> option, least, most, unit."""
HEALING: dict[str, tuple[str, float, float, str]] = {
    "garbage_after_s": ("--garbage-after", 0.1, 604_800, "s"),
    "evict_after_s": ("--evict-after", 0, 31_536_000, "s"),
    "scrub_every_s": ("--scrub-every", 0.1, 31_536_000, "s"),
    "scrub_bytes_per_s": ("--scrub-rate", 4096, 1 << 40, " bytes"),
}
"""The same for the background work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """One peer's options, all decided. Sizes in bytes; paths as given; addresses as (host, port)."""

    data: Path
    found: bool = False
    """Found a new cluster if the directory is uninitialised. Never with `join`."""
    join: tuple[tuple[str, int], ...] = ()
    """Seeds, names unresolved; may contain the peer itself."""
    replace: str = ""
    """Join in the place of this dead member (name or id); only read when joining."""

    host: str = "127.0.0.1"
    """The address to listen on; a wildcard needs `advertise`."""
    advertise: str = ""
    """The host others are told; empty: `host`."""
    s3_port: int = DEFAULT_PORT
    api_port: int = DEFAULT_PORT + 1
    peer_port: int = DEFAULT_PORT + 2
    name: str = ""
    """A label for people; empty: the peer makes one from its id."""
    zone: str = ""
    """The failure domain; empty: the advertised host."""
    capacity_bytes: int | None = None
    """Weight on the ring and limit of live extents; None: the file system's size when it joined."""
    cluster_key_file: Path | None = None
    """Where a joining peer reads the cluster's key; None: DIR/cluster.key."""

    # Founding only; a peer that joins or restarts is told by the decided epoch.
    replicas: int = 3
    partition_power: int = 12
    chunk_bytes: int = DEFAULT_CHUNK_BYTES
    root_access_key: str = ""
    """Empty: made at random and written to DIR/root.json."""
    root_secret_key: str = field(default="", repr=False)

    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls: str = ""
    """"auto" for certificates of the cluster's own authority, empty for none or for `tls_cert` and `tls_key`."""
    domain: str = ""
    """For virtual-host style S3 requests; empty: path style only."""
    public_url: str = ""
    encryption_key_file: Path | None = None
    """Encryption at rest; None: off."""
    insecure: bool = False
    """Serve the API beyond loopback without TLS."""
    metrics_public: bool = False
    """Serve /metrics without credentials."""
    log_level: str = "info"
    log_format: str = "auto"
    """How the log looks (`peer.logs`): text on a terminal, JSON otherwise."""

    # Limits of the API (peer.api.context.Limits says what each does).
    idle_body_s: float = 60.0
    pressed_body_s: float = 5.0
    idle_connection_s: float = 75.0
    drain_s: float = 10.0
    json_bytes: int = 1 << 20
    form_fields: int = 1000

    garbage_after_s: float = 300.0
    """How long bytes stay after nothing names them any more, for reads under way."""
    evict_after_s: float = 900.0
    """A peer that has been dead for so long is removed from the ring by the others; 0: never."""
    scrub_every_s: float = 86_400.0
    """Everything this peer holds is read and checked so often, if the rate allows it."""
    scrub_bytes_per_s: int = 20 << 20

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise Invalid(problem, code="InvalidArgument")

    @property
    def advertised_host(self) -> str:
        """What other peers and clients connect to."""
        return self.advertise or self.host

    @property
    def ports(self) -> tuple[int, int, int]:
        """(S3, API, peers)."""
        return self.s3_port, self.api_port, self.peer_port

    @property
    def serves_tls(self) -> bool:
        """Whether clients meet TLS on the S3 and the API port."""
        return bool(self.tls or self.tls_cert)

    @property
    def limits(self) -> dict[str, Any]:
        """The limits of the API, by name."""
        return {name: getattr(self, name) for name in LIMITS}

    def to_json(self) -> dict[str, Any]:
        """What a restart needs, for DIR/peer.json: no secrets, nothing only founding or joining reads."""
        kept = {item.name: getattr(self, item.name) for item in fields(self) if item.name in REMEMBERED}
        return {
            name: str(value.absolute()) if isinstance(value, Path) else value for name, value in kept.items()
        }


_ONCE = {"data", "found", "join", "replace", "cluster_key_file", "replicas", "partition_power", "chunk_bytes"}
_SECRET = {"root_access_key", "root_secret_key"}
REMEMBERED = frozenset(item.name for item in fields(PeerConfig)) - _ONCE - _SECRET
"""The fields a restart takes from DIR/peer.json unless told otherwise."""
_KINDS: dict[str, type] = {
    item.name: type(item.default) for item in fields(PeerConfig) if item.name in REMEMBERED
} | {"capacity_bytes": int, "tls_cert": str, "tls_key": str, "encryption_key_file": str}


def remembered(data: Path) -> dict[str, Any]:
    """The options an earlier start on this directory left in DIR/peer.json; {} if there was none.

    Raises StartupError if the file is there but cannot be read, or holds what no peer writes or may run with.
    """
    path = data / PEER_FILE
    try:
        kept = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as problem:
        raise StartupError(
            f"cannot read {path}: {problem.strerror}; run as the user the data belongs to"
        ) from None
    except (ValueError, RecursionError):
        kept = None
    if not isinstance(kept, dict):
        raise StartupError(damaged_message(path))
    found = {name: value for name, value in kept.items() if name in REMEMBERED and value is not None}
    for name, value in found.items():
        if not _is_kind(value, _KINDS[name]):
            raise StartupError(damaged_message(path, f": {name} is {ascii(value)[:80]}"))
    try:
        PeerConfig(data=data, **found)
    except Invalid as problem:
        raise StartupError(damaged_message(path, f" ({problem})")) from None
    return found


def damaged_message(path: Path, why: str = "") -> str:
    """What is wrong with a DIR/peer.json that no peer wrote, and what helps."""
    return f"{path} is damaged{why}; remove it and start once more with the options of the first start"


def _is_kind(value: Any, kind: type) -> bool:
    """Whether JSON's value is one that `PeerConfig.to_json` writes for a field of this kind."""
    if kind is str:
        return isinstance(value, str) and value.isprintable()
    return isinstance(value, kind if kind is not float else int | float) and (
        kind is bool or not isinstance(value, bool)
    )


def is_initialised(data: Path) -> bool:
    """Whether a peer has run here before: its options are kept."""
    return (data / PEER_FILE).is_file()


def uninitialised_message(data: Path) -> str:
    """What to print, beside exit code 2, for an empty directory without --found or --join."""
    return (
        f"{data} holds no peer yet. If a disk belongs there, mount it. Otherwise say which it is to be:\n"
        f"  the first peer of a new cluster:   atoll peer --data {data} --found\n"
        f"  one more peer of a running one:    atoll peer --data {data} --join HOST:PEERPORT "
        "--cluster-key-file FILE"
    )


def is_wildcard(host: str) -> bool:
    """Whether listening on `host` means every address of the machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _problems(config: PeerConfig) -> list[str]:
    """What is wrong with a configuration, each with its remedy; only what needs no look at the machine."""
    found: list[str] = []

    def check(holds: bool, problem: str) -> None:
        if not holds:
            found.append(problem)

    check(not (config.found and config.join), "--found and --join exclude each other: found once, join after")
    check(bool(config.join) or not config.replace, "--replace NODE goes with --join HOST:PEERPORT")
    check(
        bool(config.advertise) or not is_wildcard(config.host),
        f"--host {config.host} listens everywhere; say with --advertise HOST which address others should use",
    )
    check(
        not is_wildcard(config.advertise or "-"),
        f"--advertise {config.advertise}: others cannot connect to a wildcard; give this machine's address",
    )
    for option, host in (("--host", config.host), ("--advertise", config.advertise)):
        check(
            not host or _is_host(host), f"{option} {host!r}: give a host name or an IP address, without port"
        )
    check(bool(config.host), "--host is empty; 127.0.0.1 listens for this machine only")
    found += _label_problems("--name", config.name, NAME_BYTES)
    found += _label_problems("--zone", config.zone, ZONE_BYTES)
    found += _size_problems(config)
    found += _limit_problems(config)
    above = [base + 2 for base in config.ports[:1] if config.ports == (base, base + 1, base + 2)]
    check(
        not above or above[0] <= 65535,
        f"--port {config.s3_port}: the API and the peers take the two ports above it, so 65533 is the last one",
    )
    for name, port in zip(("s3", "api", "peer"), config.ports, strict=True):
        check(1 <= port <= 65535, f"--{name}-port {port}: a port lies between 1 and 65535")
    check(
        len(set(config.ports)) == 3,
        f"S3, API and peers need three different ports, not {', '.join(map(str, config.ports))}",
    )
    check((config.tls_cert is None) == (config.tls_key is None), "--tls-cert and --tls-key belong together")
    check(
        config.tls in ("", "auto"), f"--tls {config.tls}: `auto` or `off`, or give --tls-cert and --tls-key"
    )
    check(
        not (config.tls and config.tls_cert),
        "--tls auto makes certificates; it excludes --tls-cert and --tls-key",
    )
    for option, value, known in (
        ("level", config.log_level, LOG_LEVELS),
        ("format", config.log_format, LOG_FORMATS),
    ):
        check(value in known, f"--log-{option} {value}: one of {', '.join(known)}")
    check(
        bool(config.root_access_key) == bool(config.root_secret_key),
        "the root access key and the file with its secret belong together "
        "(ATOLL_ROOT_ACCESS_KEY, ATOLL_ROOT_SECRET_KEY_FILE)",
    )
    return found


def _size_problems(config: PeerConfig) -> list[str]:
    """What is wrong with the numbers a peer or its cluster is founded with."""
    capacity = config.capacity_bytes
    wrong = {
        f"--replicas {config.replicas}: between 1 and 16; 3 survives one failure": not 1
        <= config.replicas
        <= 16,
        f"--partition-power {config.partition_power}: between 8 and 16": not 8
        <= config.partition_power
        <= 16,
        f"--chunk-size {config.chunk_bytes}: a multiple of 4 KiB between 64 KiB and 4 MiB": not (
            MIN_CHUNK_BYTES <= config.chunk_bytes <= MAX_CHUNK_BYTES and config.chunk_bytes % 4096 == 0
        ),
        f"--capacity {capacity}: a peer needs room; give its size, as in 500GB": (
            capacity is not None and capacity <= 0
        ),
        f"--capacity {capacity}: at most {MAX_CAPACITY_BYTES} bytes, which is 9223 PB": (
            (capacity or 0) > MAX_CAPACITY_BYTES
        ),
    }
    return [problem for problem, holds in wrong.items() if holds]


def _limit_problems(config: PeerConfig) -> list[str]:
    """What is wrong with the limits of the API. `nan` is within no bounds."""
    found = []
    for name, (option, least, most, unit) in (LIMITS | HEALING).items():
        value = getattr(config, name)
        if not (isinstance(value, int | float) and least <= value <= most):
            found.append(f"{option} {value}{unit}: between {least:g} and {most:.10g}{unit}")
    return found


def _label_problems(option: str, text: str, limit: int) -> list[str]:
    """What is wrong with a name for people; it stands in tables, logs and packets."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return [f"{option} {text!r} is not valid UTF-8"]
    if size > limit:
        return [f"{option} has {size} bytes of UTF-8; at most {limit} are allowed"]
    if not text.isprintable() or text != text.strip():
        return [f"{option} {text!r}: use printable characters, without white space at the ends"]
    return []


_HOST_NAME = re.compile(
    r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)


def _is_host(text: str) -> bool:
    """Whether it has the form of an IP address or a host name; nothing is looked up."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        digits = text.replace(".", "").isdigit()  # 999.1.1.1 is no name, but a mistyped address
        return len(text) <= HOST_BYTES and not digits and _HOST_NAME.fullmatch(text) is not None
    return True


def parse_address(text: str, what: str = "--join") -> tuple[str, int]:
    """(host, port) of `host:port` or `[::1]:port`; Invalid says what is missing."""
    host, colon, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    plain = text.strip().startswith("[") or ":" not in host
    if not (
        colon and plain and _is_host(host) and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535
    ):
        raise Invalid(
            f"{what} {text!r}: give HOST:PEERPORT, as in 10.0.0.1:7402 or [::1]:7402",
            code="InvalidArgument",
        )
    return host, int(port)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15} | {
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
    "PI": 2**50,
}


def parse_size(text: str | int, what: str = "the size") -> int:
    """Bytes of `500GB`, `4MiB`, `1.5T` or `4096`; KB is 1,000 and KiB 1,024. Invalid otherwise."""
    cleaned = str(text).strip().upper().removesuffix("B").strip()
    number = cleaned.rstrip("KMGTPI")
    unit = cleaned[len(number) :]
    whole, _, part = number.strip().partition(".")
    digits = whole + part
    if unit not in _UNITS or not digits.isdigit() or not digits.isascii() or len(part) > 6 or len(whole) > 30:
        raise Invalid(f"{what} {text!r}: give bytes, or a number with a unit, as in 500GB or 4MiB")
    return int(int(digits) * _UNITS[unit] // 10 ** len(part))


_TIME_UNITS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
_TIME = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(ms|s|m|h|)")


def parse_time(text: str | float, what: str = "the time") -> float:
    """Seconds of `90`, `1.5s`, `500ms`, `2m` or `1h`. Invalid otherwise."""
    match = _TIME.fullmatch(str(text).strip().lower())
    if match is None:
        raise Invalid(f"{what} {text!r}: give seconds, or a number with a unit, as in 90s, 500ms or 2m")
    return float(match[1]) * _TIME_UNITS[match[2]]


def merged(told: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments for PeerConfig: what was told, over what the directory remembers.

    A TLS choice that was told replaces the remembered one as a whole; `--tls off` is none.
    """
    tls = {"tls", "tls_cert", "tls_key"}
    drop = tls if any(told.get(name) for name in tls) else set()
    base = {name: value for name, value in kept.items() if name not in drop}
    for name in ("tls_cert", "tls_key", "encryption_key_file"):
        if base.get(name):
            base[name] = Path(str(base[name]))
    decided = base | dict(told)
    if decided.get("tls") == "off" and not decided.get("tls_cert"):
        decided["tls"] = ""
    return decided

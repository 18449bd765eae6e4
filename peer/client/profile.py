"""Profiles: named clusters with their endpoints and keys, in ~/.config/atoll/config.toml.

    default = "dev"

    [profiles.dev]
    endpoints = ["http://127.0.0.1:7401", "http://127.0.0.1:7411"]
    access_key = "..."
    secret_key = "..."
    # ca_file = "/path/to/ca.pem"       for certificates the machine does not trust by itself; ATOLL_CA_FILE beats it

ATOLL_CONFIG_HOME names the folder of config.toml outright, XDG_CONFIG_HOME the one above `atoll/`.
tools/cli/profiles.py writes the file; this module only reads it.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peer.errors import Invalid, NotFound

if TYPE_CHECKING:
    import ssl

FILE_NAME = "config.toml"
_KEYS = ("endpoints", "access_key", "secret_key", "ca_file")


@dataclass(frozen=True, slots=True)
class Profile:
    """One cluster as its user knows it. Keys are None when requests go without credentials."""

    name: str
    endpoints: tuple[str, ...]
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    ca_file: str | None = None

    def tls_context(self) -> ssl.SSLContext | None:
        """For https endpoints with a certificate authority of their own; None: the machine's.

        Raises Invalid for a file that holds no certificates.
        """
        if self.ca_file is None:
            return None
        from peer.client.trust import (
            trust,  # only now: it takes 15 ms, and most endpoints of a first hour are plain
        )

        return trust(self.ca_file)


def config_path() -> Path:
    """Where profiles live."""
    if home := os.environ.get("ATOLL_CONFIG_HOME"):
        return Path(home) / FILE_NAME
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "atoll" / FILE_NAME


def load_profiles(path: Path | None = None) -> tuple[dict[str, Profile], str | None]:
    """All profiles and the default's name; ({}, None) without a file. Invalid names what is wrong in it."""
    path = path or config_path()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise Invalid(f"{path} is not valid TOML: {problem}", code="InvalidProfile") from None
    except OSError as problem:
        raise Invalid(f"{path} cannot be read: {problem.strerror}", code="InvalidProfile") from None
    tables, default = content.get("profiles", {}), content.get("default")
    if not isinstance(tables, dict) or not isinstance(default, str | None):
        raise Invalid(f"{path}: `default` is a name, and profiles are tables like [profiles.dev]")
    return {name: _profile(path, name, table) for name, table in tables.items()}, default


def load_profile(name: str | None = None, path: Path | None = None) -> Profile:
    """The profile of that name, or the default (the only one, if there is one), with the CA file of ATOLL_CA_FILE if that
    is set. NotFound says what to do."""
    path = path or config_path()
    profiles, default = load_profiles(path)
    if name is None:
        name = default or (next(iter(profiles)) if len(profiles) == 1 else None)
    if name is not None and name in profiles:
        found = profiles[name]
        return replace(found, ca_file=os.environ.get("ATOLL_CA_FILE") or found.ca_file)
    known = f"there are {', '.join(sorted(profiles))}" if profiles else "there is none yet"
    wanted = f"no profile {name!r} in {path}" if name is not None else f"no default profile in {path}"
    raise NotFound(f"{wanted}: {known}", code="NoSuchProfile")


def _profile(path: Path, name: str, table: Any) -> Profile:
    def wrong(what: str) -> Invalid:
        return Invalid(f"{path}, [profiles.{name}]: {what}", code="InvalidProfile")

    if not isinstance(table, dict):
        raise wrong("is not a table")
    if unknown := sorted(set(table) - set(_KEYS)):
        raise wrong(f"unknown key {unknown[0]!r}; known are {', '.join(_KEYS)}")
    endpoints = table.get("endpoints")
    if not (isinstance(endpoints, list) and endpoints and all(isinstance(url, str) for url in endpoints)):
        raise wrong('endpoints is a list of addresses like ["http://127.0.0.1:7401"]')
    texts = {key: table.get(key) for key in _KEYS[1:]}
    if any(not isinstance(value, str | None) for value in texts.values()):
        raise wrong("keys and files are strings")
    if bool(texts["access_key"]) != bool(texts["secret_key"]):
        raise wrong("access_key and secret_key belong together")
    return Profile(name, tuple(endpoints), **texts)

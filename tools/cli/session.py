"""From the shared options to a client, and questions to a person."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from peer.client.attempts import PATIENCE_S
from peer.client.peers import normal_url
from peer.client.profile import Profile, config_path, load_profile, load_profiles
from peer.client.sync import Client
from peer.errors import AtollError, Invalid
from tools.cli.exits import UnsafeRefusal
from tools.cli.settings import Settings, current

if TYPE_CHECKING:
    from peer.client.aio import AsyncClient


def connect(settings: Settings | None = None) -> Client:
    """A client for the cluster the options name.

    `--endpoint` pins it to one peer; otherwise a profile says where the cluster is. Keys come from
    --credentials-file, then ATOLL_ACCESS_KEY and the secret, then the profile. Raises NotFound (code
    NoSuchProfile) when nothing says where the cluster is, Invalid for options that make no sense.
    """
    settings = settings or current()
    profile = resolve(settings)
    client = Client(
        profile.endpoints,
        access_key=profile.access_key,
        secret_key=profile.secret_key,
        pin=settings.endpoint is not None,
        tls=profile.tls_context(),
        patience_s=PATIENCE_S if settings.patience is None else settings.patience,
    )
    client.on_trouble(note)
    return client


def connect_async(settings: Settings) -> AsyncClient:
    """The same for commands that follow what happens."""
    from peer.client.aio import AsyncClient  # only now: aiohttp takes its time

    profile = resolve(settings)
    return AsyncClient(
        profile.endpoints,
        access_key=profile.access_key,
        secret_key=profile.secret_key,
        pin=settings.endpoint is not None,
        tls=profile.tls_context(),
    )


def resolve(settings: Settings) -> Profile:
    """Endpoints and keys, from options, environment and profiles."""
    keys = given_keys(settings)
    if settings.endpoint is None:
        profile = load_profile(settings.profile)
        _warn_if_readable()
    elif settings.profile is not None:
        profile = replace(load_profile(settings.profile), endpoints=(settings.endpoint,))
    else:
        profile = _profile_of_endpoint(settings.endpoint)
    if keys is not None:
        profile = replace(profile, access_key=keys[0], secret_key=keys[1])
    if settings.ca_file is not None:
        profile = replace(profile, ca_file=settings.ca_file)
    return profile


def _profile_of_endpoint(endpoint: str) -> Profile:
    """The keys of the profile that lists this endpoint, or one of its host.

    The keys of another cluster are never sent to an address somebody typed.
    """
    url = normal_url(endpoint)
    with suppress(AtollError):  # a broken profile file must not matter to who does without
        profiles, default = load_profiles()
        ordered = sorted(profiles.values(), key=lambda profile: profile.name != default)
        for same in (normal_url, _host):
            for profile in ordered:
                if same(url) in map(same, profile.endpoints):
                    return replace(profile, endpoints=(endpoint,))
    return Profile("", (endpoint,))


def _host(url: str) -> str:
    return str(urlsplit(normal_url(url)).hostname)


def given_keys(settings: Settings) -> tuple[str, str] | None:
    if settings.credentials_file is not None:
        return _from_json(settings.credentials_file)
    secret = os.environ.get("ATOLL_SECRET_KEY")
    if settings.secret_key_file is not None:
        secret = read_secret(settings.secret_key_file)
    if settings.access_key is None and settings.secret_key_file is None:
        return None
    if settings.access_key is None or not secret:
        raise Invalid(
            "--access-key and its secret belong together: give ATOLL_SECRET_KEY or --secret-key-file FILE as well"
        )
    return settings.access_key, secret


def read_secret(name: str) -> str:
    """The secret in a file, or on stdin for `-`; surrounding white space does not count."""
    try:
        text = sys.stdin.readline() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise Invalid(f"{name} cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    if not text.strip():
        raise Invalid(f"{name} is empty; it should hold a secret key")
    return text.strip()


def _from_json(path: Path) -> tuple[str, str]:
    try:
        told = json.loads(path.read_bytes())
        return str(told["access_key"]), str(told["secret_key"])
    except OSError as problem:
        raise Invalid(f"{path} cannot be read: {problem.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise Invalid(
            f"{path} should be JSON with access_key and secret_key, like a peer's root.json"
        ) from None


def _warn_if_readable() -> None:
    with suppress(OSError):
        if config_path().stat().st_mode & 0o077:
            note(f"warning: others can read the keys in {config_path()}; run: chmod 600 {config_path()}")


def note(text: str) -> None:
    """A line for the person, on stderr."""
    click.echo(text, err=True)


def confirm(question: str) -> None:
    """Return if the answer is yes; raises UnsafeRefusal (exit 6) otherwise, also when nobody can be asked."""
    settings = current()
    if settings.yes:
        return
    if settings.no_input or not sys.stdin.isatty():
        raise UnsafeRefusal(f"{question} Nobody can be asked, so nothing was done; say --yes")
    if not click.confirm(question, default=False, err=True):
        raise UnsafeRefusal("not confirmed, so nothing was done")


def split_target(text: str) -> tuple[str, str]:
    """("bucket", "key") of BUCKET/KEY; the key is "" if there is none. A UsageError if there is no bucket."""
    bucket, _, key = text.partition("/")
    if not bucket:
        raise click.UsageError(f"{text!r} names no bucket; write BUCKET/KEY")
    return bucket, key


def need_key(text: str) -> tuple[str, str]:
    """The same, for commands that need an object."""
    bucket, key = split_target(text)
    if not key:
        raise click.UsageError(f"{text!r} names no object; write BUCKET/KEY")
    return bucket, key

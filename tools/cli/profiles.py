"""Writing ~/.config/atoll/config.toml: one profile at a time, everything else in the file left as it is.

The file may hold comments and profiles of its user's own making, so a change replaces only the lines
of its own table. The result is parsed and compared with what was meant before it takes the file's
place, in one rename; a file laid out so that this fails is left alone, with an error that says so.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from peer.client.peers import normal_url
from peer.client.profile import config_path
from peer.errors import Invalid, NotFound

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_HEADER = re.compile(r"\s*\[")
_DEFAULT = re.compile(r"\s*default\s*=")


def write_profile(
    name: str,
    endpoints: Sequence[str],
    access_key: str | None,
    secret_key: str | None,
    make_default: bool = False,
    *,
    ca_file: str | None = None,
) -> str | None:
    """Make or replace a profile; the name of the default profile before (for `set_default` to restore).

    Atomic, mode 0600, folders 0700. Invalid if the name or an endpoint is none, or the file cannot be
    edited safely; nothing has changed then.
    """
    check_name(name)
    table: dict[str, Any] = {"endpoints": [normal_url(url) for url in endpoints]}
    if access_key is not None or secret_key is not None:
        table |= {"access_key": access_key, "secret_key": secret_key}
    if ca_file is not None:
        table["ca_file"] = ca_file
    if not endpoints or any(value is None for value in table.values()):
        raise Invalid("a profile needs an endpoint, and both keys or neither")
    with _editing() as (path, text):
        content = _parse(path, text)
        before = content.get("default")
        wanted = content | {"profiles": content.get("profiles", {}) | {name: table}}
        text = _without_table(text, name)
        lines = [f"[profiles.{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
        text = (text.rstrip("\n") + "\n\n" if text.strip() else "") + "\n".join(lines) + "\n"
        if make_default:
            text, wanted = _with_default(text, name), wanted | {"default": name}
        _replace(path, text, wanted)
    return before


def keep_file(name: str, content: bytes) -> Path:
    """Put a file beside the profiles, and return where it is."""
    with _editing() as (path, _):
        place = path.with_name(name)
        _put(place, content)
    return place


def remove_profile(name: str) -> None:
    """Forget a profile, and that it was the default; NotFound if there is none of that name."""
    with _editing() as (path, text):
        content = _parse(path, text)
        profiles = content.get("profiles", {})
        if name not in profiles:
            raise NotFound(f"no profile {name!r} in {path}", code="NoSuchProfile")
        kept = {other: table for other, table in profiles.items() if other != name}
        wanted = {key: value for key, value in content.items() if key != "profiles"}
        wanted |= {"profiles": kept} if kept else {}
        text = _without_table(text, name)
        if content.get("default") == name:
            text, _ = _with_default(text, None), wanted.pop("default")
        _replace(path, text, wanted)


def set_default(name: str | None, *, only_if: str | None = None) -> bool:
    """Choose the default profile (None: none). With `only_if`, only while that one is the default.

    Whether the file was changed. NotFound if there is no profile of that name, but for a restoration
    (`only_if`), where the default is then dropped.
    """
    with _editing() as (path, text):
        content = _parse(path, text)
        if only_if is not None and content.get("default") != only_if:
            return False
        if name is not None and name not in content.get("profiles", {}):
            if only_if is None:
                raise NotFound(f"no profile {name!r} in {path}", code="NoSuchProfile")
            name = None
        if content.get("default") == name:
            return False
        wanted = {key: value for key, value in content.items() if key != "default"}
        _replace(path, _with_default(text, name), wanted | ({"default": name} if name else {}))
        return True


def check_name(name: str) -> str:
    """`name`, or Invalid: letters, digits, `-` and `_`, so that it needs no quotes in the file."""
    if not _BARE.fullmatch(name):
        raise Invalid(f"{name!r} is not a profile name; use letters, digits, - and _")
    return name


@contextmanager
def _editing() -> Iterator[tuple[Path, str]]:
    """The file's path and text, with other writers kept out."""
    path = config_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise Invalid(f"{path.parent} cannot be written: {problem.strerror}", code="InvalidProfile") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            text = ""
        except (OSError, UnicodeDecodeError) as problem:
            raise Invalid(f"{path} cannot be read: {problem}", code="InvalidProfile") from None
        yield path, text
    finally:
        os.close(lock)


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise Invalid(
            f"{path} is not valid TOML: {problem}; mend it by hand", code="InvalidProfile"
        ) from None


def _without_table(text: str, name: str) -> str:
    """The text without the lines of [profiles.NAME], up to the next header or comment block before it."""
    lines = text.splitlines(keepends=True)
    quoted = (f"[profiles.{name}]", f'[profiles."{name}"]')
    start = next((i for i, line in enumerate(lines) if line.split("#")[0].strip() in quoted), None)
    if start is None:
        return text
    end = next((i for i in range(start + 1, len(lines)) if _HEADER.match(lines[i])), len(lines))
    while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1  # blank lines and comments before the next header belong to that
    return "".join(lines[:start] + lines[end:])


def _with_default(text: str, name: str | None) -> str:
    """The text with `default = "NAME"` ahead of the first table, or without a default."""
    lines = text.splitlines(keepends=True)
    head = next((i for i, line in enumerate(lines) if _HEADER.match(line)), len(lines))
    lines[:head] = [line for line in lines[:head] if not _DEFAULT.match(line)]
    if name is not None:
        blank = "\n" if lines and not lines[0].isspace() else ""
        lines.insert(0, f"default = {_toml(name)}\n{blank}")
    return "".join(lines)


def _replace(path: Path, text: str, wanted: dict[str, Any]) -> None:
    """Put `text` in the file's place if it means what was wanted."""
    try:
        meant = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        meant = {}
    if meant != wanted:
        raise Invalid(f"{path} is laid out in a way that cannot be edited safely; change it by hand")
    _put(path, text.encode())


def _put(path: Path, content: bytes) -> None:
    """Replace a file, durably and in one moment."""
    handle, part = tempfile.mkstemp(prefix=".config-", dir=path.parent)  # 0600 from its creation
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(part).unlink()
        raise


def _toml(value: str | Sequence[str]) -> str:
    """A string or a list of strings in TOML: JSON's escapes are TOML's, but for DEL."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return "[" + ", ".join(_toml(item) for item in value) + "]"

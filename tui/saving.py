"""Where a download goes, and how far it is. A key is any string, a path is none: only its last name is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tui.clean import clean
from tui.model import age_words, size_words

NAME_BYTES = 200
NAMELESS = "object"


def file_name(key: str) -> str:
    """What a file for this key may be called: one name, in no other directory, that can be printed."""
    last = key.rstrip("/").rpartition("/")[2]
    name = "".join(char if char.isprintable() else "_" for char in last)
    name = name.encode("utf-8", "replace")[:NAME_BYTES].decode("utf-8", "ignore")
    return NAMELESS if name in ("", ".", "..") else name


def target_of(typed: str, key: str) -> Path:
    """The file that was meant: a directory stands for the key's own name in it. ValueError for what is no path."""
    try:
        path = Path(typed).expanduser().absolute()
        return path / file_name(key) if typed.endswith("/") or path.is_dir() else path
    except (RuntimeError, OSError) as problem:  # no such user; a name too long
        raise ValueError(str(problem)) from None


def target_problem(typed: str, key: str) -> str:
    """Why nothing can be saved there, "" if it can."""
    if not typed.strip():
        return "Say a file or a directory."
    try:
        target = target_of(typed, key)
        if not target.parent.is_dir():
            return f"There is no directory {clean(str(target.parent))}."
        return f"{clean(str(target))} is a directory." if target.is_dir() else ""
    except (ValueError, OSError) as problem:
        return clean(str(problem))


@dataclass(slots=True)
class Transfer:
    """A download under way; bytes and seconds. `moved` goes back when it starts over."""

    what: str
    target: Path
    began_s: float
    size: int | None = None
    moved: int = 0

    def count(self, moved: int) -> None:
        self.moved += moved

    def words(self, now_s: float) -> str:
        took_s = max(now_s - self.began_s, 0.0)
        rate = self.moved / took_s if took_s else 0.0
        so_far = size_words(self.moved)
        if self.size is not None:
            percent = 100 * self.moved // self.size if self.size else 100
            so_far += f" of {size_words(self.size)} ({percent} %)"
        left = ""
        if rate and self.size is not None:
            left = f", {age_words((self.size - self.moved) / rate)} left"
        return f"{so_far}, {size_words(int(rate))}/s{left}: {self.what}"

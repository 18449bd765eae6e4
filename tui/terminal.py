"""What the terminal at hand can show."""

from __future__ import annotations

import locale
import os
import sys


def can_unicode() -> bool:
    """Whether braille and the like can be written: by the output's encoding and the locale's."""
    if os.environ.get("TERM") == "linux":
        return False  # the console's font has no braille
    names = (getattr(sys.stdout, "encoding", None) or "", locale.getpreferredencoding(False))
    return all(name.lower().replace("-", "") == "utf8" for name in names)


def is_light() -> bool:
    """Whether the terminal says that its background is light (COLORFGBG, as rxvt, Konsole and others set it)."""
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return background in ("7", "15")

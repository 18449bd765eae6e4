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

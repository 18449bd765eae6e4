"""What a peer's process tells of itself."""

from __future__ import annotations

import os
import time
from typing import Any


def process_info(started_s: float) -> dict[str, Any]:
    """CPU seconds, resident bytes, uptime and open files of this process."""
    usage = os.times()
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "pid": os.getpid(),
        "cpu_s": usage.user + usage.system,
        "rss_bytes": resident,
        "uptime_s": round(time.monotonic() - started_s, 3),
        "open_files": len(os.listdir("/proc/self/fd")),
    }

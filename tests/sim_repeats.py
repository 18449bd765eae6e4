"""Runs one seed in processes of its own: what depends on hashes, the order of sets or addresses shows."""

from __future__ import annotations

import os
import subprocess
import sys


def digests_elsewhere(module: str, function: str, seed: int) -> set[str]:
    """What `module.function(seed).digest` is in two processes that hash differently."""
    code = f"from {module} import {function}; print({function}({seed}).digest)"
    return {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }

"""Runs a command that dies with its parent: `python -I -S launch.py PARENT_PID COMMAND ...`.

The kernel's parent-death signal (prctl PR_SET_PDEATHSIG) is the one watch that holds when the parent is
killed with SIGKILL and that needs nothing of the command. It is set here, in a process of its own that then
becomes the command (it survives exec), because setting it between fork and exec of a process with threads
may deadlock. SIGKILL is chosen for it because a peer loses nothing acknowledged to it (P2) and nobody
would be left to enforce a gentler signal's deadline.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the parent died before its child had started")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()

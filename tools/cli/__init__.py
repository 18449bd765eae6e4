"""The command line `atoll`.

`main` is the console script. root.py lists every command and loads only the one that is called, so
that `atoll version` answers in under 150 ms. Everything that talks to a cluster does so through
`peer.client`; of the rest of `peer/` only what starts a peer is used (peer_command.py).

For commands that live elsewhere and are mounted here: `settings.current()` gives the options that
all commands share, `session.connect()` a client made from them, `output` the forms of `-o`,
`profiles.write_profile` keeps a cluster's endpoints and keys.
"""

from __future__ import annotations

from tools.cli.root import main

__all__ = ["main"]

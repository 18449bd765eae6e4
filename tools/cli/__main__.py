"""`python -m tools.cli`: the command line without an installed script."""

from __future__ import annotations

from tools.cli.root import main

main()

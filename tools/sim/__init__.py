"""The deterministic simulator: the real replication code on virtual time, and the checkers that judge it.

Start reading at `world.py` (one seeded run: peers, workload, faults, story). Below it stand what a peer
is given in place of the machine: `loop.py` (time), `network.py`, `disk.py` and `env.py` (a peer that can
die, pause and have a wrong clock). The judges are `linear.py` (each key is linearizable, promise P3) and
`listing.py` (a listing page is honest, P4). `controls.py` removes one safeguard at a time and shows that
the judges notice. This package may reach down into every other one; nothing imports it.
"""

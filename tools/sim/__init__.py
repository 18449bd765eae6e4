"""The deterministic simulator: the real replication code on virtual time, and the checkers that judge it.

Start reading at `world.py` (one seeded run): `cluster.py` (the peers), `workload.py` (their clients), `faults.py`
(what goes wrong) and `story.py` (what happened; `spell.py` puts messages into words). Below it stand what a
peer is given in place of the machine: `loop.py` (time), `network.py`, `disk.py` and `env.py` (a peer that can
die, pause and have a wrong clock). The judges are `linear.py` (each key is linearizable, promise P3) and
`listing.py` (a listing page is honest, P4). `controls.py` removes one safeguard at a time and shows that
the judges notice, by chance or by the plays of `schedules.py`; `batch.py` runs many seeds.

Chunk bytes have a world of their own, `chunk_world.py`: one peer's `chunks.py` on the files of `blocks.py`.

This package may reach down into every other one; only tools/sim_command.py and tests import it.
"""

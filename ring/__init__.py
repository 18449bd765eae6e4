"""The ring: which members own which partition. Pure functions over data (architecture.md §3 and §5).

What lives here, from the bottom up:

- `members`    a member of the cluster and its checks
- `hashing`    placement key -> partition (128-bit MurmurHash3)
- `circle`     virtual tokens on a circle; the clockwise walk is a partition's preference order
- `table`      the immutable partition -> owners table, its encoding, and what moved between two of them
- `shares`     the fair share of every member under the zone rules (water-filling, exact fractions)
- `draft`      a table being changed: which single replica may still move, and the search that balances it
- `placement`  `place(previous, members, replicas, partition_power) -> Table`
- `epoch`      the record a ring change decides: members, table, voters; its versioned encoding
- `changes`    what an operator or a joiner wants, as the next epoch; what it would move
- `eviction`   who of the long dead is removed; it alone measures time (as floats) and remembers what it saw

Nothing here imports anything of ours outside this package, does I/O, reads a clock, draws a random
number or depends on `hash()`, and no table depends on a float: two peers that place the same input get the same table,
and the decided epoch carries the table whole, so that two software versions cannot disagree either.
Bad input and malformed bytes raise `ValueError`; no failure leaves anything half changed.

Start reading at `placement`, whose docstring states the rules, then `shares` and `draft`.
"""

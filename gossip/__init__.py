"""Who is alive: SWIM with the Lifeguard extensions, a state machine without I/O (architecture.md, section 4).

Start reading at `swim.py`: events go in (a datagram, an exchange, the passing of time), messages and
changes come out. `members.py` holds the order in which beliefs about a member overrule each other,
`roster.py` draws from them, `probe.py` finds failures, `suspicion.py` decides how long an accused member
may defend itself, `awareness.py` how far to trust oneself, `broadcast.py` spreads news, `sync.py` compares
whole memberships over TCP; `host.py` is what these may ask of the whole, `timers.py` their clock, `config.py`
every number, `errors.py` what may be wrong with bytes from elsewhere. `record.py`, `messages.py`, `codec.py`,
`exchange.py` and `keyring.py` are the wire.

Nothing here imports another room of Atoll, reads a clock, opens a socket, starts a thread or draws
randomness of its own: `peer/membership.py` runs it on real sockets, `tools/gossip_sim.py` by the thousand
in virtual time.

Gossip says who is alive. It never decides who owns what.
"""

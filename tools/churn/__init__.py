"""Hundreds of members that come and go, on virtual time: gossip, the ring and its changes together.

What runs in each member is real: the state machine of gossip with its codec, the replica with its epochs, proposals and
identity, the workers that complete changes of the ring and remove the dead. Around them are simulated machines: `machine`
does what `peer.process` does, in the same order. Every partition holds a register, which clients go on changing, so that
changes of the ring take two epochs and new owners have something to merge; there are no chunks.

    machine    one machine and the process on it
    fleet      all of them, the network between them, and what is known about who was away
    faults     what goes wrong, and what operators do
    clients    a light load of registers, and what was acknowledged
    judge      what must hold, at every change and in the end
    run        one seeded run
"""

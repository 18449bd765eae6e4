"""Who owns what, and who may vote: the decided ring, changes of it, and a peer's identity (docs/architecture.md).

epochs, earlier     one peer's view of the ring and its vote on the next; tables of former times
proposals           having the next epoch decided
removal             having one who is dead removed, out of a change that waits for it as well
progress            how far this peer has come in a joint epoch
identity            a peer that lost its memory does not vote
"""

"""The workers that bring every copy back, each a small step at a time (`peer.replication.workers`).

handoff             what others noted down for this peer while it was away
antientropy         everything else it lacks; chunksync, chunks as a side of copying
merging, transition a ring change: taking partitions over, and carrying joint to final
scrub, adoption     what is damaged on this disk; a disk whose rows are lost
eviction            the long dead are removed
recovery            after the operator's override
"""

"""Copying between owners, in proportion to what differs.

digests             what an owner holds, in 16 sums a partition
sync                compare, list, fetch, apply: of any side
registersync        registers as a side
"""

"""What nothing names any more leaves the disks; nothing else does.

attempts, verdicts  may a put still succeed; does a head name what it stored
garbage, loose      references nobody needs, chunks without references
purge               tombstones
"""

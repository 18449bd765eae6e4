"""One machine's disk: metadata rows and chunk segments (architecture.md §9).

Knows nothing of rings, peers or the network, and imports only `peer.errors` and `peer.buffers`.
Start reading with `rows` (the key-value interface everything above codes against) and `segments` (the
life of a chunk's bytes, as a state machine without I/O).

    rows          the interface: get, scan, commit a batch -> durable
    sqlite        its implementation: WAL, one writer thread, group commit
    sqlite_files  the connections beneath it, and all SQL of the project
    sqlite_readers  its reading half
    records       what a chunk looks like on disk: the 64-byte header, its checksum, an extent's encoding
    segments      the state machine: allocated -> written -> synced -> named -> doomed -> unnamed -> punched
    segment       what it knows of one segment
    operations    what the state machine asks for: create, sync, seal, punch, remove; limits and options
    chunkfiles    threads that execute what `segments` decides
    chores        what the housekeeping thread does to files
    chunkreads    reading a record, verified
    segmentdir    the files they do it to
    gauge         whether the disk is slow, or read-only
    datadir       the directory: lock, layout, checks at start-up
    ballast       the space given up when the disk is full, so that deletions still commit
    durable       atomic small files, directory syncs, and the end of the process when an fsync fails
    syscalls      fallocate and statfs, which Python does not offer as they are

Layout of a data directory (0700; every file 0600):

    peer.pid          the running peer's process id; the lock is flock(2) on the directory itself
    peer.json         its ports, for whoever looks for it on this machine
    cluster.key       the pre-shared key of the cluster
    root.json         the root access key, written by the founding peer
    rows/atoll.db     metadata (with -wal and -shm beside it)
    segments/         NNNNNNNN.open is being written, NNNNNNNN.seg is sealed
    ballast           zeros worth giving up
"""

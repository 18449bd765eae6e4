"""What a peer counts, as Prometheus reads it (GET /metrics; docs/monitoring.md lists every metric).

Nothing is counted here. Each room of a peer counts what it does in plain integers, which costs next to nothing; when
somebody asks, these modules read them:

    page       the registry of one peer, and its rendering
    families   how a family of samples is made
    clients    requests of clients (`api.accounting`)
    cluster    gossip, ring and verdict, as this peer sees them
    healing    workers, hints, damage
    disk       the disk, the database, segments, buffers
    tls        the certificate shown to clients, handshakes
    network    messages between peers, gossip's datagrams, the event loop

Every label has a closed set of values: operations, states, codes of this program, workers. No bucket, key, client or peer is
one, so that the number of series depends on the version alone. Start at `page`.
"""

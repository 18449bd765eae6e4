"""One connection to another peer: who is there, calls, bulk transfers, gossip over TCP.

Start reading at `hello.py` (how every connection opens), then `link.py` (one call connection) and
`peers.py` (all of them).

    noise.py      the handshake and the ciphers            no I/O
    frames.py     what the bytes look like                 no I/O
    hello.py      handshake and hellos, as a state machine no I/O
    sockets.py    runs that state machine on a socket; dialling
    listener.py   the peer port
    link.py       one call connection      peers.py   all call links of this process
    bulk.py       chunk bytes: the calling end, threads over blocking sockets (bulksocket.py);
                  until when each may go on (bulkjobs.py)
    bulkserver.py the receiving end, a thread per connection
    exchange.py   one gossip exchange
    stats.py      what is counted

May import `peer.errors` and `peer.buffers`, and nothing else of ours.
"""

"""TLS towards clients, on the S3 and the API port (docs/security.md). Peers among themselves use Noise (`peer.rpc`).

`authority`     the cluster's own certificate authority, derived from the cluster key: `--tls auto`
`certificates`  what a peer shows: loaded from files or issued by the authority, watched, replaced while it serves
`gate`          the listening sockets: a handshake within a deadline, and an answer to whoever speaks plain HTTP
`options`       from a peer's options to its certificates

Imports nothing of ours but errors, options and how small files are written. Start with `certificates`.
"""

"""The HTTP API of a peer (port + 1): parse, authorise, render. See openapi.json beside this file.

May import everything below: `peer.objects`, `peer.replication`. Start at `server`.
"""

"""The terminal UI: what `atoll top` shows, and the live view of `atoll dev`.

Events in, pictures out: `source.py` brings the events of GET /v1/events, `state.py` folds them into all that is known,
`app.py` draws the page that is up. Start reading there. A page is a file with a `Page` (`page.py`) of the same name; long
tables are `Rows` (`rows.py`); `model.py`, `circle.py`, `partitions.py`, `heatmap.py`, `beliefs.py` and `found.py` are pure:
JSON to what is drawn, the ring as dots, its partitions as a map, and what peers believe of each other. What the user
does goes through the public client. Imports nothing of `peer/` but that (`peer.client`).
"""

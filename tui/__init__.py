"""The terminal UI: what `atoll top` shows, and the live view of `atoll dev`.

Start reading at `app.py` (what is on the screen) and `model.py` (pure functions from the API's JSON to
what is drawn). `circle.py` draws the ring, `feed.py` fetches and moves to another peer when one dies;
every widget has a file of its own. Imports nothing of `peer/` but the public client (`peer.client`).
"""

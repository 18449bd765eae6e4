"""Registers: every piece of metadata is a key that changes only by consensus among its owners.

acceptor            one owner: promises, accepts, tells; with promises, gates and floors, what it goes by
register            the coordinator of one change or read; judged, what a change is given; turns, one at a time;
                    room, who has some
scan                listings
"""

"""Chunks: immutable bytes named by their hash.

rows, held, holder  one owner: encodings; what its rows say; how they change
put, chunks         the coordinator: one chunk on its way; all of them, and reading
"""

"""Words, files and the journal: what every other package speaks in.

Promises that what is written is whole or absent, private, and readable by the next run; never asks a database or a
container.
Begin with proof.py and journal.py.
"""

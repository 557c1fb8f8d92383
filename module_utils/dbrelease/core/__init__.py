"""Words, files and the journal: the vocabulary of every other package.

Promises that what is written is complete or absent, private, and readable by the next run; never asks a database or a
container.
Begin with proof.py and journal.py.
"""

"""Draft a release from an Alembic revision: run it on a restored copy, up, down and up again, and declare what it did.

Promises: the live database is only read; what could not be decided is said, and nothing is claimed that was not
observed on the copy. It never overwrites a release. Begin with walk.py; compose.py is pure.
"""

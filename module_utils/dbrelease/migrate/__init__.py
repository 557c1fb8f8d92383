"""Alembic, or a release's SQL, to exactly one revision; then the steps that finalize it.

Promises that the revision is read back from the database after every end of the migration; never moves to a
revision that the release does not name.
Begin with move.py.
"""

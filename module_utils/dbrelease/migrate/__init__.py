"""Migrate the database to exactly one revision, by Alembic or a release's SQL; then run the steps that finalize it.

Promises that the revision is read back from the database however the migration ends; never migrates to a
revision that the release does not name.
Begin with move.py.
"""

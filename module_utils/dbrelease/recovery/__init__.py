"""Settles what interrupted runs left, before the next run begins.

Promises that an unknown step is decided by asking the database; never takes the report of a dead run for what is
true now.
Begin with recovery.py.
"""

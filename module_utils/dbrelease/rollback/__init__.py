"""Whether a release may be rolled back, which rows would be lost, and whether the database is back at its baseline.

Promises that a guard that cannot be decided refuses, and that rows are saved before they are dropped; never runs
the downgrade itself.
Begin with verdict.py.
"""

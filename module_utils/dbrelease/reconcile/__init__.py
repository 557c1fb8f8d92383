"""The runbook's repairs: an orphan table, foreign keys that are not as declared, rows that are missing.

Promises to diagnose before it changes anything, and to save the rows that it removes; never drops an object that the
release does not declare.
Begin with reconcile.py.
"""

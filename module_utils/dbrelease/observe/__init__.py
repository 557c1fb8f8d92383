"""What a migration does to others while it runs, and what that means for a release's budget.

Promises that no row is written and, without probes, that no lock of a user's table is taken.
Begin with observing.py; budget.py has the claims.
"""

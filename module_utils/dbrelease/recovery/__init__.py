"""Cleans up after interrupted runs, before the next run starts.

Promises that the database decides about an unknown step; never takes the report of a dead run for the current state.
Begin with recovery.py.
"""

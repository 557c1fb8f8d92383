"""Baseline and dump of one instant, and the manifest that makes a dump a backup.

Promises that a file with a manifest was written whole, hashed and decoded; never overwrites another run's file.
Begin with take.py.
"""

"""Containers, programs, disks, logs and HTTP on the target.

Promises that a program's exit status is believed and that a program that outlives its run is found; never opens a
session of the database.
Begin with commands.py and inspect.py.
"""

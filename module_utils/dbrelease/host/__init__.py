"""Containers, programs, disks, logs and HTTP on the target.

Promises that every exit status is checked and that a program that outlives its run is found; never opens a database
session.
Begin with commands.py and inspect.py.
"""

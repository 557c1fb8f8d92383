"""A backup restored beside the live database, compared with its manifest, and swapped in.

Promises that the live database is renamed and kept, never overwritten, and that the application is started again in
every outcome.
Begin with restore.py; swap/ has the swap.
"""

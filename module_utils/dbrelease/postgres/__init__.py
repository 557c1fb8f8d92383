"""Sessions, the catalog, fingerprints and locks of a PostgreSQL server.

Promises that a session waits briefly for locks and that a declared check cannot write; never decides what a run
does next.
Begin with session.py, then catalog.py.
"""

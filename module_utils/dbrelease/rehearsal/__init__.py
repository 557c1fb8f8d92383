"""A backup restored into a throwaway server, and the release rehearsed there before the live database is touched.

Promises that the live database is only read, and that the server, its data and its network are removed in every
outcome, at the latest when the lifetime of the container ends.
Begin with rehearse.py; server.py has the container.
"""

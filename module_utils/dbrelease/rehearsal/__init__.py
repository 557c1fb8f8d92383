"""A backup restored into a throwaway server, and the release rehearsed there before the live database is touched.

Promises that the live database is only read, and that the server, its data and its network are removed in every
outcome, at the latest when the lifetime of the container ends.
Begin with rehearse.py; server.py has the container.

What a migration does to others is observed from beside it: `with observe.observing(login, tables) as seen:` around the
migration, then `seen.observation` (observation.py). A server that was started with `statement_log.START_SETTINGS`, and
is observed with own_server=True, names every statement; another one those that last.
"""

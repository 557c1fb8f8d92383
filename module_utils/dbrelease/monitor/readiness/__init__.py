"""Whether the next release may begin.

Promises a proof for each criterion, from the journal, the backup and the database; never counts what was not
observed.
Begin with criteria.py.
"""

"""The fixed part of a replay script: names of what it makes in its own session."""

from __future__ import annotations

# Where the rows of a table wait; its number follows. Beside each is the hash of what was in its place as it was saved.
# In statements `saved` is such a row, and `now` the one of its key that is in the table.
CHANGED = "pg_temp.dbrelease_changed_"
NEW = "pg_temp.dbrelease_new_"
DELETED = "pg_temp.dbrelease_deleted_"
STATE = "dbrelease_state"
PLACE = "dbrelease_place"

PLAN = "pg_temp.dbrelease_plan"
HOLD = "pg_temp.dbrelease_hold"
RELEASE = "pg_temp.dbrelease_release"
CHECK = "pg_temp.dbrelease_check"
WRITE = "pg_temp.dbrelease_write"
DELETE = "pg_temp.dbrelease_delete"
DELETE_EQUAL = "pg_temp.dbrelease_delete_equal"
VERIFY = "pg_temp.dbrelease_verify"
STAGED = "pg_temp.dbrelease_staged"
STANDS = "pg_temp.dbrelease_stands"
USES = "pg_temp.dbrelease_uses"

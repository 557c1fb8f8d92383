"""The fixed part of a replay script: names of what it creates in its own session."""

from __future__ import annotations

# The staging tables for a table's rows; its number follows. Beside each row is the hash of the row that it replaces, as
# of when it was saved. In statements `saved` is such a row, and `now` the row of the table with the same key.
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

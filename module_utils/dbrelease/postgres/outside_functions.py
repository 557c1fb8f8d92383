"""Functions that reach beyond the database: no transaction, however read-only, prevents or undoes their effect."""

from __future__ import annotations

import re

import psycopg2

# Files and programs of the server, other servers, other sessions, the server itself, what outlives the transaction (or,
# before version 16, is written in a read-only one), and those that run a given text.
NAMES = re.compile(
    r"""\b(?:
      pg_read_(?:binary_)?file(?:_old|_all)? | pg_stat_file | pg_ls_\w+ | pg_logdir_ls | pg_file_\w+
    | lo_import | lo_export | lo_creat(?:e)? | lo_unlink | lo_put | lo_from_bytea | lo_truncate(?:64)? | lo_open
    | lowrite
    | dblink(?:_\w+)? | postgres_fdw_disconnect\w*
    | pg_terminate_backend | pg_cancel_backend | pg_log_backend_memory_contexts | pg_notify
    | pg_reload_conf | pg_rotate_logfile\w* | pg_promote | pg_switch_(?:wal|xlog) | pg_create_restore_point
    | pg_(?:start_backup|stop_backup|backup_start|backup_stop) | pg_wal_replay_(?:pause|resume)
    | pg_(?:create|drop|copy)_\w*(?:replication_)?slot | pg_replication_slot_advance | pg_logical_\w+
    | pg_replication_origin_\w+ | pg_stat_reset\w* | pg_stat_statements_reset | pg_import_system_collations
    | pg_(?:try_)?advisory_(?:xact_)?(?:un)?lock\w* | set_config
    | (?:query|table|cursor|schema|database)_to_xml\w* | ts_stat | ts_rewrite | crosstab\w* | connectby | xpath_table
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
# With such escapes a name can be written so that it is not found.
ESCAPED = re.compile(r"\bU&[\"']", re.IGNORECASE)


class BeyondError(psycopg2.ProgrammingError):
    """A declared text was refused, unrun; as the server refuses one."""


def refuse_reaching_out(sql: str) -> None:
    """Raise BeyondError for a declared text that names one of them, even in a literal.

    What a function or a view of the database calls is not detected here; only the rights of db_user limit it.
    """
    if found := NAMES.search(sql):
        raise BeyondError(f"it names {found.group().lower()}, which reaches beyond what is rolled back")
    if ESCAPED.search(sql):
        raise BeyondError("it writes a name or a text with U&, which hides what it calls")

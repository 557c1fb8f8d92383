"""Whether the server keeps its write-ahead log beyond max_wal_size: for an archive that fails, or an unread slot."""

from __future__ import annotations

from psycopg2.extensions import cursor as Cursor

from .session import select

SHOWN = 3
# An archiver that failed last retries the same segment, and none after it is removed. A slot keeps what its reader has
# not yet read; max_slot_wal_keep_size bounds that, where it is set.
KEPT = """
SELECT (SELECT format('archiving of %s failed %s time(s), last at %s', last_failed_wal, failed_count,
                      to_char(last_failed_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
        FROM pg_stat_archiver
        WHERE current_setting('archive_mode') <> 'off' AND last_failed_time > coalesce(last_archived_time, '-infinity'))
         AS archive,
       ARRAY(SELECT slot_name::text FROM pg_replication_slots
             WHERE NOT active AND restart_lsn IS NOT NULL AND wal_status <> 'lost'
               AND current_setting('max_slot_wal_keep_size') = '-1'
             ORDER BY pg_wal_lsn_diff(restart_lsn, '0/0'), slot_name) AS slots
"""
REMEDY = (
    "Correct the archive_command, and start the readers of the slots or drop the slots "
    "(pg_drop_replication_slot); until then the log grows with each write, and a full disk stops the server."
)


def kept_log(cursor: Cursor) -> str:
    """One sentence on why the log is kept; empty where the server removes it."""
    (row,) = select(cursor, KEPT)
    slots: list[str] = row["slots"]
    reasons = [row["archive"]] if row["archive"] else []
    if slots:
        more = f" and {len(slots) - SHOWN} more" if len(slots) > SHOWN else ""
        reasons.append(f"nothing reads the replication slots {', '.join(slots[:SHOWN])}{more}")
    return f"The server keeps its log and does not reuse it: {'; '.join(reasons)}." if reasons else ""

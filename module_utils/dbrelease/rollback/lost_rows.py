"""Save rows that are about to be lost to a file, with a script that puts them back."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypedDict

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import encodings

from ..core.errors import ReleaseError
from ..core.files import create_private, publish, temporary_name, unused, write_failure
from ..core.journal import stamp
from ..core.own_files import reading
from ..postgres.catalog import equal_operators, find_relation, quoted_part
from ..postgres.could_not_run import advised
from ..postgres.session import Row, as_declared, select, server_reason, strip_terminator

# The columns that INSERT accepts: none that is generated.
INSERTABLE = """
SELECT a.attname::text AS name, c.relkind = 'p' AS partitioned
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.oid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
"""
# With -1 char(n) becomes bpchar, a type without a length; with NULL it would become char(1).
TYPES = """
SELECT format_type(oid, -1) AS type
FROM unnest(%s::oid[]) WITH ORDINALITY AS wanted (oid, place) ORDER BY place
"""
# ON CONFLICT rejects a table with a deferrable constraint. Of such a table: its indexes, with their unique columns.
LATE = """
SELECT array(
  SELECT a.attname::text FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS place
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = place
  WHERE i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL) AS columns
FROM pg_index i
WHERE i.indrelid = %s
  AND EXISTS (SELECT FROM pg_index late WHERE late.indrelid = i.indrelid AND NOT late.indimmediate)
ORDER BY i.indexrelid
"""
# Whether the table has a row of lost_rows. Compared as text, because some types have no equality operator.
IS_THERE = "EXISTS (SELECT FROM {table} AS now WHERE ROW({columns_now})::text = ROW({columns_lost})::text)"

HEAD = """\
-- {rows} of {table} that run {run_id} removed; {file} contains the same.
-- This puts them back, all or none: psql -X -f {script}
-- A row that the table already has, with the same values, is skipped. The script stops, and changes nothing, where the
-- table has a different row with the same unique values, or rejects a row (for example, a column or a row that it
-- refers to is missing); the server's message gives the reason. A sequence that a column owns is advanced as far as
-- the rows; only its owner may do that.
\\set ON_ERROR_STOP on
SET client_encoding = '{encoding}';
BEGIN;
DO 'BEGIN PERFORM pg_catalog.set_config(''dbrelease.path'', pg_catalog.current_setting(''search_path''), true); END';
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL lock_timeout = '5s';
CREATE TEMPORARY TABLE lost_rows ({definition}) ON COMMIT DROP;
COPY lost_rows FROM STDIN;
"""
TAIL = """\
\\.
SET LOCAL client_min_messages = notice;
DO $replay$
#variable_conflict use_column
DECLARE
    replay_there bigint;
    replay_written bigint;
    replay_differing bigint;
    replay_key record;
    replay_last bigint;
BEGIN
{sequences}
    DELETE FROM lost_rows WHERE {is_there};
    GET DIAGNOSTICS replay_there = ROW_COUNT;
    -- Triggers, defaults and the like resolve names as in any session of this role.
    PERFORM set_config('search_path', current_setting('dbrelease.path'), true);
    INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE
    SELECT {columns} FROM pg_temp.lost_rows {unless_there};
    GET DIAGNOSTICS replay_written = ROW_COUNT;
    SET CONSTRAINTS ALL IMMEDIATE;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    replay_differing := {rows} - replay_there - replay_written;
    IF replay_differing <> 0 THEN
        RAISE EXCEPTION 'No row was put back: the table has different rows with the unique values of % of them',
            replay_differing
            USING DETAIL = 'One of them is ' || (SELECT lost_rows::text FROM lost_rows WHERE NOT {is_there} LIMIT 1),
                  HINT = 'Nothing was changed. Delete the rows in their place, or remove them from this script.';
    END IF;
    RAISE NOTICE '% rows were put back, and % skipped because the table already has them', replay_written, replay_there;
END
$replay$;
COMMIT;
"""

# Advance a sequence that a column owns as far as the saved rows, in its own steps, and never back. ALTER SEQUENCE locks
# it against other sessions until the end, and makes setval part of the transaction. It comes before the rows, because
# a session that has taken a value, and is awaited here, may be about to write one of them.
SEQUENCES = """\
    FOR replay_key IN
        SELECT s.seqrelid::regclass AS sequence, s.seqincrement AS step,
               format('SELECT next + %6$s * div(far - next, %6$s)
                       FROM (SELECT %1$s(%2$I::numeric) AS far FROM lost_rows
                             WHERE %2$I::numeric BETWEEN %3$s AND %4$s) AS lost,
                            (SELECT last_value::numeric + %6$s * is_called::int AS next FROM %5$s) AS now
                       WHERE (far - next) * %6$s >= 0',
                      CASE WHEN s.seqincrement > 0 THEN 'max' ELSE 'min' END, a.attname, s.seqmin, s.seqmax,
                      s.seqrelid::regclass, s.seqincrement) AS last
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        JOIN pg_sequence s ON s.seqrelid = pg_get_serial_sequence({table}, a.attname)::regclass
        WHERE a.attrelid = {table}::regclass AND a.attname = ANY (ARRAY[{columns}])
          AND coalesce(nullif(t.typbasetype, 0), t.oid)::regtype::text IN ('smallint', 'integer', 'bigint', 'numeric')
    LOOP
        EXECUTE replay_key.last INTO replay_last;
        CONTINUE WHEN replay_last IS NULL;
        EXECUTE format('ALTER SEQUENCE %s INCREMENT BY %s', replay_key.sequence, replay_key.step);
        EXECUTE replay_key.last INTO replay_last;
        PERFORM setval(replay_key.sequence, replay_last);
    END LOOP;"""


class Saved(TypedDict):
    """The paths of the rows and of the script (empty if there was no row), the number of rows, and the file's hash."""

    path: str
    replay: str
    rows: int
    sha256: str


NOTHING = Saved(path="", replay="", rows=0, sha256="")


@contextmanager
def all_or_none() -> Iterator[list[Saved]]:
    """Collect what is saved; if anything fails, remove every file of it."""
    saved: list[Saved] = []
    try:
        yield saved
    except BaseException:
        for name in (one[key] for one in saved if one["rows"] for key in ("path", "replay")):
            _remove(Path(name))
        raise


def save_rows(cursor: Cursor, select_sql: str, table: str, directory: str | Path, run_id: str, name: str) -> Saved:
    """Write the rows of `select_sql` to `<name>_<stamp>.tsv`, and `<name>_<stamp>_replay.sql` beside it.

    The query returns rows of `table`. Both files are complete, synced and mode 0600, or absent (ReleaseError). The
    first line of the rows' file names the columns; the rest is COPY's text format. The script contains the rows too, so
    that it can be sent to psql in a container. The rows are those visible to the cursor's transaction: they must be
    the ones that are lost afterwards.
    """
    path = unused(Path(directory) / f"{name}_{stamp(run_id)}.tsv", run_id)
    script = path.with_name(f"{path.stem}_replay.sql")
    parts = [temporary_name(path, run_id), temporary_name(script, run_id)]
    try:
        for part in parts:  # only this run uses this name: what exists was left when it was killed
            part.unlink(missing_ok=True)
        columns, types = _columns(cursor, select_sql)
        rows, digest = _write(parts[0], lambda file: _copy_rows(cursor, select_sql, columns, file))
        if rows:
            head = _encoded(cursor, _head(cursor, table, run_id, path, columns, types, rows))
            tail = _encoded(cursor, _tail(cursor, table, columns, rows))
            _write(parts[1], lambda file: _copy_script(parts[0], head, tail, file))
            publish(parts[0], path)
            try:
                publish(parts[1], script)
            except OSError:
                _remove(path)
                raise
    except OSError as error:
        raise write_failure(path, error) from error
    except psycopg2.Error as error:
        raise ReleaseError(
            f"Saving rows of {table} to {path} failed ({server_reason(error)}): "
            f"{advised(error, 'correct the query, and rerun the playbook.')}"
        ) from error
    finally:
        for part in parts:
            _remove(part)
    return Saved(path=str(path), replay=str(script), rows=rows, sha256=digest) if rows else NOTHING


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _columns(cursor: Cursor, select_sql: str) -> tuple[list[str], list[str]]:
    """Return the names and the types of the query's columns."""
    with as_declared(cursor):
        cursor.execute(f"SELECT * FROM (\n{strip_terminator(select_sql)}\n) AS lost LIMIT 0")
    described = cursor.description or ()
    names, oids = [column.name for column in described], [column.type_code for column in described]
    return names, [row["type"] for row in select(cursor, TYPES, (oids,))]


def _write(path: Path, fill: Callable[[IO[bytes]], int]) -> tuple[int, str]:
    """Create a file and sync it; return what `fill` returned, and the file's hash."""
    with os.fdopen(create_private(path), "w+b") as file:
        filled = fill(file)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        return filled, hashlib.file_digest(file, "sha256").hexdigest()


def _copy_rows(cursor: Cursor, select_sql: str, columns: list[str], file: IO[bytes]) -> int:
    file.write(_encoded(cursor, "\t".join(columns) + "\n"))
    with as_declared(cursor):
        cursor.copy_expert(f"COPY (\n{strip_terminator(select_sql)}\n) TO STDOUT", file)
    return int(cursor.rowcount)


def _encoded(cursor: Cursor, text: str) -> bytes:
    """Encode text as COPY encodes the rows, which is the encoding that the script declares."""
    return text.encode(encodings[cursor.connection.encoding])


def _copy_script(rows: Path, head: bytes, tail: bytes, file: IO[bytes]) -> int:
    file.write(head)
    with reading(rows) as saved:
        saved.readline()
        shutil.copyfileobj(saved, file)
    return file.write(tail)


def _head(cursor: Cursor, table: str, run_id: str, path: Path, columns: list[str], types: list[str], rows: int) -> str:
    named = zip((quoted_part(column) for column in columns), types, strict=True)
    return HEAD.format(
        rows=f"{rows} row{'' if rows == 1 else 's'}",
        table=table,
        run_id=run_id,
        file=path.name,
        script=f"{path.stem}_replay.sql",
        encoding=cursor.connection.encoding,
        definition=", ".join(f"{column} {kind}" for column, kind in named),
    )


def _tail(cursor: Cursor, table: str, columns: list[str], rows: int) -> str:
    found = find_relation(cursor, ".".join(quoted_part(part) for part in table.split(".", 1)))
    oid, quoted = (found["oid"], f"{quoted_part(found['schema'])}.{quoted_part(found['name'])}") if found else (0, "")
    insertable = {row["name"]: row["partitioned"] for row in select(cursor, INSERTABLE, (oid,))}
    kept = [quoted_part(column) for column in columns if column in insertable]
    if not kept:
        raise ReleaseError(f"Saving rows of {table} failed (the query returns none of its columns): correct the query.")
    late = select(cursor, LATE, (oid,))
    only = "" if any(insertable.values()) else "ONLY "
    keys = [key for key in late if key["columns"] and {*key["columns"]} <= {*columns}]
    absent = [_absent(cursor, oid, f"{only}{quoted}", key) for key in keys]
    now, lost = (", ".join(f"{name}.{column}" for column in kept) for name in ("now", "lost_rows"))
    return TAIL.format(
        table=quoted,
        rows=rows,
        columns=", ".join(kept),
        is_there=IS_THERE.format(table=f"{only}{quoted}", columns_now=now, columns_lost=lost),
        sequences=SEQUENCES.format(
            table=_literal(cursor, quoted),
            columns=", ".join(_literal(cursor, column) for column in columns if column in insertable),
        ),
        unless_there=f"WHERE {' AND '.join(absent) or 'true'}" if late else "ON CONFLICT DO NOTHING",
    )


def _literal(cursor: Cursor, text: str) -> str:
    return sql.Literal(text).as_string(cursor).lstrip()


def _absent(cursor: Cursor, oid: int, table: str, key: Row) -> str:
    """The condition that the table itself has no row with the unique values of the row of lost_rows."""
    equal = equal_operators(cursor, oid, key["columns"])
    same = " AND ".join(
        f"now.{quoted_part(column)} {equal[column].as_string(cursor)} lost_rows.{quoted_part(column)}"
        for column in key["columns"]
    )
    return f"NOT EXISTS (SELECT FROM {table} AS now WHERE {same})"

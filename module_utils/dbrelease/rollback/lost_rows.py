"""Rows that are about to be lost: saved to a file first, with a script to put them back."""

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

# What INSERT takes: no generated column.
INSERTABLE = """
SELECT a.attname::text AS name, c.relkind = 'p' AS partitioned
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.oid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
"""
# With -1 a type without its length stays one: char(n) is bpchar, and not char(1), which NULL would make of it.
TYPES = """
SELECT format_type(oid, -1) AS type
FROM unnest(%s::oid[]) WITH ORDINALITY AS wanted (oid, place) ORDER BY place
"""
# ON CONFLICT refuses a table of which a constraint may be checked late: its indexes, with the columns that are unique.
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
# Of a row of lost_rows: that it is in the table. As text, for some types know no equality.
IS_THERE = "EXISTS (SELECT FROM {table} AS now WHERE ROW({columns_now})::text = ROW({columns_lost})::text)"

HEAD = """\
-- {rows} of {table} that the run {run_id} took away; {file} holds the same.
-- This puts them back, all or none: psql -X -f {script}
-- A row that is there again, value for value, is left out. One of which only the unique values are there stops the
-- script; so does one that the table refuses (its columns or what it refers to are gone), with the server's own words.
-- Then nothing is changed. A sequence that a column owns is set as far as the rows, which only its owner may do.
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
    -- What the database does by itself as rows are written finds names as in any session of this role.
    PERFORM set_config('search_path', current_setting('dbrelease.path'), true);
    INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE
    SELECT {columns} FROM pg_temp.lost_rows {unless_there};
    GET DIAGNOSTICS replay_written = ROW_COUNT;
    SET CONSTRAINTS ALL IMMEDIATE;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    replay_differing := {rows} - replay_there - replay_written;
    IF replay_differing <> 0 THEN
        RAISE EXCEPTION 'No row was put back: of % the unique values are there, in rows that differ from them',
            replay_differing
            USING DETAIL = 'Such a one is ' || (SELECT lost_rows::text FROM lost_rows WHERE NOT {is_there} LIMIT 1),
                  HINT = 'Nothing was changed. Delete what is there in their place, or take them out of this script.';
    END IF;
    RAISE NOTICE '% rows were put back, and % left out that are there already', replay_written, replay_there;
END
$replay$;
COMMIT;
"""

# A sequence that a column owns is set as far as the rows that were saved, by its own steps, and never back. From ALTER
# SEQUENCE to the end nobody else takes a value of it, and without the rows it is where it was. It comes before them, as
# who has taken a value, and is waited for, may be about to write one of them.
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
    """Where the rows are, where the script is (both empty where there was no row), how many, and the file's hash."""

    path: str
    replay: str
    rows: int
    sha256: str


NOTHING = Saved(path="", replay="", rows=0, sha256="")


@contextmanager
def all_or_none() -> Iterator[list[Saved]]:
    """For what is saved one after the other: where not all of it could be, no file of it stays."""
    saved: list[Saved] = []
    try:
        yield saved
    except BaseException:
        for name in (one[key] for one in saved if one["rows"] for key in ("path", "replay")):
            _remove(Path(name))
        raise


def save_rows(cursor: Cursor, select_sql: str, table: str, directory: str | Path, run_id: str, name: str) -> Saved:
    """Write what `select_sql` gives of `table` to `<name>_<stamp>.tsv`, and `<name>_<stamp>_replay.sql` beside it.

    Both are whole, fsynced and mode 0600, or absent (ReleaseError). The first line of the file names the columns; the
    rest is COPY's text format. The script holds the rows too, so that it can be sent to psql in a container. The rows
    are those that the cursor's transaction sees: they must be the ones that are lost afterwards.
    """
    path = unused(Path(directory) / f"{name}_{stamp(run_id)}.tsv", run_id)
    script = path.with_name(f"{path.stem}_replay.sql")
    parts = [temporary_name(path, run_id), temporary_name(script, run_id)]
    try:
        for part in parts:  # only this run writes under this name: what is there was left when it was killed
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
    """The names and the types of what the query gives."""
    with as_declared(cursor):
        cursor.execute(f"SELECT * FROM (\n{strip_terminator(select_sql)}\n) AS lost LIMIT 0")
    described = cursor.description or ()
    names, oids = [column.name for column in described], [column.type_code for column in described]
    return names, [row["type"] for row in select(cursor, TYPES, (oids,))]


def _write(path: Path, fill: Callable[[IO[bytes]], int]) -> tuple[int, str]:
    """A new file on disk; what `fill` returned, and its hash."""
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
    """As COPY writes the rows, and as the script says that it is written."""
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
        raise ReleaseError(f"Saving rows of {table} failed (the query gives none of its columns): correct the query.")
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
    """Of a row of lost_rows: that the table itself has none with the same values in a unique constraint."""
    equal = equal_operators(cursor, oid, key["columns"])
    same = " AND ".join(
        f"now.{quoted_part(column)} {equal[column].as_string(cursor)} lost_rows.{quoted_part(column)}"
        for column in key["columns"]
    )
    return f"NOT EXISTS (SELECT FROM {table} AS now WHERE {same})"

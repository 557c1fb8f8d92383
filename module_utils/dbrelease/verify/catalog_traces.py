"""What the server's catalog still shows of who changed a table, and of what may write to it for another statement."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from psycopg2.extensions import cursor as Cursor

from ..postgres.catalog import quoted, resolved
from ..postgres.session import Row, select

XIDS = 1 << 32
# The server's own first rows, of no transaction.
FIRST_NORMAL_XID = 3
# The columns that every table has are named when it is created, and hardly ever changed.
MADE = "SELECT a.xmin::text::bigint AS xid FROM pg_attribute a WHERE a.attrelid = %(oid)s AND a.attnum < 0"
# Dropped columns stay in the catalog, under another name.
COLUMNS = """
SELECT a.xmin::text::bigint AS xid FROM pg_attribute a
WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND (a.attisdropped OR a.attname <> ALL (%(columns)s::text[]))
"""
COLUMN_NAMES = """
SELECT a.attname AS name FROM pg_attribute a WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
"""
# TRUNCATE and every rewrite give a table and each of its indexes another file. A foreign key that refers to the table
# may change its own row, but not those of its indexes.
STORAGE = """
WITH parts AS (
  SELECT i.indexrelid AS oid FROM pg_index i WHERE i.indrelid = %(oid)s
  UNION SELECT t.reltoastrelid FROM pg_class t WHERE t.oid = %(oid)s AND t.reltoastrelid <> 0
)
SELECT DISTINCT c.xmin::text::bigint AS xid FROM pg_class c
WHERE c.oid IN (SELECT oid FROM parts) OR (c.oid = %(oid)s AND NOT EXISTS (SELECT FROM parts))
"""
TABLES = """
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""
# Below another of the tables, whose rows include theirs; or of an extension, which brings its rows.
COVERED = """
WITH RECURSIVE below (oid) AS (
  SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = ANY (%(oids)s::oid[])
  UNION SELECT i.inhrelid FROM pg_inherits i JOIN below b ON i.inhparent = b.oid)
SELECT b.oid::bigint AS oid FROM below b
UNION SELECT d.objid::bigint FROM pg_depend d
WHERE d.classid = 'pg_class'::regclass AND d.objid = ANY (%(oids)s::oid[]) AND d.deptype = 'e'
"""
EVENT_TRIGGERS = """
SELECT 'event trigger ' || e.evtname AS name, e.evtfoid::bigint AS function, '' AS arguments, NULL::bigint AS table
FROM pg_event_trigger e WHERE e.evtenabled <> 'D'
UNION ALL
SELECT 'trigger ' || t.tgname || ' of ' || c.relname, t.tgfoid::bigint, encode(t.tgargs, 'escape'), c.oid::bigint
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'
"""
RULES = """
SELECT DISTINCT 'rule ' || w.rulename || ' of ' || c.relname AS name, c.oid::bigint AS table,
       d.refobjid::bigint AS target
FROM pg_rewrite w
JOIN pg_class c ON c.oid = w.ev_class
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
WHERE w.ev_type <> '1' AND w.ev_enabled <> 'D' AND d.refobjid <> c.oid
"""
FUNCTIONS = """
SELECT p.oid::bigint AS oid, p.proname AS name, l.lanname AS language, pg_get_functiondef(p.oid) AS text
FROM pg_proc p
JOIN pg_language l ON l.oid = p.prolang
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.prokind IN ('f', 'p') AND n.nspname <> 'pg_catalog' AND n.nspname <> 'information_schema'
"""
WORD = re.compile(r"\w+")
DYNAMIC = re.compile(r"\bexecute\b")
READABLE = ("sql", "plpgsql")


@dataclass(frozen=True)
class Trigger:
    """What may add rows to a table for another statement; `named`: it inserts into it by its name."""

    name: str
    named: bool


def full(now: int, xids: Iterable[int]) -> list[int]:
    """The 32 bits of some ids in full, by an id that is above all of them."""
    return [now - (now - xid) % XIDS for xid in xids if xid >= FIRST_NORMAL_XID]


def made_by(cursor: Cursor, oid: int, now: int) -> list[int]:
    """The transaction that created a table."""
    return _xids(cursor, MADE, {"oid": oid}, now)


def columns_changed_by(cursor: Cursor, oid: int, columns: Sequence[str], now: int) -> list[int]:
    """The transactions that dropped a column of a table, or gave one a name that is none of those."""
    return _xids(cursor, COLUMNS, {"oid": oid, "columns": list(columns)}, now)


def covered_tables(cursor: Cursor, oids: Iterable[int]) -> set[int]:
    """Those of some tables that inherit from another of them, as partitions do, or that belong to an extension."""
    return {row["oid"] for row in _rows(cursor, COVERED, {"oids": list(oids)})}


def rewritten_by(cursor: Cursor, oid: int, now: int) -> list[int]:
    """The newest transactions that emptied or rewrote a table, or changed its indexes."""
    return _xids(cursor, STORAGE, {"oid": oid}, now)


def _xids(cursor: Cursor, statement: str, asked: Mapping[str, object], now: int) -> list[int]:
    return sorted(set(full(now, (row["xid"] for row in _rows(cursor, statement, asked)))))


def _rows(cursor: Cursor, statement: str, asked: Mapping[str, object] | None = None) -> list[Row]:
    return select(cursor, statement, asked or {})


def triggers_to(cursor: Cursor, tables: Mapping[int, str], touched: Sequence[str]) -> dict[int, Trigger]:
    """Of some tables, by oid with their bare names, what may have added rows to each while the release was deployed.

    touched: the tables that the release is about. Every DDL fires an event trigger; a trigger of a table that is
    written to may write to another one, which has triggers in its turn.
    """
    triggers = _rows(cursor, EVENT_TRIGGERS)
    rules = _rows(cursor, RULES)
    if not triggers and not rules:
        return {}
    functions = {row["oid"]: row for row in _rows(cursor, FUNCTIONS)} if triggers else {}
    names = {row["oid"]: str(row["name"]).lower() for row in _rows(cursor, TABLES)}
    reached = {oid for oid in resolved(cursor, [quoted(name) for name in touched]) if oid is not None}
    found: dict[int, Trigger] = {}
    at_work: set[int] = set()
    while True:
        more = [
            place
            for place, row in enumerate(triggers)
            if place not in at_work and (row["table"] is None or row["table"] in reached)
        ]
        for place in more:
            row = triggers[place]
            text, readable = _text(functions, row["function"])
            inserts = {oid for oid, name in names.items() if inserts_into(text, name)}
            reached |= inserts
            dynamic = not readable or bool(DYNAMIC.search(text))
            for oid in tables:
                if oid in inserts:
                    found[oid] = Trigger(row["name"], named=True)
                elif dynamic:
                    found.setdefault(oid, Trigger(row["name"], named=False))
        at_work |= set(more)
        ruled = [row for row in rules if row["table"] in reached]
        before = len(reached)
        for row in ruled:
            reached.add(row["target"])
            if row["target"] in tables:
                found[row["target"]] = Trigger(row["name"], named=True)
        if not more and len(reached) == before:
            return found


def _text(functions: Mapping[int, Row], first: int) -> tuple[str, bool]:
    """The text of a function and of every function that it names, in lower case; and whether all of it is readable."""
    by_name: dict[str, list[Row]] = {}
    for row in functions.values():
        by_name.setdefault(str(row["name"]).lower(), []).append(row)
    asked, seen = [functions[first]] if first in functions else [], set[int]()
    parts, readable = [], first in functions
    while asked:
        row = asked.pop()
        if row["oid"] in seen:
            continue
        seen.add(row["oid"])
        text = str(row["text"]).lower()
        parts.append(text)
        readable = readable and row["language"] in READABLE
        asked += [one for word in set(WORD.findall(text)) for one in by_name.get(word, ())]
    return "\n".join(parts), readable


def inserts_into(text: str, table: str) -> bool:
    """Whether a text in lower case inserts into a table by this name, of whatever schema."""
    return bool(re.search(rf'\binsert\s+into\s+(?:[\w"$]+\s*\.\s*)?"?{re.escape(table)}"?(?![\w"$])', text))


def columns_of(cursor: Cursor, oid: int) -> list[str]:
    """The names of a table's columns."""
    return [str(row["name"]) for row in _rows(cursor, COLUMN_NAMES, {"oid": oid})]


def tables_now(cursor: Cursor) -> list[Row]:
    """Every table, partitioned ones too, with its oid, schema and name."""
    return _rows(cursor, TABLES)

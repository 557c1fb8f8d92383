"""One row of a copy deleted, added or changed, whatever constraints and triggers prevent: how claims are made to fail.

No value of a row leaves the server, except the most common ones, which are sent back and shown nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from ..postgres.catalog import find_table, written
from ..postgres.declared_sql import still_connected
from ..postgres.session import as_declared, select, server_reason, strip_terminator
from ..release.guard_kinds import Guard

ROWS_OF_A_TABLE = 8
SAMPLED_ROWS, SAMPLED_BLOCKS = 300, 40
COMMON_VALUES = 4
# The name of an object that is made, in a transaction that is rolled back.
MADE = "dbrelease_made_to_fail"
# Each hindrance that is removed may uncover the next one.
HINDRANCES = 12

# The server locks whatever a statement reads, also in a view, a function or a branch that its plan leaves out. A table
# that is locked with its partitions stands for them.
READ = """
WITH read AS (
  SELECT DISTINCT c.oid, c.relkind::text AS kind, n.nspname::text AS schema, c.relname::text AS name
  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind IN ('r', 'p', 'm', 'f')
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
)
SELECT oid::bigint AS oid, kind, schema, name,
       array_append(ARRAY(SELECT relid::oid::bigint FROM pg_partition_ancestors(oid)), oid::bigint) AS names
FROM read
WHERE NOT EXISTS (SELECT FROM pg_partition_ancestors(read.oid) a JOIN read above ON above.oid = a.relid
                  WHERE a.relid <> read.oid)
ORDER BY schema, name
"""
READ_COLUMNS = """
SELECT d.refobjid::bigint AS relation, d.refobjsubid AS number
FROM pg_depend d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
WHERE r.ev_class = 'pg_temp.dbrelease_reads'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
"""
COLUMNS = """
SELECT a.attname::text AS name, a.attnum AS number, format_type(a.atttypid, a.atttypmod) AS type,
       t.typcategory::text AS category,
       ARRAY(SELECT e.enumlabel::text FROM pg_enum e
             WHERE e.enumtypid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
             ORDER BY e.enumsortorder) AS labels,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey))
         AS in_key,
       (SELECT s.most_common_vals::text::text[] FROM pg_stats s JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE (s.schemaname, s.tablename, s.attname) = (n.nspname, c.relname, a.attname)
        ORDER BY s.inherited DESC LIMIT 1) AS common,
       (SELECT json_build_array(n.nspname, c.relname, r.attname)
        FROM pg_constraint x JOIN pg_class c ON c.oid = x.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute r ON r.attrelid = x.confrelid AND r.attnum = x.confkey[1]
        WHERE x.conrelid = a.attrelid AND x.contype = 'f' AND x.conkey = ARRAY[a.attnum] ORDER BY x.oid LIMIT 1)
         AS referred
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum
"""
BLOCKS = """
SELECT coalesce((SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree(%(oid)s::oid::regclass) WHERE isleaf),
                pg_relation_size(%(oid)s::oid)) / current_setting('block_size')::int AS blocks
"""
# Of those that replica mode does not switch off.
ALWAYS = """
SELECT tgrelid::bigint AS relation, tgname::text AS name, 'TRIGGER' AS kind FROM pg_trigger
WHERE tgrelid = ANY (%(tables)s::oid[]) AND tgenabled IN ('A', 'R') AND NOT tgisinternal
UNION ALL
SELECT ev_class::bigint, rulename::text, 'RULE' FROM pg_rewrite
WHERE ev_class = ANY (%(tables)s::oid[]) AND ev_enabled IN ('A', 'R') AND ev_type <> '1'
ORDER BY 1, 2
"""
TREE = """
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY (%(tables)s::oid[])
   OR c.oid IN (SELECT p.relid FROM unnest(%(tables)s::oid[]) AS t (oid), pg_partition_tree(t.oid::regclass) p)
"""
FOREIGN_KEYS = """
SELECT n.nspname::text AS schema, c.relname::text AS name, x.conname::text AS constraint
FROM pg_constraint x JOIN pg_class c ON c.oid = x.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE x.contype = 'f' AND x.conparentid = 0
  AND (x.conrelid = ANY (%(tables)s::oid[]) OR x.confrelid = ANY (%(tables)s::oid[]))
ORDER BY x.oid
"""
# A constraint of a partition is dropped where it was declared: above, under its name there.
RELATION = """
SELECT c.oid::bigint AS oid, r.oid::bigint AS root, n.nspname::text AS schema, r.relname::text AS name,
       (SELECT x.conname::text FROM pg_constraint x
        JOIN pg_attribute a ON a.attrelid = x.conrelid AND a.attnum = ANY (x.conkey)
        WHERE x.conrelid = r.oid AND x.contype = 'p' AND a.attname = %s) AS key
FROM pg_class c JOIN pg_namespace m ON m.oid = c.relnamespace
JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid::regclass), c.oid)
JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE (m.nspname, c.relname) = (%s, %s)
"""
CONSTRAINT = """
WITH RECURSIVE above AS (
  SELECT oid, conparentid, conrelid, conname FROM pg_constraint
  WHERE conname = %(constraint)s AND conrelid IN (%(oid)s, %(root)s) AND contype IN ('p', 'u', 'x', 'c', 'f')
  UNION
  SELECT x.oid, x.conparentid, x.conrelid, x.conname FROM above JOIN pg_constraint x ON x.oid = above.conparentid
)
SELECT n.nspname::text AS schema, c.relname::text AS name, above.conname::text AS constraint
FROM above JOIN pg_class c ON c.oid = above.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE above.conparentid = 0 ORDER BY c.relispartition LIMIT 1
"""
NOT_NULL_VIOLATION = "23502"

# New values by the category of a type (pg_type.typcategory), as the server reads them. What a type does not accept is
# no change; a text that is too long is cut by the cast.
NEW_VALUES = {
    "A": ("{}",),
    "B": ("true", "false"),
    "D": ("1970-01-01", "2999-12-31", "00:00:00"),
    "I": ("0.0.0.0",),  # noqa: S104 - a value, and no address that anything listens on
    "N": ("-1", "0", "32767", "2147483647"),
    "R": ("empty",),
    "S": ("", "dbrelease", "~ 0"),
    "T": ("0", "-1 day", "1000 years"),
    "U": ("db1ea5e0-0000-4000-8000-000000000001", "{}", "null", "\\x00", ""),
    "V": ("0",),
}
NULL = sql.SQL("NULL")


@dataclass(frozen=True)
class Column:
    """A column that can be given a value; `common` are values that it has often, as text."""

    name: str
    type: str
    category: str
    in_key: bool
    common: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    referred: tuple[str, str, str] | None = None

    @property
    def identifier(self) -> sql.Identifier:
        """For a statement."""
        return sql.Identifier(self.name)

    def literal(self, text: str) -> sql.Composed:
        """That value, of the column's type."""
        return sql.SQL("{}::{}").format(sql.Literal(text), sql.SQL(self.type))


@dataclass(frozen=True)
class Place:
    """Where a row is, and the hash of each of its values, in the order of the table's columns."""

    relation: int
    ctid: str
    hashes: tuple[int | None, ...]

    @property
    def condition(self) -> sql.Composed:
        """It is true for this row alone."""
        return sql.SQL("tableoid = {} AND ctid = {}").format(sql.Literal(self.relation), sql.Literal(self.ctid))


@dataclass(frozen=True)
class Table:
    """A table of the copy that a claim reads, some rows of it, and what it is called in messages."""

    oid: int
    label: str
    identifier: sql.Identifier
    columns: tuple[Column, ...]
    rows: tuple[Place, ...] = ()
    others: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Breakage:
    """A statement that changes one row, and what it does, as the end of "It failed after"."""

    words: str
    statement: sql.Composed


@dataclass(frozen=True)
class Reads:
    """The relations that a claim read: tables of the release, and the names of the others."""

    tables: list[Table] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def tables_read(cursor: Cursor, of_release: Sequence[int], text: str) -> Reads:
    """What this transaction has read so far: call it when it has done nothing but to check the claim.

    of_release: the oids of the tables that the release declares; text: the SELECT of the claim.
    """
    found = select(cursor, READ)
    ours = [row for row in found if row["kind"] in ("r", "p") and set(row["names"]) & set(of_release)]
    names = written(cursor, [row["oid"] for row in found])
    columns = _columns_read(cursor, text)
    return Reads(
        [
            _table(cursor, row["oid"], names[row["oid"]], sql.Identifier(row["schema"], row["name"]), columns)
            for row in ours
        ],
        [names[row["oid"]] for row in found if row not in ours],
    )


def _columns_read(cursor: Cursor, text: str) -> set[tuple[int, int]]:
    """The columns that the SELECT names, as the server records them for a view; empty where it makes none of it."""
    cursor.execute("SAVEPOINT dbrelease_reads")
    try:
        cursor.execute("SELECT set_config('dbrelease.statement', %s, true)", (strip_terminator(text),))
        with as_declared(cursor):
            # As a value, which a cursor has proved to be one SELECT when the claim was checked.
            cursor.execute(
                "DO $reads$ BEGIN EXECUTE pg_catalog.format(E'CREATE TEMPORARY VIEW dbrelease_reads AS SELECT 1 AS one "
                "FROM (\\n%s\\n) AS declared', pg_catalog.current_setting('dbrelease.statement')); END $reads$"
            )
        return {(row["relation"], row["number"]) for row in select(cursor, READ_COLUMNS)}
    except psycopg2.Error as error:
        still_connected(cursor, error)
        return set()
    finally:
        if not cursor.connection.closed:
            cursor.execute("ROLLBACK TO SAVEPOINT dbrelease_reads")


def _table(cursor: Cursor, oid: int, label: str, identifier: sql.Identifier, read: set[tuple[int, int]]) -> Table:
    """Its columns, those that are read first, and rows that differ in as many columns as possible."""
    found = select(cursor, COLUMNS, (oid,))
    columns = tuple(
        Column(
            row["name"],
            row["type"],
            row["category"],
            row["in_key"],
            tuple((row["common"] or ())[:COMMON_VALUES]),
            tuple(row["labels"]),
            tuple(row["referred"]) if row["referred"] else None,
        )
        for row in sorted(found, key=lambda row: (oid, row["number"]) not in read)
    )
    (size,) = select(cursor, BLOCKS, {"oid": oid})
    sampled = 100 if size["blocks"] <= SAMPLED_BLOCKS else 100 * SAMPLED_BLOCKS / float(size["blocks"])
    hashes = sql.SQL(", ").join(
        sql.SQL("hashtextextended({}::text, 0)").format(column.identifier) for column in columns
    )
    cursor.execute(
        sql.SQL(
            "SELECT tableoid::bigint AS relation, ctid::text AS ctid, ARRAY[{}]::bigint[] AS hashes "
            "FROM {} TABLESAMPLE SYSTEM ({}) REPEATABLE (1) LIMIT {}"
        ).format(hashes, identifier, sql.Literal(sampled), sql.Literal(SAMPLED_ROWS))
    )
    pool = [Place(row["relation"], row["ctid"], tuple(row["hashes"])) for row in map(dict, cursor.fetchall())]
    return Table(oid, label, identifier, columns, tuple(different(pool)), tuple(pool))


def different(pool: Sequence[Place]) -> Iterator[Place]:
    """A few rows that together have as many values as possible."""
    left, seen = list(pool), set[tuple[int, int | None]]()
    for _ in range(min(ROWS_OF_A_TABLE, len(left))):
        best = max(left, key=lambda place: len(set(enumerate(place.hashes)) - seen))
        left.remove(best)
        seen |= set(enumerate(best.hashes))
        yield best


def breakages(tables: Sequence[Table]) -> Iterator[Breakage]:
    """What to try, in this order: what needs few tries and shows much comes first."""
    first, *later = (
        [(table, table.rows[number]) for table in tables if len(table.rows) > number]
        for number in range(ROWS_OF_A_TABLE)
    )
    yield from _moved(first)
    yield from _changed(first)
    for table in tables:
        if not table.rows:
            yield from _invented(table)
    for rows in later:
        yield from _moved(rows)
    yield from _added(first)
    for rows in later:
        yield from _changed(rows)
    for rows in later:
        yield from _added(rows)


def _moved(rows: Sequence[tuple[Table, Place]]) -> Iterator[Breakage]:
    for table, row in rows:
        yield delete(table, row)
        yield add(table, row, _new_key(table), "a new key")


def _changed(rows: Sequence[tuple[Table, Place]]) -> Iterator[Breakage]:
    for table, row in rows:
        for position, column in enumerate(table.columns):
            for words, value in _values(table, row, position):
                yield change(table, row, column, words, value)


def _added(rows: Sequence[tuple[Table, Place]]) -> Iterator[Breakage]:
    for table, row in rows:
        yield add(table, row, {}, "the same key")
        key = _new_key(table) if sum(column.in_key for column in table.columns) == 1 else {}
        new = "a new key and " if key else ""
        for position, column in enumerate(table.columns):
            if column.name not in key:
                for words, value in _values(table, row, position):
                    yield add(table, row, {**key, column.name: value}, f"{new}{column.name} set to {words}")


def delete(table: Table, row: Place) -> Breakage:
    """One row less."""
    return Breakage(
        f"deleting one row of {table.label}",
        sql.SQL("DELETE FROM {} WHERE {}").format(table.identifier, row.condition),
    )


def change(table: Table, row: Place, column: Column, words: str, value: sql.Composable) -> Breakage:
    """One value of one row; where it has that value already, no row is changed."""
    return Breakage(
        f"setting {column.name} of one row of {table.label} to {words}",
        sql.SQL("UPDATE {table} SET {column} = {value} WHERE {row} AND {column}::text IS DISTINCT FROM ({value})::text")
        .format(table=table.identifier, column=column.identifier, value=value, row=row.condition),
    )  # fmt: skip


def add(table: Table, row: Place, changed: dict[str, sql.Composable], words: str) -> Breakage:
    """A copy of a row in which some columns have another value."""
    return Breakage(
        f"adding a copy of a row of {table.label} with {words}",
        sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} WHERE {}").format(
            table.identifier,
            sql.SQL(", ").join(column.identifier for column in table.columns),
            sql.SQL(", ").join(changed.get(column.name, column.identifier) for column in table.columns),
            table.identifier,
            row.condition,
        ),
    )


def _new_key(table: Table) -> dict[str, sql.Composable]:
    """A value for each column of the primary key."""
    return {column.name: _unused(table, column) for column in table.columns if column.in_key}


def _unused(table: Table, column: Column) -> sql.Composable:
    if column.category == "N":
        return sql.SQL("(SELECT (max({}) + 1)::{} FROM {})").format(
            column.identifier, sql.SQL(column.type), table.identifier
        )
    return column.literal(_new_texts(column)[0]) if _new_texts(column) else column.identifier


def _new_texts(column: Column) -> tuple[str, ...]:
    return column.labels or NEW_VALUES.get(column.category, ())


def _values(table: Table, row: Place, position: int) -> Iterator[tuple[str, sql.Composable]]:
    """NULL, values of other rows, values that a foreign key allows, and new ones."""
    column = table.columns[position]
    yield "NULL", NULL
    others = (place for place in table.others if place.hashes[position] not in (None, row.hashes[position]))
    if other := next(others, None):
        another = sql.SQL("(SELECT {} FROM {} WHERE {})").format(column.identifier, table.identifier, other.condition)
        yield "the value of another row", another
    yield from _given(column)


def _given(column: Column) -> Iterator[tuple[str, sql.Composable]]:
    for text in column.common:
        yield "the value of another row", column.literal(text)
    if column.referred:
        schema, name, referred = column.referred
        for offset in (0, 1):
            yield (
                f"a value of {referred} in {name}",
                sql.SQL("(SELECT {} FROM {} OFFSET {} LIMIT 1)").format(
                    sql.Identifier(referred), sql.Identifier(schema, name), sql.Literal(offset)
                ),
            )
    for text in _new_texts(column):
        yield "a new value", column.literal(text)


def _invented(table: Table) -> Iterator[Breakage]:
    """Rows for an empty table."""
    first: dict[str, sql.Composable] = {}
    for column in table.columns:
        first[column.name] = next((value for _, value in _given(column)), NULL)
    yield _invent(table, first)
    yield _invent(table, dict.fromkeys(first, NULL))
    for column in table.columns:
        for _, value in (("NULL", NULL), *_given(column)):
            yield _invent(table, {**first, column.name: value})


def _invent(table: Table, values: dict[str, sql.Composable]) -> Breakage:
    return Breakage(
        f"adding a row to {table.label}, which is empty",
        sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {}").format(
            table.identifier,
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(values.values()),
        ),
    )


def of_structure(cursor: Cursor, guard: Guard) -> Iterator[Breakage]:
    """What a guard that reads the catalog must notice: the smallest object of each of its tables that exist."""
    for table in guard.get("dependents") or guard.get("columns") or guard.get("only_columns") or ():
        found = find_table(cursor, table)
        if found is None:
            continue
        name = sql.Identifier(found["schema"], found["name"])
        if guard.get("dependents"):
            view = sql.Identifier(found["schema"], MADE)
            yield Breakage(
                f"making a view of {table}", sql.SQL("CREATE VIEW {} AS SELECT 1 AS one FROM {}").format(view, name)
            )
        elif guard.get("columns"):
            for column in guard["columns"][table]:
                renamed = sql.SQL("ALTER TABLE {} RENAME {} TO {}").format(
                    name, sql.Identifier(column), sql.Identifier(MADE)
                )
                yield Breakage(f"renaming {table}.{column}", renamed)
        else:
            added = sql.SQL("ALTER TABLE {} ADD COLUMN {} integer").format(name, sql.Identifier(MADE))
            yield Breakage(f"adding a column to {table}", added)


def alter(cursor: Cursor, breakage: Breakage) -> str:
    """Change an object; returns why the server refused that, or nothing."""
    answer = _run(cursor, breakage.statement)
    return server_reason(answer) if isinstance(answer, psycopg2.Error) else ""


def stop_triggers(cursor: Cursor, tables: Sequence[Table]) -> None:
    """No trigger, rule or foreign key mends, prevents or adds to a change; until this transaction is rolled back."""
    found = select(cursor, TREE, {"tables": [table.oid for table in tables]})
    names = {row["oid"]: sql.Identifier(row["schema"], row["name"]) for row in found}
    asked = {"tables": list(names)}
    if not isinstance(_run(cursor, sql.SQL("SET LOCAL session_replication_role = replica")), psycopg2.Error):
        for row in select(cursor, ALWAYS, asked):
            kind, name = sql.SQL(row["kind"]), sql.Identifier(row["name"])
            _run(cursor, sql.SQL("ALTER TABLE {} DISABLE {} {}").format(names[row["relation"]], kind, name))
        return
    for name in names.values():
        _run(cursor, sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(name))
    for row in select(cursor, FOREIGN_KEYS, asked):
        _run(cursor, _drop_constraint(row["schema"], row["name"], row["constraint"]))


def make(cursor: Cursor, breakage: Breakage) -> str | None:
    """Change the row, without the constraints that prevent it.

    None where one row was changed; else why it was not: empty where the row has that value already.
    """
    for _ in range(HINDRANCES):
        answer = _run(cursor, breakage.statement)
        if not isinstance(answer, psycopg2.Error):
            return None if answer == 1 else ""
        removal = _removal(cursor, answer)
        if removal is None or isinstance(_run(cursor, removal), psycopg2.Error):
            return server_reason(answer)
    return "more constraints than are removed prevent it"


def _removal(cursor: Cursor, error: psycopg2.Error) -> sql.Composed | None:
    """The statement that removes the constraint that an error names."""
    diag = error.diag
    if not (error.pgcode or "").startswith("23") or not diag.schema_name:
        return None
    if diag.datatype_name:
        domain = sql.Identifier(diag.schema_name, diag.datatype_name)
        if not diag.constraint_name:
            return sql.SQL("ALTER DOMAIN {} DROP NOT NULL").format(domain)
        return sql.SQL("ALTER DOMAIN {} DROP CONSTRAINT {}").format(domain, sql.Identifier(diag.constraint_name))
    for found in select(cursor, RELATION, (diag.column_name, diag.schema_name, diag.table_name)):
        if error.pgcode == NOT_NULL_VIOLATION:
            # The primary key first; the next error of this column then finds none.
            if found["key"]:
                return _drop_constraint(found["schema"], found["name"], found["key"])
            table = sql.Identifier(found["schema"], found["name"])
            return sql.SQL("ALTER TABLE {} ALTER {} DROP NOT NULL").format(
                table, sql.Identifier(diag.column_name or "")
            )
        if not diag.constraint_name:
            return None
        for row in select(cursor, CONSTRAINT, {"constraint": diag.constraint_name, **found}):
            return _drop_constraint(row["schema"], row["name"], row["constraint"])
        return sql.SQL("DROP INDEX {} CASCADE").format(sql.Identifier(diag.schema_name, diag.constraint_name))
    return None


def _drop_constraint(schema: str, table: str, constraint: str) -> sql.Composed:
    return sql.SQL("ALTER TABLE {} DROP CONSTRAINT {} CASCADE").format(
        sql.Identifier(schema, table), sql.Identifier(constraint)
    )


def _run(cursor: Cursor, statement: sql.Composable) -> psycopg2.Error | int:
    """Run it in a savepoint; returns how many rows it changed, or why the server refused it."""
    cursor.execute("SAVEPOINT dbrelease_change")
    try:
        cursor.execute(statement)
        count = cursor.rowcount
    except psycopg2.Error as error:
        still_connected(cursor, error)
        cursor.execute("ROLLBACK TO SAVEPOINT dbrelease_change")
        return error
    cursor.execute("RELEASE SAVEPOINT dbrelease_change")
    return count

"""The schema of a database or of a dump, object by object, as pg_dump writes it."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
from psycopg2.extensions import cursor as Cursor

from ..core.display import last_words
from ..core.errors import ReleaseError
from ..core.own_files import reading
from ..host.commands import Commands, Finished
from ..postgres.session import Login, connect, select, server_reason, transaction
from .dump import LOCK_WAIT_LIMIT_MS, tool_environment

TIMEOUT_S = 300
LONGEST_NAME, KEPT_HASH, SHOWN_OBJECTS = 300, 32, 5

# pg_dump writes this above each object, and a line break in a name as a space.
HEADING = re.compile(r"^--\n-- (?:Statistics for )?Name: (.*)\n--\n", re.MULTILINE)
VERSION = re.compile(r"^-- Dumped (?:from database|by pg_dump) version (.+)$", re.MULTILINE)
WHOLE = "\n-- PostgreSQL database dump complete\n"
# Lines between two objects, which depend on the program's version or on one run. The last line of an object ends with
# a semicolon, and none of these matches the end of a text or of a body in it.
BETWEEN = re.compile(
    r"|--(?:.*[^;])?|SET \w+ = (?:[\w-]+|'[^']*');|SELECT pg_catalog\.set_config\('search_path', '', false\);"
    r"|\\(?:un)?restrict \w+|\\encoding \w+|\\connect .*[^;]"
)
OF_DATABASE, ABOUT = ("DATABASE", "DATABASE PROPERTIES"), ("ACL", "COMMENT", "SECURITY LABEL")
CREATED_DATABASE = re.compile(r'^CREATE DATABASE ("(?:[^"]|"")+"|\S+) ', re.MULTILINE)

# What pg_dump omits: that an index is invalid, the versions of extensions, and the access methods of tables.
UNSAID = """
SELECT format('INDEX %s (validity)', i.indexrelid::regclass) AS name,
       format('valid %s, ready %s', i.indisvalid, i.indisready) AS text
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE NOT (i.indisvalid AND i.indisready) AND c.relpersistence <> 't'
UNION ALL
SELECT format('EXTENSION %I (version)', extname), extversion FROM pg_extension
UNION ALL
SELECT format('TABLE %s (access method)', c.oid::regclass), m.amname
FROM pg_class c JOIN pg_am m ON m.oid = c.relam
WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND c.oid >= 16384 AND m.amname <> 'heap'
"""


@dataclass(frozen=True)
class Schema:
    """The objects of a database or of a dump, without their text, which may be long and contain a secret.

    objects: by type and name, a hash of the statements that create each; versions: of the server and of pg_dump.
    """

    objects: Mapping[str, str]
    versions: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """For the journal."""
        return {"objects": dict(self.objects), "versions": list(self.versions)}

    @classmethod
    def of(cls, facts: object) -> Schema | None:
        """Read it from the journal; None if another version of this program recorded it."""
        if not isinstance(facts, Mapping) or not isinstance(objects := facts.get("objects"), Mapping) or not objects:
            return None
        return cls(objects, tuple(map(str, facts.get("versions") or ())))

    def with_unsaid(self, unsaid: Mapping[str, str]) -> Schema:
        """Return the same with the result of `read_unsaid`."""
        return Schema({**self.objects, **unsaid}, self.versions)


def schema_of(
    database: Login,
    commands: Commands,
    timeout_s: int,
    application: str,
    *,
    inside: bool,
    whole: bool = False,
    lock_wait_ms: int = LOCK_WAIT_LIMIT_MS,
) -> Schema:
    """Read a database's objects; `whole`: also the database itself, without its name; raises ReleaseError."""
    finished = commands.run(
        [
            "pg_dump",
            "--schema-only",
            "--no-subscriptions",
            "--no-password",
            f"--lock-wait-timeout={lock_wait_ms}",
            *(["--create"] if whole else []),
        ],
        timeout_s=timeout_s,
        environment=tool_environment(database, application, inside=inside),
    )
    return _parsed(finished, f"the {database.label}")


def schema_of_dump(path: Path, commands: Commands, timeout_s: int, *, whole: bool = False) -> Schema:
    """Read the same from a dump."""
    argv = ["pg_restore", "--schema-only", "--no-subscriptions", "--file=-", *(["--create"] if whole else [])]
    with reading(path) as file:
        finished = commands.run(argv, timeout_s=timeout_s, stdin=file)
    return _parsed(finished, str(path))


def catalog_of(
    login: Login, commands: Commands, application: str, *, inside: bool, lock_wait_ms: int = LOCK_WAIT_LIMIT_MS
) -> Schema:
    """Read every object of a database, and the database itself; raises ReleaseError."""
    schema = schema_of(login, commands, TIMEOUT_S, application, inside=inside, whole=True, lock_wait_ms=lock_wait_ms)
    try:
        with (
            closing(connect(login, application)) as connection,
            transaction(connection, read_only=True, commit=False) as cursor,
        ):
            return schema.with_unsaid(read_unsaid(cursor))
    except psycopg2.Error as error:
        raise ReleaseError(f"Reading the catalog of the {login.label} failed ({server_reason(error)}).") from error


def read_unsaid(cursor: Cursor) -> dict[str, str]:
    """Read what may differ between two databases for which pg_dump writes the same."""
    return {_bounded(str(row["name"])): _hash([str(row["text"])])[:KEPT_HASH] for row in select(cursor, UNSAID)}


def hashed(schema: Schema) -> str:
    """Return one sha256 of the schema.

    The server rewrites some expressions when they are restored, so that a copy's schema may differ from its dump's.
    """
    return _hash(f"{name} {value}" for name, value in sorted(schema.objects.items()))


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> Iterable[dict[str, str]]:
    """Yield each object that differs, and how."""
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            change = "changed" if name in before and name in now else "missing" if name in before else "new"
            yield {"object": name, "change": change}


def in_words(different: Sequence[Mapping[str, str]]) -> str:
    """Report how many objects differ, and the first of them."""
    shown = [f"{line['object']}: {line['change']}" for line in different[:SHOWN_OBJECTS]]
    more = [f"and {len(different) - SHOWN_OBJECTS} more"] if len(different) > SHOWN_OBJECTS else []
    return f"{len(different)} object{'s differ' if len(different) > 1 else ' differs'} ({'; '.join(shown + more)})"


def _parsed(finished: Finished, what: str) -> Schema:
    if finished.status != 0:
        raise ReleaseError(f"Reading the schema of {what} failed ({last_words(finished.stderr, 300)}).")
    if WHOLE not in finished.stdout:
        raise ReleaseError(f"Reading the schema of {what} failed (its end is missing).")
    return parsed(finished.stdout)


def parsed(text: str) -> Schema:
    """Parse the objects of a script of pg_dump; those of one type and name are hashed together."""
    objects: dict[str, list[str]] = defaultdict(list)
    created = CREATED_DATABASE.search(text)
    for heading, statements in _entries(text):
        kind, name = heading.kind, heading.name
        if kind == "STATISTICS DATA":
            continue  # it describes rows, not the schema
        if kind == "ACL":
            # The order in which rights were granted cannot be determined.
            statements = "\n".join(sorted(statements.splitlines()))
        if created and (kind in OF_DATABASE or (kind in ABOUT and name.startswith("DATABASE "))):
            # A copy is the same database under another name.
            statements = statements.replace(f" DATABASE {created[1]} ", " DATABASE ")
            name = "of the database"
        schema = "" if heading.schema == "-" else f"{heading.schema}."
        objects[_bounded(f"{kind} {schema}{name}")].append(f"{heading.owner}\n{statements}")
    kept = {name: _hash(sorted(texts))[:KEPT_HASH] for name, texts in objects.items()}
    return Schema(kept, tuple(VERSION.findall(text)[:2]))


class _Heading(NamedTuple):
    name: str
    kind: str
    schema: str
    owner: str


def _heading(line: str) -> _Heading | None:
    """Parse what follows `Name: `; a name may contain anything, so each part is searched for once, from the end."""
    line, owned, owner = line.rpartition("; Owner: ")
    line, placed, schema = line.rpartition("; Schema: ")
    name, typed, kind = line.rpartition("; Type: ")
    return _Heading(name, kind, schema, owner) if owned and placed and typed else None


def _entries(text: str) -> Iterator[tuple[_Heading, str]]:
    found = [(match, _heading(match[1])) for match in HEADING.finditer(text)]
    headings = [(match, heading) for match, heading in found if heading is not None]
    ends = [match.start() for match, _ in headings[1:]] + [len(text)]
    for (match, heading), end in zip(headings, ends, strict=True):
        lines = text[match.end() : end].strip("\n").split("\n")
        while lines and BETWEEN.fullmatch(lines[-1]):
            lines.pop()
        yield heading, "\n".join(lines)


def _bounded(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}... {_hash([name])[:16]}"


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode(errors="replace")).hexdigest()

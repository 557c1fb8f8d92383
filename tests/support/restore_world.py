"""A database with every kind of column that a restore must bring back, its backup, and both modules called on it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import backup as backup_module
import database_swap
import pytest
import restored_database
from ansible.module_utils.dbrelease.core.options import SWAP_OPTIONS
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.restore.compare import read_state
from own_sessions import connect

SCHEMA = """
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('1a2b3c4d5e6f');
CREATE TABLE accounts (id serial PRIMARY KEY, name text NOT NULL, mood mood DEFAULT 'glad');
CREATE TABLE orders (
  id serial PRIMARY KEY, title text, account_id int REFERENCES accounts, extra jsonb, raw bytea,
  total numeric(10, 2) DEFAULT 1.50, doubled numeric GENERATED ALWAYS AS (total * 2) STORED,
  status varchar(10) CHECK (status IN ('open', 'done')) DEFAULT 'open', tags text[], at timestamptz DEFAULT now());
CREATE TABLE "Odd ""name" (a int, "B c" text);
INSERT INTO accounts (name) SELECT 'account ' || n FROM generate_series(1, 50) n;
INSERT INTO orders (title, account_id, extra, raw, tags)
SELECT E'order ''' || n || E'''\\n\\\\ % 🙂', 1 + n % 50, '{"n": 1}', '\\x00ff', ARRAY['a,b', NULL, '"']
FROM generate_series(1, 3000) n;
INSERT INTO "Odd ""name" SELECT 1, 'twice' FROM generate_series(1, 2);
"""
WRITTEN = """
INSERT INTO accounts (name, mood) VALUES ('new account', 'sad');
INSERT INTO orders (title, account_id) SELECT E'it''s \\\\ new\\n' || n, 51 FROM generate_series(1, 700) n;
UPDATE orders SET title = 'changed', raw = NULL, tags = '{}' WHERE id BETWEEN 10 AND 14;
UPDATE orders SET account_id = 2 WHERE account_id = 1;
DELETE FROM accounts WHERE id = 1;
DELETE FROM orders WHERE id = 3000;
INSERT INTO "Odd ""name" VALUES (2, 'new');
CREATE TABLE order_items (id int PRIMARY KEY, what text);
INSERT INTO order_items VALUES (1, E'tab\\there'), (2, NULL);
UPDATE alembic_version SET version_num = '2b3c4d5e6f7a';
"""
SWAP_DEFAULTS = {key: option["default"] for key, option in SWAP_OPTIONS["swap"]["options"].items()}


@dataclass
class World:
    """One database and its state directory; `run` numbers the runs, so that each has a stamp of its own."""

    login: Login
    maintenance: Login
    run: dict[str, Any]
    role: str
    runs: int = 0

    @property
    def state(self) -> Path:
        return Path(self.run["state_dir"])

    def next_run(self) -> None:
        self.runs += 1
        # The sessions of a run are ended by its name, on the whole server: no other test's may have the same.
        self.run = {**self.run, "run_id": f"20260102T0304{self.runs:02d}Z-{self.role[-6:]}"}

    def base(self) -> dict[str, Any]:
        return {
            "login_host": self.login.host,
            "login_port": self.login.port,
            "login_user": self.login.user,
            "login_password": self.login.password,
            "login_db": self.login.database,
            "ssl_mode": self.login.ssl_mode,
            "run": self.run,
            "db_container": "",
        }

    def back_up(self) -> dict[str, Any]:
        self.next_run()
        return backup_module.act(
            {
                **self.base(),
                "db_container": None,
                "label": "2.4",
                "observations": [],
                "bookkeeping_table": "alembic_version",
                "timeout_seconds": 60,
            },
            False,
        )

    def restore(self, check_mode: bool = False, **changes: Any) -> dict[str, Any]:
        self.next_run()
        given = {key: option.get("default") for key, option in restored_database.OPTIONS.items()}
        asked = {**given, **self.base(), "label": "2.4", "swap": SWAP_DEFAULTS, **changes}
        return restored_database.act(asked, check_mode)

    def swap(self, database: str, check_mode: bool = False, **changes: Any) -> dict[str, Any]:
        return database_swap.act(self.swap_parameters(database, **changes), check_mode)

    def swap_parameters(self, database: str, **changes: Any) -> dict[str, Any]:
        """`changes` are those of the options in `swap`."""
        given = {key: option.get("default") for key, option in database_swap.OPTIONS.items()}
        return {**given, **self.base(), "database": database, "swap": {**SWAP_DEFAULTS, **changes}}

    def execute(self, sql: str, database: str | None = None) -> list[tuple[Any, ...]]:
        login = replace(self.login, database=database or self.login.database)
        with closing(connect(login, "tests")) as session, session.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def databases(self) -> dict[str, bool]:
        """Those of this test, and whether each takes connections."""
        rows = self.execute(
            "SELECT datname, datallowconn FROM pg_database WHERE starts_with(datname, current_database())"
        )
        return dict(rows)

    def oid(self, name: str | None = None) -> int:
        (row,) = self.execute(f"SELECT oid FROM pg_database WHERE datname = '{name or self.login.database}'")
        return int(row[0])

    def tables(self, database: str | None = None) -> dict[str, tuple[int, str]]:
        tables, _ = read_state(replace(self.login, database=database or self.login.database), "tests")
        return {key: (row["rows"], row["fingerprint"]) for key, row in tables.items()}

    def written_since(self, before: str, written: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Back up `before`, write, and swap the restored copy in: the swap's result, and the rows that were live."""
        self.execute(before)
        self.back_up()
        self.execute(written)
        live = self.every_row()
        return self.swap(self.restore()["database"]), live

    def replay(self, role: str = "", script: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the script, or that of the one swap's saved rows, in the live database."""
        (script,) = [script] if script else self.state.glob("rows_since_backup_*/replay.sql")
        where = [f"--host={self.login.host}", f"--port={self.login.port}", f"--username={self.login.user}"]
        return subprocess.run(
            ["psql", "-X", "-q", *where, f"--dbname={self.login.database}", f"--file={script}"],
            env={**os.environ, "PGPASSWORD": self.login.password or "", "PGOPTIONS": f"-c role={role}" if role else ""},
            capture_output=True,
            text=True,
            check=False,
        )

    def every_row(self) -> dict[str, list[tuple[Any, ...]]]:
        """The rows themselves as text, by table."""
        found: dict[str, list[tuple[Any, ...]]] = {}
        with closing(connect(self.login, "tests")) as session, session.cursor() as cursor:
            cursor.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid >= 16384")
            for (name,) in cursor.fetchall():
                cursor.execute(f"SELECT t::text FROM ONLY {name} AS t ORDER BY 1")
                found[name] = list(cursor.fetchall())
        return found

    def journal(self) -> list[dict[str, Any]]:
        path = self.state / "journal.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def files(self) -> dict[str, bytes]:
        """Everything in the state directory but the journal."""
        return {
            str(path.relative_to(self.state)): path.read_bytes()
            for path in sorted(self.state.rglob("*"))
            if path.is_file() and path.name != "journal.jsonl"
        }


def settings_of(name: str, role: str) -> tuple[str, ...]:
    """The statements that give the database its settings, and those of a role in it."""
    return (
        f"CREATE ROLE {role}",
        f"COMMENT ON DATABASE {name} IS 'The shop''s'",
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
        f"GRANT CONNECT, TEMPORARY ON DATABASE {name} TO {role}",
        f'ALTER DATABASE {name} SET search_path = "$user", public',
        f"ALTER DATABASE {name} SET statement_timeout = '70s'",
        f"ALTER ROLE {role} IN DATABASE {name} SET work_mem = '5MB'",
        f"ALTER DATABASE {name} CONNECTION LIMIT 90",
    )


@contextmanager
def world_of(database: Login, server: Login, run: dict[str, Any]) -> Iterator[World]:
    """With settings of the database and of a role in it; everything made beside it is gone afterwards."""
    name, role = database.database, f"role_{secrets.token_hex(4)}"
    world = World(database, server, run, role)
    with closing(connect(database, "tests")) as session, session.cursor() as cursor:
        cursor.execute(SCHEMA)
        for statement in settings_of(name, role):
            cursor.execute(statement)
    try:
        yield world
    finally:
        with closing(connect(server, "tests")) as session, session.cursor() as cursor:
            cursor.execute(
                "SELECT datname FROM pg_database WHERE starts_with(datname, %s) AND datname <> %s", (name, name)
            )
            for (made,) in cursor.fetchall():
                cursor.execute(f'DROP DATABASE "{made}" WITH (FORCE)')
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
            if cursor.fetchone() is None:
                cursor.execute(f"CREATE DATABASE {name}")
            cursor.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            cursor.execute(f"REVOKE ALL ON DATABASE {name} FROM {role}")
            cursor.execute(f"DROP ROLE {role}")


@pytest.fixture
def world(database: Login, server: Login, run_parameters: dict[str, Any]) -> Iterator[World]:
    """An empty one."""
    with world_of(database, server, run_parameters) as made:
        yield made


@pytest.fixture
def written_world(database: Login, server: Login, run_parameters: dict[str, Any]) -> Iterator[World]:
    """One with a backup; the database was written to since."""
    with world_of(database, server, run_parameters) as made:
        made.back_up()
        made.execute(WRITTEN)
        yield made

"""How long the migration keeps a writer waiting: this release's order of statements beside the obvious one.

The obvious order creates the table with its foreign keys and then fills it, in one transaction, as most migrations do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import cycle

import psycopg2
from psycopg2.errors import LockNotAvailable
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn

from .measurement import ROOT, Measurement, play, run, stack

ROWS = 1_000_000
PREVIEW_ROWS = 1_000
SCRATCH = "bench_write_wait"
BACKUPS = ROOT / ".stack/app/backend/migrations/backups"
TRIES = 3
OBVIOUS = """
BEGIN;
CREATE TABLE drawing_project_associations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    drawing_id uuid NOT NULL REFERENCES drawings (id) ON DELETE CASCADE,
    project_id uuid NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    assigned_at timestamptz NOT NULL DEFAULT now(),
    assigned_by varchar(255),
    CONSTRAINT uq_drawing_project_association UNIQUE (drawing_id, project_id)
);
CREATE INDEX idx_dpa_drawing_id ON drawing_project_associations (drawing_id);
CREATE INDEX idx_dpa_project_id ON drawing_project_associations (project_id);
INSERT INTO drawing_project_associations (drawing_id, project_id)
    SELECT id, project_id FROM drawings WHERE project_id IS NOT NULL;
COMMIT;
"""
SEED = f"""
CREATE TABLE projects (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text);
CREATE TABLE drawings (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text,
    project_id uuid REFERENCES projects (id) ON DELETE SET NULL);
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
-- Seeding would start an autovacuum, whose lock the migration may not wait for.
ALTER TABLE projects SET (autovacuum_enabled = off);
ALTER TABLE drawings SET (autovacuum_enabled = off);
INSERT INTO alembic_version VALUES ('0ab370a9afb6');
INSERT INTO projects (name) SELECT 'p' || n FROM generate_series(1, {ROWS // 8}) n;
INSERT INTO drawings (title, project_id)
    SELECT 'd' || n, CASE WHEN n % 10 > 0 THEN ids[1 + n % {ROWS // 8}] END
    FROM generate_series(1, {ROWS}) n, (SELECT array_agg(id) ids FROM projects) p;
ANALYZE;
"""
WRITE = "INSERT INTO drawings (title, project_id) SELECT 'live', id FROM projects LIMIT 1"


@cache
def address() -> dict[str, str]:
    """How to reach the stack's database, as its container tells."""
    host = run(
        ["docker", "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "drawing_postgres"]
    ).strip()
    return {"host": host, "user": "user", "password": (ROOT / ".stack/db_password").read_text().strip()}


def connect(database: str) -> Connection:
    """A session in autocommit."""
    session: Connection = psycopg2.connect(make_dsn(dbname=database, **address()))
    session.autocommit = True
    return session


def longest_wait(migration: str) -> float:
    """Seconds that the slowest of many small writes took while the migration ran on a database of its own.

    A migration that met a lock is measured anew, as a deploy tries it again.
    """
    for _ in range(TRIES - 1):
        with suppress(LockNotAvailable):
            return longest_wait_once(migration)
    return longest_wait_once(migration)


def longest_wait_once(migration: str) -> float:
    """The same, of one attempt."""
    admin = connect("postgres")
    with admin.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {SCRATCH} WITH (FORCE)")
        cursor.execute(f"CREATE DATABASE {SCRATCH}")
    try:
        with connect(SCRATCH).cursor() as cursor:
            cursor.execute(SEED)
            return longest_wait_during(lambda: cursor.execute(migration), SCRATCH, [WRITE])
    finally:
        with admin.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {SCRATCH} WITH (FORCE)")


def longest_wait_during(act: Callable[[], object], database: str, writes: Sequence[str]) -> float:
    """Seconds that the slowest of many small writes to a database took meanwhile; a write that fails ends the bench."""
    stop, waits = threading.Event(), [0.0]

    def write() -> None:
        with connect(database).cursor() as cursor:
            for statement in cycle(writes):
                begun = time.monotonic()
                cursor.execute(statement)
                waits.append(time.monotonic() - begun)
                if stop.wait(0.005):
                    return

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        time.sleep(0.5)
        try:
            act()
            time.sleep(0.5)
        finally:
            stop.set()
        writer.result()
    return max(waits)


def released_order() -> float:
    """With the SQL that Alembic prints for the release's revision."""
    return longest_wait(preview())


def preview() -> str:
    """That SQL: a deploy saves it."""
    stack(PREVIEW_ROWS)
    play("deploy_8_1a.yml")
    return max(BACKUPS.glob("migration_preview_*.sql")).read_text()


def obvious_order() -> float:
    """With the obvious SQL."""
    return longest_wait(OBVIOUS)


MEASUREMENTS = [
    Measurement("write_wait_1m", "longest write during the migration, 1,000,000 rows", "s", 0.5, released_order),
    Measurement("write_wait_1m_obvious", "the same with foreign keys first, then the copy", "s", None, obvious_order),
]

"""A small healthy target for preflight's tests: a real database, real files and commands, a real HTTP server."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import preflight_info
import psycopg2.extensions

# As the reference stack resolves it: see stack/docker-compose.yml.
POSTGRES_IMAGE = os.environ.get("POSTGRES_IMAGE") or "drawing-postgres:bookworm"
OLDER, START, OWN, NEWER = "aaaa00000001", "bbbb00000002", "cccc00000003", "dddd00000004"
REVISION_FILE = f'revision: str = "{OWN}"\ndown_revision = "{START}"\n'
HISTORY = f"{START} -> {NEWER} (head), Later\n{OLDER} -> {START}, Orders\n<base> -> {OLDER}, Accounts\n"
SCHEMA = f"""
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('{START}');
CREATE TABLE accounts (id int PRIMARY KEY, email text);
CREATE TABLE orders (id int PRIMARY KEY, account_id int REFERENCES accounts, title text, note text);
INSERT INTO accounts SELECT n, 'a@example.org' FROM generate_series(1, 100) n;
"""
MIGRATION = """
CREATE TABLE order_items (order_id integer CONSTRAINT items_pkey PRIMARY KEY, label varchar(20));
CREATE UNIQUE INDEX ix_items ON order_items (lower(label));
ALTER TABLE orders ADD closed_at timestamptz, ADD code text, ADD CONSTRAINT uq_code UNIQUE (code, account_id);
ALTER TABLE orders DROP note;
"""
ALEMBIC = 'cat "$(dirname "$0")/$1" || exit 1\n'


def release(folder: Path) -> dict[str, Any]:
    """A release that adds a table between two others, and columns to one of these."""
    return {
        "release": "sample",
        "services": ["db"],
        "server": {"minimum_major": 14, "transaction_age_limit_seconds": 300},
        "migration": {
            "command": ["sh", str(folder / "alembic.sh")],
            "from_revision": START,
            "to_revision": OWN,
            "payload": [
                {
                    "source": "migrations/items.py",
                    "destination": str(folder / "versions/items.py"),
                    "sha256": hashlib.sha256(REVISION_FILE.encode()).hexdigest(),
                }
            ],
            "growth_factor": 0.5,
            "finalize": [
                {"name": "analyze", "title": "Analyze", "sql": "ANALYZE order_items",
                 "pending": "SELECT count(*) AS pending FROM pg_class WHERE oid = to_regclass('order_items')"},
            ],
        },
        "tables": {
            "existing": {"accounts": ["id", "email"], "orders": ["id", "account_id"]},
            "created": {
                "order_items": {
                    "columns": {
                        "order_id": {"type": "integer", "nullable": False},
                        "label": {"type": "character varying(20)", "nullable": True},
                    },
                    "indexes": {"ix_items": {"columns": ["lower(label::text)"], "unique": True}},
                    "constraints": {"items_pkey": {"type": "primary_key", "columns": ["order_id"]}},
                }
            },
            "changed": {"orders": {"columns": {"note": None}}},
            "altered": {
                "orders": {
                    "columns": {
                        "closed_at": {"type": "timestamp with time zone", "nullable": True},
                        "code": {"type": "text", "nullable": True},
                    },
                    "constraints": {"uq_code": {"type": "unique", "columns": ["code", "account_id"]}},
                }
            },
        },
        "api": {"timeout_seconds": 2, "endpoints": [{"name": "orders", "path": "/orders", "status": 200}]},
        "observations": [{"name": "orders", "title": "Orders", "sql": "SELECT count(*) FROM orders"}],
        "checks": [
            {"name": "no_stray", "title": "No stray item",
             "violations": "SELECT label FROM order_items i LEFT JOIN orders o ON o.id = order_id WHERE o.id IS NULL"},
            {"name": "counts", "title": "Counts",
             "equal": "SELECT (SELECT count(*) FROM orders) AS a, (SELECT count(*) FROM public.order_items) AS b;"},
            {"name": "closed", "title": "Closed orders have a code",
             "violations": "SELECT id, title FROM orders WHERE closed_at < now() AND code IS NULL"},
        ],
        "scenarios": [
            {"name": "cascade", "title": "Cascade",
             "steps": [{"title": "Close", "sql": "UPDATE orders SET closed_at = now() WHERE id = %(order)s"}],
             "leaves_nothing": "SELECT count(*) FROM orders WHERE id = %(order)s AND title LIKE 'x%%'"},
        ],
        "plans": [{"name": "by_order", "title": "By order", "sql": "SELECT * FROM order_items WHERE order_id = 1"}],
    }  # fmt: skip


@dataclass
class World:
    """What a test may break, and how it looks then."""

    folder: Path
    session: psycopg2.extensions.connection
    release: dict[str, Any]
    parameters: dict[str, Any]
    answers: dict[str, tuple[int, str]] = field(default_factory=lambda: {"/orders": (200, "[]")})

    def sql(self, text: str) -> None:
        with self.session.cursor() as cursor:
            cursor.execute(text)

    def value(self, text: str) -> Any:
        with self.session.cursor() as cursor:
            cursor.execute(text)
            row = cursor.fetchone()
            assert row is not None
            return row[0]

    def alembic(self, **says: str) -> None:
        for verb, text in says.items():
            (self.folder / verb).write_text(text)

    def at(self, *revisions: str) -> None:
        """Both the database and `alembic current` are at these revisions."""
        self.sql("DELETE FROM alembic_version")
        for revision in revisions:
            self.sql(f"INSERT INTO alembic_version VALUES ('{revision}')")
        self.alembic(current="".join(f"{revision}\n" for revision in revisions))

    def deploy(self) -> None:
        """As after the release."""
        self.deploy_text(MIGRATION)

    def deploy_text(self, migration: str) -> None:
        """As after a release whose migration is that text."""
        self.sql(migration)
        self.payload.write_text(REVISION_FILE)
        self.at(OWN)
        self.alembic(heads=f"{OWN} (head)\n", current=f"{OWN} (head)\n")

    @property
    def payload(self) -> Path:
        return self.folder / "versions/items.py"

    @property
    def journal(self) -> Path:
        return Path(self.parameters["run"]["state_dir"]) / "journal.jsonl"

    def journalled(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.journal.read_text().splitlines()]

    def look(self, check_mode: bool = False) -> dict[str, Any]:
        return preflight_info.act({**self.parameters, "release": self.release}, check_mode)


def statuses(result: Mapping[str, Any]) -> dict[str, str]:
    return {proof["name"].removeprefix("preflight."): proof["status"] for proof in result["proofs"]}


def red(result: Mapping[str, Any]) -> set[str]:
    return {name for name, status in statuses(result).items() if status == "fail"}


def serve(answers: Callable[[], Mapping[str, tuple[int, str]]]) -> ThreadingHTTPServer:
    """A local API that answers as `answers` says at that moment."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers().get(self.path, (404, "{}"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server

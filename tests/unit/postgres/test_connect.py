"""Every session: what it has set, so that it is not held for a client that is gone, and that it is one and the same."""

from __future__ import annotations

import json
import re
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sql_check_info
from ansible.module_utils.dbrelease.backup.dump import tool_environment
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.monitor.readiness import backup
from ansible.module_utils.dbrelease.postgres.session import (
    LOST_CLIENT,
    SESSION_SETTINGS,
    Login,
    Session,
    begin_session,
    connect_failure,
)
from ansible.module_utils.dbrelease.restore import copy
from own_sessions import connect

KEY = re.compile(rb"(?<=K\x00\x00\x00\x0c).{4}", re.DOTALL)
SHOWN = {**LOST_CLIENT, "client_connection_check_interval": "500ms"}


@contextmanager
def door(login: Login, key: bytes = b"") -> Iterator[Login]:
    """The same server behind another, which tells a key of its own where one is given, as a pooler does."""

    def relay(source: socket.socket, sink: socket.socket, key: bytes = b"") -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(KEY.sub(key, data, count=1) if key else data)
            sink.shutdown(socket.SHUT_WR)

    class Guest(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((login.host, login.port)) as behind:
                threading.Thread(target=relay, args=(self.request, behind), daemon=True).start()
                relay(behind, self.request, key)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Guest) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield replace(login, host="127.0.0.1", port=server.server_address[1], ssl_mode="disable")
        server.shutdown()


def shown(session: psycopg2.extensions.connection) -> dict[str, str]:
    with session.cursor() as cursor:
        cursor.execute("SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY (%s)", (list(SHOWN),))
        return dict(cursor.fetchall())


def test_the_server_detects_a_lost_client(session: psycopg2.extensions.connection) -> None:
    assert shown(session) == SHOWN


def test_a_client_detects_a_lost_server(session: psycopg2.extensions.connection) -> None:
    assert session.info.dsn_parameters["tcp_user_timeout"] == "60000"


@pytest.mark.parametrize("module", [copy, backup])
def test_it_detects_a_lost_pg_restore(database: Login, module: Any) -> None:
    where: dict[str, Any] = {"host": database.host, "port": database.port, "dbname": database.database}
    who: dict[str, Any] = {"user": database.user, "password": database.password}
    with closing(psycopg2.connect(**where, **who, options=module.SESSION_OPTIONS)) as session:
        assert shown(session) == SHOWN


def test_a_setting_that_the_server_does_not_know_is_left_out(database: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SESSION_SETTINGS, "of_a_later_version", "on")
    with closing(connect(database, "tests")) as session:
        assert shown(session) == SHOWN


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("'1 day 02:03'::interval", "P1DT2H3M"),
        ("ARRAY['-1 day'::interval, NULL]", ["P-1D", None]),
        ("NULL::interval", None),
        ("'0044-03-15 BC'::date", "0044-03-15 BC"),
        ("'infinity'::date", "infinity"),
        ("ARRAY['20000-01-02'::timestamp]", ["20000-01-02 00:00:00"]),
        ("'-infinity'::timestamptz", "-infinity"),
        ("'20000-01-02'::timestamptz", "20000-01-02 00:00:00+00"),
        ("'2026-01-02'::date", date(2026, 1, 2)),
        ("'2026-01-02 03:04'::timestamptz", datetime(2026, 1, 2, 3, 4, tzinfo=UTC)),
    ],
)
def test_every_moment_and_interval_can_be_read(
    session: psycopg2.extensions.connection, written: str, read: Any
) -> None:
    with session.cursor() as cursor:
        cursor.execute(f"SELECT {written}")
        assert cursor.fetchall() == [(read,)]


def test_a_program_beside_the_server_finds_its_socket_whatever_leads_to_it(
    database: Login, session: psycopg2.extensions.connection
) -> None:
    with door(database) as published:
        environment = tool_environment(published, "tests", inside=True)
    with session.cursor() as cursor:
        cursor.execute("SHOW port")
        assert cursor.fetchall() == [(environment["PGPORT"],)] != [(str(published.port),)]
    assert "PGHOST" not in environment


def test_a_pooler_is_refused_and_keeps_no_session(database: Login, session: psycopg2.extensions.connection) -> None:
    with door(database) as plain:
        connect(plain, "plain").close()
    with door(database, b"\x00\x00\x00\x07") as pooled:
        with pytest.raises(ReleaseError, match=r"failed \(a connection pooler answers there") as raised:
            connect(pooled, "pooled")
        for words in (pooled.label, "set db_host and db_port to the address of the server itself"):
            assert words in raised.value.message
        deadline = time.monotonic() + 5
        while left := pooled_sessions(session):
            assert time.monotonic() < deadline, left
            time.sleep(0.1)


def test_nothing_is_set_in_a_session_of_a_pooler(session: Session) -> None:
    with session.cursor() as cursor:
        cursor.execute("SET tcp_keepalives_idle = 77")
    assert begin_session(session, 7) == session.info.backend_pid
    assert shown(session)["tcp_keepalives_idle"] == "77"
    assert begin_session(session, session.info.backend_pid) == session.info.backend_pid
    assert shown(session) == SHOWN


def pooled_sessions(session: psycopg2.extensions.connection) -> int:
    with session.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pooled'")
        ((count,),) = cursor.fetchall()
    return int(count)


def test_a_module_fails_by_it(
    database: Login, login_parameters: dict[str, Any], run_parameters: dict[str, Any]
) -> None:
    with door(database, b"\x00\x00\x00\x07") as pooled:
        where = {"login_host": pooled.host, "login_port": pooled.port, "ssl_mode": pooled.ssl_mode}
        checks = {
            "checks": [],
            "drift": "fail",
            "statement_timeout_ms": 1000,
            "sample_size": 5,
            "reconcile_command": "",
        }
        with pytest.raises(ReleaseError, match="a connection pooler answers there"):
            sql_check_info.act({**login_parameters, **where, **checks, "run": run_parameters}, False)
    (*_, last) = Path(run_parameters["state_dir"], "journal.jsonl").read_text().splitlines()
    assert (json.loads(last)["event"], "a connection pooler" in last) == ("failed", True)


TO = 'connection to server at "db", port 5432 failed: '
RUNS, NAMES = "check that the database is running", "check db_user, db_password and db_name"
# What libpq says, and the advice.
FAILURES = [
    (TO + 'FATAL:  password authentication failed for user "u"', "check db_user and db_password"),
    (TO + 'FATAL:  database "d" does not exist', "check db_name and db_user"),
    (TO + "Connection refused\n\tIs the server running on that host?", RUNS),
    ('could not translate host name "db" to address: Name or service not known', RUNS),
    ("Verbindung zu Server auf »db«, Port 5432 fehlgeschlagen: Verbindungsaufbau abgelehnt\n\tLäuft der Server?", RUNS),
    (TO + "Connection refused\n" + TO + "FATAL:  Passwort-Authentifizierung für Benutzer »u« fehlgeschlagen", NAMES),
    ("la connexion au serveur a échoué : FATAL:  authentification par mot de passe échouée", NAMES),
    ("连接到服务器失败\uff1a致命错误:  用户 u Password 认证失败", NAMES),
    ("FATAL:  Datenbank »d« existiert nicht", NAMES),
    (TO + "FATAL:  sorry, too many clients already", "the server accepts connections now"),
]


@pytest.mark.parametrize(("text", "advice"), FAILURES)
def test_the_advice_is_true_in_any_language(text: str, advice: str) -> None:
    assert advice in connect_failure(Login("db", 5432, "u", "d"), text)

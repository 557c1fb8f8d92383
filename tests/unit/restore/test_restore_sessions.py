"""A restore among the sessions of others: whoever holds a table keeps it neither from ending nor from saving a row."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import restore_world
from ansible.module_utils.dbrelease.host import lifecycle
from ansible.module_utils.dbrelease.postgres.session import Connection, Login
from ansible.module_utils.dbrelease.restore import compare
from ansible.module_utils.dbrelease.restore.swap import live_compare
from ansible.module_utils.dbrelease.restore.swap.archive import RowArchive
from ansible.module_utils.dbrelease.restore.swap.live_scan import LiveScan
from own_sessions import connect
from restore_world import World

SOON_S = 15


world = restore_world.written_world


def holding(world: World, statement: str) -> Connection:
    """A session in a transaction; should nobody end it, it ends later than a restore may take."""
    session = connect(world.login, "an application")
    session.cursor().execute(f"SET idle_in_transaction_session_timeout = '{2 * SOON_S}s'")
    session.cursor().execute(f"BEGIN; {statement}")
    return session


@contextmanager
def dying(login: Login) -> Iterator[tuple[Login, Callable[[], None]]]:
    """A server behind a door of its own for one session, and what lets it die: nobody is let in, and nothing is
    answered any more; a second later the session ends."""
    dead, ends = threading.Event(), list[socket.socket]()

    def relay(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while (data := source.recv(65536)) and not dead.is_set():
                sink.sendall(data)

    def serve() -> None:
        guest, _ = door.accept()
        ends.extend([guest, socket.create_connection((login.host, login.port))])
        for source, sink in (ends, ends[::-1]):
            threading.Thread(target=relay, args=(source, sink), daemon=True).start()

    def end() -> None:
        for one in ends:
            one.shutdown(socket.SHUT_RDWR)
            one.close()

    def die() -> None:
        door.close()
        dead.set()
        threading.Timer(1, end).start()

    with closing(socket.create_server(("127.0.0.1", 0))) as door:
        threading.Thread(target=serve, daemon=True).start()
        yield replace(login, host="127.0.0.1", port=door.getsockname()[1]), die


def test_a_look_ends_in_order_where_the_server_cannot_be_asked_to_end_it(world: World, tmp_path: Path) -> None:
    looking = LiveScan(RowArchive(tmp_path / "rows"))
    with dying(world.login) as (login, die):
        looking.begin(login, known=[])
        die()
        looking.cancel()
    assert looking.look is None and not (tmp_path / "rows").exists()


HELD = ["orders", "accounts", "order_items", "orders, accounts, order_items, alembic_version"]


@pytest.mark.parametrize("tables", HELD)
def test_a_session_that_holds_tables_ends_with_the_swap_and_every_row_is_saved(
    world: World, monkeypatch: pytest.MonkeyPatch, tables: str
) -> None:
    monkeypatch.setattr(compare, "LOCK_TIMEOUT_MS", 200)
    live, begun = world.tables(), time.monotonic()
    with closing(holding(world, f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")):
        swapped = world.restore(state="live")["swap"]
    assert time.monotonic() - begun < SOON_S
    assert {key: (row["new"], row["changed"], row["deleted"]) for key, row in swapped["rows"]["tables"].items()} == {
        "public.accounts": (1, 0, 1),
        "public.orders": (700, 64, 1),
        'public."Odd ""name"': (1, 0, 0),
        "public.alembic_version": (1, 0, 1),
        "public.order_items": (2, 0, 0),
    }
    assert world.tables(swapped["kept"]) == live


def test_check_mode_waits_for_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "LOCK_TIMEOUT_MS", 200)
    world.back_up()
    begun = time.monotonic()
    with closing(holding(world, "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")):
        assert world.restore(check_mode=True)["changed"]
    assert time.monotonic() - begun < SOON_S
    assert not world.restore(check_mode=True)["changed"]


def until(answer: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not answer():
        assert time.monotonic() < deadline
        time.sleep(0.02)


WAITING = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'dbrelease rows' AND wait_event_type = 'Lock'"


def test_what_is_committed_while_the_lock_is_waited_for_is_saved_whatever_the_isolation(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = world.restore()["database"]
    world.execute(f"ALTER DATABASE {world.login.database} SET default_transaction_isolation = 'repeatable read'")
    monkeypatch.setattr(live_compare, "LOCK_TIMEOUT_MS", 20_000)
    writer = holding(
        world,
        "INSERT INTO accounts (name) VALUES ('at the last moment'); CREATE TABLE late AS SELECT generate_series(1, 3);"
        "ALTER TABLE orders ADD note text; UPDATE orders SET note = 'n' WHERE id IN (7, 8)",
    )

    def commit() -> None:
        until(lambda: world.execute(WAITING, "postgres"))
        writer.cursor().execute("COMMIT")

    thread = threading.Thread(target=commit, daemon=True)
    monkeypatch.setattr(lifecycle, "stop", lambda *_: thread.start())
    with closing(writer):
        swapped = world.swap(copy)
        thread.join()
    saved = (Path(swapped["rows"]["directory"]) / "public.accounts.jsonl").read_text()
    assert "at the last moment" in saved
    assert swapped["rows"]["tables"]["public.late"]["new"] == 3
    assert swapped["rows"]["columns"] == {"public.orders": {"names": ["note"], "rows": 2}}


# Nobody vacuums it before it is asked for: what was vacuumed is passed over.
HEAPS = """
CREATE TABLE heaps (n int, filling text) WITH (autovacuum_enabled = off, autovacuum_vacuum_threshold = 1,
  autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1);
INSERT INTO heaps SELECT n, repeat('x', 500) FROM generate_series(1, 30000) n
"""
# As many transactions as a server takes for the least age at which it must freeze.
OLD = """
DO $$ BEGIN
  CREATE TABLE ages (n int);
  FOR n IN 1..100100 LOOP BEGIN INSERT INTO ages VALUES (n); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP;
END $$
"""
VACUUMS = {
    "an ordinary one": ("autovacuum_vacuum_scale_factor = 0, autovacuum_enabled = on", "DELETE FROM heaps"),
    "one that must be": ("autovacuum_freeze_max_age = 100000", OLD),
}
VACUUMING = """
SELECT query FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND query LIKE 'autovacuum: VACUUM%heaps%'
AND datname = current_database()
"""


@pytest.fixture
def hurried(world: World) -> Iterator[None]:
    """The server begins to vacuum at once."""
    try:
        world.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'", "postgres")
        world.execute("SELECT pg_reload_conf()", "postgres")
        yield
    finally:
        world.execute("ALTER SYSTEM RESET autovacuum_naptime", "postgres")
        world.execute("SELECT pg_reload_conf()", "postgres")


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(("options", "reason"), VACUUMS.values(), ids=VACUUMS)
def test_a_slow_autovacuum_gives_way(world: World, monkeypatch: pytest.MonkeyPatch, options: str, reason: str) -> None:
    monkeypatch.setattr(live_compare, "LOCK_DEADLINE_S", 6.0)
    world.execute(HEAPS)
    copy = world.restore()["database"]
    world.execute(f"ALTER TABLE heaps SET ({options})")
    world.execute(reason)
    until(lambda: world.execute(VACUUMING))
    must = "prevent wraparound" in json.dumps(world.execute(VACUUMING))
    assert must is ("freeze" in options)
    assert world.swap(copy)["changed"]

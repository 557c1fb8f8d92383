"""The values of sequences: very many are read without filling the lock table of the server."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from ansible.module_utils.dbrelease.postgres import sequences
from ansible.module_utils.dbrelease.postgres.sequences import read_each, read_values
from ansible.module_utils.dbrelease.postgres.session import Login, select, transaction
from ansible.module_utils.dbrelease.restore.swap.sequences import Position, advance, read_sequences
from own_sessions import connect

MANY = 450
LOCKS = """
SELECT count(*) AS locks FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
WHERE l.pid = pg_backend_pid() AND c.relkind = 'S'
"""


@pytest.fixture
def numbered(session: Any) -> None:
    """Very many sequences, each used but the first."""
    with session.cursor() as cursor:
        for number in range(MANY):
            cursor.execute(f"CREATE SEQUENCE q{number:03}")
        cursor.execute("SELECT setval(c.oid::regclass, 7) FROM pg_class c WHERE relkind = 'S' AND relname > 'q000'")


@pytest.mark.usefixtures("numbered")
def test_what_was_read_is_locked_no_longer(database: Login) -> None:
    with (
        closing(connect(database, "tests")) as connection,
        transaction(connection, read_only=True, isolation="REPEATABLE READ") as cursor,
    ):
        values = read_values(cursor)
        assert select(cursor, LOCKS) == [{"locks": 0}]
        positions = read_sequences(cursor)
        assert select(cursor, LOCKS) == [{"locks": 0}]
    assert len(values) == MANY - 1 and values["public.q001"] == {"last_value": 7, "increment": 1}
    assert len(positions) == MANY
    assert (positions["public.q000"].is_called, positions["public.q001"].is_called) == (False, True)


@pytest.mark.usefixtures("numbered")
def test_one_that_is_dropped_meanwhile_is_left_out(database: Login) -> None:
    with (
        closing(connect(database, "tests")) as connection,
        transaction(connection, read_only=True, isolation="REPEATABLE READ") as cursor,
    ):
        found = dict(read_each(cursor, [("public", "q001"), ("public", "dropped"), ("public", "q002")]))
    assert {name: value.last for name, value in found.items()} == {("public", "q001"): 7, ("public", "q002"): 7}


@pytest.fixture
def reader(database: Login, session: Any) -> Iterator[Login]:
    """A role that may not read one of the sequences."""
    name = f"reader_{secrets.token_hex(4)}"
    with session.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'reader'")
        cursor.execute(f"CREATE SEQUENCE mine; SELECT nextval('mine'); GRANT SELECT ON SEQUENCE mine TO {name}")
        cursor.execute("CREATE SEQUENCE another; SELECT nextval('another')")
        yield replace(database, user=name, password="reader")
        cursor.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_one_that_may_not_be_read_is_left_out(reader: Login) -> None:
    with closing(connect(reader, "tests")) as connection, transaction(connection, read_only=True) as cursor:
        assert set(read_values(cursor)) == {"public.mine"}


@pytest.mark.usefixtures("numbered")
def test_very_many_are_advanced_in_few_statements(database: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "SLICE", 100)
    live = {
        f"public.q{number:03}": Position("public", f"q{number:03}", 1, 1, 2**62, False, 9, is_called=True)
        for number in range(MANY)
    }
    assert len(advance(database, live).steps) == MANY
    assert advance(database, live).steps == []

"""Sequences at a swap: no key is given out twice, neither after a restore nor after a swap back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import database_swap
import pytest
import restore_world
from restore_world import World

world = restore_world.world

# A database that holds the rows of the backup is not restored.
WRITTEN = "; UPDATE orders SET title = 'changed' WHERE id = 1"
ROUND = "SELECT nextval('s') FROM generate_series(1, 5)"
# What was there at the backup, what was done since, and what comes next once the copy was swapped in; None fails.
CASES: dict[str, tuple[str, str, int | None]] = {
    "used since": ("CREATE SEQUENCE s; SELECT nextval('s')", "SELECT nextval('s'), nextval('s')", 4),
    "first used since": ("CREATE SEQUENCE s", "SELECT nextval('s')", 2),
    "not used since": ("CREATE SEQUENCE s; SELECT nextval('s')", "SELECT 1", 2),
    "set to a value that comes next": ("CREATE SEQUENCE s", "SELECT setval('s', 100, false)", 100),
    "set back": ("CREATE SEQUENCE s; SELECT setval('s', 100)", "SELECT setval('s', 7)", 101),
    "downwards": ("CREATE SEQUENCE s INCREMENT -2; SELECT nextval('s')", "SELECT nextval('s')", -5),
    "downwards, set back": ("CREATE SEQUENCE s INCREMENT -1; SELECT setval('s', -9)", "SELECT setval('s', -2)", -10),
    "with a cache": ("CREATE SEQUENCE s CACHE 10", "SELECT nextval('s')", 11),
    "in a circle": (f"CREATE SEQUENCE s MAXVALUE 6 CYCLE; {ROUND}", ROUND, 5),
    "at its end": ("CREATE SEQUENCE s MAXVALUE 5", ROUND, None),
    "new since": ("SELECT 1", "CREATE SEQUENCE s", None),
    "gone since": ("CREATE SEQUENCE s; SELECT nextval('s')", "DROP SEQUENCE s", 2),
}


def coming(world: World, sequence: str = "s") -> int | None:
    (row,) = world.execute(f"SELECT CASE WHEN to_regclass('{sequence}') IS NOT NULL THEN 1 END")
    if row[0] is None:
        return None
    (row,) = world.execute(
        "CREATE OR REPLACE FUNCTION pg_temp.coming() RETURNS bigint LANGUAGE plpgsql AS $$BEGIN "
        f"RETURN nextval('{sequence}'); EXCEPTION WHEN sequence_generator_limit_exceeded THEN RETURN NULL; END$$;"
        "SELECT pg_temp.coming()"
    )
    return row[0] if row[0] is None else int(row[0])


def proof_of(result: dict[str, Any]) -> str:
    (proof,) = [proof for proof in result["proofs"] if proof["name"] == "restore.swapped"]
    return str(proof["detail"])


@pytest.mark.parametrize(("before", "done", "expected"), CASES.values(), ids=CASES.keys())
def test_what_comes_next_was_not_given_out(world: World, before: str, done: str, expected: int | None) -> None:
    world.written_since(before, done + WRITTEN)
    assert coming(world) == expected


def test_how_many_were_advanced_is_reported(world: World) -> None:
    result, _ = world.written_since('CREATE SEQUENCE "50% ""s"""', 'SELECT nextval(\'"50% ""s"""\')' + WRITTEN)
    assert "1 sequence was set as far as the replaced one's." in proof_of(result)
    facts = [line["facts"] for line in world.journal() if (line["step"], line["event"]) == ("restore.swap", "passed")]
    assert [each["sequences"] for each in facts] == [{"advanced": 1, "left": []}]


# What keeps a sequence from being set as far as the live one's.
LEFT = {
    "its bound is nearer": ("CREATE SEQUENCE s AS int", "ALTER SEQUENCE s AS bigint; SELECT setval('s', 5000000000)"),
    "it goes the other way": (
        "CREATE SEQUENCE s MINVALUE -9 START 3; SELECT nextval('s')", "ALTER SEQUENCE s INCREMENT -1 RESTART 9",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("before", "done"), LEFT.values(), ids=LEFT.keys())
def test_one_that_cannot_be_advanced_is_named(world: World, before: str, done: str) -> None:
    result, _ = world.written_since(before, done + WRITTEN)
    assert "Behind those values, and may return used keys again: public.s." in proof_of(result)


def test_rows_written_after_the_swap_and_the_saved_ones_are_all_there(world: World) -> None:
    world.written_since(
        "SELECT 1",
        "INSERT INTO accounts (name) VALUES ('saved'); INSERT INTO orders (title, account_id) VALUES ('saved', 51)",
    )
    world.execute("INSERT INTO accounts (name) VALUES ('since'); INSERT INTO orders (title) VALUES ('since')")
    done = world.replay()
    assert (done.returncode, done.stderr) == (0, "")
    rows = world.execute("SELECT title, name FROM orders o LEFT JOIN accounts a ON a.id = account_id WHERE o.id > 3000")
    assert sorted(rows) == [("saved", "saved"), ("since", None)]


def test_a_swap_back_gives_no_key_twice(world: World) -> None:
    world.back_up()
    world.execute("INSERT INTO accounts (name) VALUES ('before the restore')")
    kept = world.swap(world.restore()["database"])["kept"]
    world.execute("INSERT INTO accounts (name) VALUES ('after it')")
    world.next_run()
    result = world.swap(kept)
    counts = result["rows"]["tables"]["public.accounts"]
    assert (counts["new"], counts["changed"], counts["deleted"]) == (1, 0, 1)
    world.execute("INSERT INTO accounts (name) VALUES ('after the swap back')")
    assert world.execute("SELECT id, name FROM accounts WHERE id > 50 ORDER BY 1") == [
        (51, "before the restore"), (53, "after the swap back"),
    ]  # fmt: skip


@pytest.mark.parametrize("which", ["kept", "maintenance"])
def test_a_database_that_only_reads_is_swapped_back(world: World, which: str) -> None:
    other = f"{world.login.database}_other"
    world.execute(f"CREATE DATABASE {other}")
    world.back_up()
    world.execute("INSERT INTO accounts (name) VALUES ('before the restore')")
    kept = world.swap(world.restore()["database"])["kept"]
    world.execute("INSERT INTO accounts (name) VALUES ('after it'), ('after it')")
    only_reads = {"kept": kept, "maintenance": other}[which]
    world.execute(f"ALTER DATABASE {only_reads} SET default_transaction_read_only = on")
    world.next_run()
    result = database_swap.act(world.swap_parameters(kept) | {"maintenance_db": other}, False)
    assert "1 sequence was set as far as the replaced one's." in proof_of(result)
    (script,) = Path(result["rows"]["directory"]).glob("replay.sql")
    done = world.replay(script=script)
    assert (done.returncode, done.stderr) == (0, "")

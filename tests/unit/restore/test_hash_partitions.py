"""Rows that lie in other partitions after a restore are the same rows: their table is compared as a whole."""

from __future__ import annotations

from typing import Any

import pytest
import restore_world
from ansible.module_utils.dbrelease.postgres.hash_partitions import scattered
from ansible.module_utils.dbrelease.postgres.session import transaction
from restore_world import World

world = restore_world.world

PARTS = "".join(
    f"CREATE TABLE coats_{n} PARTITION OF coats FOR VALUES WITH (MODULUS 4, REMAINDER {n});" for n in range(4)
)
FINISH = "CREATE TYPE finish AS ENUM ('raw', 'primed', 'matt', 'satin', 'gloss', 'zinc', 'chrome', 'oiled');"
VALUE = "(enum_range(NULL::finish))[1 + n % 8]"
KEYS = {
    "enum": ("finish", VALUE),
    "domain": ("kept_finish", VALUE),
    "array": ("finish[]", f"ARRAY[{VALUE}]"),
    "composite": ("pair", f"ROW(1, {VALUE})::pair"),
}


def coats(kind: str) -> str:
    column, value = KEYS[kind]
    return (
        f"{FINISH} CREATE DOMAIN kept_finish AS finish; CREATE TYPE pair AS (a int, b finish);"
        f"CREATE TABLE coats (id int, finish {column}, note text, PRIMARY KEY (id, finish)) PARTITION BY HASH (finish);"
        f"{PARTS} INSERT INTO coats SELECT n, {value}, 'coat ' || n FROM generate_series(1, 400) AS n"
    )


@pytest.mark.parametrize("kind", KEYS)
def test_what_was_backed_up_is_restored(world: World, kind: str) -> None:
    world.execute(coats(kind))
    world.back_up()
    world.execute("UPDATE accounts SET name = 'changed' WHERE id = 1")
    live = world.tables()
    assert live["public.coats"][0] == 400
    assert "public.coats_0" not in live
    result = world.restore()
    assert world.tables(result["database"])["public.coats"] == live["public.coats"]
    parts = "SELECT tableoid::regclass::text, string_agg(id::text, ',' ORDER BY id) FROM coats GROUP BY 1 ORDER BY 1"
    assert world.execute(parts) != world.execute(parts, result["database"])
    swapped = world.swap(result["database"])
    assert "public.coats" not in swapped["rows"]["tables"], "no row of it was written since"


def test_rows_written_since_are_saved_and_said_to_be_in_no_script(world: World) -> None:
    world.execute(coats("enum"))
    world.back_up()
    world.execute("INSERT INTO coats VALUES (401, 'raw', 'late'); DELETE FROM coats WHERE id = 7")
    swapped = world.swap(world.restore()["database"])
    counts = swapped["rows"]["tables"]["public.coats"]
    assert (counts["new"], counts["changed"], counts["deleted"]) == (1, 0, 1)
    (rows,) = [proof for proof in swapped["proofs"] if proof["name"] == "restore.rows_saved"]
    assert rows["status"] == "inconclusive"
    assert rows["detail"].endswith('rows of "public.coats".')
    assert rows["remedy"].startswith("Write the rows that are not in the script manually, from the files in /")


PART = "CREATE TABLE u PARTITION OF t"
STABLE = [
    ("integers", f"CREATE TABLE t (a int) PARTITION BY HASH (a); {PART} FOR VALUES WITH (MODULUS 1, REMAINDER 0)"),
    ("a list of an enum", f"CREATE TYPE f AS ENUM ('a'); CREATE TABLE t (a f) PARTITION BY LIST (a); {PART} DEFAULT"),
]


@pytest.mark.parametrize("made", [row[1] for row in STABLE], ids=[row[0] for row in STABLE])
def test_partitions_that_keep_their_rows_are_compared_one_by_one(session: Any, made: str) -> None:
    with transaction(session) as cursor:
        cursor.execute(made)
        assert scattered(cursor) == {}

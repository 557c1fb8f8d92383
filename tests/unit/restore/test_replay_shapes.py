"""The replay script where the database acts by itself, or checks in its own order: all rows come back, or none.

Triggers and rules hold still meanwhile, and are afterwards what they were.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import restore_world
from ansible.module_utils.dbrelease.restore.swap import replay_sql
from own_sessions import connect
from restore_world import World

world = restore_world.world

CIRCLE = (
    "CREATE TABLE teams (id int PRIMARY KEY, head int); CREATE TABLE people (id int PRIMARY KEY, team int"
    " REFERENCES teams ON DELETE CASCADE); ALTER TABLE teams ADD FOREIGN KEY (head) REFERENCES people ON DELETE"
)
# Each case: what was there at the backup, and what was written to it since.
CASES = {
    "a trigger that changes what is written": (
        "CREATE TABLE pages (id int PRIMARY KEY, said text, at timestamptz);"
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.at = clock_timestamp(); RETURN NEW; END $$;"
        "CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON pages FOR EACH ROW EXECUTE FUNCTION touch();"
        "INSERT INTO pages VALUES (1, 'old'), (2, 'old')",
        "UPDATE pages SET said = 'new' WHERE id = 1; INSERT INTO pages VALUES (3, 'new')",
    ),
    "a trigger that keeps a record, with rows that were recorded otherwise": (
        "CREATE TABLE pages (id int PRIMARY KEY, said text); CREATE TABLE records (id serial PRIMARY KEY, page int);"
        "CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO records (page) VALUES (coalesce(NEW.id, OLD.id)); RETURN NULL; END $$;"
        "CREATE TRIGGER record AFTER INSERT OR UPDATE OR DELETE ON pages FOR EACH ROW EXECUTE FUNCTION record();"
        "INSERT INTO pages VALUES (1, 'old'), (2, 'old')",
        "DELETE FROM pages WHERE id = 1; INSERT INTO pages SELECT n, 'new' FROM generate_series(3, 9) n",
    ),
    "triggers of every state": (
        "CREATE TABLE pages (id int PRIMARY KEY, said text);"
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.said = NEW.said || '!'; RETURN NEW; END $$;"
        'CREATE TRIGGER "O" BEFORE INSERT ON pages FOR EACH ROW EXECUTE FUNCTION shout();'
        'CREATE TRIGGER "a %" BEFORE INSERT ON pages FOR EACH ROW EXECUTE FUNCTION shout();'
        'CREATE TRIGGER "r" BEFORE INSERT ON pages FOR EACH ROW EXECUTE FUNCTION shout();'
        'CREATE TRIGGER "d" BEFORE INSERT ON pages FOR EACH ROW EXECUTE FUNCTION shout();'
        'ALTER TABLE pages ENABLE ALWAYS TRIGGER "a %", ENABLE REPLICA TRIGGER r, DISABLE TRIGGER d',
        "INSERT INTO pages VALUES (1, 'new')",
    ),
    "triggers of a partitioned table, of which one partition has them otherwise": (
        "CREATE TABLE pages (id int, year int, said text, PRIMARY KEY (id, year)) PARTITION BY LIST (year);"
        "CREATE TABLE pages_1 PARTITION OF pages FOR VALUES IN (1);"
        "CREATE TABLE pages_2 PARTITION OF pages FOR VALUES IN (2);"
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.said = NEW.said || '!'; RETURN NEW; END $$;"
        "CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON pages FOR EACH ROW EXECUTE FUNCTION shout();"
        "ALTER TABLE pages_2 DISABLE TRIGGER shout; INSERT INTO pages VALUES (1, 1, 'old'), (2, 2, 'old')",
        "UPDATE pages SET said = 'new'; UPDATE pages SET year = 2 WHERE id = 1; INSERT INTO pages VALUES (3, 1, 'new')",
    ),
    "a trigger that waits for the end of the transaction": (
        "CREATE TABLE pages (id int PRIMARY KEY); CREATE TABLE records (id serial PRIMARY KEY, page int);"
        "CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO records (page) VALUES (NEW.id); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER record AFTER INSERT ON pages DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION record()",
        "INSERT INTO pages SELECT n FROM generate_series(1, 3) n",
    ),
    "rules that write elsewhere, or not at all": (
        "CREATE TABLE pages (id int PRIMARY KEY, said text); CREATE TABLE records (id serial PRIMARY KEY, page int);"
        "INSERT INTO pages VALUES (1, 'old'), (2, 'old');"
        "CREATE RULE inserted AS ON INSERT TO pages DO ALSO INSERT INTO records (page) VALUES (NEW.id);"
        "CREATE RULE updated AS ON UPDATE TO pages DO ALSO INSERT INTO records (page) VALUES (NEW.id);"
        "CREATE RULE deleted AS ON DELETE TO pages DO INSTEAD NOTHING; ALTER TABLE pages ENABLE ALWAYS RULE updated",
        "UPDATE pages SET said = 'new' WHERE id = 1; INSERT INTO pages VALUES (3, 'new');"
        "ALTER TABLE pages DISABLE RULE deleted; DELETE FROM pages WHERE id = 2; ALTER TABLE pages ENABLE RULE deleted",
    ),
    "a key that is checked late": (
        "CREATE TABLE pages (id int PRIMARY KEY DEFERRABLE, said text);INSERT INTO pages VALUES (1, 'old'), (2, 'old')",
        "UPDATE pages SET said = 'new' WHERE id = 1; DELETE FROM pages WHERE id = 2;"
        "INSERT INTO pages VALUES (3, 'new')",
    ),
    "a key that includes another column": (
        "CREATE TABLE pages (b text, a int, c int, PRIMARY KEY (c, a) INCLUDE (b));"
        "INSERT INTO pages VALUES ('old', 1, 1), ('old', 2, 1)",
        "UPDATE pages SET b = 'new' WHERE a = 1; INSERT INTO pages VALUES ('new', 1, 2)",
    ),
    "rows of which each refers to one of another table, and it to that": (
        "CREATE TABLE teams (id int PRIMARY KEY, head int);"
        "CREATE TABLE people (id int PRIMARY KEY, team int NOT NULL REFERENCES teams DEFERRABLE);"
        "ALTER TABLE teams ADD FOREIGN KEY (head) REFERENCES people DEFERRABLE, ALTER head SET NOT NULL",
        "BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO teams VALUES (1, 2), (2, 1);"
        "INSERT INTO people VALUES (1, 1), (2, 2); COMMIT",
    ),
    "unique values that rows exchanged, one of them with a new row": (
        "CREATE TABLE codes (id int PRIMARY KEY, code text NOT NULL UNIQUE, up int REFERENCES codes, twice text"
        " GENERATED ALWAYS AS (code || code) STORED);"
        "CREATE TABLE uses (id int PRIMARY KEY, code_id int REFERENCES codes);"
        "INSERT INTO codes VALUES (1, 'a', NULL), (2, 'b', 1), (3, 'c', 2), (4, 'd', 3);"
        "INSERT INTO uses VALUES (1, 1), (2, 4)",
        "UPDATE codes SET code = 'spare' WHERE id = 1; UPDATE codes SET code = 'a' WHERE id = 2;"
        "UPDATE codes SET code = 'b' WHERE id = 1; UPDATE codes SET code = 'moved' WHERE id = 3;"
        "INSERT INTO codes VALUES (5, 'c'); UPDATE codes SET up = 5 WHERE id IN (1, 4)",
    ),
    "places that all moved on by one": (
        "CREATE TABLE steps (id int PRIMARY KEY, place int UNIQUE); INSERT INTO steps SELECT n, n"
        " FROM generate_series(1, 1200) n",
        "UPDATE steps SET place = -place; UPDATE steps SET place = 1 - place; INSERT INTO steps VALUES (0, 1)",
    ),
    "unique values that rows exchanged on which others hang": (
        "CREATE TABLE codes (id int PRIMARY KEY, code text UNIQUE, said text NOT NULL UNIQUE, n int);"
        "CREATE TABLE uses (id int PRIMARY KEY, code_id int REFERENCES codes ON DELETE CASCADE);"
        "INSERT INTO codes VALUES (1, 'a', 'A'), (2, 'b', 'B'); INSERT INTO uses VALUES (1, 1)",
        "UPDATE codes SET code = NULL WHERE id = 1; UPDATE codes SET code = 'a' WHERE id = 2;"
        "UPDATE codes SET code = 'b', n = 1 WHERE id = 1",
    ),
    "a key that is computed": (
        "CREATE TABLE codes (a int, id int PRIMARY KEY GENERATED ALWAYS AS (a * 2) STORED, said text UNIQUE);"
        "INSERT INTO codes (a, said) VALUES (1, 'a'), (2, 'b')",
        "UPDATE codes SET said = 'c' WHERE a = 1; UPDATE codes SET said = 'a' WHERE a = 2;"
        "UPDATE codes SET said = 'b' WHERE a = 1; INSERT INTO codes (a, said) VALUES (3, 'd')",
    ),
    "rows that a unique value tells apart, without a primary key": (
        "CREATE TABLE codes (n int UNIQUE, code text NOT NULL, part int NOT NULL, said text, UNIQUE (code, part));"
        "INSERT INTO codes VALUES (NULL, 'a', 1, 'old'), (2, 'a', 2, 'old'), (3, 'b', 1, 'old')",
        "UPDATE codes SET said = 'new' WHERE part = 1; DELETE FROM codes WHERE n = 2;"
        "INSERT INTO codes VALUES (2, 'c', 1, 'new')",
    ),
    "values that rows exchanged, and nothing else": (
        "CREATE TABLE codes (id int PRIMARY KEY, code text NOT NULL UNIQUE);"
        "INSERT INTO codes VALUES (1, 'a'), (2, 'b');"
        "CREATE TABLE plain (id int PRIMARY KEY, a int); INSERT INTO plain VALUES (1, 1), (2, 2)",
        "UPDATE codes SET code = 'c' WHERE id = 1; UPDATE codes SET code = 'a' WHERE id = 2;"
        "UPDATE codes SET code = 'b' WHERE id = 1; UPDATE plain SET a = 3 - a",
    ),
    "a unique value that a row on which others hang gave up to a new one": (
        "CREATE TABLE codes (id int PRIMARY KEY, code text NOT NULL UNIQUE);"
        "CREATE TABLE uses (id int PRIMARY KEY, code_id int REFERENCES codes ON DELETE CASCADE);"
        "INSERT INTO codes VALUES (1, 'a'); INSERT INTO uses VALUES (1, 1)",
        "UPDATE codes SET code = 'b'; INSERT INTO codes VALUES (2, 'a')",
    ),
    "ranges that must not overlap, exchanged": (
        "CREATE TABLE rooms (id int PRIMARY KEY, taken int4range, n int, EXCLUDE USING gist (taken WITH &&));"
        "INSERT INTO rooms VALUES (1, '[1,5)'), (2, '[5,9)')",
        "UPDATE rooms SET taken = 'empty' WHERE id = 1; UPDATE rooms SET taken = '[1,5)' WHERE id = 2;"
        "UPDATE rooms SET taken = '[5,9)', n = 1 WHERE id = 1",
    ),
    "a key that its type calls the same, though it is written otherwise": (
        "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
        "CREATE TABLE users (email text COLLATE nocase PRIMARY KEY, code text UNIQUE, n int);"
        "CREATE TABLE notes (id int PRIMARY KEY, email text COLLATE nocase REFERENCES users ON DELETE CASCADE);"
        "CREATE TABLE sizes (size numeric PRIMARY KEY, n int);"
        "INSERT INTO users VALUES ('Bob', 'b', 1), ('Ann', 'a', 1); INSERT INTO notes VALUES (1, 'Bob');"
        "INSERT INTO sizes VALUES (1.5, 1), (2, 1)",
        "UPDATE users SET email = 'bob', n = 2 WHERE code = 'b'; UPDATE sizes SET size = 1.50 WHERE size = 1.5;"
        "DELETE FROM sizes WHERE size = 2; DELETE FROM users WHERE email = 'ann'",
    ),
    "a key whose type has its equality in a schema that is not searched": (
        "CREATE SCHEMA kinds; CREATE EXTENSION citext SCHEMA kinds;"
        "CREATE TABLE users (email kinds.citext PRIMARY KEY, n int);"
        "INSERT INTO users VALUES ('Bob', 1), ('Ann', 1), ('Eve', 1)",
        "UPDATE users SET email = 'BOB' WHERE email::text = 'Bob'; DELETE FROM users WHERE email::text = 'Ann';"
        "UPDATE users SET n = 2 WHERE email::text = 'Eve'; INSERT INTO users VALUES ('Zoe', 1)",
    ),
    "rows that refer to one another, checked at once": (
        "CREATE TABLE teams (id int PRIMARY KEY, head int); CREATE TABLE people (id int PRIMARY KEY, team int NOT NULL"
        " REFERENCES teams); ALTER TABLE teams ADD FOREIGN KEY (head) REFERENCES people",
        "INSERT INTO teams VALUES (1), (2); INSERT INTO people VALUES (1, 1), (2, 2); UPDATE teams SET head = 3 - id",
    ),
    "a natural key that was renamed, with another unique value and rows that refer to it": (
        "CREATE TABLE codes (code text PRIMARY KEY, place int UNIQUE);"
        "CREATE TABLE uses (id int PRIMARY KEY, code text NOT NULL REFERENCES codes ON UPDATE CASCADE);"
        "INSERT INTO codes VALUES ('a', 1), ('b', 2); INSERT INTO uses VALUES (1, 'a'), (2, 'b')",
        "UPDATE codes SET code = 'c' WHERE code = 'a'",
    ),
    "a key whose type is a domain over an enum": (
        "CREATE TYPE size AS ENUM ('s', 'm', 'l'); CREATE DOMAIN fitting AS size;"
        "CREATE TABLE sizes (size fitting PRIMARY KEY, n int); INSERT INTO sizes VALUES ('s', 1), ('m', 1)",
        "UPDATE sizes SET n = 2 WHERE size::text = 's'; DELETE FROM sizes WHERE size::text = 'm';"
        "INSERT INTO sizes VALUES ('l', 1)",
    ),
    "rows of partitions that refer to rows of another table's": (
        "CREATE TABLE orders_of (id int, year int, PRIMARY KEY (id, year)) PARTITION BY LIST (year);"
        "CREATE TABLE orders_of_1 PARTITION OF orders_of FOR VALUES IN (1);"
        "CREATE TABLE lines (id int, year int, order_id int, PRIMARY KEY (id, year),"
        " FOREIGN KEY (order_id, year) REFERENCES orders_of) PARTITION BY LIST (year);"
        "CREATE TABLE lines_1 PARTITION OF lines FOR VALUES IN (1)",
        "INSERT INTO orders_of VALUES (1, 1); INSERT INTO lines VALUES (1, 1, 1)",
    ),
    "a branch of a tree whose place another one took": (
        "CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE, place int,"
        " UNIQUE (up, place));"
        "INSERT INTO tree VALUES (1, NULL, 1), (2, 1, 1), (3, 2, 1), (4, 1, 2), (5, NULL, 2)",
        "DELETE FROM tree WHERE id = 2; UPDATE tree SET place = 1 WHERE id = 4;"
        "INSERT INTO tree VALUES (6, 1, 2), (7, 6, 1)",
    ),
    "a circle of rows that are gone": (
        f"{CIRCLE} SET NULL; INSERT INTO teams VALUES (1), (2); INSERT INTO people VALUES (1, 1), (2, 2);"
        "UPDATE teams SET head = id",
        "DELETE FROM teams WHERE id = 1",
    ),
}
# What the database does by itself as one writes to a table.
ACTING = """
SELECT tgrelid::regclass::text, tgname::text, tgenabled::text || tgdeferrable || tginitdeferred FROM pg_trigger
UNION ALL SELECT ev_class::regclass::text, rulename, ev_enabled::text FROM pg_rewrite WHERE ev_class >= 16384
UNION ALL SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint ORDER BY 1, 2, 3
"""


@pytest.mark.parametrize(("before", "written"), CASES.values(), ids=CASES.keys())
def test_rows_come_back_as_they_were(world: World, before: str, written: str) -> None:
    _, live = world.written_since(before, written)
    assert world.every_row() != live
    acting = world.execute(ACTING)
    for _ in range(2):
        done = world.replay()
        assert done.returncode == 0, done.stderr
        assert world.every_row() == live
        assert world.execute(ACTING) == acting


SHOUTING = """
CREATE TABLE pages (id int PRIMARY KEY, said text); CREATE TABLE plain (id int PRIMARY KEY);
INSERT INTO pages VALUES (1, 'old');
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.said = NEW.said || '!'; RETURN NEW; END $$;
CREATE TRIGGER shout BEFORE UPDATE ON pages FOR EACH ROW EXECUTE FUNCTION shout();
GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC
"""
EXCHANGED = (
    "CREATE TABLE codes (id int PRIMARY KEY, code text NOT NULL UNIQUE, said text);"
    "CREATE TABLE uses (id int PRIMARY KEY, code_id int REFERENCES codes ON DELETE CASCADE);"
    "CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO codes VALUES (1, 'a'), (2, 'b');"
    "INSERT INTO uses VALUES (1, 1)",
    "INSERT INTO plain VALUES (1); UPDATE codes SET code = 'c' WHERE id = 1; UPDATE codes SET code = 'a' WHERE id = 2;"
    "UPDATE codes SET code = 'b', said = 'new' WHERE id = 1",
)
CODES = (
    "CREATE TABLE codes (id int PRIMARY KEY, code text); CREATE TABLE plain (id int PRIMARY KEY);"
    "INSERT INTO codes VALUES (1, 'old'), (2, 'old')"
)
FAMILIES = (
    "CREATE TABLE plain (id int PRIMARY KEY); CREATE TABLE parents (id int PRIMARY KEY, code text UNIQUE);"
    "INSERT INTO parents VALUES (1, 'a'), (2, 'b');"
    "CREATE TABLE children (id int PRIMARY KEY, parent_id int REFERENCES parents ON DELETE"
)
FEWER = "INSERT INTO plain VALUES (1); DELETE FROM parents WHERE id = 1"
# What was there, what was written since, what was written since the swap, who replays, and the words of the refusal.
REFUSALS: dict[str, tuple[str, str, str, str, str]] = {
    "by one who does not own a table with a trigger": (
        SHOUTING, "UPDATE pages SET said = 'new'; INSERT INTO plain VALUES (1)", "", "{role}",
        "must be owner of table pages), and nothing was changed: run this as the owner",
    ),
    "by one who does not see every row": (
        "CREATE TABLE pages (id int PRIMARY KEY); INSERT INTO pages VALUES (1), (2); CREATE TABLE plain (id int);"
        "ALTER TABLE pages ENABLE ROW LEVEL SECURITY; CREATE POLICY higher ON pages USING (id > 1);"
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC",
        "DELETE FROM pages WHERE id = 1; INSERT INTO plain VALUES (1)", "", "{role}", "row-level security",
    ),
    "values exchanged on whose rows others hang": (
        *EXCHANGED, "", "", "Replaying public.codes was refused (duplicate key",
    ),
    "a value that was given away since": (
        "CREATE TABLE codes (id int PRIMARY KEY, code text UNIQUE); CREATE TABLE plain (id int PRIMARY KEY)",
        "INSERT INTO plain VALUES (1); INSERT INTO codes VALUES (1, 'a')", "INSERT INTO codes VALUES (2, 'a')", "",
        "DETAIL:  Key (code)=(a) already exists.",
    ),
    "a row that refers to one that was deleted since": (
        "CREATE TABLE codes (id int PRIMARY KEY); CREATE TABLE plain (id int PRIMARY KEY);"
        "CREATE TABLE uses (id int PRIMARY KEY, code_id int REFERENCES codes); INSERT INTO codes VALUES (1)",
        "INSERT INTO plain VALUES (1); INSERT INTO uses VALUES (1, 1)", "DELETE FROM codes", "",
        "violates foreign key constraint",
    ),
    "the same in a database whose sessions check nothing": (
        "CREATE TABLE codes (id int PRIMARY KEY); CREATE TABLE plain (id int PRIMARY KEY);"
        "CREATE TABLE uses (id int PRIMARY KEY, code_id int REFERENCES codes); INSERT INTO codes VALUES (1)",
        "INSERT INTO plain VALUES (1); INSERT INTO uses VALUES (1, 1)", "DELETE FROM codes; DO $$ BEGIN EXECUTE"
        " format('ALTER DATABASE %I SET session_replication_role = replica', current_database()); END $$", "",
        "violates foreign key constraint",
    ),
    "a key that was given to another row since": (
        CODES, "INSERT INTO plain VALUES (1); INSERT INTO codes VALUES (3, 'saved')",
        "INSERT INTO codes VALUES (3, 'since')", "",
        "Replaying public.codes was refused (of 1 saved rows, such as (id)=(3)",
    ),
    "a row that was changed since, as it was before": (
        CODES, "INSERT INTO plain VALUES (1); UPDATE codes SET code = 'saved'",
        "UPDATE codes SET code = 'since' WHERE id = 2", "",
        "Replaying public.codes was refused (of 1 saved rows, such as (id)=(2)",
    ),
    "a row that was deleted since, and was changed before": (
        CODES, "INSERT INTO plain VALUES (1); UPDATE codes SET code = 'saved'",
        "DELETE FROM codes", "", "Replaying public.codes was refused (of 2 saved rows, such as (id)=(1)",
    ),
    "a row that was changed since, and was deleted before": (
        CODES, "INSERT INTO plain VALUES (1); DELETE FROM codes WHERE id = 1", "UPDATE codes SET code = 'since'", "",
        "Replaying public.codes was refused (of 1 saved rows, such as (id)=(1)",
    ),
    "a key that its type calls the same as one that was given since": (
        "CREATE TABLE plain (id int PRIMARY KEY); CREATE TABLE sizes (size numeric PRIMARY KEY)",
        "INSERT INTO plain VALUES (1); INSERT INTO sizes VALUES (1.5)", "INSERT INTO sizes VALUES (1.50)", "",
        "Replaying public.sizes was refused (of 1 saved rows, such as (size)=(1.5)",
    ),
    "a child that a deletion would take along": (
        f"{FAMILIES} CASCADE)", FEWER, "INSERT INTO children VALUES (7, 1)", "",
        "Replaying public.parents was refused (1 rows of public.children refer to rows that it would delete",
    ),
    "a child that a deletion would set to null": (
        f"{FAMILIES} SET NULL)", FEWER, "INSERT INTO children VALUES (7, 1)", "",
        "Replaying public.parents was refused (1 rows of public.children refer",
    ),
    "such a child of a table that was written to": (
        f"{FAMILIES} CASCADE); INSERT INTO children VALUES (1, 1), (2, 1), (3, 2)",
        f"{FEWER}; UPDATE children SET parent_id = NULL WHERE id = 3",
        "INSERT INTO children VALUES (7, 1)", "",
        "Replaying public.parents was refused (1 rows of public.children refer",
    ),
    "such a child of a row in the way": (
        f"{FAMILIES} CASCADE)", f"{FEWER}; INSERT INTO parents VALUES (3, 'a')",
        "INSERT INTO children VALUES (7, 1)", "",
        "Replaying public.parents was refused (1 rows of public.children refer",
    ),
    "such a child of a row without a key": (
        f"{FAMILIES} CASCADE)",
        f"ALTER TABLE parents DROP CONSTRAINT parents_pkey CASCADE; {FEWER}",
        "INSERT INTO children VALUES (7, 1)", "",
        "Replaying public.parents was refused (1 rows of public.children refer",
    ),
    "a child that would lose a column": (
        f"{FAMILIES} CASCADE, note text); INSERT INTO children VALUES (1, 1, 'precious')",
        f"ALTER TABLE children DROP COLUMN note; UPDATE children SET parent_id = 2; {FEWER};"
        "INSERT INTO parents VALUES (3, 'a')", "", "", "DETAIL:  Key (code)=(a) already exists.",
    ),
    "a child in a circle": (
        f"{CIRCLE} CASCADE; CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO teams VALUES (1), (2);"
        "INSERT INTO people VALUES (1, 1), (2, 2)",
        "INSERT INTO plain VALUES (1); DELETE FROM teams WHERE id = 1", "INSERT INTO teams VALUES (3, 1)", "",
        "Replaying public.people was refused (1 rows of public.teams refer to rows that it would delete",
    ),
    "a child in a partition": (
        "CREATE TABLE plain (id int PRIMARY KEY); CREATE TABLE orders_of (id int, year int, PRIMARY KEY (id, year))"
        " PARTITION BY LIST (year); CREATE TABLE orders_of_1 PARTITION OF orders_of FOR VALUES IN (1);"
        "CREATE TABLE lines (id int, year int, order_id int, PRIMARY KEY (id, year), FOREIGN KEY (order_id, year)"
        " REFERENCES orders_of ON DELETE CASCADE) PARTITION BY LIST (year);"
        "CREATE TABLE lines_1 PARTITION OF lines FOR VALUES IN (1); INSERT INTO orders_of VALUES (1, 1), (2, 1)",
        "INSERT INTO plain VALUES (1); DELETE FROM orders_of WHERE id = 1", "INSERT INTO lines VALUES (1, 1, 1)", "",
        "Replaying public.orders_of_1 was refused (1 rows of public.lines refer to rows that it would delete",
    ),
    "a child of a child, where only the restored table has the foreign key": (
        "CREATE TABLE plain (id int PRIMARY KEY); CREATE TABLE upper (id int PRIMARY KEY);"
        "CREATE TABLE child (id int PRIMARY KEY, up int CONSTRAINT ups REFERENCES upper ON DELETE CASCADE);"
        "CREATE TABLE grandchild (id int PRIMARY KEY, up int REFERENCES child ON DELETE CASCADE);"
        "INSERT INTO upper VALUES (1), (2); INSERT INTO child VALUES (1, 1), (2, 2)",
        "INSERT INTO plain VALUES (1); ALTER TABLE child DROP CONSTRAINT ups; DELETE FROM child WHERE id = 1;"
        "DELETE FROM upper WHERE id = 1",
        "INSERT INTO grandchild VALUES (5, 1)", "",
        "Replaying public.child was refused (1 rows of public.grandchild refer",
    ),
    "a child of a key that is given to another row": (
        "CREATE TABLE plain (id int PRIMARY KEY); CREATE TABLE parents (id int PRIMARY KEY, code text UNIQUE);"
        "CREATE TABLE children (id int PRIMARY KEY, code text REFERENCES parents (code) ON UPDATE SET NULL);"
        "INSERT INTO parents VALUES (1, 'a')",
        "INSERT INTO plain VALUES (1); UPDATE parents SET code = 'b'", "INSERT INTO children VALUES (5, 'a')", "",
        "Replaying public.parents was refused (1 rows of public.children refer to rows that it would give another key",
    ),
    "a child that kept its key as its parent got another one": (
        "CREATE TABLE plain (id int PRIMARY KEY); CREATE TABLE parents (id int PRIMARY KEY, code text UNIQUE);"
        "CREATE TABLE children (id int PRIMARY KEY, code text REFERENCES parents (code) ON UPDATE CASCADE);"
        "INSERT INTO parents VALUES (1, 'a'); INSERT INTO children VALUES (1, 'a')",
        "INSERT INTO plain VALUES (1); UPDATE parents SET code = 'b'; INSERT INTO parents VALUES (2, 'a');"
        "UPDATE children SET code = 'a'", "", "",
        "Replaying public.parents was refused (1 rows of public.children refer",
    ),
    "a value that nobody may assign": (
        "CREATE TABLE plain (id int PRIMARY KEY); CREATE TABLE pages (id int PRIMARY KEY, n int GENERATED ALWAYS AS"
        " IDENTITY); INSERT INTO pages VALUES (1)",
        "INSERT INTO plain VALUES (1); DELETE FROM pages; INSERT INTO pages VALUES (1)", "", "",
        "Replaying public.pages was refused (1 rows, such as (id)=(1), would not become what was saved)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("before", "written", "meanwhile", "role", "words"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_be_replayed_is_reported_and_not_written(
    world: World, before: str, written: str, meanwhile: str, role: str, words: str
) -> None:
    world.written_since(before, written)
    world.execute(meanwhile or "SELECT 1")
    seen, acting = world.every_row(), world.execute(ACTING)
    done = world.replay(role.replace("{role}", world.role))
    assert done.returncode == 3
    assert words in done.stderr
    assert (world.every_row(), world.execute(ACTING)) == (seen, acting)


def test_one_who_may_only_write_replays_where_nothing_must_hold_still(world: World) -> None:
    _, live = world.written_since(SHOUTING, "INSERT INTO plain VALUES (1)")
    done = world.replay(world.role)
    assert (done.returncode, done.stderr) == (0, "")
    assert world.every_row() == live


def test_a_column_that_the_key_includes_is_none_of_its_own(world: World) -> None:
    before, written = CASES["a key that includes another column"]
    result, _ = world.written_since(before, written)
    counts = result["rows"]["tables"]["public.pages"]
    assert (counts["new"], counts["changed"], counts["deleted"]) == (1, 1, 0)


@pytest.mark.parametrize("exchanged", [False, True])
def test_what_only_the_restored_table_has_stays_as_it_is(world: World, exchanged: bool) -> None:
    world.written_since(
        "CREATE TABLE codes (id int PRIMARY KEY, code text UNIQUE, more int NOT NULL DEFAULT 7, note text);"
        "INSERT INTO codes VALUES (1, 'a', 1, 'one'), (2, 'b', 2, 'two')",
        "ALTER TABLE codes DROP COLUMN more, DROP COLUMN note; UPDATE codes SET code = 'c' WHERE id = 1;"
        + ("UPDATE codes SET code = 'a' WHERE id = 2; UPDATE codes SET code = 'b' WHERE id = 1;" if exchanged else "")
        + "INSERT INTO codes VALUES (3, 'd')",
    )
    done = world.replay()
    assert done.returncode == 0, done.stderr
    codes = ("b", "a") if exchanged else ("c", "b")
    assert world.execute("SELECT * FROM codes ORDER BY id") == [
        (1, codes[0], 1, "one"), (2, codes[1], 2, "two"), (3, "d", 7, None),
    ]  # fmt: skip


def test_rows_of_columns_that_became_wider_are_neither_counted_nor_written_again(world: World) -> None:
    result, live = world.written_since(
        "CREATE TYPE mood_2 AS ENUM ('low', 'high'); CREATE TABLE plain (a int, b text, c varchar(9));"
        "INSERT INTO plain VALUES (1, 'low', 'x'), (1, 'low', 'x'), (2, NULL, NULL);"
        "CREATE TABLE keyed (id int PRIMARY KEY, n int); INSERT INTO keyed VALUES (1, 1), (2, 2)",
        "ALTER TABLE plain ALTER a TYPE numeric, ALTER b TYPE mood_2 USING b::mood_2, ALTER c TYPE text;"
        "DELETE FROM plain WHERE a = 2; INSERT INTO plain VALUES (3, 'high', 'y');"
        "ALTER TABLE keyed ALTER id TYPE bigint, ALTER n TYPE numeric; UPDATE keyed SET n = 3 WHERE id = 2",
    )
    counts = {
        key: (found["new"], found["changed"], found["deleted"]) for key, found in result["rows"]["tables"].items()
    }
    assert counts == {"public.plain": (1, 0, 1), "public.keyed": (0, 1, 0)}
    done = world.replay()
    assert done.returncode == 0, done.stderr
    assert world.every_row() == live


def test_a_table_that_others_use_is_waited_for_and_then_they_are_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_sql, "HOLD_DEADLINE", "1 s")
    _, live = world.written_since(CODES, "UPDATE codes SET code = 'saved'; INSERT INTO plain VALUES (1)")
    waits: list[float] = []
    refused = threading.Event()

    def write() -> None:
        while not refused.is_set():
            begun = time.monotonic()
            world.execute("UPDATE codes SET code = '' WHERE false")
            waits.append(time.monotonic() - begun)

    with closing(connect(world.login, "somebody")) as other, other.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE codes IN ROW EXCLUSIVE MODE")
        seen = world.every_row()
        writer = threading.Thread(target=write)
        writer.start()
        done = world.replay()
        refused.set()
        writer.join()
        assert done.returncode == 3
        assert "Replaying was refused (for 1 s other sessions locked its tables: " in done.stderr
        assert f"{other.get_backend_pid()} ('somebody')" in done.stderr
        assert world.every_row() == seen
    assert max(waits) < 2
    assert world.replay().returncode == 0
    assert world.every_row() == live


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL"])
def test_a_child_that_is_on_its_way_is_awaited(world: World, action: str) -> None:
    world.written_since(f"{FAMILIES} {action})", FEWER)
    with closing(connect(world.login, "somebody")) as other, other.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute("BEGIN; INSERT INTO children VALUES (7, 1)")
        going = pool.submit(world.replay)
        while not world.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"):
            assert not going.done(), going.result().stderr
            time.sleep(0.02)
        cursor.execute("COMMIT")
        done = going.result()
    assert (
        "Replaying public.parents was refused (1 rows of public.children refer to rows that it would delete"
        in done.stderr
    )
    assert world.execute("SELECT * FROM children") == [(7, 1)]


def test_readers_wait_for_no_replay_that_an_order_satisfies(world: World) -> None:
    _, live = world.written_since(
        "CREATE TABLE a_child (id int PRIMARY KEY, p int); CREATE TABLE parent (id int PRIMARY KEY, code text UNIQUE);"
        "ALTER TABLE a_child ADD FOREIGN KEY (p) REFERENCES parent",
        "INSERT INTO parent VALUES (1, 'a'); INSERT INTO a_child VALUES (1, 1)",
    )
    with closing(connect(world.login, "a reader")) as other, other.cursor() as cursor:
        cursor.execute("BEGIN; SELECT * FROM a_child, parent")
        done = world.replay()
        assert done.returncode == 0, done.stderr
        cursor.execute("ROLLBACK")
    assert world.every_row() == live


def test_rows_by_the_thousand_are_looked_for_once(world: World) -> None:
    """Row by row it would take minutes, with others waiting."""
    many = "FROM generate_series(1, 40000) n"
    world.written_since(
        "CREATE TABLE plain (a int, b text); CREATE TABLE parent (id int PRIMARY KEY, code text UNIQUE);"
        "CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE);"
        f"INSERT INTO plain SELECT n % 5000, 'x' {many}",
        f"DELETE FROM plain WHERE a < 2500; INSERT INTO parent SELECT n, n {many};INSERT INTO child SELECT n, n {many}",
    )
    begun = time.monotonic()
    done = world.replay()
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < 10
    assert world.execute("SELECT count(*), sum(a) FROM plain") == [(20000, sum(8 * a for a in range(2500, 5000)))]
    assert world.execute("SELECT count(*) FROM child") == [(40000,)]

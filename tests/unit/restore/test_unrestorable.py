"""A restore that fails for what is in the dump says which object it is, and what to do; nothing is left of it."""

from __future__ import annotations

import pytest
import restore_world
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.restore.copy import advice_for
from restore_world import World

world = restore_world.world

FOLD = "CREATE FUNCTION fold(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT lower($1) $$;"
PLAIN = "CREATE FUNCTION plain(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN fold($1); END $$;"
MADE = {
    "index": "CREATE TABLE tags (a text); INSERT INTO tags VALUES ('secret'); CREATE INDEX ON tags (plain(a))",
    "generated column": "CREATE TABLE tags (a text, b text GENERATED ALWAYS AS (plain(a)) STORED);"
    "INSERT INTO tags VALUES ('secret')",
}


@pytest.mark.parametrize("kind", MADE)
def test_a_function_without_schema_is_named_with_what_to_do(world: World, kind: str) -> None:
    world.execute(f"{FOLD} {PLAIN} {MADE[kind]}")
    (open_claim,) = [one for one in world.back_up()["proofs"] if one["name"] == "backup.restorable"]
    assert "A restore fails at" in open_claim["detail"]
    world.execute("UPDATE accounts SET name = 'changed' WHERE id = 1")
    with pytest.raises(ReleaseError) as failure:
        world.restore()
    assert "function fold(text) does not exist" in failure.value.message
    assert "where the function public.plain(text) names something without its schema" in failure.value.message
    assert "ALTER FUNCTION ... SET search_path" in failure.value.message
    assert "secret" not in failure.value.message
    assert list(world.databases()) == [world.login.database]


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ('error: could not execute query: ERROR:  must be member of role "shop"', "grant that role to db_user"),
        ('ERROR:  permission denied to create extension "pageinspect"', "let a superuser be db_user"),
        ('ERROR:  extension "gone" is not available', "install the files of that extension"),
        ("ERROR:  can only create extension in database postgres", "restore to another server"),
        ("error: could not write to file", "remove the cause"),
        ("ERROR:  disk full CONTEXT:  function x does not exist", "remove the cause"),
    ],
)
def test_each_cause_has_its_advice(said: str, advice: str) -> None:
    assert advice in advice_for(f"pg_restore: {said}")

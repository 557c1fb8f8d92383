"""The settings of a database: its rows are read by them, an older server names fewer, a newer one lacks some."""

from __future__ import annotations

import json
import secrets
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import restore_world
from ansible.module_utils.dbrelease.core.errors import ReleaseError
from ansible.module_utils.dbrelease.host import lifecycle
from ansible.module_utils.dbrelease.monitor.readiness import backup as readiness
from ansible.module_utils.dbrelease.postgres.session import Login
from ansible.module_utils.dbrelease.restore.settings import create_statement, prove_settings
from own_sessions import connect
from psycopg2.extras import RealDictCursor
from restore_world import World
from waits import until_an_idle_session_is_ended

world = restore_world.world
SUBSCRIBED = (
    "CREATE SUBSCRIPTION feed CONNECTION 'dbname=none' PUBLICATION news WITH (connect = false, slot_name = NONE)"
)


def settings_of(dump: str, **changes: Any) -> None:
    """Change the settings in the manifest of a backup; one that becomes `...` is gone."""
    path = Path(dump.replace(".dump", ".manifest.json"))
    content = json.loads(path.read_text())
    changed = {**content["settings"], **changes}
    content["settings"] = {key: value for key, value in changed.items() if value is not ...}
    path.write_text(json.dumps(content))


def detail_of(result: dict[str, Any]) -> str:
    (proof,) = [proof for proof in result["proofs"] if proof["name"] == "restore.settings"]
    assert proof["status"] == "pass", proof
    detail: str = proof["detail"]
    return detail


KINDS = """
CREATE SCHEMA shop; CREATE TABLE shop.kinds (of regclass); INSERT INTO shop.kinds VALUES ('shop.kinds')
"""
BY_SETTINGS = [
    "ALTER DATABASE {database} SET search_path = shop, public",
    "ALTER ROLE CURRENT_USER IN DATABASE {database} SET search_path = shop, public",
]


@pytest.mark.parametrize("statement", BY_SETTINGS, ids=["of the database", "of the role in it"])
def test_values_that_a_setting_words_are_compared_by_that_setting(world: World, statement: str) -> None:
    """A regclass is written with its schema only where that is not searched."""
    world.execute(statement.format(database=world.login.database))
    world.execute(KINDS)
    world.back_up()
    world.execute("DELETE FROM shop.kinds")
    copy = world.restore()["database"]
    assert world.execute("SELECT of::text FROM shop.kinds", copy) == [("kinds",)]
    assert world.swap(copy)["changed"]


def test_a_database_that_only_reads_and_ends_idle_sessions_is_restored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "stop", lambda *_: until_an_idle_session_is_ended(world.login))
    for setting in (
        "default_transaction_read_only = on",
        "idle_session_timeout = '200ms'",
        "default_transaction_isolation = 'serializable'",
    ):
        world.execute(f"ALTER DATABASE {world.login.database} SET {setting}", "postgres")
    world.back_up()
    world.execute("SET TRANSACTION READ WRITE; DELETE FROM orders WHERE id = 7")
    restored = world.restore(state="live")
    assert restored["swap"]["rows"]["tables"]["public.orders"]["deleted"] == 1
    assert world.execute("SELECT 1 FROM pg_stats WHERE tablename = 'orders' LIMIT 1"), "no statistics"


def test_a_connection_limit_leaves_room_to_compare(world: World) -> None:
    """It counts for everyone but a superuser."""
    world.execute(f"ALTER DATABASE {world.login.database} CONNECTION LIMIT 1")
    world.back_up()
    world.execute("DELETE FROM orders WHERE id = 7")
    copy = world.restore()["database"]
    assert world.execute(f"SELECT datconnlimit FROM pg_database WHERE datname = '{copy}'") == [(1,)]


def test_a_backup_of_14_is_restored_by_a_later_server_and_then_is_there(world: World) -> None:
    """In 14 no database says whose locale it has, nor the rules of one."""
    settings_of(world.back_up()["dump"], locale_provider=None, locale=None, icu_rules=...)
    world.execute("DELETE FROM orders WHERE id = 7")
    result = world.restore(state="live")
    assert detail_of(result) == "Applied, and read back equal."
    assert not world.restore(state="live")["changed"]


def test_a_setting_that_the_server_no_longer_has_is_left_out_and_reported(world: World) -> None:
    settings_of(
        world.back_up()["dump"],
        database_settings=["search_path=public", "gone_since=5", "app.mode=x"],
        role_settings={world.role: ["work_mem=5MB", "gone_too=on"]},
    )
    result = world.restore(state="live")
    said = ["the setting gone_since, which this server does not have", "the setting gone_too, "]
    assert all(words in detail_of(result) for words in said)
    assert world.execute("SHOW app.mode") == [("x",)]
    assert not world.restore(state="live")["changed"]


def test_a_role_that_sessions_begin_as_is_restored_and_restores_nothing(world: World) -> None:
    world.execute(f"GRANT pg_read_all_data TO {world.role}")
    world.execute(f"ALTER DATABASE {world.login.database} SET role = '{world.role}'")
    world.back_up()
    world.execute("SET ROLE NONE; DELETE FROM orders WHERE id = 7")
    result = world.restore()
    assert detail_of(result) == "Applied, and read back equal."
    copy = result["database"]
    assert world.execute("SELECT current_user::text", copy) == [(world.role,)]
    analyzed = "SELECT count(*) > 0 FROM pg_statistic WHERE starelid = 'orders'::regclass"
    assert world.execute(f"SET ROLE NONE; {analyzed}", copy) == [(True,)]


OWNED = """
DO $$ DECLARE one text; BEGIN
  FOR one IN SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND oid >= 16384 LOOP
    EXECUTE 'ALTER TABLE ' || one || ' OWNER TO {role}';
  END LOOP;
END $$;
ALTER TYPE mood OWNER TO {role};
ALTER DATABASE {database} OWNER TO {role};
ALTER ROLE {role} LOGIN CREATEDB PASSWORD 'plain';
"""


def test_an_owner_who_is_no_superuser_restores(world: World) -> None:
    world.execute(OWNED.format(role=world.role, database=world.login.database))
    try:
        backed_up = world.tables()
        world.back_up()
        world.execute("DELETE FROM orders WHERE id = 7")
        result = world.restore(login_user=world.role, login_password="plain")
        assert detail_of(result) == "Applied, and read back equal."
        assert world.tables(result["database"]) == backed_up
    finally:
        world.execute(f"ALTER DATABASE {world.login.database} OWNER TO CURRENT_USER")
        world.execute(f"REASSIGN OWNED BY {world.role} TO CURRENT_USER")


def test_large_objects_that_may_not_be_read_leave_it_undecided(world: World) -> None:
    """Where only that they are there is known, nothing is restored already, and no claim says that they are equal."""
    world.execute(f"SELECT lo_from_bytea(4711, 'old'); ALTER LARGE OBJECT 4711 OWNER TO {world.role}")
    world.execute(OWNED.format(role=world.role, database=world.login.database))
    try:
        world.back_up()
        assert world.restore()["database"] == ""  # by a superuser, who sees that all is as it was
        world.execute("SELECT lo_put(4711, 0, 'new')")
        result = world.restore(state="live", login_user=world.role, login_password="plain")
        reported = {
            proof["name"]: (proof["status"], proof["detail"])
            for proof in [*result["proofs"], *result["swap"]["proofs"]]
        }
        assert reported["restore.settings"][0] == "inconclusive"
        assert "the content of its 1 large objects, which the user may not read" in reported["restore.settings"][1]
        assert reported["restore.rows_saved"][0] == "inconclusive"
        assert "the content of 1 large objects, which this user may not read" in reported["restore.rows_saved"][1]
        assert world.execute("SELECT convert_from(lo_get(4711), 'UTF8')") == [("old",)]
    finally:
        world.execute(f"ALTER DATABASE {world.login.database} OWNER TO CURRENT_USER")
        world.execute(f"REASSIGN OWNED BY {world.role} TO CURRENT_USER")


def test_a_subscription_is_left_out_and_reported(world: World) -> None:
    """It would keep the copy from being dropped, and take what is for the live database."""
    world.execute(SUBSCRIBED)
    world.back_up()
    world.execute("DROP SUBSCRIPTION feed")
    world.execute("DELETE FROM orders WHERE id = 7")
    result = world.restore()
    assert "Left out: the subscription feed, to be created again." in detail_of(result)
    assert world.restore(state="absent", name=result["database"])["changed"]


@pytest.mark.parametrize("statement", BY_SETTINGS, ids=["of the database", "of the role in it"])
def test_readiness_restores_by_those_settings_and_without_subscriptions(world: World, statement: str) -> None:
    world.execute(statement.format(database=world.login.database))
    world.execute(KINDS)
    world.execute(SUBSCRIBED)
    taken = world.back_up()
    world.execute("DROP SUBSCRIPTION feed")
    content = json.loads(Path(taken["manifest"]).read_text())
    asked = (content, taken["dump"], world.login, "", world.run["run_id"])
    proof = readiness.restorable(*asked, now=True, timeout_s=60)
    assert proof.status == "pass", proof.detail
    assert list(world.databases()) == [world.login.database]


def test_readiness_restores_a_database_that_is_not_as_the_server_makes_one(
    server: Login, run_parameters: dict[str, Any]
) -> None:
    token = secrets.token_hex(6)
    world = World(replace(server, database=f"test_{token}_host=none"), server, run_parameters, token)
    with closing(connect(server, "tests")) as session, session.cursor() as cursor:
        name = f'"{world.login.database}"'
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C'")
        try:
            world.execute(
                "CREATE TABLE alembic_version (version_num text); CREATE TABLE names AS SELECT 'José' AS name"
            )
            taken = world.back_up()
            content = json.loads(Path(taken["manifest"]).read_text())
            asked = (content, taken["dump"], world.login, "", world.run["run_id"])
            proof = readiness.restorable(*asked, now=True, timeout_s=60)
            assert proof.status == "pass", proof.detail
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_copy_that_cannot_be_dropped_is_one_sentence(world: World) -> None:
    world.back_up()
    world.execute("DELETE FROM orders WHERE id = 7")
    copy = world.restore()["database"]
    world.execute(SUBSCRIBED, copy)
    try:
        with pytest.raises(ReleaseError, match=rf"^Dropping {copy}, .* failed \(.*subscription.*\): .*\.$"):
            world.restore()
    finally:
        world.execute("DROP SUBSCRIPTION feed", copy)


LOCALES = {
    "as it was given": ("de_DE@collation=phonebook", "de-DE-u-co-phonebk", "pass"),
    "the same": ("de-DE", "de-DE", "pass"),
    "another": ("de_DE", "fr-FR", "fail"),
}


@pytest.mark.parametrize(("backed_up", "seen", "status"), LOCALES.values(), ids=LOCALES)
def test_a_locale_of_icu_is_the_same_in_another_form(session: Any, backed_up: str, seen: str, status: str) -> None:
    one, other = ({"locale_provider": "i", "locale": locale, "acl": None} for locale in (backed_up, seen))
    with session.cursor(cursor_factory=RealDictCursor) as cursor:
        assert prove_settings(cursor, one, other).status == status


CREATED = {
    "of 14 on 14": ({"locale_provider": None}, 14, ""),
    "of 14 on 15": ({"locale_provider": None}, 15, " LOCALE_PROVIDER libc"),
    "of ICU": ({"locale_provider": "i", "locale": "de"}, 15, " LOCALE_PROVIDER icu ICU_LOCALE 'de'"),
    "of ICU with rules": (
        {"locale_provider": "i", "locale": "de", "icu_rules": "&a < g"},
        16,
        " LOCALE_PROVIDER icu ICU_LOCALE 'de' ICU_RULES '&a < g'",
    ),
    "in a tablespace": ({"tablespace": "fast"}, 15, ' LOCALE_PROVIDER libc TABLESPACE "fast"'),
    "in one that is not there": ({"tablespace": "slow"}, 15, " LOCALE_PROVIDER libc"),
}


@pytest.mark.parametrize(("settings", "major", "end"), CREATED.values(), ids=CREATED)
def test_a_database_is_created_as_it_was(session: Any, settings: dict[str, Any], major: int, end: str) -> None:
    whole = {"owner": "shop", "encoding": "UTF8", "collate": "C", "ctype": "C", **settings}
    begins = "CREATE DATABASE \"x\" TEMPLATE template0 OWNER \"shop\" ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
    assert create_statement("x", whole, major, ["fast"]).as_string(session) == begins + end

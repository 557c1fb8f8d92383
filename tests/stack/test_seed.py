"""The seed is deterministic and has what real data has; the Alembic history goes both ways over it."""

from __future__ import annotations

import pytest
from ansible.module_utils.dbrelease.postgres.session import Login
from own_sessions import connect

from .conftest import Sql, alembic, seeded_database

FINGERPRINT = """
SELECT (SELECT sum(hashtextextended(p::text, 0)) FROM projects p),
       (SELECT sum(hashtextextended(d::text, 0)) FROM drawings d),
       (SELECT sum(hashtextextended(c::text, 0)) FROM components c)
"""


@pytest.mark.parametrize(
    ("what", "count"),
    [
        ("drawings", 1000),
        ("projects", 125),
        ("components", 200),
        ("drawings WHERE project_id IS NULL", 100),
        ("drawings WHERE project_id IS NOT NULL AND project_id NOT IN (SELECT id FROM projects)", 0),
        ("components WHERE drawing_id NOT IN (SELECT id FROM drawings)", 0),
    ],
)
def test_seed_has_these_rows(sql: Sql, what: str, count: int) -> None:
    assert sql(f"SELECT count(*) FROM {what}") == [(count,)]


@pytest.mark.parametrize(
    "claim",
    [
        "EXISTS (SELECT FROM projects p WHERE NOT EXISTS (SELECT FROM drawings WHERE project_id = p.id))",
        "(SELECT count(DISTINCT processing_status) = 4 FROM drawings)",
        "EXISTS (SELECT FROM drawings WHERE strpos(title, '''') > 0)",
        "EXISTS (SELECT FROM drawings WHERE strpos(title, '\"') > 0)",
        "EXISTS (SELECT FROM drawings WHERE strpos(title, '%') > 0)",
        "EXISTS (SELECT FROM drawings WHERE strpos(title, E'\\\\') > 0)",
        "EXISTS (SELECT FROM drawings WHERE strpos(title, E'\\n') > 0)",
        "EXISTS (SELECT FROM drawings WHERE strpos(title, '🛠') > 0)",
        "(SELECT max(last_analyze) IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'drawings')",
    ],
)
def test_seed_is_like_real_data(sql: Sql, claim: str) -> None:
    assert sql(f"SELECT {claim}") == [(True,)]


def test_seed_is_the_same_every_time(sql: Sql, server: Login) -> None:
    for again in seeded_database(server, rows=1000):
        session = connect(again, "tests")
        with session.cursor() as cursor:
            cursor.execute(FINGERPRINT)
            assert cursor.fetchall() == sql(FINGERPRINT)
        session.close()


def test_runbooks_cascade_rows_can_be_inserted(sql: Sql) -> None:
    ((project,),) = sql(
        "INSERT INTO projects (id, name, code, description, created_at, updated_at)"
        " VALUES (gen_random_uuid(), 'TEST_PROJECT', 'TEST', 'Test cascade', NOW(), NOW()) RETURNING id"
    )
    ((drawing,),) = sql(
        "INSERT INTO drawings (id, title, file_path, processing_status, upload_date, project_id, created_at,"
        " updated_at) VALUES (gen_random_uuid(), 'TEST', '/t.pdf', 'completed', NOW(),"
        f" '{project}', NOW(), NOW()) RETURNING id"
    )
    sql(f"DELETE FROM projects WHERE id = '{project}'")
    assert sql(f"SELECT project_id FROM drawings WHERE id = '{drawing}'") == [(None,)]


def test_history_goes_down_and_up_again(server: Login) -> None:
    for database in seeded_database(server, rows=50):
        alembic(database.database, "downgrade", "base")
        alembic(database.database, "upgrade", "0ab370a9afb6")
        assert "0ab370a9afb6" in alembic(database.database, "current")

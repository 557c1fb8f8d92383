"""The runbook's three troubles, made for real: seen red, put right by the command that the message names, once."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from outside import BACKEND, POSTGRES, STATE, Playbook, Psql, docker, play

TABLE = "drawing_project_associations"
COMMAND = "ansible-playbook reconcile_8_1a.yml -i staging"
BY_MIGRATION = f"""
CREATE TABLE {TABLE} (
  id uuid DEFAULT gen_random_uuid() NOT NULL, drawing_id uuid NOT NULL, project_id uuid NOT NULL,
  assigned_at timestamptz DEFAULT now() NOT NULL, assigned_by varchar(255));
INSERT INTO {TABLE} (drawing_id, project_id, assigned_by)
SELECT id, project_id, 'migration_8.1a' FROM drawings WHERE project_id IS NOT NULL LIMIT 1000;
"""
SOURCE = "SELECT id, project_id FROM drawings WHERE project_id IS NOT NULL ORDER BY 1, 2"
COPIED = f"SELECT drawing_id, project_id FROM {TABLE} ORDER BY 1, 2"
KEYS = f"""
SELECT conname, confrelid::regclass, confdeltype, convalidated FROM pg_constraint
WHERE conrelid = '{TABLE}'::regclass AND contype = 'f' ORDER BY 1
"""
SOUND_KEYS = [f"{TABLE}_drawing_id_fkey|drawings|c|t", f"{TABLE}_project_id_fkey|projects|c|t"]


def change(sql: str) -> None:
    docker("exec", POSTGRES, "psql", "-XqU", "user", "-d", "drawing_index", "-v", "ON_ERROR_STOP=1", "-c", sql)


def reconcile(*arguments: str) -> Playbook:
    return play("reconcile_8_1a.yml", *arguments)


def is_unchanged(run: Playbook) -> bool:
    return run.status == 0 and " changed=0 " in run.output


def lost_rows() -> list[Path]:
    return sorted(STATE.glob("lost_rows_*"))


@pytest.fixture(scope="module")
def pristine(psql: Psql) -> dict[str, str]:
    """The database before the release."""
    return psql.fingerprint()


@pytest.fixture
def clean(psql: Psql, pristine: dict[str, str]) -> None:
    assert psql.fingerprint() == pristine


# A table that is there before the release


def test_nothing_to_repair_changes_nothing(psql: Psql, pristine: dict[str, str]) -> None:
    run = reconcile()
    assert is_unchanged(run), run.output
    assert run.evidence["outcome"] == "rolled_back"
    assert psql.fingerprint() == pristine


def test_preflight_names_the_command_that_drops_an_interrupted_table(
    psql: Psql, pristine: dict[str, str], clean: None
) -> None:
    change(BY_MIGRATION)
    refused = play("deploy_8_1a.yml")
    assert refused.status != 0 and f"`{COMMAND}`" in refused.output
    before = psql.fingerprint()
    planned = reconcile("--check", "--diff")
    assert planned.status == 0 and f'DROP TABLE "{TABLE}"' in planned.output, planned.output
    assert psql.fingerprint() == before
    repaired = reconcile()
    assert repaired.status == 0 and repaired.evidence["outcome"] == "rolled_back", repaired.output
    assert psql.fingerprint() == pristine and not lost_rows()
    assert is_unchanged(reconcile())


def test_a_foreign_table_goes_only_with_the_very_number_of_its_rows(
    psql: Psql, pristine: dict[str, str], clean: None
) -> None:
    change(f"CREATE TABLE {TABLE} (note text); INSERT INTO {TABLE} VALUES ('a'), ('b'), ('precious')")
    before = psql.fingerprint()
    for arguments in (["--check"], ["-e", "accept_loss=2"], ["-e", "accept_loss=many"]):
        refused = reconcile(*arguments)
        assert refused.status != 0 and "accept_loss" in refused.output, refused.output
        assert "Traceback" not in refused.output
        assert psql.fingerprint() == before and not lost_rows()
    assert refused.evidence["outcome"] in ("refused", "failed")
    accepted = reconcile("-e", "accept_loss=3")
    assert accepted.status == 0, accepted.output
    assert psql.fingerprint() == pristine
    rows, script = lost_rows()
    assert rows.read_text().splitlines() == ["note", "a", "b", "precious"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (rows, script)} == {0o600}
    assert is_unchanged(reconcile("-e", "accept_loss=3")) and len(lost_rows()) == 2
    for path in (rows, script):
        path.unlink()


def test_what_depends_on_the_table_is_named_and_kept(psql: Psql, clean: None) -> None:
    change(f"{BY_MIGRATION} CREATE VIEW monthly_report AS SELECT project_id FROM {TABLE}")
    try:
        before = psql.fingerprint()
        refused = reconcile()
        assert refused.status != 0 and "view monthly_report" in refused.output
        assert refused.evidence["outcome"] == "refused" and psql.fingerprint() == before
    finally:
        change(f"DROP TABLE {TABLE} CASCADE")


def test_saved_rows_come_back_after_the_deployment(psql: Psql, clean: None) -> None:
    change(f"{BY_MIGRATION} UPDATE {TABLE} SET assigned_by = 'ann' WHERE id IN (SELECT id FROM {TABLE} LIMIT 2)")
    (where,) = psql.lines(f"SELECT string_agg(quote_literal(id), ',') FROM {TABLE} WHERE assigned_by = 'ann'")
    ann = psql.lines(f"SELECT * FROM {TABLE} WHERE id IN ({where}) ORDER BY id")
    accepted = reconcile("-e", "accept_loss=2")
    assert accepted.status == 0 and "2 rows" in (STATE / lost_rows()[1]).read_text(), accepted.output
    assert play("deploy_8_1a.yml").status == 0
    change(f"DELETE FROM {TABLE} WHERE (drawing_id, project_id) IN (VALUES {pairs(ann)})")
    docker("cp", str(lost_rows()[1]), f"{POSTGRES}:/tmp/replay.sql")
    docker("exec", "-u", "root", POSTGRES, "psql", "-XqU", "user", "-d", "drawing_index", "-f", "/tmp/replay.sql")
    docker("exec", "-u", "root", POSTGRES, "rm", "/tmp/replay.sql")
    assert psql.lines(f"SELECT * FROM {TABLE} WHERE id IN ({where}) ORDER BY id") == ann
    assert psql.lines(COPIED) == psql.lines(SOURCE)


def pairs(rows: list[str]) -> str:
    return ", ".join(
        f"('{drawing}'::uuid, '{project}'::uuid)" for _, drawing, project, *_ in (r.split("|") for r in rows)
    )


# A deployed release


@pytest.fixture(scope="module")
def deployed(psql: Psql) -> Psql:
    if psql.value("SELECT to_regclass('drawing_project_associations') IS NULL") == "t":
        assert play("deploy_8_1a.yml").status == 0
    return psql


TROUBLES = {
    "rows are missing and stale": (
        """
        INSERT INTO drawings (id, title, file_path, processing_status, upload_date, project_id, created_at, updated_at)
        SELECT gen_random_uuid(), 'late', '/late.pdf', 'completed', now(), (SELECT min(id::text)::uuid FROM projects),
               now(), now() FROM generate_series(1, 3);
        UPDATE drawings SET project_id = NULL WHERE id IN (
          SELECT id FROM drawings WHERE project_id IS NOT NULL ORDER BY id LIMIT 2);
        """,
        "checks.no_missing_association",
    ),
    "a foreign key is not CASCADE": (
        f"""
        ALTER TABLE {TABLE} DROP CONSTRAINT {TABLE}_project_id_fkey;
        ALTER TABLE {TABLE} ADD CONSTRAINT {TABLE}_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id);
        """,
        f"structure.{TABLE}.constraints",
    ),
    "a foreign key is not valid": (
        f"""
        ALTER TABLE {TABLE} DROP CONSTRAINT {TABLE}_drawing_id_fkey;
        ALTER TABLE {TABLE} ADD CONSTRAINT {TABLE}_drawing_id_fkey
          FOREIGN KEY (drawing_id) REFERENCES drawings (id) ON DELETE CASCADE NOT VALID;
        """,
        f"structure.{TABLE}.constraints",
    ),
    "a foreign key is missing, and rows lead nowhere": (
        f"""
        ALTER TABLE {TABLE} DROP CONSTRAINT {TABLE}_drawing_id_fkey;
        DELETE FROM drawings WHERE id IN (
          SELECT id FROM drawings WHERE project_id IS NOT NULL ORDER BY id DESC LIMIT 4);
        """,
        f"structure.{TABLE}.constraints",
    ),
}


@pytest.mark.parametrize(("sql", "proof"), TROUBLES.values(), ids=TROUBLES.keys())
def test_a_trouble_is_seen_and_put_right_once(deployed: Psql, sql: str, proof: str) -> None:
    change(sql)
    others = {name: rows for name, rows in deployed.fingerprint().items() if TABLE not in name}
    red = play("verify_8_1a.yml")
    assert red.status != 0 and f"`{COMMAND}`" in red.output
    (seen,) = [one for one in red.evidence["proofs"] if one["name"] == proof]
    assert seen["status"] == "fail" and COMMAND in seen["remedy"]
    before = (deployed.fingerprint(), deployed.lines(KEYS))
    planned = reconcile("--check", "--diff")
    assert planned.status == 0 and "changed=1" in planned.output, planned.output
    assert (deployed.fingerprint(), deployed.lines(KEYS)) == before
    repaired = reconcile()
    # The baseline was taken before the trouble was made in the application's own tables.
    assert repaired.evidence["counts"]["fail"] == 0, repaired.output
    assert repaired.status == 0 and repaired.evidence["outcome"] == "already_deployed"
    assert deployed.lines(COPIED) == deployed.lines(SOURCE) and deployed.lines(KEYS) == SOUND_KEYS
    assert {name: rows for name, rows in deployed.fingerprint().items() if TABLE not in name} == others
    assert is_unchanged(reconcile())


def test_rows_of_others_are_shown_and_kept(deployed: Psql) -> None:
    change(f"""
        INSERT INTO {TABLE} (drawing_id, project_id, assigned_by)
        SELECT d.id, p.id, 'bob' FROM drawings d, projects p
        WHERE d.project_id IS DISTINCT FROM p.id ORDER BY d.id, p.id LIMIT 1""")
    try:
        for _ in range(2):
            run = reconcile()
            assert run.status != 0 and run.evidence["outcome"] == "failed"
            assert "only rows that the release itself writes" in run.output
            assert deployed.value(f"SELECT count(*) FROM {TABLE} WHERE assigned_by = 'bob'") == "1"
    finally:
        change(f"DELETE FROM {TABLE} WHERE assigned_by = 'bob'")
    assert is_unchanged(reconcile())


def test_a_dropped_table_comes_back_by_the_way_that_is_named(deployed: Psql) -> None:
    change(f"DROP TABLE {TABLE}")
    for refused in (reconcile(), play("deploy_8_1a.yml")):
        assert refused.status != 0 and refused.evidence["outcome"] == "refused"
        assert "`alembic stamp 0ab370a9afb6`" in refused.output, refused.output
    docker("exec", BACKEND, "alembic", "stamp", "0ab370a9afb6")
    again = play("deploy_8_1a.yml")
    assert again.status == 0 and again.evidence["outcome"] == "deployed", again.output
    assert deployed.lines(COPIED) == deployed.lines(SOURCE) and deployed.lines(KEYS) == SOUND_KEYS
    assert is_unchanged(reconcile())


def test_nothing_is_left_behind(deployed: Psql) -> None:
    assert deployed.databases() == ["drawing_index"]
    assert deployed.left_sessions() == []
    assert not list(STATE.glob("*.tmp.*"))

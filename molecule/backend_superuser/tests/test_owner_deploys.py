"""db_user owns the database and is no superuser; the backend, and so its Alembic, still connects as the superuser."""

from __future__ import annotations

import pytest
from outside import ROOT, Psql, patient, play

OWNER = "table_owner"
HAND_OVER = f"""
CREATE ROLE {OWNER} LOGIN CREATEDB;
ALTER DATABASE drawing_index OWNER TO {OWNER};
ALTER SCHEMA public OWNER TO {OWNER};
DO $$
DECLARE one regclass;
BEGIN
  FOR one IN SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' LOOP
    EXECUTE format('ALTER TABLE %s OWNER TO {OWNER}', one);
  END LOOP;
END $$;
"""
AS_OWNER = ("-e", f"db_user={OWNER}")


@pytest.fixture(scope="module", autouse=True)
def _owner(psql: Psql) -> None:
    """Its password is the stack's, so that the inventory's serves."""
    password = (ROOT / ".stack/db_password").read_text().strip()
    psql.lines(f"{HAND_OVER} ALTER ROLE {OWNER} PASSWORD '{password}'")


def test_what_alembic_makes_is_the_owners_to_finish(psql: Psql) -> None:
    run = play("deploy_8_1a.yml", *AS_OWNER, *patient())
    assert (run.status, run.evidence["outcome"]) == (0, "deployed"), run.output
    assert psql.lines("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'") == [OWNER]
    assert psql.value("SELECT rolsuper FROM pg_roles WHERE rolname = 'user'") == "t"
    again = play("deploy_8_1a.yml", *AS_OWNER, *patient())
    assert (again.status, again.evidence["outcome"]) == (0, "already_deployed"), again.output


@pytest.mark.parametrize("method", ["alembic", "sql"])
def test_both_roads_lead_back(psql: Psql, method: str) -> None:
    back = play("rollback_8_1a.yml", *AS_OWNER, "-e", f"rollback_method={method}")
    assert (back.status, back.evidence["outcome"]) == (0, "rolled_back"), back.output
    assert play("deploy_8_1a.yml", *AS_OWNER, *patient()).status == 0


def test_a_restore_without_createdb_is_foretold_and_refused_before_anything(psql: Psql) -> None:
    psql.lines(f"ALTER ROLE {OWNER} NOCREATEDB")
    before = psql.fingerprint()
    refused = play("restore_8_1a.yml", *AS_OWNER)
    assert (refused.status != 0, refused.evidence["outcome"]) == (True, "refused"), refused.output
    assert "give it CREATEDB" in refused.evidence["headline"]
    assert psql.fingerprint() == before
    assert play("rollback_8_1a.yml", *AS_OWNER).status == 0
    run = play("deploy_8_1a.yml", *AS_OWNER, *patient())
    assert (run.status, run.evidence["outcome"]) == (0, "deployed"), run.output
    (restorable,) = [proof for proof in run.evidence["proofs"] if proof["name"] == "preflight.restorable"]
    assert restorable["status"] == "inconclusive"
    assert "may not create databases: the server would refuse to restore the backup" in restorable["detail"]


def test_with_it_the_backup_is_restored(psql: Psql) -> None:
    psql.lines(f"ALTER ROLE {OWNER} CREATEDB")
    restored = play("restore_8_1a.yml", *AS_OWNER)
    assert (restored.status, restored.evidence["outcome"]) == (0, "restored"), restored.output
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
    assert psql.value(owner) == OWNER
